"""The data owner's machine: agrees with everybody or with nobody, makes one vector, says no secret."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.peers.keys import LOW_ORDER_POINTS, seal
from omnilytics.peers.messages import (
    CHANNEL_EPHEMERAL,
    CHANNEL_REGISTERED,
    Hello,
    ModelKey,
    ModelKeyReceived,
    SeedAcknowledgement,
    encode_envelope,
)
from omnilytics.peers.owner_round import (
    CommitConfirmed,
    CommitPhaseClosed,
    CommitVector,
    ComputeUpdate,
    DeclareSitOut,
    EnvelopeReceived,
    MaskVector,
    Note,
    OwnerEffect,
    OwnerInput,
    Pace,
    PresenceSeen,
    SendEnvelope,
    Tick,
    UpdateReady,
    UpdateRefused,
    VectorMasked,
)
from omnilytics.peers.phases import OwnerStage
from omnilytics.peers.seeds import acknowledgement
from tests.round_network import CTX, MODEL_KEY, Flight, Network, Person, bytes_in, pads, person, secret

NONCE = secret("nonce")[:24]


def stages(network: Network) -> set[OwnerStage]:
    return {state.stage for state in network.states.values()}


def told(network: Network, owner: Person, flight_from: Person, envelope: bytes) -> list[OwnerEffect]:
    return network.step(owner.address, EnvelopeReceived(flight_from.address, envelope, network.now))


def dropped(effects: list[OwnerEffect]) -> str:
    """The words of the only effect, which is that a message was dropped."""
    (note,) = effects
    assert isinstance(note, Note)
    assert note.event == "message.dropped"
    return note.text


# ----------------------------------------------------------------- all is well


@pytest.mark.parametrize("size", [3, 4, 7])
def test_a_group_agrees_and_its_vectors_add_up(size: int) -> None:
    network = Network(size)
    network.drain()
    assert stages(network) == {OwnerStage.COMMITTING}
    assert [len(network.commits[owner.address]) for owner in network.owners] == [1] * size
    assert network.sum_is_right()
    assert not network.model.missing()
    assert not network.notes
    assert not network.sat_out
    for owner in network.owners:
        assert network.states[owner.address].dropped == 0
        network.step(owner.address, CommitConfirmed(network.now))
    assert stages(network) == {OwnerStage.COMMITTED}


def test_no_vector_shows_its_update() -> None:
    network = Network(3)
    network.drain()
    for owner in network.owners:
        (commit,) = network.commits[owner.address]
        plain = (network.updates[owner.address] % 2**16).astype(">u2").tobytes()
        assert np.array_equal(commit.quantised, network.updates[owner.address])
        same = sum(a == b for a, b in zip(commit.vector, plain, strict=False))
        assert same < len(plain) // 4, "masked bytes equal the plain ones far more often than by chance"


@pytest.mark.parametrize("size", [3, 5])
def test_without_loss_everything_is_said_once(size: int) -> None:
    network = Network(size)
    network.drain()
    between_mates = 2 * size * (size - 1)  # a hello and an acknowledgement each way
    with_model_owner = 4 * size  # hello, hello, model key, receipt
    assert len(network.sent) == between_mates + with_model_owner


def test_messages_in_reverse_order_do_no_harm() -> None:
    network = Network(4)
    for _ in range(10):
        while network.flights:
            network.deliver(network.flights.pop())
        network.tick()
    assert stages(network) == {OwnerStage.COMMITTING}
    assert network.sum_is_right()


# ----------------------------------------------------- loss, repetition, forgery


def test_repeated_messages_do_not_multiply() -> None:
    network = Network(4)
    delivered = 0
    while network.flights:
        flight = network.flights.pop(0)
        for _ in range(3):
            network.deliver(flight)
            delivered += 1
        assert delivered < 2_000, "repetitions breed repetitions"
    assert stages(network) == {OwnerStage.COMMITTING}
    assert [len(network.commits[owner.address]) for owner in network.owners] == [1] * 4
    assert network.sum_is_right()
    first_time = 12 + 12 + 4 + 4 + 4 + 4  # as without repetitions
    hellos_again = 2 * (12 * 2 + 4 * 2 + 4)  # two copies more: hello and acknowledgement, or key; hello alone
    receipts_again = 4 * 2 + 8 * 3  # two copies more of the first keys, three of those that came with the answers
    assert len(network.sent) == first_time + hellos_again + receipts_again


def test_two_peers_do_not_answer_each_other_for_ever() -> None:
    network = Network(3)
    hellos = list(network.flights)
    network.drain()
    before = len(network.sent)
    for flight in hellos:
        network.deliver(flight)
    answers = len(network.sent) - before
    # Mates: hello and acknowledgement; the model owner: hello and model key; owners to the model owner: hello.
    assert len(hellos) == 6 + 3 + 3
    assert answers == 6 * 2 + 3 * 2 + 3
    network.drain()
    # Hellos that ask for nothing and acknowledgements end it; a repeated model key has its receipt.
    assert len(network.sent) - before - answers == 3


@pytest.mark.parametrize("lost", range(3 * 2 + 6))
def test_any_first_message_may_be_lost(lost: int) -> None:
    network = Network(3)
    del network.flights[lost % len(network.flights)]
    network.drain()
    assert stages(network) != {OwnerStage.COMMITTING}
    for _ in range(3):
        network.tick(1.0)
        network.drain()
    assert stages(network) == {OwnerStage.COMMITTING}
    assert network.sum_is_right()


def test_an_answer_lost_to_an_owner_that_has_agreed_is_made_good() -> None:
    """A has all it needs and never resends; B still gets A's acknowledgement, by asking."""
    network = Network(3)
    a, b = network.owners[0].address, network.owners[1].address
    for _ in range(100):
        if not network.flights:
            break
        flight = network.flights.pop(0)
        if (flight.sender, flight.receiver) == (a, b) and flight.envelope[1] == CHANNEL_EPHEMERAL:
            continue
        network.deliver(flight)
    assert network.states[a].stage is OwnerStage.COMMITTING
    assert network.states[b].stage is OwnerStage.SEEDING
    network.step(a, CommitConfirmed(network.now))
    network.tick(1.0)
    network.drain()
    assert network.states[b].stage is OwnerStage.COMMITTING
    assert len(network.commits[a]) == 1
    assert network.sum_is_right()


@pytest.mark.parametrize("place", [0, 1, 2, 30, 60, -1])
def test_a_corrupted_message_is_dropped_and_counted(place: int) -> None:
    network = Network(3)
    flight = network.flights.pop(0)
    envelope = bytearray(flight.envelope)
    envelope[place] ^= 1
    before = network.states[flight.receiver]
    effects = network.step(flight.receiver, EnvelopeReceived(flight.sender, bytes(envelope), 0.0))
    dropped(effects)
    assert network.states[flight.receiver] == replace(before, dropped=1)


@given(st.binary(max_size=600))
@settings(max_examples=200, deadline=None)
def test_no_bytes_whatever_raise_or_are_answered(envelope: bytes) -> None:
    network = _STILL
    owner, mate = network.owners[0], network.owners[1]
    for sender in (mate, network.model_person):
        before = network.states[owner.address]
        dropped(told(network, owner, sender, envelope))
        assert network.states[owner.address] == replace(before, dropped=before.dropped + 1)


_STILL = Network(3)


def test_strangers_are_dropped() -> None:
    network = Network(3)
    owner, stranger = network.owners[0], person("stranger")
    hello = stranger.keys.hello(owner.peer, True, NONCE)
    assert "neither a mate nor the model owner" in dropped(told(network, owner, stranger, hello))
    # Under a mate's name its box does not open.
    assert "does not open" in dropped(told(network, owner, network.owners[1], hello))


def test_a_message_of_another_round_is_dropped() -> None:
    network = Network(3)
    owner, mate = network.owners[0], person("owner 1", ctx=secret("an earlier round"))
    assert "another context" in dropped(told(network, owner, mate, mate.keys.hello(owner.peer, True, NONCE)))


def test_ones_own_message_sent_back_is_dropped() -> None:
    network = Network(3)
    flight = next(f for f in network.flights if f.receiver in network.states)
    mate = next(owner for owner in network.owners if owner.address == flight.receiver)
    own = next(owner for owner in network.owners if owner.address == flight.sender)
    assert "another sender" in dropped(told(network, own, mate, flight.envelope))


def test_a_message_passed_on_to_somebody_else_is_dropped() -> None:
    network = Network(3)
    a, b, c = network.owners
    to_c = a.keys.hello(c.peer, True, NONCE)
    dropped(told(network, b, a, to_c))
    # Even sealed for b: the receiver stands inside.
    inner = Hello(CTX, a.address, c.address, a.keys.ephemeral.public).encode()
    box = seal(a.keys.registered.secret, b.keys.registered.public, inner, NONCE)
    assert "another receiver" in dropped(told(network, b, a, encode_envelope(CHANNEL_REGISTERED, box)))


def test_a_second_ephemeral_key_is_refused_and_the_group_does_not_play() -> None:
    network = Network(3)
    a, b = network.owners[0], network.owners[1]
    told(network, a, b, b.keys.hello(a.peer, True, NONCE))
    restarted = person("owner 1", life=2)
    before = network.states[a.address]
    for _ in range(2):
        told_again = told(network, a, b, restarted.keys.hello(a.peer, True, NONCE))
        assert "second ephemeral key" in dropped(told_again)
    assert network.states[a.address].hellos == before.hellos
    assert network.states[a.address].seeds == before.seeds
    # From its second life b is deaf to what a says under its first life's key: a waits in vain.
    network.flights = [f for f in network.flights if b.address not in (f.sender, f.receiver)]
    network.drain()
    network.tick(20.0)
    assert network.states[a.address].stage is OwnerStage.SAT_OUT
    assert not network.commits


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_an_ephemeral_key_of_low_order_is_refused(point: bytes) -> None:
    network = Network(3)
    owner = network.owners[0]
    for sender in (network.owners[1], network.model_person):
        inner = Hello(CTX, sender.address, owner.address, point).encode()
        box = seal(sender.keys.registered.secret, owner.keys.registered.public, inner, NONCE)
        assert "low order" in dropped(told(network, owner, sender, encode_envelope(CHANNEL_REGISTERED, box)))
        assert sender.address not in network.states[owner.address].hellos


def test_our_own_ephemeral_key_said_by_a_mate_is_refused() -> None:
    network = Network(3)
    a, b = network.owners[0], network.owners[1]
    inner = Hello(CTX, b.address, a.address, a.keys.ephemeral.public).encode()
    box = seal(b.keys.registered.secret, a.keys.registered.public, inner, NONCE)
    dropped(told(network, a, b, encode_envelope(CHANNEL_REGISTERED, box)))
    assert b.address not in network.states[a.address].hellos


def test_a_wrong_acknowledgement_is_no_agreement() -> None:
    network = Network(3)
    a, b = network.owners[0], network.owners[1]
    told(network, a, b, b.keys.hello(a.peer, True, NONCE))
    for seed in (secret("another seed"), acknowledgement(network.states[a.address].seeds[b.address])):
        wrong = SeedAcknowledgement(CTX, b.address, a.address, acknowledgement(seed))
        envelope = b.keys.private(wrong, a.keys.ephemeral.public, NONCE)
        assert "differs from ours" in dropped(told(network, a, b, envelope))
    assert b.address not in network.states[a.address].agreed


def test_a_mates_acknowledgement_sent_by_another_mate_is_no_agreement() -> None:
    network = Network(3)
    a, b, c = network.owners
    for mate in (b, c):
        told(network, a, mate, mate.keys.hello(a.peer, True, NONCE))
    of_b = acknowledgement(network.states[a.address].seeds[b.address])
    stolen = c.keys.private(SeedAcknowledgement(CTX, c.address, a.address, of_b), a.keys.ephemeral.public, NONCE)
    assert "differs from ours" in dropped(told(network, a, c, stolen))
    # In b's name it does not even open: c has not b's ephemeral key.
    dropped(told(network, a, b, stolen))
    assert not network.states[a.address].agreed


@pytest.mark.parametrize(
    ("key", "pad", "words"),
    [
        (secret("another key"), pads(3)[0], "model key is not the one"),
        (MODEL_KEY, pads(3)[1], "pad is not the one"),
        (MODEL_KEY, secret("another pad"), "pad is not the one"),
    ],
)
def test_a_wrong_model_key_or_pad_is_neither_used_nor_acknowledged(key: bytes, pad: bytes, words: str) -> None:
    network = Network(3)
    owner, model = network.owners[0], network.model_person
    told(network, owner, model, model.keys.hello(owner.peer, True, NONCE))
    message = ModelKey(CTX, model.address, owner.address, key, pad)
    effects = told(network, owner, model, model.keys.private(message, owner.keys.ephemeral.public, NONCE))
    assert words in dropped(effects)
    assert network.states[owner.address].model_key is None
    assert model.address in network.states[owner.address].missing()


def test_only_the_model_owner_hands_out_keys_and_only_mates_acknowledge() -> None:
    network = Network(3)
    owner, mate, model = network.owners[0], network.owners[1], network.model_person
    for sender in (mate, model):
        told(network, owner, sender, sender.keys.hello(owner.peer, True, NONCE))
    seed = acknowledgement(network.states[owner.address].seeds[mate.address])
    for sender, message in (
        (mate, ModelKey(CTX, mate.address, owner.address, MODEL_KEY, pads(3)[0])),
        (mate, ModelKeyReceived(CTX, mate.address, owner.address, secret("digest"))),
        (model, ModelKeyReceived(CTX, model.address, owner.address, secret("digest"))),
        (model, SeedAcknowledgement(CTX, model.address, owner.address, seed)),
    ):
        envelope = sender.keys.private(message, owner.keys.ephemeral.public, NONCE)
        assert "no business" in dropped(told(network, owner, sender, envelope))
    assert network.states[owner.address].model_key is None
    assert not network.states[owner.address].agreed


def test_messages_on_the_wrong_channel_are_dropped() -> None:
    network = Network(3)
    a, b, model = network.owners[0], network.owners[1], network.model_person
    hello = Hello(CTX, b.address, a.address, b.keys.ephemeral.public)
    early = b.keys.private(hello, a.keys.ephemeral.public, NONCE)
    assert "before its sender's hello" in dropped(told(network, a, b, early))
    for sender in (b, model):
        told(network, a, sender, sender.keys.hello(a.peer, True, NONCE))
    assert "wrong channel" in dropped(told(network, a, b, early))
    seed = network.states[a.address].seeds[b.address]
    for sender, message in (
        (b, SeedAcknowledgement(CTX, b.address, a.address, acknowledgement(seed))),
        (model, ModelKey(CTX, model.address, a.address, MODEL_KEY, pads(3)[0])),
    ):
        box = seal(sender.keys.registered.secret, a.keys.registered.public, message.encode(), NONCE)
        envelope = encode_envelope(CHANNEL_REGISTERED, box)
        assert "wrong channel" in dropped(told(network, a, sender, envelope))
    assert not network.states[a.address].agreed


# ------------------------------------------------- commit only when all is there


def _needed(network: Network) -> list[tuple[str, list[OwnerInput]]]:
    """What owner 0 must be told before it may mask, each piece by name."""
    me, model = network.owners[0], network.model_person
    pieces: list[tuple[str, list[OwnerInput]]] = []
    complete = Network(network.size)
    complete.drain()
    for mate in network.owners[1:]:
        seed = complete.states[me.address].seeds[mate.address]
        digest = SeedAcknowledgement(CTX, mate.address, me.address, acknowledgement(seed))
        hello = mate.keys.hello(me.peer, True, NONCE)
        ack = mate.keys.private(digest, me.keys.ephemeral.public, NONCE)
        pieces.append((f"hello of {mate.address.hex()}", [EnvelopeReceived(mate.address, hello, 0.0)]))
        pieces.append((f"acknowledgement of {mate.address.hex()}", [EnvelopeReceived(mate.address, ack, 0.0)]))
    key = ModelKey(CTX, model.address, me.address, MODEL_KEY, pads(network.size)[0])
    envelope = model.keys.private(key, me.keys.ephemeral.public, NONCE)
    hello = model.keys.hello(me.peer, True, NONCE)
    pieces.append(("hello of the model owner", [EnvelopeReceived(model.address, hello, 0.0)]))
    pieces.append(("model key", [EnvelopeReceived(model.address, envelope, 0.0)]))
    pieces.append(("update", [UpdateReady(network.updates[me.address], 0.0)]))
    return pieces


@pytest.mark.parametrize("left_out", range(7))
def test_nothing_is_masked_while_one_piece_is_missing(left_out: int) -> None:
    network = Network(3, prompt=False)
    me = network.owners[0].address
    pieces = _needed(network)
    for number, (_, events) in enumerate(pieces):
        for event in events if number != left_out else []:
            network.step(me, event)
    assert network.masked[me] == 0, f"masked without the {pieces[left_out][0]}"
    assert network.states[me].stage is OwnerStage.SEEDING
    assert not network.commits[me]
    # Now the missing piece, and what depends on it (under its sender's hello) once more.
    for _, events in pieces[left_out:]:
        for event in events:
            network.step(me, event)
    assert network.masked[me] == 1
    assert network.states[me].stage is OwnerStage.MASKING


def test_the_masks_are_of_all_mates_in_the_order_of_positions() -> None:
    network = Network(4, prompt=False)
    network.drain()
    orders = [effect for effect in network.effects if isinstance(effect, MaskVector)]
    assert len(orders) == 4
    for order in orders:
        own = order.pairs[0].own_position
        assert [pair.mate_position for pair in order.pairs] == [p for p in range(4) if p != own]
        assert {pair.own_position for pair in order.pairs} == {own}
        assert order.pad_seed == pads(4)[own]


def test_there_is_never_a_second_vector() -> None:
    network = Network(3)
    network.drain()
    me = network.owners[0].address
    other = network.updates[network.owners[1].address]
    again: list[OwnerInput] = [
        UpdateReady(other, 0.0),
        VectorMasked(b"another vector", secret("another root"), 0.0),
        UpdateRefused("too late", 0.0),
        Tick(1000.0),
    ]
    for events in itertools.permutations(again):
        for event in events:
            assert network.step(me, event) == []
    network.step(me, CommitConfirmed(0.0))
    for event in again:
        assert network.step(me, event) == []
    assert len(network.commits[me]) == 1


def test_a_second_update_does_not_replace_the_first() -> None:
    network = Network(3, prompt=False)
    me, mate = network.owners[0].address, network.owners[1].address
    first, second = network.updates[me], network.updates[mate]
    assert network.step(me, UpdateReady(second, 0.0)) == [], "before the model key there is no update"
    held = [flight for flight in network.flights if flight.sender == mate]
    network.flights = [flight for flight in network.flights if flight.sender != mate]
    while network.flights:
        network.deliver(network.flights.pop(0))
    network.step(me, UpdateReady(first, 0.0))
    network.step(me, UpdateReady(second, 0.0))
    network.flights = held
    network.drain()
    network.tick()
    network.drain()
    (order,) = (e for e in network.effects if isinstance(e, MaskVector) and e.pairs[0].own_position == 0)
    assert np.array_equal(order.quantised, first)


def test_a_vector_out_of_turn_is_ignored() -> None:
    network = Network(3, prompt=False)
    me = network.owners[0].address
    assert network.step(me, VectorMasked(b"v", secret("root"), 0.0)) == []
    assert network.step(me, CommitConfirmed(0.0)) == []
    assert network.states[me].stage is OwnerStage.SEEDING


def test_the_model_is_trained_on_once() -> None:
    network = Network(3, prompt=False)
    while network.flights:
        flight = network.flights.pop(0)
        network.deliver(flight)
        network.deliver(flight)
    assert sum(isinstance(effect, ComputeUpdate) for effect in network.effects) == 3


# ------------------------------------------------------------- giving up, closing


def silence(network: Network, owner: Person) -> None:
    """Loses everything from and to an owner."""
    network.flights = [f for f in network.flights if owner.address not in (f.sender, f.receiver)]


def test_a_mate_that_is_away_is_waited_for_as_long_as_the_grace() -> None:
    network = Network(3, Pace(resend=1.0, away_grace=2.0, patience=20.0))
    a, b, gone = network.owners
    for owner in (a, b):
        network.step(owner.address, PresenceSeen(gone.address, False, 0.0))
    silence(network, gone)
    network.drain()
    network.now = 1.0
    network.step(a.address, Tick(1.9))
    assert not network.sat_out
    (effect,) = network.step(a.address, Tick(2.0))
    assert isinstance(effect, DeclareSitOut)
    assert effect.missing == (gone.address,)
    assert network.states[a.address].stage is OwnerStage.SAT_OUT
    assert network.step(a.address, Tick(2000.0)) == []


def test_a_mate_that_comes_back_within_the_grace_is_waited_for() -> None:
    network = Network(3)
    a, gone = network.owners[0], network.owners[2]
    network.step(a.address, PresenceSeen(gone.address, False, 0.0))
    network.step(a.address, PresenceSeen(gone.address, True, 1.0))
    network.step(a.address, Tick(3.0))
    assert network.states[a.address].stage is OwnerStage.SEEDING
    network.drain()
    assert network.states[a.address].stage is OwnerStage.COMMITTING


def test_a_mate_that_went_away_after_it_agreed_is_not_missed() -> None:
    network = Network(3)
    network.drain()
    waiting = Network(3, prompt=False)
    while waiting.flights:
        waiting.deliver(waiting.flights.pop(0))
    a, gone = waiting.owners[0], waiting.owners[2]
    waiting.step(a.address, PresenceSeen(gone.address, False, 0.0))
    waiting.step(a.address, Tick(1000.0))
    assert waiting.states[a.address].stage is OwnerStage.SEEDING, "its update is late, nobody is missing"
    waiting.drain()
    assert waiting.states[a.address].stage is not OwnerStage.SAT_OUT


def test_silent_mates_are_waited_for_as_long_as_the_patience() -> None:
    network = Network(3, Pace(resend=1.0, away_grace=2.0, patience=20.0))
    a, _, gone = network.owners
    silence(network, gone)
    network.drain()
    network.step(a.address, Tick(19.9))
    assert not network.sat_out
    effects = network.step(a.address, Tick(20.0))
    (given_up,) = (effect for effect in effects if isinstance(effect, DeclareSitOut))
    assert given_up.missing == (gone.address,)


def test_a_silent_model_owner_is_blamed_by_name() -> None:
    network = Network(3)
    silence(network, network.model_person)
    network.drain()
    assert not network.commits
    network.tick(20.0)
    for owner in network.owners:
        (given_up,) = network.sat_out[owner.address]
        assert given_up.missing == (network.model_person.address,)


def test_presence_of_strangers_is_not_remembered() -> None:
    network = Network(3)
    me = network.owners[0].address
    for number in range(100):
        network.step(me, PresenceSeen(secret(f"stranger {number}")[:20], False, 0.0))
    assert not network.states[me].away


def test_whatever_is_missing_is_said_again_and_no_more() -> None:
    network = Network(3, Pace(resend=1.0))
    me, agreed, silent = network.owners
    for flight in [f for f in network.flights if {f.sender, f.receiver} == {me.address, agreed.address}]:
        network.deliver(flight)
    for flight in list(network.flights):
        if flight.receiver == me.address and flight.sender == agreed.address:
            network.deliver(flight)
    assert network.states[me.address].agreed == {agreed.address}
    assert network.step(me.address, Tick(0.9)) == []
    effects = network.step(me.address, Tick(1.0))
    receivers = [effect.receiver for effect in effects if isinstance(effect, SendEnvelope)]
    assert receivers == [silent.address, network.model_person.address]
    assert network.step(me.address, Tick(1.5)) == []
    assert len(network.step(me.address, Tick(2.0))) == 2


def test_an_update_that_is_refused_sits_the_round_out() -> None:
    network = Network(3, prompt=False)
    me = network.owners[0].address
    effects = network.step(me, UpdateRefused("weight 1043 is NaN", 0.0))
    assert effects == [DeclareSitOut("weight 1043 is NaN")]
    network.drain()
    assert network.masked[me] == 0
    assert network.states[me].stage is OwnerStage.SAT_OUT
    assert network.step(me, UpdateReady(network.updates[me], 0.0)) == []


@pytest.mark.parametrize("until", list(OwnerStage))
def test_closing_forgets_every_secret_in_every_stage(until: OwnerStage) -> None:
    network = Network(3, prompt=False)
    me = network.owners[0]
    if until is not OwnerStage.SEEDING:
        while network.flights:
            network.deliver(network.flights.pop(0))
    if until is OwnerStage.SAT_OUT:
        network.step(me.address, UpdateRefused("no", 0.0))
    elif until is not OwnerStage.SEEDING:
        network.step(me.address, UpdateReady(network.updates[me.address], 0.0))
        if until is not OwnerStage.MASKING:
            network.do_work(
                next(n for n, (a, o) in enumerate(network.work) if (a, type(o)) == (me.address, MaskVector))
            )
        if until is OwnerStage.COMMITTED:
            network.step(me.address, CommitConfirmed(0.0))
    before = network.states[me.address]
    assert before.stage is until
    secrets = {me.keys.ephemeral.secret, *before.seeds.values()}
    if before.model_key is not None:
        secrets |= {MODEL_KEY, pads(3)[0]}
    if before.quantised is not None:
        secrets.add(before.quantised.tobytes())
    assert secrets <= set(bytes_in(before)), "the test looks for secrets that never were there"

    effects = network.step(me.address, CommitPhaseClosed(9.0))
    after = network.states[me.address]
    assert not secrets & set(bytes_in(after))
    assert after.stage is (OwnerStage.COMMITTED if until is OwnerStage.COMMITTED else OwnerStage.SAT_OUT)
    assert len(effects) == (0 if until in (OwnerStage.COMMITTED, OwnerStage.SAT_OUT) else 1)

    # Nothing wakes it again: no answers, no new seeds, no vector.
    mate, model = network.owners[1], network.model_person
    later: list[OwnerInput] = [
        EnvelopeReceived(mate.address, mate.keys.hello(me.peer, True, NONCE), 9.0),
        EnvelopeReceived(model.address, model.keys.hello(me.peer, True, NONCE), 9.0),
        UpdateReady(network.updates[me.address], 9.0),
        VectorMasked(b"v", secret("root"), 9.0),
        CommitConfirmed(9.0),
        CommitPhaseClosed(9.0),
        PresenceSeen(mate.address, False, 9.0),
        Tick(100.0),
    ]
    for event in later:
        assert network.step(me.address, event) == []
        assert network.states[me.address] == after


# ------------------------------------------------------------------------ secrecy


def test_no_repr_shows_a_secret() -> None:
    network = Network(3)
    network.drain()
    secrets = {MODEL_KEY, *pads(3)}
    for owner in network.owners:
        secrets |= {owner.keys.ephemeral.secret, owner.keys.registered.secret}
        secrets |= set(network.states[owner.address].seeds.values())
    texts = [repr(state) for state in network.states.values()] + [repr(network.model)]
    texts += [repr(effect) for effect in network.effects]
    texts.append(repr(UpdateReady(network.updates[network.owners[0].address], 0.0)))
    everything = "\n".join(texts)
    for value in secrets:
        assert value.hex() not in everything
        assert repr(value)[2:-1] not in everything
    assert "array(" not in everything
    assert "CommitVector" in everything
    assert "MaskVector" in everything


def test_no_note_or_reason_shows_a_secret() -> None:
    network = Network(3)
    network.drain()
    network.tick(30.0)
    words = " ".join(note.text for _, note in network.notes)
    for value in (MODEL_KEY, *pads(3)):
        assert value.hex() not in words


def test_only_sealed_bytes_leave() -> None:
    network = Network(3)
    network.drain()
    sent = b"".join(flight.envelope for flight in network.sent)
    for owner in network.owners:
        state = network.states[owner.address]
        for value in (owner.keys.ephemeral.public, *state.seeds.values(), MODEL_KEY, *pads(3), CTX):
            assert value not in sent


def test_no_nonce_serves_twice() -> None:
    network = Network(4)
    network.drain()
    network.tick(1.0)
    nonces = [flight.envelope[2:26] for flight in network.sent]
    assert len(set(nonces)) == len(nonces)


def test_every_field_that_holds_a_secret_is_out_of_the_repr() -> None:
    """A field added later with a secret's name must be hidden too."""
    hidden = {"seeds", "seed", "pad_seed", "pad_seeds", "model_key", "key", "secret", "quantised", "vector", "pairs"}
    kinds = (
        CommitVector,
        MaskVector,
        ComputeUpdate,
        UpdateReady,
        VectorMasked,
        type(_STILL.states[_STILL.owners[0].address]),
    )
    for kind in kinds:
        for entry in fields(kind):
            assert entry.name not in hidden or not entry.repr, f"{kind.__name__}.{entry.name}"


# ------------------------------------------------------------- random interleavings

ACTIONS = ("deliver", "deliver", "deliver", "drop", "repeat", "corrupt", "tick", "work")


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 10**6)), max_size=120))
@settings(max_examples=60, deadline=None)
def test_whatever_the_network_does_there_is_a_vector_only_where_all_agreed(script: list[tuple[str, int]]) -> None:
    network = Network(3, Pace(resend=1.0, away_grace=1e9, patience=1e9), prompt=False)
    for action, number in script:
        _act(network, action, number)
        for address, commits in network.commits.items():
            assert len(commits) == 1
            assert network.agreed_everywhere(address), "a vector went out before its masks were agreed on"
        for address, count in network.masked.items():
            assert count <= 1
            assert network.states[address].model_key == MODEL_KEY
    # From here on everything arrives in the end.
    for _ in range(4):
        network.drain()
        network.tick(1.0)
    network.drain()
    assert stages(network) == {OwnerStage.COMMITTING}
    assert [len(network.commits[owner.address]) for owner in network.owners] == [1, 1, 1]
    assert network.sum_is_right()
    assert not network.model.missing()


def _act(network: Network, action: str, number: int) -> None:
    if action == "tick":
        network.tick(1.0)
    elif action == "work":
        if network.work:
            network.do_work(number % len(network.work))
    elif network.flights:
        place = number % len(network.flights)
        if action == "repeat":
            network.deliver(network.flights[place])
            return
        flight = network.flights.pop(place)
        if action == "deliver":
            network.deliver(flight)
        elif action == "corrupt":
            envelope = bytearray(flight.envelope)
            envelope[number % len(envelope)] ^= 1 << (number % 8)
            network.deliver(Flight(flight.sender, flight.receiver, bytes(envelope)))


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 10**6)), max_size=80), st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_a_group_with_one_silent_owner_never_makes_a_vector(script: list[tuple[str, int]], silent: int) -> None:
    network = Network(3, prompt=False)
    mute = network.owners[silent].address
    for action, number in script:
        network.flights = [flight for flight in network.flights if flight.sender != mute]
        _act(network, action if action != "tick" else "deliver", number)
    for _ in range(25):
        network.flights = [flight for flight in network.flights if flight.sender != mute]
        while network.work:
            network.do_work()
        while network.flights:
            flight = network.flights.pop(0)
            if flight.sender != mute:
                network.deliver(flight)
        network.tick(1.0)
    assert set(network.commits) <= {mute}
    assert not any(count for address, count in network.masked.items() if address != mute)
    for owner in network.owners:
        if owner.address != mute:
            assert network.states[owner.address].stage is OwnerStage.SAT_OUT


# ------------------------------------------------------------- pads by seat


@pytest.mark.parametrize("size", [3, 5])
def test_where_groups_have_pads_of_their_own_each_owner_takes_that_of_its_seat(size: int) -> None:
    network = Network(size, own_pads=True)
    network.drain()
    assert stages(network) == {OwnerStage.COMMITTING}
    assert network.sum_is_right()
    assert not network.notes and not network.sat_out and not network.model.missing()


@pytest.mark.parametrize("own_pads", [False, True])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_only_the_one_pad_that_the_chain_names_for_the_owner_is_taken(position: int, own_pads: bool) -> None:
    """Under common pads that of its position, under pads by seat that of its seat: never another's."""
    size, group = 3, 2
    right = group * size + position if own_pads else position
    every = pads((group + 2) * size)
    for index, pad in enumerate(every):
        network = Network(size, own_pads=own_pads)
        owner, model_owner = network.owners[position], network.model_person
        hello = model_owner.keys.hello(owner.peer, True, NONCE)
        told(network, owner, model_owner, hello)
        message = ModelKey(CTX, model_owner.address, owner.address, MODEL_KEY, pad)
        envelope = model_owner.keys.private(message, owner.keys.ephemeral.public, NONCE)
        effects = told(network, owner, model_owner, envelope)
        if index == right:
            assert any(isinstance(effect, ComputeUpdate) for effect in effects)
        else:
            assert dropped(effects) == "the pad is not the one that the chain names"
            assert network.states[owner.address].model_key is None


@pytest.mark.parametrize("count", [0, 1, 2, 4, 6])
def test_an_opening_with_too_few_pads_stops_nobody(count: int) -> None:
    """The contract lets none pass; an RPC may show it all the same."""
    network = Network(3, own_pads=True)
    owner, model_owner = network.owners[1], network.model_person
    state = network.states[owner.address]
    network.states[owner.address] = replace(
        state, opening=replace(state.opening, pad_hashes=state.opening.pad_hashes[:count])
    )
    told(network, owner, model_owner, model_owner.keys.hello(owner.peer, True, NONCE))
    for pad in pads(12):
        message = ModelKey(CTX, model_owner.address, owner.address, MODEL_KEY, pad)
        envelope = model_owner.keys.private(message, owner.keys.ephemeral.public, NONCE)
        assert dropped(told(network, owner, model_owner, envelope)) == "the pad is not the one that the chain names"
