"""How a masked vector travels from its owner to the model owner over the broker: step(state, input) -> state, effects.

The owner sends the vector in parts, a few ahead of what the model owner says it has; the model owner takes parts in
order and answers each with how many it has. A vector that is whole is held against the root on the chain, kept, and
only then said to be received. Whatever is lost is sent again after a pause, to whoever has lost its memory from the
start; nothing is answered that asks for an answer, so no two peers keep each other busy. The bytes are those of a post,
whose conditions they meet: see owner_duties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from omnilytics.peers.commitment import kept_root, root
from omnilytics.peers.errors import MessageError
from omnilytics.peers.messages import MAX_PART_BYTES, VectorPart, VectorReceived
from omnilytics.peers.owner_round import Entropy, EnvelopeReceived, Note, SendEnvelope, Tick
from omnilytics.peers.round_keys import Peer, RoundKeys

WINDOW = 4
"""Parts on their way at once: 128 owners' fit into what a broker keeps for one receiver."""


# --------------------------------------------------------------------- owner


@dataclass(frozen=True)
class Delivery:
    """An owner's vector on its way. received: parts that the model owner says it has; sent: parts that it was sent."""

    keys: RoundKeys
    model_owner: Peer
    vector: bytes = field(repr=False)
    resend_seconds: float
    received: int = 0
    sent: int = 0
    next_resend: float = 0.0

    @property
    def part_count(self) -> int:
        """Parts of the whole vector."""
        return -(-len(self.vector) // MAX_PART_BYTES)

    @property
    def done(self) -> bool:
        """Whether the model owner has said that it has everything."""
        return self.received == self.part_count


def deliver(
    keys: RoundKeys, model_owner: Peer, vector: bytes, resend_seconds: float, now: float, entropy: Entropy
) -> tuple[Delivery, list[SendEnvelope]]:
    """Begins to send a vector."""
    return _send(Delivery(keys, model_owner, vector, resend_seconds), now, entropy)


def step_delivery(
    state: Delivery, event: EnvelopeReceived | Tick, entropy: Entropy
) -> tuple[Delivery, list[SendEnvelope | Note]]:
    """One input: the next state and what to do. Never raises for anything a peer can send."""
    effects: list[SendEnvelope] = []
    if isinstance(event, Tick):
        if not state.done and event.now >= state.next_resend:
            state, effects = _send(replace(state, sent=state.received), event.now, entropy)
        return state, [*effects]
    try:
        if event.sender != state.model_owner.address:
            raise MessageError("vectors are received by the model owner alone")
        message = state.keys.open(event.envelope, state.model_owner, None)
        if not isinstance(message, VectorReceived):
            raise MessageError("the exchange of this round is over")
        if message.count > state.part_count:
            raise MessageError("more parts are received than there are")
    except MessageError as error:
        return state, [Note("message.dropped", str(error), event.sender)]
    if message.count < state.received:
        # It has forgotten them. Sent again with the pause of a loss: an answer that is late must not start a storm.
        return replace(state, received=message.count, sent=message.count), []
    if message.count > state.received:
        state, effects = _send(
            replace(state, received=message.count, sent=max(state.sent, message.count)), event.now, entropy
        )
    return state, [*effects]


def _send(state: Delivery, now: float, entropy: Entropy) -> tuple[Delivery, list[SendEnvelope]]:
    """The parts of the window that were not sent yet."""
    until = min(state.part_count, state.received + WINDOW)
    me, peer = state.keys, state.model_owner
    effects = []
    for index in range(state.sent, until):
        data = state.vector[index * MAX_PART_BYTES : (index + 1) * MAX_PART_BYTES]
        part = VectorPart(me.ctx, me.address, peer.address, index, data)
        effects.append(SendEnvelope(peer.address, me.registered_to(part, peer, entropy(24))))
    return replace(state, sent=max(state.sent, until), next_resend=now + state.resend_seconds), effects


# --------------------------------------------------------------- model owner


@dataclass(frozen=True)
class Sender:
    """An owner whose vector is awaited: who it is, its seat, and the 208 bits of its root that the chain keeps."""

    peer: Peer
    seat: int
    root: int


@dataclass(frozen=True)
class StoreVector:
    """Make a vector durable; what follows in the list of effects must not happen before."""

    seat: int
    root: bytes
    vector: bytes = field(repr=False)


CollectionEffect = SendEnvelope | StoreVector | Note


@dataclass(frozen=True)
class Collection:
    """The vectors of a round as they come in. whole: senders whose vector is kept; parts: what the others' have so far.

    Memory is bounded by the vectors of all senders.
    """

    keys: RoundKeys
    byte_count: int
    chunk_words: int
    senders: Mapping[bytes, Sender]
    whole: frozenset[bytes] = frozenset()
    parts: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    dropped: int = 0

    @property
    def part_count(self) -> int:
        """Parts of one vector."""
        return -(-self.byte_count // MAX_PART_BYTES)

    def missing(self) -> tuple[bytes, ...]:
        """Who has not handed its vector over."""
        return tuple(address for address in self.senders if address not in self.whole)


def step_collection(
    state: Collection, event: EnvelopeReceived, entropy: Entropy
) -> tuple[Collection, list[CollectionEffect]]:
    """One message: the next state and what to do. Never raises for anything a peer can send."""
    sender = state.senders.get(event.sender)
    try:
        if sender is None:
            raise MessageError("no vector of the sender is awaited")
        message = state.keys.open(event.envelope, sender.peer, None)
        if not isinstance(message, VectorPart):
            raise MessageError("the exchange of this round is over")
        return _part(state, sender, message, entropy)
    except MessageError as error:
        return replace(state, dropped=state.dropped + 1), [Note("message.dropped", str(error), event.sender)]


def _part(
    state: Collection, sender: Sender, part: VectorPart, entropy: Entropy
) -> tuple[Collection, list[CollectionEffect]]:
    address, total = sender.peer.address, state.part_count
    if part.index >= total or len(part.data) != min(MAX_PART_BYTES, state.byte_count - part.index * MAX_PART_BYTES):
        raise MessageError("the part is of no vector of this task")
    if address in state.whole:
        return state, [_received(state, sender, total, entropy)]
    have = state.parts.get(address, ())
    if part.index != len(have):
        # One that came twice, or one behind a gap.
        return state, [_received(state, sender, len(have), entropy)]
    have = (*have, part.data)
    others = {other: parts for other, parts in state.parts.items() if other != address}
    if len(have) < total:
        state = replace(state, parts=MappingProxyType({**others, address: have}))
        return state, [_received(state, sender, len(have), entropy)]
    state = replace(state, parts=MappingProxyType(others))
    vector = b"".join(have)
    found = root(vector, state.chunk_words, state.keys.ctx, sender.seat)
    if kept_root(found) != sender.root:
        note = Note("message.dropped", "the vector is not the one that its owner has committed to", address)
        return replace(state, dropped=state.dropped + 1), [note, _received(state, sender, 0, entropy)]
    state = replace(state, whole=state.whole | {address})
    return state, [StoreVector(sender.seat, found, vector), _received(state, sender, total, entropy)]


def _received(state: Collection, sender: Sender, count: int, entropy: Entropy) -> SendEnvelope:
    address = sender.peer.address
    message = VectorReceived(state.keys.ctx, state.keys.address, address, count)
    return SendEnvelope(address, state.keys.registered_to(message, sender.peer, entropy(24)))
