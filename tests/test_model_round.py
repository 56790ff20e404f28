"""The model owner's machine: every owner gets the key and its own pad, and nobody can stop it by a message."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.peers import model_round
from omnilytics.peers.keys import LOW_ORDER_POINTS, seal
from omnilytics.peers.messages import (
    CHANNEL_REGISTERED,
    Hello,
    ModelKey,
    ModelKeyReceived,
    SeedAcknowledgement,
    encode_envelope,
    receipt_digest,
)
from omnilytics.peers.model_round import ModelEffect, ModelRound, Recipient
from omnilytics.peers.owner_round import CommitPhaseClosed, EnvelopeReceived, Note, Pace, SendEnvelope, Tick
from omnilytics.peers.phases import ModelStage
from tests.round_network import CTX, MODEL_KEY, Entropy, Person, bytes_in, pads, person, secret

NONCE = secret("nonce")[:24]
MODEL = person("model owner")
OWNERS = [person(f"owner {number}") for number in range(6)]
GROUP_SIZE = 3


class Delivery:
    """The machine with two groups of three owners, and what it did."""

    def __init__(self) -> None:
        recipients = tuple(Recipient(owner.peer, number % GROUP_SIZE) for number, owner in enumerate(OWNERS))
        self.entropy = Entropy("model")
        self.state: ModelRound
        self.state, self.first = model_round.begin(
            MODEL.keys, MODEL_KEY, pads(GROUP_SIZE), recipients, Pace(), 0.0, self.entropy
        )

    def step(self, event: model_round.ModelInput) -> list[ModelEffect]:
        self.state, effects = model_round.step(self.state, event, self.entropy)
        return effects

    def hear(self, sender: Person, envelope: bytes) -> list[ModelEffect]:
        return self.step(EnvelopeReceived(sender.address, envelope, 0.0))

    def hello(self, owner: Person, wants_answer: bool = True) -> list[ModelEffect]:
        return self.hear(owner, owner.keys.hello(MODEL.peer, wants_answer, NONCE))

    def receipt(self, owner: Person, position: int) -> list[ModelEffect]:
        digest = receipt_digest(MODEL_KEY, pads(GROUP_SIZE)[position])
        message = ModelKeyReceived(CTX, owner.address, MODEL.address, digest)
        return self.hear(owner, owner.keys.private(message, MODEL.keys.ephemeral.public, NONCE))


def read(effect: ModelEffect, owner: Person) -> object:
    """What an owner finds in an envelope of the model owner."""
    assert isinstance(effect, SendEnvelope)
    assert effect.receiver == owner.address
    return owner.keys.open(effect.envelope, MODEL.peer, MODEL.keys.ephemeral.public)


def dropped(effects: list[ModelEffect]) -> str:
    (note,) = effects
    assert isinstance(note, Note)
    assert note.event == "message.dropped"
    return note.text


def test_it_says_hello_to_everybody_that_can_play() -> None:
    delivery = Delivery()
    for effect, owner in zip(delivery.first, OWNERS, strict=True):
        assert read(effect, owner) == Hello(CTX, MODEL.address, owner.address, MODEL.keys.ephemeral.public, True)
    assert delivery.state.missing() == tuple(owner.address for owner in OWNERS)


def test_each_owner_gets_the_key_and_the_pad_of_its_own_position() -> None:
    delivery = Delivery()
    for number, owner in enumerate(OWNERS):
        (effect,) = delivery.hello(owner)
        expected = ModelKey(CTX, MODEL.address, owner.address, MODEL_KEY, pads(GROUP_SIZE)[number % GROUP_SIZE])
        assert read(effect, owner) == expected


@pytest.mark.parametrize("seats", [(0, 1, 2, 3, 4, 5), (0, 1, 2, 6, 7, 8)])
def test_where_groups_have_pads_of_their_own_each_owner_gets_that_of_its_seat(seats: tuple[int, ...]) -> None:
    """Whichever groups play; and a receipt for the pad of its position is none."""
    every = pads(9)
    recipients = tuple(Recipient(owner.peer, seat) for owner, seat in zip(OWNERS, seats, strict=True))
    entropy = Entropy("model")
    state, _ = model_round.begin(MODEL.keys, MODEL_KEY, every, recipients, Pace(), 0.0, entropy)
    for owner, seat in zip(OWNERS, seats, strict=True):
        hello = EnvelopeReceived(owner.address, owner.keys.hello(MODEL.peer, True, NONCE), 0.0)
        state, (effect,) = model_round.step(state, hello, entropy)
        assert read(effect, owner) == ModelKey(CTX, MODEL.address, owner.address, MODEL_KEY, every[seat])
        for index in (seat % GROUP_SIZE, seat):
            digest = receipt_digest(MODEL_KEY, every[index])
            receipt = ModelKeyReceived(CTX, owner.address, MODEL.address, digest)
            envelope = owner.keys.private(receipt, MODEL.keys.ephemeral.public, NONCE)
            state, effects = model_round.step(state, EnvelopeReceived(owner.address, envelope, 0.0), entropy)
            assert [isinstance(effect, Note) for effect in effects] == ([] if index == seat else [True])
    assert not state.missing()


def test_a_repeated_hello_is_answered_with_hello_and_key_unless_it_is_an_answer() -> None:
    delivery, owner = Delivery(), OWNERS[0]
    delivery.hello(owner)
    hello, key = delivery.hello(owner)
    answer = read(hello, owner)
    assert isinstance(answer, Hello)
    assert answer.wants_answer is False
    assert isinstance(read(key, owner), ModelKey)
    assert delivery.hello(owner, wants_answer=False) == []


def test_only_those_that_lack_something_hear_it_again() -> None:
    delivery = Delivery()
    done, greeted, silent = OWNERS[0], OWNERS[1], OWNERS[2:]
    delivery.hello(done)
    delivery.receipt(done, 0)
    delivery.hello(greeted)
    assert delivery.step(Tick(0.9)) == []
    effects = delivery.step(Tick(1.0))
    assert isinstance(read(effects[0], greeted), ModelKey)
    for effect, owner in zip(effects[1:], silent, strict=True):
        assert isinstance(read(effect, owner), Hello)
    assert delivery.step(Tick(1.9)) == []
    assert len(delivery.step(Tick(2.0))) == len(effects)


def test_it_watches_when_all_have_acknowledged_and_still_answers() -> None:
    delivery = Delivery()
    for number, owner in enumerate(OWNERS):
        assert delivery.state.stage is ModelStage.DELIVERING
        delivery.hello(owner)
        assert delivery.receipt(owner, number % GROUP_SIZE) == []
    assert delivery.state.stage is ModelStage.WATCHING
    assert delivery.step(Tick(100.0)) == []
    assert len(delivery.hello(OWNERS[0])) == 2
    assert delivery.receipt(OWNERS[0], 0) == []
    assert delivery.state.stage is ModelStage.WATCHING


def test_a_receipt_for_another_key_or_pad_is_none() -> None:
    delivery, owner = Delivery(), OWNERS[0]
    delivery.hello(owner)
    assert "another key or pad" in dropped(delivery.receipt(owner, 1))
    message = ModelKeyReceived(CTX, owner.address, MODEL.address, receipt_digest(secret("other"), pads(3)[0]))
    dropped(delivery.hear(owner, owner.keys.private(message, MODEL.keys.ephemeral.public, NONCE)))
    assert owner.address in delivery.state.missing()


def test_a_receipt_before_the_hello_is_none() -> None:
    delivery = Delivery()
    assert "before its sender's hello" in dropped(delivery.receipt(OWNERS[0], 0))


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_a_hello_of_low_order_does_not_stop_the_model_owner(point: bytes) -> None:
    """Once kept, it would have failed at the next tick, when the key is sealed to it again."""
    delivery, owner = Delivery(), OWNERS[0]
    inner = Hello(CTX, owner.address, MODEL.address, point).encode()
    box = seal(owner.keys.registered.secret, MODEL.keys.registered.public, inner, NONCE)
    assert "low order" in dropped(delivery.hear(owner, encode_envelope(CHANNEL_REGISTERED, box)))
    assert owner.address not in delivery.state.hellos
    delivery.step(Tick(5.0))
    (effect,) = delivery.hello(owner)
    assert isinstance(read(effect, owner), ModelKey)


def test_a_second_ephemeral_key_is_refused() -> None:
    delivery, owner = Delivery(), OWNERS[0]
    delivery.hello(owner)
    again = person("owner 0", life=2)
    assert "second ephemeral key" in dropped(delivery.hello(again))
    assert delivery.state.hellos[owner.address] == owner.keys.ephemeral.public


def test_strangers_and_owners_under_other_names_are_dropped() -> None:
    delivery, stranger = Delivery(), person("stranger")
    assert "does not play" in dropped(delivery.hello(stranger))
    hello = stranger.keys.hello(MODEL.peer, True, NONCE)
    assert "does not open" in dropped(delivery.hear(OWNERS[0], hello))
    hello = OWNERS[1].keys.hello(MODEL.peer, True, NONCE)
    assert "does not open" in dropped(delivery.hear(OWNERS[0], hello))
    assert not delivery.state.hellos
    assert delivery.state.dropped == 3


def test_owners_send_it_neither_keys_nor_acknowledgements() -> None:
    delivery, owner = Delivery(), OWNERS[0]
    delivery.hello(owner)
    for message in (
        ModelKey(CTX, owner.address, MODEL.address, secret("k"), secret("p")),
        SeedAcknowledgement(CTX, owner.address, MODEL.address, secret("d")),
    ):
        envelope = owner.keys.private(message, MODEL.keys.ephemeral.public, NONCE)
        assert "do not send this kind" in dropped(delivery.hear(owner, envelope))


def test_a_receipt_over_the_registered_channel_is_none() -> None:
    delivery, owner = Delivery(), OWNERS[0]
    delivery.hello(owner)
    message = ModelKeyReceived(CTX, owner.address, MODEL.address, receipt_digest(MODEL_KEY, pads(3)[0]))
    box = seal(owner.keys.registered.secret, MODEL.keys.registered.public, message.encode(), NONCE)
    assert "wrong channel" in dropped(delivery.hear(owner, encode_envelope(CHANNEL_REGISTERED, box)))
    assert owner.address in delivery.state.missing()


@given(st.binary(max_size=600))
@settings(max_examples=200, deadline=None)
def test_no_bytes_whatever_raise_or_are_answered(envelope: bytes) -> None:
    delivery = Delivery()
    before = delivery.state
    dropped(delivery.hear(OWNERS[0], envelope))
    assert delivery.state == replace(before, dropped=1)


@pytest.mark.parametrize("all_delivered", [False, True])
def test_closing_forgets_every_secret(all_delivered: bool) -> None:
    delivery = Delivery()
    for number, owner in enumerate(OWNERS if all_delivered else OWNERS[:2]):
        delivery.hello(owner)
        delivery.receipt(owner, number % GROUP_SIZE)
    secrets = {MODEL_KEY, *pads(GROUP_SIZE), MODEL.keys.ephemeral.secret}
    assert secrets <= set(bytes_in(delivery.state))
    assert delivery.step(CommitPhaseClosed(9.0)) == []
    after = delivery.state
    assert after.stage is ModelStage.WATCHING
    assert not secrets & set(bytes_in(after))
    assert after.missing() == (() if all_delivered else tuple(owner.address for owner in OWNERS[2:]))
    assert delivery.hello(OWNERS[0]) == []
    assert delivery.receipt(OWNERS[3], 0) == []
    assert delivery.step(Tick(100.0)) == []
    assert delivery.step(CommitPhaseClosed(101.0)) == []
    assert delivery.state == after


def test_no_repr_shows_a_secret() -> None:
    delivery = Delivery()
    effects = [*delivery.first, *delivery.hello(OWNERS[0]), *delivery.step(Tick(1.0))]
    text = repr(delivery.state) + repr(effects)
    for value in (MODEL_KEY, *pads(GROUP_SIZE), MODEL.keys.ephemeral.secret, MODEL.keys.registered.secret):
        assert value.hex() not in text
        assert repr(value)[2:-1] not in text
