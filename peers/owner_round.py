"""A data owner's side of one round, up to its commitment: step(state, input) -> state, effects.

Inputs are facts, effects are orders; time and entropy come in with the input. What follows the
commitment (post, settle, withdraw) is decided from the chain alone: see owner_duties.

The order that privacy hangs on: an owner commits only when every mate's hello and
acknowledgement is in, so that all masks of the group are agreed before any vector is fixed;
and it makes one vector a round, ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from omnilytics.peers.errors import MessageError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.market import RoundOpening
from omnilytics.peers.masking import PairMask
from omnilytics.peers.messages import (
    Hello,
    Message,
    ModelKey,
    ModelKeyReceived,
    SeedAcknowledgement,
    receipt_digest,
)
from omnilytics.peers.phases import OWNER_MOVES, Cause, OwnerStage
from omnilytics.peers.quantise import Signed
from omnilytics.peers.round_keys import SPENT, Peer, RoundKeys
from omnilytics.peers.seeds import acknowledgement, derive_pair_seed

Entropy = Callable[[int], bytes]
_EMPTY: Mapping[bytes, bytes] = MappingProxyType({})
_EMPTY_TIMES: Mapping[bytes, float] = MappingProxyType({})


@dataclass(frozen=True)
class Pace:
    """How patient an owner is, in seconds of its own clock."""

    resend: float = 1.0
    # A mate that is known to be away is waited for this long since that became known: when a broker returns,
    # everybody seems away for a moment.
    away_grace: float = 3.0
    # Nobody, the model owner included, is waited for longer than this.
    patience: float = 20.0


# ------------------------------------------------------------------- inputs


@dataclass(frozen=True)
class EnvelopeReceived:
    """Bytes from the broker that claim to come from a sender."""

    sender: bytes
    envelope: bytes
    now: float


@dataclass(frozen=True)
class PresenceSeen:
    """The broker says that a peer is there, or has gone."""

    address: bytes
    online: bool
    now: float


@dataclass(frozen=True)
class UpdateReady:
    """The quantised update, int64 of shape (d,)."""

    quantised: Signed = field(repr=False)
    now: float


@dataclass(frozen=True)
class UpdateRefused:
    """The model does not check, or training gave nothing that may be posted."""

    reason: str
    now: float


@dataclass(frozen=True)
class VectorMasked:
    """The masked vector in its serialised form, and the root of its commitment chain."""

    vector: bytes = field(repr=False)
    root: bytes
    now: float


@dataclass(frozen=True)
class CommitConfirmed:
    """The chain shows our commitment."""

    now: float


@dataclass(frozen=True)
class CommitPhaseClosed:
    """The chain shows that the commit phase is over."""

    now: float


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    now: float


OwnerInput = (
    EnvelopeReceived
    | PresenceSeen
    | UpdateReady
    | UpdateRefused
    | VectorMasked
    | CommitConfirmed
    | CommitPhaseClosed
    | Tick
)

# ------------------------------------------------------------------ effects


@dataclass(frozen=True)
class SendEnvelope:
    """Publish an envelope to a peer."""

    receiver: bytes
    envelope: bytes = field(repr=False)


@dataclass(frozen=True)
class ComputeUpdate:
    """Open the model with this key, check it, train, clip and quantise."""

    model_key: bytes = field(repr=False)


@dataclass(frozen=True)
class MaskVector:
    """Mask the update with these seeds and make its commitment chain."""

    quantised: Signed = field(repr=False)
    pairs: tuple[PairMask, ...] = field(repr=False)
    pad_seed: bytes = field(repr=False)


@dataclass(frozen=True)
class CommitVector:
    """Make the vector durable, then commit its root on chain."""

    vector: bytes = field(repr=False)
    root: bytes
    quantised: Signed = field(repr=False)


@dataclass(frozen=True)
class DeclareSitOut:
    """Tell the chain that our group cannot play this round."""

    reason: str
    # Mates that were waited for in vain; empty when the reason is our own.
    missing: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Note:
    """Something to log: an event name, words, and a peer where one is concerned."""

    event: str
    text: str
    peer: bytes | None = None


OwnerEffect = SendEnvelope | ComputeUpdate | MaskVector | CommitVector | DeclareSitOut | Note

# -------------------------------------------------------------------- state


@dataclass(frozen=True)
class OwnerRound:
    """Where an owner stands in a round. Secrets are in memory only and out of every repr."""

    keys: RoundKeys
    opening: RoundOpening
    group: int
    position: int
    model_owner: Peer
    # Mates by address with their positions; the order is that of positions.
    mates: tuple[tuple[int, Peer], ...]
    pace: Pace
    opened_at: float
    stage: OwnerStage = OwnerStage.SEEDING
    hellos: Mapping[bytes, bytes] = field(default_factory=lambda: _EMPTY)
    seeds: Mapping[bytes, bytes] = field(default_factory=lambda: _EMPTY, repr=False)
    agreed: frozenset[bytes] = frozenset()
    # Since when each peer is known to be away.
    away: Mapping[bytes, float] = field(default_factory=lambda: _EMPTY_TIMES)
    pad_seed: bytes | None = field(default=None, repr=False)
    model_key: bytes | None = field(default=None, repr=False)
    quantised: Signed | None = field(default=None, repr=False)
    next_resend: float = 0.0
    dropped: int = 0
    # The commit phase is over and the secrets are gone: nothing more is heard, said or kept.
    closed: bool = False

    def peer(self, address: bytes) -> Peer | None:
        """A mate or the model owner by address."""
        if address == self.model_owner.address:
            return self.model_owner
        return next((peer for _, peer in self.mates if peer.address == address), None)

    def missing(self) -> tuple[bytes, ...]:
        """Addresses of those whom this owner is still waiting for."""
        mates = tuple(peer.address for _, peer in self.mates if peer.address not in self.agreed)
        return mates if self.model_key is not None else (*mates, self.model_owner.address)


def begin(
    keys: RoundKeys,
    opening: RoundOpening,
    group: int,
    position: int,
    model_owner: Peer,
    mates: tuple[tuple[int, Peer], ...],
    pace: Pace,
    now: float,
    entropy: Entropy,
) -> tuple[OwnerRound, list[OwnerEffect]]:
    """Starts a round: says hello to all mates and to the model owner."""
    state = OwnerRound(keys, opening, group, position, model_owner, mates, pace, now, next_resend=now + pace.resend)
    return state, [*_hellos(state, entropy)]


def step(state: OwnerRound, event: OwnerInput, entropy: Entropy) -> tuple[OwnerRound, list[OwnerEffect]]:
    """One input: the next state and what to do. Never raises for anything a peer can send."""
    if state.closed:
        return state, []
    match event:
        case EnvelopeReceived():
            return _received(state, event, entropy)
        case PresenceSeen(address, online, now):
            if state.peer(address) is None:
                return state, []
            away = {other: since for other, since in state.away.items() if other != address}
            if not online:
                away[address] = state.away.get(address, now)
            return replace(state, away=MappingProxyType(away)), []
        case UpdateReady(quantised):
            # No model key: nobody can have trained on the model yet.
            if state.stage is not OwnerStage.SEEDING or state.model_key is None or state.quantised is not None:
                return state, []
            return _mask_when_agreed(replace(state, quantised=quantised))
        case UpdateRefused(reason):
            if state.stage is not OwnerStage.SEEDING:
                return state, []
            return _move(state, Cause.GAVE_UP), [DeclareSitOut(reason)]
        case VectorMasked(vector, root):
            if state.stage is not OwnerStage.MASKING or state.quantised is None:
                return state, []
            effects: list[OwnerEffect] = [CommitVector(vector, root, state.quantised)]
            return _move(state, Cause.MASKED), effects
        case CommitConfirmed():
            if state.stage is not OwnerStage.COMMITTING:
                return state, []
            return _move(state, Cause.CONFIRMED), []
        case CommitPhaseClosed():
            if state.stage in (OwnerStage.COMMITTED, OwnerStage.SAT_OUT):
                return _forget(state), []
            return _forget(_move(state, Cause.CLOSED)), [Note("round.missed", "the commit phase closed first")]
        case Tick(now):
            return _tick(state, now, entropy)


def _move(state: OwnerRound, cause: Cause) -> OwnerRound:
    return replace(state, stage=OWNER_MOVES[state.stage, cause])


def _forget(state: OwnerRound) -> OwnerRound:
    """Drops the round's secrets from memory as soon as no mate can need an answer any more."""
    keys = replace(state.keys, ephemeral=SPENT)
    return replace(state, keys=keys, seeds=_EMPTY, pad_seed=None, model_key=None, quantised=None, closed=True)


def _hellos(state: OwnerRound, entropy: Entropy) -> list[OwnerEffect]:
    """A hello, and the acknowledgement where there is one to give, to everybody that is waited for."""
    effects: list[OwnerEffect] = []
    for address in state.missing():
        peer = state.peer(address)
        assert peer is not None
        effects.append(SendEnvelope(address, state.keys.hello(peer, True, entropy(24))))
        if address in state.seeds:
            effects.append(_acknowledge(state, address, entropy))
    return effects


def _acknowledge(state: OwnerRound, address: bytes, entropy: Entropy) -> SendEnvelope:
    message = SeedAcknowledgement(state.keys.ctx, state.keys.address, address, acknowledgement(state.seeds[address]))
    return SendEnvelope(address, state.keys.private(message, state.hellos[address], entropy(24)))


def _received(state: OwnerRound, event: EnvelopeReceived, entropy: Entropy) -> tuple[OwnerRound, list[OwnerEffect]]:
    peer = state.peer(event.sender)
    try:
        if peer is None:
            raise MessageError("the sender is neither a mate nor the model owner")
        message = state.keys.open(event.envelope, peer, state.hellos.get(event.sender))
        # A box of this round says more than the broker, whose word of absence may be old, or a lie.
        away = {address: since for address, since in state.away.items() if address != event.sender}
        return _heard(replace(state, away=MappingProxyType(away)), peer, message, entropy)
    except MessageError as error:
        dropped = replace(state, dropped=state.dropped + 1)
        return dropped, [Note("message.dropped", str(error), event.sender)]


def _heard(state: OwnerRound, peer: Peer, message: Message, entropy: Entropy) -> tuple[OwnerRound, list[OwnerEffect]]:
    address = peer.address
    from_model_owner = address == state.model_owner.address
    match message:
        case Hello(ephemeral=ephemeral):
            return _heard_hello(state, peer, ephemeral, message.wants_answer, entropy)
        case SeedAcknowledgement(digest=digest) if not from_model_owner:
            # Under an ephemeral key, so the hello is in and the seed is there (unless already forgotten).
            if address not in state.seeds:
                raise MessageError("an acknowledgement for a seed that is not there")
            if digest != acknowledgement(state.seeds[address]):
                raise MessageError("the acknowledged seed differs from ours")
            return _mask_when_agreed(replace(state, agreed=state.agreed | {address}))
        case ModelKey(key=key, pad_seed=pad_seed) if from_model_owner:
            return _heard_model_key(state, key, pad_seed, entropy)
        case _:
            raise MessageError("this sender has no business sending this kind of message")


def _heard_hello(
    state: OwnerRound, peer: Peer, ephemeral: bytes, wants_answer: bool, entropy: Entropy
) -> tuple[OwnerRound, list[OwnerEffect]]:
    address = peer.address
    known = state.hellos.get(address)
    if known is not None and known != ephemeral:
        # First write wins: a peer that restarted sits the round out, and so does its group.
        raise MessageError("a second ephemeral key in one round")
    effects: list[OwnerEffect] = []
    if known is None:
        state = replace(state, hellos=MappingProxyType({**state.hellos, address: ephemeral}))
        if address != state.model_owner.address:
            seed = derive_pair_seed(
                state.keys.ephemeral,
                ephemeral,
                state.keys.ctx,
                state.keys.address,
                address,
                own_is_lower=_position_of(state, address) > state.position,
            )
            state = replace(state, seeds=MappingProxyType({**state.seeds, address: seed}))
    elif wants_answer:
        # Our first hello may have been lost; an answer never asks for one, so no two peers answer for ever.
        effects.append(SendEnvelope(address, state.keys.hello(peer, False, entropy(24))))
    if address in state.seeds and (known is None or wants_answer):
        effects.append(_acknowledge(state, address, entropy))
    return state, effects


def _position_of(state: OwnerRound, address: bytes) -> int:
    return next(position for position, peer in state.mates if peer.address == address)


def _pad_index(state: OwnerRound) -> int:
    """Of the pad at our position, or in our seat where every group has pads of its own."""
    size = len(state.mates) + 1
    return state.position if len(state.opening.pad_hashes) == size else state.group * size + state.position


def _heard_model_key(
    state: OwnerRound, key: bytes, pad_seed: bytes, entropy: Entropy
) -> tuple[OwnerRound, list[OwnerEffect]]:
    if keccak(key) != state.opening.key_hash:
        raise MessageError("the model key is not the one that the chain names")
    # A slice, because an RPC may show any number of pads.
    index = _pad_index(state)
    if state.opening.pad_hashes[index : index + 1] != (keccak(pad_seed),):
        raise MessageError("the pad is not the one that the chain names")
    receipt = ModelKeyReceived(
        state.keys.ctx, state.keys.address, state.model_owner.address, receipt_digest(key, pad_seed)
    )
    effects: list[OwnerEffect] = [
        SendEnvelope(
            state.model_owner.address,
            state.keys.private(receipt, state.hellos[state.model_owner.address], entropy(24)),
        )
    ]
    if state.model_key is None and state.stage is OwnerStage.SEEDING:
        state = replace(state, model_key=key, pad_seed=pad_seed)
        effects.append(ComputeUpdate(key))
    return state, effects


def _mask_when_agreed(state: OwnerRound) -> tuple[OwnerRound, list[OwnerEffect]]:
    if state.stage is not OwnerStage.SEEDING or state.missing() or state.quantised is None:
        return state, []
    assert state.pad_seed is not None
    pairs = tuple(
        PairMask(state.seeds[peer.address], state.position, position, state.keys.address, peer.address)
        for position, peer in state.mates
    )
    return _move(state, Cause.ALL_AGREED), [MaskVector(state.quantised, pairs, state.pad_seed)]


def _tick(state: OwnerRound, now: float, entropy: Entropy) -> tuple[OwnerRound, list[OwnerEffect]]:
    if state.stage is not OwnerStage.SEEDING:
        return state, []
    missing = state.missing()
    waited = now - state.opened_at
    # A hello has been sent again, and there was time to answer it, before anybody is given up.
    patient = waited >= 2 * state.pace.resend
    gone = [
        address
        for address in missing
        if patient and address in state.away and now - state.away[address] >= state.pace.away_grace
    ]
    if gone or (missing and waited >= state.pace.patience):
        blamed = tuple(gone) if gone else missing
        return _move(state, Cause.GAVE_UP), [DeclareSitOut("waited in vain for peers of this round", blamed)]
    if now < state.next_resend:
        return state, []
    return replace(state, next_resend=now + state.pace.resend), _hellos(state, entropy)
