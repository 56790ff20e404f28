import hashlib
import json
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


def test_an_expanded_seed_is_the_keystream_under_a_key_of_its_own() -> None:
    seed = bytes(range(32))
    key = hashlib.blake2b(b"expand", key=seed, digest_size=32, person=b"omnilytics-prg").digest()
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    assert prg.expand(seed, 100) == encryptor.update(bytes(100))
    assert prg.expand(seed, 7) == prg.expand(seed, 100)[:7]
    assert prg.expand(seed, 0) == b""
    assert prg.expand(bytes(32), 100) != prg.expand(seed, 100)
    with pytest.raises(ParameterError):
        prg.expand(bytes(31), 100)
