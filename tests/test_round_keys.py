"""A participant's keys in a round: what opens, under which keys, and what does not."""

import pytest

from omnilytics.peers.errors import MessageError
from omnilytics.peers.keys import LOW_ORDER_POINTS, seal
from omnilytics.peers.messages import (
    CHANNEL_EPHEMERAL,
    CHANNEL_REGISTERED,
    Hello,
    SeedAcknowledgement,
    encode_envelope,
)
from omnilytics.peers.round_keys import SPENT
from tests.round_network import CTX, Person, person, secret

ALICE, BOB, EVE = person("alice"), person("bob"), person("eve")
NONCE = secret("nonce")[:24]


def acknowledgement(sender: Person, receiver: Person) -> SeedAcknowledgement:
    return SeedAcknowledgement(CTX, sender.address, receiver.address, secret("digest"))


@pytest.mark.parametrize("wants_answer", [True, False])
def test_a_hello_travels_under_the_registered_keys(wants_answer: bool) -> None:
    envelope = ALICE.keys.hello(BOB.peer, wants_answer, NONCE)
    assert envelope[1] == CHANNEL_REGISTERED
    opened = BOB.keys.open(envelope, ALICE.peer, None)
    assert opened == Hello(CTX, ALICE.address, BOB.address, ALICE.keys.ephemeral.public, wants_answer)
    assert ALICE.keys.ephemeral.public not in envelope


def test_everything_else_travels_under_the_ephemeral_keys() -> None:
    message = acknowledgement(ALICE, BOB)
    envelope = ALICE.keys.private(message, BOB.keys.ephemeral.public, NONCE)
    assert envelope[1] == CHANNEL_EPHEMERAL
    assert BOB.keys.open(envelope, ALICE.peer, ALICE.keys.ephemeral.public) == message


def test_a_registered_key_stolen_later_opens_nothing_old() -> None:
    """The thief has Bob's registered key, but not the ephemeral one of that round."""
    envelope = ALICE.keys.private(acknowledgement(ALICE, BOB), BOB.keys.ephemeral.public, NONCE)
    thief = person("bob", life=2)
    assert thief.keys.registered == BOB.keys.registered
    with pytest.raises(MessageError, match="does not open"):
        thief.keys.open(envelope, ALICE.peer, ALICE.keys.ephemeral.public)


def test_without_a_hello_nothing_private_opens() -> None:
    envelope = ALICE.keys.private(acknowledgement(ALICE, BOB), BOB.keys.ephemeral.public, NONCE)
    with pytest.raises(MessageError, match="before its sender's hello"):
        BOB.keys.open(envelope, ALICE.peer, None)


def test_only_the_named_receiver_opens_it() -> None:
    hello = ALICE.keys.hello(BOB.peer, True, NONCE)
    with pytest.raises(MessageError):
        EVE.keys.open(hello, ALICE.peer, None)
    private = ALICE.keys.private(acknowledgement(ALICE, BOB), BOB.keys.ephemeral.public, NONCE)
    with pytest.raises(MessageError):
        EVE.keys.open(private, ALICE.peer, ALICE.keys.ephemeral.public)


def test_only_the_named_sender_can_have_sent_it() -> None:
    hello = EVE.keys.hello(BOB.peer, True, NONCE)
    with pytest.raises(MessageError):
        BOB.keys.open(hello, ALICE.peer, None)
    private = EVE.keys.private(acknowledgement(ALICE, BOB), BOB.keys.ephemeral.public, NONCE)
    with pytest.raises(MessageError):
        BOB.keys.open(private, ALICE.peer, ALICE.keys.ephemeral.public)


def test_another_round_is_another_context() -> None:
    earlier = person("alice", ctx=secret("earlier"))
    with pytest.raises(MessageError, match="another context"):
        BOB.keys.open(earlier.keys.hello(BOB.peer, True, NONCE), ALICE.peer, None)


@pytest.mark.parametrize("channel", [CHANNEL_REGISTERED, CHANNEL_EPHEMERAL])
def test_a_kind_on_the_other_channel_is_refused(channel: int) -> None:
    hello = Hello(CTX, ALICE.address, BOB.address, ALICE.keys.ephemeral.public)
    message = acknowledgement(ALICE, BOB) if channel == CHANNEL_REGISTERED else hello
    own, mate = (
        (ALICE.keys.registered, BOB.keys.registered)
        if channel == CHANNEL_REGISTERED
        else (ALICE.keys.ephemeral, BOB.keys.ephemeral)
    )
    envelope = encode_envelope(channel, seal(own.secret, mate.public, message.encode(), NONCE))
    with pytest.raises(MessageError, match="wrong channel"):
        BOB.keys.open(envelope, ALICE.peer, ALICE.keys.ephemeral.public)


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_an_ephemeral_key_that_nothing_can_be_sealed_to_is_refused(point: bytes) -> None:
    inner = Hello(CTX, ALICE.address, BOB.address, point).encode()
    box = seal(ALICE.keys.registered.secret, BOB.keys.registered.public, inner, NONCE)
    with pytest.raises(MessageError, match="low order"):
        BOB.keys.open(encode_envelope(CHANNEL_REGISTERED, box), ALICE.peer, None)


def test_secrets_are_out_of_the_repr() -> None:
    text = repr(ALICE.keys)
    for value in (ALICE.keys.registered.secret, ALICE.keys.ephemeral.secret):
        assert value.hex() not in text
        assert repr(value)[2:-1] not in text


def test_the_spent_pair_is_nobodys() -> None:
    assert SPENT.secret == bytes(32)
    assert SPENT.public not in {p.keys.ephemeral.public for p in (ALICE, BOB, EVE)}
