import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.peers import prg
from omnilytics.peers.errors import ParameterError, VectorError
from omnilytics.peers.quantise import RingLayout, pack

VECTORS = json.loads((Path(__file__).parent / "vectors" / "prg.json").read_text())
CASES = [VECTORS[f"case{i}"] for i in range(VECTORS["count"])]
BAD = [VECTORS[f"bad{i}"] for i in range(VECTORS["badCount"])]


def octets(value: str) -> bytes:
    return bytes.fromhex(value[2:])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_streams_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    layout = RingLayout(case["wordCount"] * 256 // case["laneBits"], case["laneBits"])
    lanes = np.zeros(layout.lane_count, layout.dtype)
    arguments = octets(case["seed"]), case["kind"].encode(), octets(case["context"])
    assert prg.stream_key(*arguments) == octets(case["key"])
    prg.add_stream(lanes, *arguments)
    assert lanes.tobytes() == octets(case["keyStream"])
    assert pack(lanes, layout) == octets(case["lanes"])
    prg.add_stream(lanes, *arguments, subtract=True)
    assert not lanes.any()


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["reason"])
def test_bad_streams_are_refused_and_change_nothing(case: dict[str, Any]) -> None:
    lanes = np.zeros(16, "<u2")
    bad = octets(case["seed"]), case["kind"].encode(), octets(case["context"]), False
    with pytest.raises(ParameterError):
        prg.add_streams(lanes, [(bytes(32), prg.PAD, bytes(33), False), bad])
    assert not lanes.any()


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
@pytest.mark.parametrize("extra", [-1, 0, 1, 12345])
def test_blocks_leave_no_seam(dtype: str, extra: int) -> None:
    size = 2 * prg.BLOCK_BYTES // np.dtype(dtype).itemsize + extra
    streams = [(bytes([i]) * 32, prg.PAD, bytes(33), i % 2 == 1) for i in range(3)]
    together, apart = np.zeros(size, dtype), np.zeros(size, dtype)
    prg.add_streams(together, streams)
    for stream in streams:
        prg.add_stream(apart, *stream)
    assert np.array_equal(together, apart)
    # A longer vector starts with the same lanes: the stream is one, whatever the length.
    longer = np.zeros(size + prg.BLOCK_BYTES, dtype)
    prg.add_streams(longer, streams)
    assert np.array_equal(longer[:size], together)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 254), st.integers(0, 254))
def test_every_part_of_a_context_changes_the_key(ctx: bytes, group: int, position: int) -> None:
    low, high, seed = b"l" * 20, b"h" * 20, b"s" * 32
    flipped = bytes([ctx[0] ^ 1]) + ctx[1:]
    contexts = [
        prg.pair_context(ctx, group, low, high),
        prg.pair_context(ctx, group, high, low),
        prg.pair_context(ctx, group + 1, low, high),
        prg.pair_context(flipped, group, low, high),
    ]
    pads = [
        prg.pad_context(ctx, position),
        prg.pad_context(ctx, position + 1),
        prg.pad_context(flipped, position),
    ]
    keys = {prg.stream_key(seed, prg.PAIR, context) for context in contexts}
    keys |= {prg.stream_key(seed, prg.PAD, context) for context in pads}
    assert len(keys) == 7


def test_bad_vectors_and_contexts_are_refused() -> None:
    frozen = np.zeros(16, "<u2")
    frozen.setflags(write=False)
    wrong: list[Any] = [
        np.zeros(16, "<u8"),
        np.zeros(16, "<i2"),
        np.zeros((4, 4), "<u2"),
        np.zeros(16, ">u2"),
    ]
    for lanes in [*wrong, np.zeros(32, "<u2")[::2], frozen]:
        with pytest.raises(VectorError):
            prg.add_stream(lanes, bytes(32), prg.PAD, bytes(33))
    with pytest.raises(ParameterError):
        prg.pad_context(bytes(32), 256)
    with pytest.raises(ParameterError):
        prg.pair_context(bytes(32), 0, b"a" * 20, b"a" * 20)


def words(stream: prg.KeyStream, count: int) -> np.ndarray[Any, Any]:
    drawn = np.full(count, 7, "<u4")
    stream.fill(drawn)
    return drawn


@pytest.mark.parametrize("count", [1, 100, prg.BLOCK_BYTES // 4 - 1, prg.BLOCK_BYTES // 4 + 1, prg.BLOCK_BYTES])
def test_a_seeds_words_are_the_key_stream_under_a_key_of_its_own(count: int) -> None:
    seed = bytes(range(32))
    key = hashlib.blake2b(b"expand", key=seed, digest_size=32, person=b"omnilytics-prg").digest()
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    whole = words(prg.KeyStream(seed), count)
    assert whole.tobytes() == encryptor.update(bytes(4 * count))
    stream = prg.KeyStream(seed)
    parts = [words(stream, part) for part in (count // 3, 0, count - count // 3)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(words(prg.KeyStream(bytes(32)), count), whole)


def test_bad_seeds_and_words_are_refused() -> None:
    with pytest.raises(ParameterError):
        prg.KeyStream(bytes(31))
    wrong: list[Any] = [np.zeros(4, "<i4"), np.zeros(4, ">u4"), np.zeros((2, 2), "<u4"), np.zeros(8, "<u4")[::2]]
    for target in wrong:
        with pytest.raises(VectorError):
            prg.KeyStream(bytes(32)).fill(target)


def cases_of_parts() -> list[tuple[str, int, int]]:
    return [
        (dtype, size, parts)
        for dtype in ("u1", "<u2", "<u4")
        for blocks in (0, 1, 2, 5)
        for extra in (0, 1, 4321)
        for parts in (1, 2, 3, 8)
        if (size := blocks * prg.BLOCK_BYTES // np.dtype(dtype).itemsize + extra)
    ]


def test_parts_give_the_lanes_of_the_whole_in_any_order() -> None:
    """Against the key stream of the whole vector, which no code of ours cuts."""
    streams = [(bytes([i]) * 32, prg.PAD, bytes(33), i % 2 == 1) for i in range(3)]
    longest = 5 * prg.BLOCK_BYTES + 4 * 4321
    keys = [prg.stream_key(*stream[:3]) for stream in streams]
    whole = [Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(longest)) for key in keys]
    counts = []

    def backwards(jobs: Sequence[Callable[[], None]]) -> None:
        counts.append(len(jobs))
        for job in reversed(jobs):
            job()

    for dtype, size, parts in cases_of_parts():
        masks = [np.frombuffer(stream, dtype)[:size] for stream in whole]
        lanes = np.arange(size).astype(dtype)
        expected = lanes + masks[0] - masks[1] + masks[2]
        before, out = lanes.copy(), np.full(size, 7, dtype)
        prg.add_streams(lanes, streams, out, backwards, parts)
        assert np.array_equal(out, expected)
        assert np.array_equal(lanes, before)
        prg.add_streams(lanes, streams, None, backwards, parts)
        assert np.array_equal(lanes, expected)
    assert set(counts) == {2, 3, 5, 6}


def test_no_streams_copy_the_vector() -> None:
    lanes, out = np.arange(16, dtype="<u2"), np.zeros(16, "<u2")
    prg.add_streams(lanes, [], out)
    assert np.array_equal(lanes, out)


def test_a_target_that_would_spoil_the_vector_is_refused() -> None:
    memory = np.zeros(24, "<u2")
    frozen = np.zeros(16, "<u2")
    frozen.setflags(write=False)
    stream = bytes(32), prg.PAD, bytes(33), False
    for out in (memory[8:], np.zeros(16, "<u4"), np.zeros(17, "<u2"), frozen):
        with pytest.raises(VectorError):
            prg.add_streams(memory[:16], [stream], out)
    assert not memory.any()
    # What is only read may be frozen.
    prg.add_streams(frozen, [stream], memory[:16])
    assert memory.any()
