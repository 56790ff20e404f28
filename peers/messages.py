"""The messages of a round, their bytes, their envelope and their topics: all that ever goes over the broker.

Everything has a version and a fixed length, so decoding is comparing lengths and cutting; whatever does
not fit raises MessageError and nothing else. Context, sender and receiver stand inside the box: a box
repeated in another round, turned back on its sender or passed on to somebody else does not decode.
"""

import re
from dataclasses import dataclass, field
from typing import ClassVar, Final

from omnilytics.peers.errors import MessageError, ParameterError
from omnilytics.peers.hashing import ADDRESS_BYTES, HASH_BYTES, abi_words, keccak, require_length
from omnilytics.peers.keys import BOX_OVERHEAD_BYTES

VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 4096
"""Of a whole envelope. The receiver looks at the length before anything else. Only a vector's parts are over 512."""
MAX_PART_BYTES: Final = 3968
"""Bytes of a masked vector in one message; whole words of 32."""
CHANNEL_REGISTERED: Final = 0
CHANNEL_EPHEMERAL: Final = 1

_CHANNELS: Final = (CHANNEL_REGISTERED, CHANNEL_EPHEMERAL)
_HEAD_BYTES: Final = 2 + HASH_BYTES + 2 * ADDRESS_BYTES
_RUN_DIGITS: Final = 16
# ASCII digits only and no leading zeros: one spelling for each number, at most a uint256's 78 digits.
_NUMBER: Final = "(0|[1-9][0-9]{0,77})"
_TOPIC: Final = re.compile(f"omnilytics/([0-9a-f]{{16}})/{_NUMBER}/{_NUMBER}/in/([0-9a-f]{{40}})/([0-9a-f]{{40}})")


@dataclass(frozen=True)
class _Addressed:
    """What every message says: the round's context (32 bytes), sender and receiver (20 bytes each)."""

    KIND: ClassVar[int]
    CHANNEL: ClassVar[int]

    ctx: bytes
    sender: bytes
    receiver: bytes

    def encode(self) -> bytes:
        """The plaintext to seal: version, kind, context, sender, receiver, body."""
        return bytes([VERSION, self.KIND]) + self.ctx + self.sender + self.receiver + self._body()

    def _body(self) -> bytes:
        raise NotImplementedError

    def _check(self, **hashes: bytes) -> None:
        lengths = [("context", self.ctx, HASH_BYTES), ("sender", self.sender, ADDRESS_BYTES)]
        lengths += [("receiver", self.receiver, ADDRESS_BYTES)]
        lengths += [(name, value, HASH_BYTES) for name, value in hashes.items()]
        for name, value, length in lengths:
            if len(value) != length:
                raise MessageError(f"{name} has {len(value)} bytes, needs {length}")


@dataclass(frozen=True)
class Hello(_Addressed):
    """Kind 1, under registered keys: the sender's ephemeral X25519 public key for this round (32 bytes).

    `wants_answer` (one byte, 0 or 1) asks for the receiver's own hello again; an answer never asks for
    one, so two peers do not answer each other for ever.
    """

    KIND = 1
    CHANNEL = CHANNEL_REGISTERED

    ephemeral: bytes
    wants_answer: bool = True

    def __post_init__(self) -> None:
        self._check(ephemeral=self.ephemeral)

    def _body(self) -> bytes:
        return self.ephemeral + bytes([self.wants_answer])


@dataclass(frozen=True)
class SeedAcknowledgement(_Addressed):
    """Kind 2, under ephemeral keys: digest of the pair's seed (32 bytes), seeds.acknowledgement."""

    KIND = 2
    CHANNEL = CHANNEL_EPHEMERAL

    digest: bytes

    def __post_init__(self) -> None:
        self._check(digest=self.digest)

    def _body(self) -> bytes:
        return self.digest


@dataclass(frozen=True)
class ModelKey(_Addressed):
    """Kind 3, under ephemeral keys: the model key and the pad seed of the receiver's position (32 bytes
    each).

    Both are secret: neither is in the repr.
    """

    KIND = 3
    CHANNEL = CHANNEL_EPHEMERAL

    key: bytes = field(repr=False)
    pad_seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        self._check(key=self.key, pad_seed=self.pad_seed)

    def _body(self) -> bytes:
        return self.key + self.pad_seed


@dataclass(frozen=True)
class ModelKeyReceived(_Addressed):
    """Kind 4, under ephemeral keys: keccak of model key and pad seed (32 bytes), receipt_digest."""

    KIND = 4
    CHANNEL = CHANNEL_EPHEMERAL

    digest: bytes

    def __post_init__(self) -> None:
        self._check(digest=self.digest)

    def _body(self) -> bytes:
        return self.digest


@dataclass(frozen=True)
class VectorPart(_Addressed):
    """Kind 5, under registered keys: part `index` (4 bytes) of the sender's masked vector, MAX_PART_BYTES of it; the
    last part may be shorter.

    Under registered keys, because it may be sent after a restart, when the ephemeral keys are gone. What it hides is
    what a post would show everybody.
    """

    KIND = 5
    CHANNEL = CHANNEL_REGISTERED

    index: int
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        self._check()
        if not 0 <= self.index < 1 << 32 or not 0 < len(self.data) <= MAX_PART_BYTES or len(self.data) % 32:
            raise MessageError(f"part {self.index} of a vector has {len(self.data)} bytes")

    def _body(self) -> bytes:
        return self.index.to_bytes(4, "big") + self.data


@dataclass(frozen=True)
class VectorReceived(_Addressed):
    """Kind 6, under registered keys: so many (4 bytes) of the receiver's first parts are there."""

    KIND = 6
    CHANNEL = CHANNEL_REGISTERED

    count: int

    def __post_init__(self) -> None:
        self._check()
        if not 0 <= self.count < 1 << 32:
            raise MessageError(f"{self.count} parts of a vector")

    def _body(self) -> bytes:
        return self.count.to_bytes(4, "big")


Message = Hello | SeedAcknowledgement | ModelKey | ModelKeyReceived | VectorPart | VectorReceived


def receipt_digest(key: bytes, pad_seed: bytes) -> bytes:
    """What an owner answers to a model key: keccak(model key, pad seed). 32 bytes."""
    return keccak(require_length("model key", key, HASH_BYTES), require_length("pad seed", pad_seed, HASH_BYTES))


def decode(plaintext: bytes, ctx: bytes, sender: bytes, receiver: bytes, *, channel: int | None = None) -> Message:
    """The message inside a box that was opened with `sender`'s key, in the round `ctx`, at `receiver`.

    With `channel` (of the envelope) a kind that came over the wrong one is refused too: a round's
    secrets must not travel under keys that live for months. Raises MessageError for whatever is not
    exactly as expected.
    """
    if len(plaintext) < _HEAD_BYTES:
        raise MessageError(f"message has {len(plaintext)} bytes, needs at least {_HEAD_BYTES}")
    version, kind = plaintext[0], plaintext[1]
    if version != VERSION:
        raise MessageError(f"message has version {version}; only {VERSION} is known")
    if plaintext[2:34] != ctx:
        raise MessageError("message is of another context")
    if plaintext[34:54] != sender:
        raise MessageError("message names another sender than the key that sealed it")
    if plaintext[54:74] != receiver:
        raise MessageError("message is for another receiver")
    message = _decode_body(kind, ctx, sender, receiver, plaintext[_HEAD_BYTES:])
    if channel is not None and channel != message.CHANNEL:
        raise MessageError("message came over the wrong channel for its kind")
    return message


def _decode_body(kind: int, ctx: bytes, sender: bytes, receiver: bytes, body: bytes) -> Message:
    match kind, len(body):
        case Hello.KIND, 33:
            if body[32] > 1:
                raise MessageError("hello has a flag that is neither 0 nor 1")
            return Hello(ctx, sender, receiver, body[:32], bool(body[32]))
        case SeedAcknowledgement.KIND, 32:
            return SeedAcknowledgement(ctx, sender, receiver, body)
        case ModelKey.KIND, 64:
            return ModelKey(ctx, sender, receiver, body[:32], body[32:])
        case ModelKeyReceived.KIND, 32:
            return ModelKeyReceived(ctx, sender, receiver, body)
        case VectorPart.KIND, size if size > 4:
            return VectorPart(ctx, sender, receiver, int.from_bytes(body[:4], "big"), body[4:])
        case VectorReceived.KIND, 4:
            return VectorReceived(ctx, sender, receiver, int.from_bytes(body, "big"))
        case _:
            raise MessageError(f"message of kind {kind} has a body of {len(body)} bytes, which no kind has")


def encode_envelope(channel: int, box: bytes) -> bytes:
    """What goes to the broker: version, channel, box.

    Raises MessageError for an unknown channel or a bad size.
    """
    envelope = bytes([VERSION, channel]) + box if channel in _CHANNELS else b""
    decode_envelope(envelope)
    return envelope


def decode_envelope(envelope: bytes) -> tuple[int, bytes]:
    """Channel and box of what came from the broker. Raises MessageError for anything that is no envelope."""
    if len(envelope) > MAX_MESSAGE_BYTES:
        raise MessageError(f"message has {len(envelope)} bytes, limit is {MAX_MESSAGE_BYTES}")
    if len(envelope) < 2 + BOX_OVERHEAD_BYTES + _HEAD_BYTES:
        raise MessageError(f"envelope of {len(envelope)} bytes holds no message")
    if envelope[0] != VERSION:
        raise MessageError(f"envelope has version {envelope[0]}; only {VERSION} is known")
    if envelope[1] not in _CHANNELS:
        raise MessageError(f"envelope has unknown channel {envelope[1]}")
    return envelope[1], bytes(envelope[2:])


@dataclass(frozen=True)
class Topic:
    """A message's topic, taken apart: run (16 hex digits), task, round, receiver and sender (20 bytes each).

    The broker vouches for none of it: the sender named here only says whose key to try.
    """

    run: str
    task: int
    round_number: int
    receiver: bytes
    sender: bytes


def run_identifier(chain_id: int, market: bytes, genesis_hash: bytes) -> str:
    """The first 16 hex digits of keccak(chain id, market, genesis hash): one broker serves many runs.

    The chain id is 32 bytes big endian, the market 20 bytes, the hash 32. Raises ParameterError for
    other lengths.
    """
    require_length("market", market, ADDRESS_BYTES)
    require_length("genesis hash", genesis_hash, HASH_BYTES)
    return keccak(abi_words(chain_id), market, genesis_hash).hex()[:_RUN_DIGITS]


def topic(run: str, task: int, round_number: int, receiver: bytes, sender: bytes) -> str:
    """omnilytics/<run>/<task>/<round>/in/<receiver>/<sender>.

    Raises ParameterError for parts that make none.
    """
    text = f"omnilytics/{run}/{task}/{round_number}/in/{receiver.hex()}/{sender.hex()}"
    if not _TOPIC.fullmatch(text):
        raise ParameterError("run, numbers or addresses do not make a topic")
    return text


def topic_filter(run: str, receiver: bytes) -> str:
    """The MQTT filter for everything sent to `receiver` in a run, of whatever task and round."""
    return f"omnilytics/{run}/+/+/in/{require_length('receiver', receiver, ADDRESS_BYTES).hex()}/+"


def parse_topic(text: str) -> Topic:
    """The parts of a topic; only the spelling that `topic` writes. Raises MessageError for anything else."""
    match = _TOPIC.fullmatch(text)
    if match is None:
        raise MessageError("topic is none of ours")
    run, task, round_number, receiver, sender = match.groups()
    return Topic(run, int(task), int(round_number), bytes.fromhex(receiver), bytes.fromhex(sender))
