"""The model owner's side of the seed exchange of one round: step(state, input) -> state, effects.

It delivers the model key and each owner's pad under ephemeral keys. What else it does in a round
(open, read the posted vectors, decrypt, step) is decided from the chain: see model_duties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from omnilytics.peers.errors import MessageError
from omnilytics.peers.messages import Hello, ModelKey, ModelKeyReceived, receipt_digest
from omnilytics.peers.owner_round import (
    CommitPhaseClosed,
    Entropy,
    EnvelopeReceived,
    Note,
    Pace,
    SendEnvelope,
    Tick,
)
from omnilytics.peers.phases import MODEL_MOVES, Cause, ModelStage
from omnilytics.peers.round_keys import SPENT, Peer, RoundKeys

ModelInput = EnvelopeReceived | CommitPhaseClosed | Tick
ModelEffect = SendEnvelope | Note


@dataclass(frozen=True)
class Recipient:
    """An owner that gets the model key: who it is and which of the round's pads is its."""

    peer: Peer
    pad_index: int


@dataclass(frozen=True)
class ModelRound:
    """Where the delivery of a round's secrets stands."""

    keys: RoundKeys
    model_key: bytes = field(repr=False)
    pad_seeds: tuple[bytes, ...] = field(repr=False)
    recipients: Mapping[bytes, Recipient]
    pace: Pace
    stage: ModelStage = ModelStage.DELIVERING
    hellos: Mapping[bytes, bytes] = field(default_factory=lambda: MappingProxyType({}))
    delivered: frozenset[bytes] = frozenset()
    next_resend: float = 0.0
    dropped: int = 0
    # The commit phase is over and the secrets are gone: nothing more is heard or said.
    closed: bool = False

    def missing(self) -> tuple[bytes, ...]:
        """Addresses of the owners that have not acknowledged the model key."""
        return tuple(address for address in self.recipients if address not in self.delivered)


def begin(
    keys: RoundKeys,
    model_key: bytes,
    pad_seeds: tuple[bytes, ...],
    recipients: tuple[Recipient, ...],
    pace: Pace,
    now: float,
    entropy: Entropy,
) -> tuple[ModelRound, list[ModelEffect]]:
    """Starts the delivery: says hello to every owner that can play."""
    by_address = MappingProxyType({recipient.peer.address: recipient for recipient in recipients})
    state = ModelRound(keys, model_key, pad_seeds, by_address, pace, next_resend=now + pace.resend)
    return state, [_hello(state, recipient, True, entropy) for recipient in recipients]


def step(state: ModelRound, event: ModelInput, entropy: Entropy) -> tuple[ModelRound, list[ModelEffect]]:
    """One input: the next state and what to do. Never raises for anything a peer can send."""
    if state.closed:
        return state, []
    match event:
        case EnvelopeReceived():
            return _received(state, event, entropy)
        case CommitPhaseClosed():
            if state.stage is ModelStage.DELIVERING:
                state = replace(state, stage=MODEL_MOVES[state.stage, Cause.CLOSED])
            keys = replace(state.keys, ephemeral=SPENT)
            return replace(state, keys=keys, model_key=b"", pad_seeds=(), closed=True), []
        case Tick(now):
            if state.stage is not ModelStage.DELIVERING or now < state.next_resend:
                return state, []
            effects: list[ModelEffect] = []
            for address in state.missing():
                if address in state.hellos:
                    effects.append(_deliver(state, address, entropy))
                else:
                    effects.append(_hello(state, state.recipients[address], True, entropy))
            return replace(state, next_resend=now + state.pace.resend), effects


def _hello(state: ModelRound, recipient: Recipient, wants_answer: bool, entropy: Entropy) -> SendEnvelope:
    return SendEnvelope(recipient.peer.address, state.keys.hello(recipient.peer, wants_answer, entropy(24)))


def _deliver(state: ModelRound, address: bytes, entropy: Entropy) -> SendEnvelope:
    pad_seed = state.pad_seeds[state.recipients[address].pad_index]
    message = ModelKey(state.keys.ctx, state.keys.address, address, state.model_key, pad_seed)
    return SendEnvelope(address, state.keys.private(message, state.hellos[address], entropy(24)))


def _received(state: ModelRound, event: EnvelopeReceived, entropy: Entropy) -> tuple[ModelRound, list[ModelEffect]]:
    recipient = state.recipients.get(event.sender)
    address = event.sender
    try:
        if recipient is None:
            raise MessageError("the sender does not play in this round")
        message = state.keys.open(event.envelope, recipient.peer, state.hellos.get(address))
        match message:
            case Hello(ephemeral=ephemeral, wants_answer=wants_answer):
                known = state.hellos.get(address)
                if known is not None and known != ephemeral:
                    raise MessageError("a second ephemeral key in one round")
                effects: list[ModelEffect] = []
                if known is not None and wants_answer:
                    effects.append(_hello(state, recipient, False, entropy))
                if known is None:
                    state = replace(state, hellos=MappingProxyType({**state.hellos, address: ephemeral}))
                if known is None or wants_answer:
                    effects.append(_deliver(state, address, entropy))
                return state, effects
            case ModelKeyReceived(digest=digest):
                if digest != receipt_digest(state.model_key, state.pad_seeds[recipient.pad_index]):
                    raise MessageError("the receipt is for another key or pad")
                state = replace(state, delivered=state.delivered | {address})
                if state.stage is ModelStage.DELIVERING and not state.missing():
                    state = replace(state, stage=MODEL_MOVES[state.stage, Cause.ALL_DELIVERED])
                return state, []
            case _:
                raise MessageError("owners do not send this kind of message to the model owner")
    except MessageError as error:
        dropped = replace(state, dropped=state.dropped + 1)
        return dropped, [Note("message.dropped", str(error), address)]
