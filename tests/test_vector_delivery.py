"""A vector's way to the model owner: whole or not at all, whatever the network and the other side do."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.peers.commitment import kept_root, root
from omnilytics.peers.messages import MAX_MESSAGE_BYTES, MAX_PART_BYTES, VectorPart, VectorReceived
from omnilytics.peers.owner_round import EnvelopeReceived, Note, SendEnvelope, Tick
from omnilytics.peers.round_keys import SPENT, Peer
from omnilytics.peers.vector_delivery import (
    WINDOW,
    Collection,
    Delivery,
    Sender,
    StoreVector,
    deliver,
    step_collection,
    step_delivery,
)
from tests.round_network import CTX, Entropy, Person, person

CHUNK_WORDS = 100
OWNER, MATE, MODEL, STRANGER = person("owner"), person("mate"), person("model owner"), person("stranger")


def vector_of(name: str, parts: int = 6) -> bytes:
    """So many parts, the last one short."""
    return np.random.default_rng(len(name)).bytes((parts - 1) * MAX_PART_BYTES + 64)


def after_a_restart(someone: Person) -> Person:
    """Only the registered keys are left."""
    return replace(someone, keys=replace(someone.keys, ephemeral=SPENT))


def collection(vectors: dict[Person, bytes], **changes: object) -> Collection:
    senders = {
        who.address: Sender(who.peer, seat, kept_root(root(vector, CHUNK_WORDS, CTX, seat)))
        for seat, (who, vector) in enumerate(vectors.items())
    }
    size = len(next(iter(vectors.values())))
    return Collection(after_a_restart(MODEL).keys, size, CHUNK_WORDS, senders)


@dataclass
class Line:
    """An owner, the model owner and what lies between them; `loses` says which message is lost."""

    vector: bytes
    entropy: Entropy = field(default_factory=lambda: Entropy("line"))
    now: float = 0.0
    stored: list[StoreVector] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    messages: int = 0

    def __post_init__(self) -> None:
        self.collection = collection({OWNER: self.vector})
        keys = after_a_restart(OWNER).keys
        self.delivery, first = deliver(keys, MODEL.peer, self.vector, 1.0, 0.0, self.entropy)
        self.to_model = [effect.envelope for effect in first]
        self.to_owner: list[bytes] = []

    def model_hears(self, envelope: bytes) -> None:
        self.messages += 1
        event = EnvelopeReceived(OWNER.address, envelope, self.now)
        self.collection, effects = step_collection(self.collection, event, self.entropy)
        for effect in effects:
            match effect:
                case SendEnvelope(receiver, answer):
                    assert receiver == OWNER.address
                    self.to_owner.append(answer)
                case StoreVector():
                    self.stored.append(effect)
                case Note():
                    self.notes.append(effect)

    def owner_hears(self, event: EnvelopeReceived | Tick) -> None:
        self.delivery, effects = step_delivery(self.delivery, event, self.entropy)
        for effect in effects:
            if isinstance(effect, SendEnvelope):
                self.to_model.append(effect.envelope)
            else:
                self.notes.append(effect)

    def run(self, chance: random.Random | None = None, loss: float = 0.0) -> None:
        """Until all is said, or for a hundred pauses."""
        for _ in range(100):
            while self.to_model or self.to_owner:
                # Of each pair of peers messages come in their order, or not at all.
                if self.to_model:
                    envelope = self.to_model.pop(0)
                    if chance is None or chance.random() >= loss:
                        self.model_hears(envelope)
                if self.to_owner:
                    envelope = self.to_owner.pop(0)
                    if chance is None or chance.random() >= loss:
                        self.owner_hears(EnvelopeReceived(MODEL.address, envelope, self.now))
            if self.delivery.done:
                return
            self.now += 1.0
            self.owner_hears(Tick(self.now))


def test_a_vector_arrives_whole_in_messages_that_a_broker_lets_through() -> None:
    line = Line(vector_of("owner"))
    assert len(line.to_model) == WINDOW and all(len(envelope) <= MAX_MESSAGE_BYTES for envelope in line.to_model)
    line.run()
    (kept,) = line.stored
    assert kept.vector == line.vector and kept.seat == 0
    assert kept.root == root(line.vector, CHUNK_WORDS, CTX, 0)
    assert line.delivery.done and line.collection.missing() == () and not line.notes
    assert line.messages == line.delivery.part_count == 6
    line.now += 60
    line.owner_hears(Tick(line.now))
    assert line.to_model == [], "nothing is sent again once it is received"


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.6), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_whatever_is_lost_the_vector_is_kept_once_and_as_it_was(seed: int, loss: float, parts: int) -> None:
    line = Line(vector_of("owner", parts))
    line.run(random.Random(seed), loss)
    assert line.delivery.done
    assert [kept.vector for kept in line.stored] == [line.vector]


def test_a_model_owner_that_has_forgotten_gets_it_from_the_start() -> None:
    line = Line(vector_of("owner"))
    for envelope in line.to_model[:3]:
        line.model_hears(envelope)
    line.to_model, answers = [], line.to_owner
    line.to_owner = []
    for answer in answers:
        line.owner_hears(EnvelopeReceived(MODEL.address, answer, 0.0))
    assert line.delivery.received == 3
    line.collection = collection({OWNER: line.vector})
    line.run()
    assert [kept.vector for kept in line.stored] == [line.vector] and line.delivery.done


def test_a_model_owner_that_has_it_in_its_journal_says_so_at_once() -> None:
    line = Line(vector_of("owner"))
    line.collection = replace(line.collection, whole=frozenset([OWNER.address]))
    line.run()
    assert line.delivery.done and line.stored == []


def test_an_answer_that_goes_back_starts_no_storm() -> None:
    line = Line(vector_of("owner"))
    line.run()
    line.delivery = replace(line.delivery, received=5, sent=6)
    for _ in range(50):
        backwards = VectorReceived(CTX, MODEL.address, OWNER.address, 1)
        line.owner_hears(
            EnvelopeReceived(MODEL.address, MODEL.keys.registered_to(backwards, OWNER.peer, bytes(24)), line.now)
        )
    assert line.to_model == []
    line.owner_hears(Tick(line.delivery.next_resend))
    assert len(line.to_model) == WINDOW


@pytest.mark.parametrize("vector", [vector_of("others"), vector_of("owner")[::-1]])
def test_another_vector_than_the_committed_one_is_never_kept(vector: bytes) -> None:
    line = Line(vector_of("owner"))
    line.delivery = replace(line.delivery, vector=vector, sent=0)
    line.to_model = []
    line.owner_hears(Tick(5.0))
    for _ in range(3):
        line.run()
    assert line.stored == [] and not line.delivery.done and line.collection.missing() == (OWNER.address,)
    assert {note.text for note in line.notes} == {"the vector is not the one that its owner has committed to"}
    assert line.collection.dropped >= 1


def test_anothers_vector_is_not_taken_for_ones_own() -> None:
    """The root binds the seat: a copy of a mate's vector is not what one has committed to."""
    mine, theirs = vector_of("owner"), vector_of("m")
    state = collection({OWNER: mine, MATE: theirs})
    delivery, effects = deliver(OWNER.keys, MODEL.peer, theirs, 1.0, 0.0, Entropy("copy"))
    for _ in range(3):
        for effect in effects:
            state, answers = step_collection(
                state, EnvelopeReceived(OWNER.address, effect.envelope, 0.0), Entropy("answers")
            )
            assert not any(isinstance(answer, StoreVector) for answer in answers)
            for answer in answers:
                if isinstance(answer, SendEnvelope):
                    event = EnvelopeReceived(MODEL.address, answer.envelope, 0.0)
                    delivery, more = step_delivery(delivery, event, Entropy("more"))
                    effects = [*effects, *(each for each in more if isinstance(each, SendEnvelope))]
    assert set(state.missing()) == {OWNER.address, MATE.address}


def part(sender: Person, index: int = 0, data: bytes = bytes(64)) -> bytes:
    return sender.keys.registered_to(VectorPart(CTX, sender.address, MODEL.address, index, data), MODEL.peer, bytes(24))


@pytest.mark.parametrize(
    ("sender", "envelope"),
    [
        (STRANGER, part(STRANGER)),
        (OWNER, part(MATE)),
        (OWNER, part(OWNER, index=9)),
        (OWNER, part(OWNER, index=0, data=bytes(32))),
        (OWNER, part(OWNER, index=5, data=bytes(MAX_PART_BYTES))),
        (OWNER, b"\1\0" + bytes(200)),
        (OWNER, OWNER.keys.hello(MODEL.peer, True, bytes(24))),
    ],
    ids=["a stranger", "sealed by another", "behind the end", "too short", "too long", "no box", "a late hello"],
)
def test_what_is_no_part_of_the_senders_vector_is_dropped_and_counted(sender: Person, envelope: bytes) -> None:
    before = collection({OWNER: vector_of("owner")})
    after, effects = step_collection(before, EnvelopeReceived(sender.address, envelope, 0.0), Entropy("x"))
    assert after.dropped == 1 and after.parts == before.parts
    assert [type(effect) for effect in effects] == [Note]


@pytest.mark.parametrize("count", [7, 2**32 - 1])
def test_more_parts_than_there_are_cannot_be_received(count: int) -> None:
    delivery, _ = deliver(OWNER.keys, MODEL.peer, vector_of("owner"), 1.0, 0.0, Entropy("x"))
    said = MODEL.keys.registered_to(VectorReceived(CTX, MODEL.address, OWNER.address, count), OWNER.peer, bytes(24))
    after, effects = step_delivery(delivery, EnvelopeReceived(MODEL.address, said, 0.0), Entropy("y"))
    assert after == delivery and [type(effect) for effect in effects] == [Note]


def test_only_the_model_owner_receives() -> None:
    delivery, _ = deliver(OWNER.keys, MODEL.peer, vector_of("owner"), 1.0, 0.0, Entropy("x"))
    said = MATE.keys.registered_to(VectorReceived(CTX, MATE.address, OWNER.address, 6), OWNER.peer, bytes(24))
    for sender in (MATE.address, MODEL.address):
        after, effects = step_delivery(delivery, EnvelopeReceived(sender, said, 0.0), Entropy("y"))
        assert after == delivery and not after.done and [type(effect) for effect in effects] == [Note]


def test_a_vectors_bytes_are_in_no_repr() -> None:
    vector = vector_of("owner")
    delivery, effects = deliver(OWNER.keys, MODEL.peer, vector, 1.0, 0.0, Entropy("x"))
    state = replace(collection({OWNER: vector}), parts={OWNER.address: (vector,)})
    told = repr(
        (
            delivery,
            effects,
            state,
            StoreVector(1, bytes(32), vector),
            VectorPart(CTX, b"s" * 20, b"r" * 20, 0, vector[:64]),
        )
    )
    assert repr(vector[:8])[2:-1] not in told and vector[:16].hex() not in told
    assert isinstance(delivery, Delivery) and isinstance(delivery.model_owner, Peer)
