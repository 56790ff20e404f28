"""The mask generator: a seed and a context to a stream over the whole ring vector. There is no other.

AES-256 in counter mode (NIST SP 800-38A) under a key of its own for each (seed, kind, context), so a
zero initial counter is sound: no key is ever used for two streams. Never a statistical generator: masks
from a 32-bit seed fall to one known word. The stream runs once over the padded vector and is never
restarted for a part, chunk or tensor.

Fast because each seed has one encryptor, blocks are the outer loop and streams the inner one, so a
block of the vector stays in the cache while all masks are added, and nothing is allocated on the way.
The work releases the GIL.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

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
Run = Callable[[Sequence[Callable[[], None]]], None]
"""Runs all jobs, in any order or at once, and returns when the last has ended; the first error of one is its own."""

# Each kind has one length of context: no pair's stream can be read as a pad's, nor the other way round.
_CONTEXT_BYTES: Final = {PAIR: HASH_BYTES + 1 + 2 * ADDRESS_BYTES, PAD: HASH_BYTES + 1}
_ZEROES: Final = bytes(BLOCK_BYTES)
_CIPHER_BLOCK_BYTES: Final = 16
_LANE_TYPES: Final = tuple(np.dtype(f"<u{bits // 8}") for bits in LANE_WIDTHS)


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


def add_streams(
    lanes: Lanes, streams: Sequence[Stream], out: Lanes | None = None, run: Run | None = None, parts: int = 1
) -> None:
    """Add (or subtract) all streams to the whole padded vector, modulo 2^b: in place, or into `out`.

    `lanes` and `out` are <u1, <u2 or <u4 of one dimension, in one piece, of one type and length; what is written is
    writable, and the two are one array or share no memory. Otherwise VectorError. ParameterError for an unknown kind
    or wrong lengths; nothing has been changed then.
    `run` runs up to `parts` jobs, each of which has a part of the vector to itself; all at once gives the same
    lanes as one after the other, for a part starts at its own place in every stream.
    """
    target = lanes if out is None else out
    _require_maskable(lanes)
    _require_maskable(target)
    if target.dtype != lanes.dtype or target.shape != lanes.shape or not target.flags.writeable:
        raise VectorError("masks go on a writable vector of the same type and length")
    if out is not None and out is not lanes and np.may_share_memory(lanes, out):
        raise VectorError("the masked vector needs memory of its own")
    keys = [(stream_key(seed, kind, context), subtract) for seed, kind, context, subtract in streams]
    block_lanes = BLOCK_BYTES // lanes.itemsize
    # Whole blocks each: a part starts where a block of the cipher does.
    part_lanes = max(1, -(-lanes.size // (max(1, parts) * block_lanes))) * block_lanes
    jobs = [
        partial(_add_part, keys, lanes[start : start + part_lanes], target[start : start + part_lanes], start)
        for start in range(0, lanes.size, part_lanes)
    ]
    if run is not None and len(jobs) > 1:
        run(jobs)
    else:
        for job in jobs:
            job()


def _require_maskable(lanes: Lanes) -> None:
    if lanes.dtype not in _LANE_TYPES or lanes.ndim != 1 or not lanes.flags.c_contiguous:
        raise VectorError("masks go on a writable vector of 8, 16 or 32-bit lanes in one piece")


def _add_part(keys: Sequence[tuple[bytes, bool]], lanes: Lanes, out: Lanes, start: int) -> None:
    """What add_streams does, to the lanes from `start` of a vector on."""
    # The counter at which every stream stands there.
    mode = modes.CTR((start * lanes.itemsize // _CIPHER_BLOCK_BYTES).to_bytes(_CIPHER_BLOCK_BYTES, "big"))
    operations = [
        (Cipher(algorithms.AES(key), mode).encryptor().update_into, np.subtract if subtract else np.add)
        for key, subtract in keys
    ]
    block_lanes = min(BLOCK_BYTES // lanes.itemsize, lanes.size)
    mask: Lanes = np.empty(block_lanes, dtype=lanes.dtype)
    mask_bytes, zeroes = mask.view(np.uint8).data, memoryview(_ZEROES)[: mask.nbytes]
    if not operations and out is not lanes:
        out[:] = lanes
    for first in range(0, lanes.size, block_lanes):
        block, masked = lanes[first : first + block_lanes], out[first : first + block_lanes]
        if block.size < block_lanes:
            mask = mask[: block.size]
            mask_bytes, zeroes = mask_bytes[: mask.nbytes], zeroes[: mask.nbytes]
        for update_into, operate in operations:
            update_into(zeroes, mask_bytes)
            operate(block, mask, masked)
            # The first mask moves the block on its way to where it belongs.
            block = masked


class KeyStream:
    """Bytes that nobody can tell from random ones without the seed, one after the other: AES-256-CTR under a key of
    the seed, 32 fresh bytes that serve for nothing else. For stochastic rounding: the operating system's own
    generator is some fifty times slower. Raises ParameterError for another length.
    """

    def __init__(self, seed: bytes) -> None:
        require_length("seed", seed, SEED_BYTES)
        key = blake2b_keyed(b"expand", key=seed, person=b"omnilytics-prg")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(_CIPHER_BLOCK_BYTES))).encryptor()

    def fill(self, words: npt.NDArray[np.uint32]) -> None:
        """Overwrite words (<u4 of one dimension, in one piece) with the next bytes of the stream.

        Raises VectorError for others.
        """
        if words.dtype != np.dtype("<u4") or words.ndim != 1 or not words.flags.c_contiguous:
            raise VectorError("a key stream fills 32-bit words in one piece")
        target = words.view(np.uint8).data
        for start in range(0, len(target), BLOCK_BYTES):
            part = target[start : start + BLOCK_BYTES]
            self._encryptor.update_into(memoryview(_ZEROES)[: len(part)], part)


def _byte(name: str, value: int) -> bytes:
    if not 0 <= value <= 255:
        raise ParameterError(f"{name} {value} does not fit a byte")
    return bytes([value])
