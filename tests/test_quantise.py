import json
import math
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from omnilytics.peers.errors import BudgetError, OmniLyticsError, ParameterError, VectorError
from omnilytics.peers.prg import KeyStream
from omnilytics.peers.quantise import (
    FillWords,
    Floats,
    RingLayout,
    check_budget,
    clamp_sum,
    clip_fraction,
    dequantise,
    lift,
    pack,
    quantise,
    quantise_drawing,
    to_ring,
    uniforms_from_bytes,
    unpack,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "quantise.json").read_text())
CASES = [VECTORS[f"case{i}"] for i in range(VECTORS["count"])]
BAD = [VECTORS[f"bad{i}"] for i in range(VECTORS["badCount"])]

widths = st.sampled_from([8, 16, 32])
finite = st.floats(allow_nan=False, allow_infinity=False)


def floats(values: list[str]) -> Floats:
    return np.array([struct.unpack(">d", bytes.fromhex(value[2:]))[0] for value in values])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_vectors_come_out_bit_for_bit(case: dict[str, Any]) -> None:
    layout = RingLayout(case["valueCount"], case["laneBits"])
    clip = float(floats([case["clip"]])[0])
    integers = quantise(floats(case["values"]), clip, case["maxMagnitude"], floats(case["uniforms"]))
    assert integers.dtype == np.int64
    assert [str(value) for value in integers] == case["quantised"]
    assert pack(to_ring(integers, layout), layout).hex() == case["vector"][2:]
    assert np.array_equal(dequantise(integers, clip, case["maxMagnitude"]), floats(case["dequantised"]))


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["reason"])
def test_bad_vectors_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises((ParameterError, VectorError)):
        RingLayout(case["valueCount"], case["laneBits"])
        clip = float(floats([case["clip"]])[0])
        quantise(floats(case["values"]), clip, case["maxMagnitude"], floats(case["uniforms"]))


@given(
    arrays.arrays(np.float64, st.integers(1, 40), elements=finite),
    st.floats(1e-12, 1e12),
    st.integers(1, (1 << 30) - 1),
    st.binary(min_size=320, max_size=320),
)
def test_magnitudes_stay_within_the_maximum(values: Floats, clip: float, limit: int, entropy: bytes) -> None:
    result = quantise(values, clip, limit, uniforms_from_bytes(entropy[: 8 * values.size], values.size))
    assert np.abs(result).max() <= limit
    exact = np.clip(values, -clip, clip) * limit / clip
    assert np.abs(result - exact).max() <= 1
    saturated = np.abs(values) >= clip
    assert (np.abs(result[saturated]) >= limit - 1).all()
    assert (
        np.sign(result[saturated & (np.abs(result) > 0)]) == np.sign(values[saturated & (np.abs(result) > 0)])
    ).all()


BLOCK = 16_384


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 12_345])
def test_blocks_leave_no_seam(count: int) -> None:
    rng = np.random.default_rng(count)
    values, draws = rng.normal(size=count) * 3, rng.random(count)
    scaled = np.clip(values, -2.0, 2.0) * 1000 / 2.0
    floor = np.floor(scaled)
    expected = np.clip(floor + (draws < scaled - floor), -1000, 1000).astype(np.int64)
    assert np.array_equal(quantise(values, 2.0, 1000, draws), expected)


@pytest.mark.parametrize("count", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize(("bits", "limit", "clip"), [(8, 21, 2.0), (16, 5461, 0.1), (32, (1 << 30) - 1, 1.7)])
def test_drawing_is_quantising_with_the_words_of_the_stream(count: int, bits: int, limit: int, clip: float) -> None:
    values = np.random.default_rng(count).normal(size=count) * clip
    words = np.empty(count, "<u4")
    KeyStream(b"s" * 32).fill(words)
    drawn = quantise_drawing(values, clip, limit, KeyStream(b"s" * 32).fill, bits)
    assert drawn.dtype == np.dtype(f"<i{bits // 8}")
    assert np.array_equal(drawn, quantise(values, clip, limit, words / 2.0**32))
    layout = RingLayout(count, bits)
    assert np.array_equal(to_ring(drawn, layout), to_ring(drawn.astype(np.int64), layout))


def constant(word: int) -> FillWords:
    return lambda words: words.fill(word)


@given(st.floats(0, 1, exclude_max=True), st.integers(-1000, 1000))
def test_a_value_rounds_up_with_its_fraction_and_less_than_a_word_more(fraction: float, whole: int) -> None:
    """The number of words that round up is the smallest that is not below fraction * 2^32: the bias is the rest."""
    value = np.array([whole + fraction])
    # In fractions, which do not round: a bound of floats would hold or fail by its own error.
    exact = Fraction(float(value[0])) % 1
    ups = math.ceil(exact * 2**32)
    assert 0 <= Fraction(ups, 2**32) - exact < Fraction(1, 2**32)

    def up(word: int) -> bool:
        return bool(quantise_drawing(value, 2048.0, 2048, constant(word), 16)[0] > math.floor(value[0]))

    if ups:
        assert up(ups - 1)
    if ups < 1 << 32:
        assert not up(ups)


def test_drawn_roundings_have_the_mean_of_the_value() -> None:
    size = 100_000
    drawn = quantise_drawing(np.full(size, 0.3), 1.0, 1, KeyStream(bytes(32)).fill, 8)
    # Five standard deviations of a mean of so many.
    assert abs(drawn.mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / size)
    assert set(drawn.tolist()) == {0, 1}


@given(
    arrays.arrays(np.float64, st.integers(1, 40), elements=finite),
    st.floats(1e-12, 1e12),
    st.sampled_from([(8, 126), (16, 32_766), (32, (1 << 30) - 1)]),
    st.floats(0, 1),
    st.integers(0, (1 << 32) - 1),
)
def test_drawn_magnitudes_stay_within_the_maximum(
    values: Floats, clip: float, width: tuple[int, int], share: float, word: int
) -> None:
    bits, limit = width[0], max(1, int(share * width[1]))
    drawn = quantise_drawing(values, clip, limit, constant(word), bits).astype(np.int64)
    assert np.abs(drawn).max() <= limit
    assert np.array_equal(drawn, quantise(values, clip, limit, np.full(values.size, word / 2.0**32)))


@pytest.mark.parametrize(
    ("clip", "limit"), [(0.5414124727934966, 30_775), (0.39325509496422606, 16_047), (0.8812338589221554, 22_495)]
)
def test_a_clip_that_scales_to_a_hair_above_the_maximum_is_clamped(clip: float, limit: int) -> None:
    assert clip * limit / clip > limit
    ends = np.array([-clip, clip])
    assert quantise_drawing(ends, clip, limit, constant(0), 16).tolist() == [-limit, limit]
    assert quantise(ends, clip, limit, np.zeros(2)).tolist() == [-limit, limit]


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (16, 32_767), (16, 1 << 20)])
def test_a_maximum_that_a_lane_cannot_hold_is_refused(bits: int, limit: int) -> None:
    with pytest.raises(ParameterError, match=f"^q_max {limit} does not fit {bits} bits$"):
        quantise_drawing(np.ones(1), 1.0, limit, constant(0), bits)
    assert quantise_drawing(-np.ones(1), 1.0, min(limit, 126), constant(0), bits).tolist() == [-min(limit, 126)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, BLOCK + 5])
def test_no_value_that_is_not_finite_is_drawn_for(bad: float, place: int) -> None:
    values = np.zeros(BLOCK + 6)
    values[place] = bad
    with pytest.raises(VectorError, match=f"^gradient value {place} is not finite; not posting$"):
        quantise_drawing(values, 1.0, 10, constant(0), 16)
    with pytest.raises(VectorError, match=f"^gradient value {place} is not finite; not posting$"):
        quantise(values, 1.0, 10, np.zeros(BLOCK + 6))


def test_drawing_refuses_what_quantising_refuses() -> None:
    with pytest.raises(VectorError):
        quantise_drawing(np.zeros((2, 2)), 1.0, 10, constant(0), 16)
    with pytest.raises(ParameterError):
        quantise_drawing(np.zeros(2), float("nan"), 10, constant(0), 16)
    with pytest.raises(ParameterError):
        quantise_drawing(np.zeros(2), 1.0, 0, constant(0), 16)
    with pytest.raises(ParameterError):
        quantise_drawing(np.zeros(2), 1.0, 10, constant(0), 64)


@given(st.floats(-1, 1), st.integers(1, 1000), st.integers(0, 1 << 32))
def test_rounding_has_the_mean_of_the_value(value: float, limit: int, offset: int) -> None:
    # Evenly spread uniforms instead of random ones: the mean must then be right to one step, every time.
    draws = (np.arange(1000) + (offset % 997) / 997) / 1000
    result = quantise(np.full(1000, value), 1.0, limit, draws)
    assert abs(result.mean() - value * limit) <= 0.0011


def test_float32_gives_no_larger_magnitude() -> None:
    ones: Any = np.full(3, 0.1, dtype=np.float32)
    assert quantise(ones, float(ones[0]), 16777217, np.full(3, 0.999)).tolist() == [16777217] * 3


def test_a_value_that_is_not_finite_is_named_by_its_place_alone() -> None:
    values = np.zeros(20)
    values[17] = np.nan
    with pytest.raises(VectorError, match=r"^gradient value 17 is not finite; not posting$"):
        quantise(values, 1.0, 10, np.zeros(20))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(VectorError, match=r"^gradient has 9999 values, task needs 10000$"):
        quantise(np.zeros(9999), 1.0, 10, np.zeros(10000))
    with pytest.raises(VectorError, match=r"^gradient has 3 values, task needs 4$"):
        to_ring(np.zeros(3, np.int64), RingLayout(4, 8))
    with pytest.raises(VectorError):
        quantise(np.zeros((2, 2)), 1.0, 10, np.zeros((2, 2)))
    with pytest.raises(VectorError):
        quantise(np.zeros(2), 1.0, 10, np.array([0.5, 1.0]))
    with pytest.raises(VectorError):
        quantise(np.zeros(2), 1.0, 10, np.array([0.5, np.nan]))


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf"), 1e308])
def test_a_bad_clip_is_refused(clip: float) -> None:
    with pytest.raises(ParameterError):
        quantise(np.zeros(2), clip, 100, np.zeros(2))


def test_uniforms_have_53_bits_and_never_reach_one() -> None:
    assert uniforms_from_bytes(b"\xff" * 8, 1)[0] == 1 - 2.0**-53
    assert uniforms_from_bytes(bytes(8), 1)[0] == 0.0
    assert uniforms_from_bytes(b"\0\x08" + bytes(6), 1)[0] == 2.0**-53
    with pytest.raises(VectorError):
        uniforms_from_bytes(bytes(9), 1)


def test_the_budget_is_refused_in_these_words() -> None:
    check_budget(3, 5461, 16)
    with pytest.raises(BudgetError, match=r"^3 owners x q_max 8191 = 24573 exceeds the 16-bit budget 16383$") as caught:
        check_budget(3, 8191, 16)
    assert "5461" in caught.value.help
    with pytest.raises(ParameterError, match=r"^group size 1 below minimum 3$"):
        check_budget(1, 1, 16)
    with pytest.raises(ParameterError):
        check_budget(3, 0, 16)
    with pytest.raises(ParameterError):
        check_budget(3, 1, 64)


@given(st.integers(3, 16), st.integers(1, 1 << 31), widths)
def test_the_budget_keeps_every_difference_of_sums_in_a_lane(size: int, limit: int, bits: int) -> None:
    try:
        check_budget(size, limit, bits)
    except BudgetError:
        assert size * limit >= 1 << (bits - 2)
    else:
        assert 2 * size * limit < 1 << (bits - 1)


@given(widths, st.data())
def test_lift_undoes_to_ring_and_unpack_undoes_pack(bits: int, data: st.DataObject) -> None:
    half = 1 << (bits - 1)
    values = data.draw(st.lists(st.integers(-half, half - 1), min_size=1, max_size=70))
    layout = RingLayout(len(values), bits)
    lanes = to_ring(np.array(values, dtype=np.int64), layout)
    packed = pack(lanes, layout)
    assert len(packed) == layout.byte_count == 32 * layout.word_count
    assert lift(lanes, layout).tolist() == values + [0] * (layout.lane_count - len(values))
    assert np.array_equal(unpack(packed, layout), lanes)
    first_word = int.from_bytes(packed[:32], "big")
    assert first_word >> (256 - bits) == values[0] % (1 << bits)


@given(widths, st.integers(1, 5), st.data())
def test_any_bytes_of_the_right_length_are_a_vector(bits: int, words: int, data: st.DataObject) -> None:
    layout = RingLayout(words * 256 // bits, bits)
    vector = data.draw(st.binary(min_size=32 * words, max_size=32 * words))
    lanes = unpack(vector, layout)
    assert pack(lanes, layout) == vector
    lanes += layout.dtype.type(1)  # memory of its own, not the message's
    with pytest.raises(VectorError):
        unpack(vector + b"\0", layout)


@given(st.integers(1, 10_000), widths)
def test_layout(count: int, bits: int) -> None:
    layout = RingLayout(count, bits)
    assert layout.lanes_per_word * bits == 256
    assert (layout.word_count - 1) * layout.lanes_per_word < count <= layout.lane_count
    assert layout.dtype.itemsize * 8 == bits and layout.dtype.kind == "u"


def test_lanes_of_another_kind_are_refused() -> None:
    layout = RingLayout(16, 16)
    wrong: list[Any] = [
        np.zeros(16, "<u4"),
        np.zeros(15, "<u2"),
        np.zeros(32, "<u2")[::2],
        np.zeros(16, ">u2"),
    ]
    for lanes in wrong:
        with pytest.raises(VectorError):
            pack(lanes, layout)
        with pytest.raises(VectorError):
            lift(lanes, layout)
    with pytest.raises(VectorError):
        to_ring(np.full(16, 1 << 15), layout)
    with pytest.raises(VectorError):
        to_ring(np.zeros(16), layout)  # type: ignore[arg-type]
    for count, bits in ((0, 16), (1 << 32, 16), (1, 12)):
        with pytest.raises(OmniLyticsError):
            RingLayout(count, bits)


def test_clip_fraction_and_clamp() -> None:
    assert clip_fraction(np.array([0.0, 1.0, -1.5, 2.0]), 1.0) == 0.5
    assert clip_fraction(np.array([]), 1.0) == 0.0
    assert clamp_sum(np.array([-100, -30, 0, 31]), 3, 10).tolist() == [-30, -30, 0, 30]
