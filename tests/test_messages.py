import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.peers.errors import MessageError, ParameterError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.keys import open_box, seal
from omnilytics.peers.messages import (
    CHANNEL_EPHEMERAL,
    CHANNEL_REGISTERED,
    MAX_MESSAGE_BYTES,
    MAX_PART_BYTES,
    Hello,
    Message,
    ModelKey,
    ModelKeyReceived,
    SeedAcknowledgement,
    Topic,
    VectorPart,
    VectorReceived,
    decode,
    decode_envelope,
    encode_envelope,
    parse_topic,
    receipt_digest,
    run_identifier,
    topic,
    topic_filter,
)

FOLDER = Path(__file__).parent / "vectors"
VECTORS = json.loads((FOLDER / "messages.json").read_text())
CASES = [VECTORS[f"case{i}"] for i in range(VECTORS["count"])]
BAD = [VECTORS[f"bad{i}"] for i in range(VECTORS["badCount"])]
CONTEXTS = json.loads((FOLDER / "context.json").read_text())
CTX, SENDER, RECEIVER = b"c" * 32, b"s" * 20, b"r" * 20
MESSAGES: list[Message] = [
    Hello(CTX, SENDER, RECEIVER, b"e" * 32),
    Hello(CTX, SENDER, RECEIVER, b"e" * 32, wants_answer=False),
    SeedAcknowledgement(CTX, SENDER, RECEIVER, b"d" * 32),
    ModelKey(CTX, SENDER, RECEIVER, b"k" * 32, b"p" * 32),
    ModelKeyReceived(CTX, SENDER, RECEIVER, b"d" * 32),
    VectorPart(CTX, SENDER, RECEIVER, 3, bytes(32)),
    VectorPart(CTX, SENDER, RECEIVER, 2**32 - 1, b"v" * MAX_PART_BYTES),
    VectorReceived(CTX, SENDER, RECEIVER, 7),
]


def octets(value: str) -> bytes:
    return bytes.fromhex(value[2:])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_bytes_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    channel, box = decode_envelope(octets(case["envelope"]))
    assert channel == case["channel"]
    plaintext = open_box(octets(case["receiverSecret"]), octets(case["senderPublic"]), box)
    assert plaintext == octets(case["plaintext"])
    sender, receiver = octets(case["sender"]), octets(case["receiver"])
    message = decode(plaintext, octets(case["ctx"]), sender, receiver, channel=channel)
    assert case["kind"] == message.KIND and case["channel"] == message.CHANNEL
    assert message.encode() == plaintext
    sealed = seal(octets(case["senderSecret"]), octets(case["receiverPublic"]), plaintext, octets(case["nonce"]))
    assert encode_envelope(channel, sealed) == octets(case["envelope"])
    assert topic("00112233aabbccdd", 3, 7, receiver, sender) == case["topic"]
    with pytest.raises(MessageError):
        decode(plaintext, octets(case["ctx"]), sender, receiver, channel=1 - channel)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["reason"])
def test_bad_plaintexts_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        decode(octets(case["plaintext"]), octets(case["ctx"]), octets(case["sender"]), octets(case["receiver"]))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_encoded_decodes_to_the_same(message: Message) -> None:
    assert decode(message.encode(), CTX, SENDER, RECEIVER, channel=message.CHANNEL) == message
    assert len(encode_envelope(message.CHANNEL, bytes(40) + message.encode())) <= MAX_MESSAGE_BYTES


@given(st.sampled_from(MESSAGES), st.integers(0, 200), st.integers(0, 255), st.binary(max_size=5), st.integers(0, 20))
def test_a_mutated_message_decodes_to_itself_or_raises_a_message_error(
    message: Message, place: int, value: int, tail: bytes, cut: int
) -> None:
    mutated = bytearray(message.encode())
    mutated[place % len(mutated)] = value
    mutated = mutated[: len(mutated) - cut] + tail
    try:
        decoded = decode(bytes(mutated), CTX, SENDER, RECEIVER)
    except MessageError:
        return
    # One spelling for each message: what decodes encodes to the same bytes.
    assert decoded.encode() == bytes(mutated)


@given(st.binary(max_size=600))
def test_random_bytes_raise_message_errors_only(data: bytes) -> None:
    readers: list[Callable[[], object]] = [
        lambda: decode(data, CTX, SENDER, RECEIVER),
        lambda: decode(bytes([1, data[0] % 6 if data else 0]) + CTX + SENDER + RECEIVER + data, CTX, SENDER, RECEIVER),
        lambda: decode_envelope(data),
        lambda: decode_envelope(b"\1\0" + data),
        lambda: parse_topic(data.decode("latin-1")),
    ]
    for read in readers:
        try:
            read()
        except MessageError as error:
            assert not data or len(data) < 4 or data.hex() not in str(error)


@given(st.text(max_size=200))
def test_random_topics_raise_message_errors_only(text: str) -> None:
    with pytest.raises(MessageError):
        parse_topic(text)


def test_envelopes_are_limited_before_anything_is_decoded() -> None:
    largest = b"\1\0" + bytes(MAX_MESSAGE_BYTES - 2)
    assert decode_envelope(largest) == (CHANNEL_REGISTERED, largest[2:])
    for bad in (largest + b"\0", b"", b"\1", b"\1\0", b"\2\0" + bytes(150), b"\1\2" + bytes(150)):
        with pytest.raises(MessageError):
            decode_envelope(bad)
    with pytest.raises(MessageError):
        encode_envelope(CHANNEL_EPHEMERAL, bytes(MAX_MESSAGE_BYTES))
    with pytest.raises(MessageError):
        encode_envelope(2, bytes(150))


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**32), st.binary(min_size=20, max_size=20))
def test_topics_parse_to_what_they_were_made_of(task: int, round_number: int, sender: bytes) -> None:
    text = topic("0123456789abcdef", task, round_number, RECEIVER, sender)
    assert parse_topic(text) == Topic("0123456789abcdef", task, round_number, RECEIVER, sender)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/7/", "/07/"),
        ("/7/", "/-7/"),
        ("/7/", "/٧/"),
        ("/7/", "/" + "9" * 79 + "/"),
        ("/in/", "/out/"),
        ("omnilytics", "omnilytics/x"),
        ("73", "7A"),
        ("0123456789abcdef", "0123456789abcdeF"),
        ("0123456789abcdef", "+"),
    ],
)
def test_other_spellings_of_a_topic_are_refused(old: str, new: str) -> None:
    good = topic("0123456789abcdef", 3, 7, RECEIVER, SENDER)
    assert old in good
    for text in (good.replace(old, new), good + "\n", good + "/", "/" + good):
        with pytest.raises(MessageError):
            parse_topic(text)


def test_parts_that_make_no_topic_are_the_callers_mistake() -> None:
    for run, task, receiver in (("short", 1, RECEIVER), ("0123456789abcdef", -1, RECEIVER), ("0" * 16, 1, b"r")):
        with pytest.raises(ParameterError):
            topic(run, task, 1, receiver, SENDER)
    assert topic_filter("0" * 16, RECEIVER) == f"omnilytics/{'0' * 16}/+/+/in/{RECEIVER.hex()}/+"
    with pytest.raises(ParameterError):
        topic_filter("0" * 16, b"r")


def test_runs_are_those_of_the_vectors() -> None:
    for case in (CONTEXTS[f"case{i}"] for i in range(CONTEXTS["count"])):
        assert run_identifier(int(case["chainId"]), octets(case["market"]), octets(case["genesis"])) == case["run"]


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(ModelKey(CTX, SENDER, RECEIVER, b"SECRETKEY".ljust(32), b"SECRETPAD".ljust(32)))
    assert "SECRET" not in shown and "sender=" in shown


def test_wrong_lengths_never_become_messages() -> None:
    with pytest.raises(MessageError, match="ephemeral has 31 bytes, needs 32"):
        Hello(CTX, SENDER, RECEIVER, bytes(31))
    with pytest.raises(MessageError):
        ModelKey(CTX, SENDER, RECEIVER, bytes(32), bytes(33))
    with pytest.raises(MessageError):
        SeedAcknowledgement(CTX[:-1], SENDER, RECEIVER, bytes(32))
    with pytest.raises(MessageError):
        ModelKeyReceived(CTX, SENDER, RECEIVER + b"r", bytes(32))
    assert receipt_digest(b"k" * 32, b"p" * 32) == keccak(b"k" * 32 + b"p" * 32)
