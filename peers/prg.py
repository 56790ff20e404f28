"""The mask generator: a seed and a context to a stream over the whole ring vector. There is no other.

AES-256 in counter mode (NIST SP 800-38A) under a key of its own for each (seed, kind, context), so a
zero initial counter is sound: no key is ever used for two streams. Never a statistical generator: masks
from a 32-bit seed fall to one known word. The stream runs once over the padded vector and is never
restarted for a part, chunk or tensor.

Fast because each seed has one encryptor, blocks are the outer loop and streams the inner one, so a
block of the vector stays in the cache while all masks are added, and nothing is allocated on the way.
The work releases the GIL.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from omnilytics.peers.errors import ParameterError, VectorError
from omnilytics.peers.hashing import ADDRESS_BYTES, HASH_BYTES, blake2b_keyed, require_length
from omnilytics.peers.quantise import LANE_WIDTHS, Lanes

PAIR: Final = b"pair"
PAD: Final = b"pad"
SEED_BYTES: Final = 32
BLOCK_BYTES: Final = 128 * 1024
"""Fits the second-level cache together with the vector's block; measured best between 128 and 256 KiB."""

Stream = tuple[bytes, bytes, bytes, bool]
"""Seed (32 bytes), kind (PAIR or PAD), context (see pair_context, pad_context), whether to subtract."""

# Each kind has one length of context: no pair's stream can be read as a pad's, nor the other way round.
_CONTEXT_BYTES: Final = {PAIR: HASH_BYTES + 1 + 2 * ADDRESS_BYTES, PAD: HASH_BYTES + 1}
_ZEROES: Final = bytes(BLOCK_BYTES)


def pair_context(ctx: bytes, group: int, lower_address: bytes, higher_address: bytes) -> bytes:
    """Context of a pair's mask; lower and higher by position in the group, not by address. 73 bytes.

    Raises ParameterError for wrong lengths, a group that is no byte, or one address twice.
    """
    require_length("context", ctx, HASH_BYTES)
    require_length("lower address", lower_address, ADDRESS_BYTES)
    require_length("higher address", higher_address, ADDRESS_BYTES)
    if lower_address == higher_address:
        raise ParameterError("a pair needs two different addresses")
    return ctx + _byte("group", group) + lower_address + higher_address


def pad_context(ctx: bytes, index: int) -> bytes:
    """Context of a pad, by its index among the round's pads. 33 bytes.

    The index is a position in the group where the contract selects: all groups carry the same total pad then. It is
    a seat where the model owner selects. Raises ParameterError for a wrong length or an index that is no byte.
    """
    return require_length("context", ctx, HASH_BYTES) + _byte("pad index", index)


def stream_key(seed: bytes, kind: bytes, context: bytes) -> bytes:
    """The AES-256 key of a stream: blake2b(kind, context) keyed with the seed. 32 bytes, as secret as the seed.

    Raises ParameterError for an unknown kind and for wrong lengths.
    """
    if kind not in _CONTEXT_BYTES:
        raise ParameterError("a stream is of kind pair or pad")
    require_length("seed", seed, SEED_BYTES)
    require_length("stream context", context, _CONTEXT_BYTES[kind])
    return blake2b_keyed(kind + context, key=seed, person=b"omnilytics-prg")


def add_stream(lanes: Lanes, seed: bytes, kind: bytes, context: bytes, subtract: bool = False) -> None:
    """Add (or subtract) one stream to the whole vector, in place, modulo 2^b.

    Errors as in add_streams.
    """
    add_streams(lanes, [(seed, kind, context, subtract)])


def add_streams(lanes: Lanes, streams: Sequence[Stream]) -> None:
    """Add (or subtract) all streams to the whole padded vector, in place, modulo 2^b.

    `lanes` are <u1, <u2 or <u4 of one dimension, in one piece and writable; otherwise VectorError.
    ParameterError for an unknown kind or wrong lengths; nothing has been changed then.
    """
    if (
        lanes.dtype not in [np.dtype(f"<u{bits // 8}") for bits in LANE_WIDTHS]
        or lanes.ndim != 1
        or not lanes.flags.c_contiguous
        or not lanes.flags.writeable
    ):
        raise VectorError("masks go on a writable vector of 8, 16 or 32-bit lanes in one piece")
    encryptors: list[tuple[CipherContext, bool]] = [
        (Cipher(algorithms.AES(stream_key(seed, kind, context)), modes.CTR(bytes(16))).encryptor(), subtract)
        for seed, kind, context, subtract in streams
    ]
    block_lanes = BLOCK_BYTES // lanes.itemsize
    mask: Lanes = np.empty(block_lanes, dtype=lanes.dtype)
    mask_bytes, zeroes = mask.view(np.uint8).data, memoryview(_ZEROES)
    for start in range(0, lanes.size, block_lanes):
        block = lanes[start : start + block_lanes]
        size = block.nbytes
        for encryptor, subtract in encryptors:
            encryptor.update_into(zeroes[:size], mask_bytes[:size])
            if subtract:
                np.subtract(block, mask[: block.size], out=block)
            else:
                np.add(block, mask[: block.size], out=block)


def expand(seed: bytes, count: int) -> bytes:
    """`count` bytes that nobody can tell from random ones without the seed: AES-256-CTR under the seed, 32 fresh bytes
    that serve for nothing else. For stochastic rounding: the operating system's own generator is some fifty times
    slower. Raises ParameterError for another length.
    """
    key = blake2b_keyed(b"expand", key=require_length("seed", seed, SEED_BYTES), person=b"omnilytics-prg")
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count))


def _byte(name: str, value: int) -> bytes:
    if not 0 <= value <= 255:
        raise ParameterError(f"{name} {value} does not fit a byte")
    return bytes([value])
