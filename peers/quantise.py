"""Floats to ring and back: clipping, stochastic rounding, the overflow budget, lanes and their bytes.

The ring is the integers modulo 2^b in lanes of b = 8, 16 or 32 bits, packed into 256-bit words, lane 0
the most significant of word 0. Quantisation follows Bonawitz et al. (arXiv 1611.04482, section 5) with
stochastic rounding (Gupta et al., arXiv 1502.02551), so that the rounding error has mean zero and sums
of many owners stay unbiased.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from omnilytics.peers.errors import BudgetError, ParameterError, VectorError

LANE_WIDTHS: Final = (8, 16, 32)
WORD_BITS: Final = 256
MINIMUM_GROUP_SIZE: Final = 3

Lanes = npt.NDArray[np.unsignedinteger[Any]]
"""Lanes of the ring: one-dimensional, unsigned, little endian, of a RingLayout's dtype."""
Integers = npt.NDArray[np.int64]
Signed = npt.NDArray[np.signedinteger[Any]]
"""Signed integers of any width."""
Floats = npt.NDArray[np.float64]
FillWords = Callable[[npt.NDArray[np.uint32]], None]
"""Overwrites words, <u4 of one dimension in one piece, with the next random ones."""
Below = Callable[[Floats, int, npt.NDArray[np.bool_]], None]

_BLOCK_VALUES: Final = 16_384


@dataclass(frozen=True)
class RingLayout:
    """How `value_count` values lie in lanes of `lane_bits` bits.

    Raises ParameterError for impossible ones.
    """

    value_count: int
    lane_bits: int

    def __post_init__(self) -> None:
        _require_lane_bits(self.lane_bits)
        if not 1 <= self.value_count < 1 << 32:
            raise ParameterError(f"value count {self.value_count} is not in 1 to 2^32 - 1")

    @property
    def lanes_per_word(self) -> int:
        """Lanes in a 256-bit word."""
        return WORD_BITS // self.lane_bits

    @property
    def word_count(self) -> int:
        """256-bit words of a vector."""
        return -(-self.value_count // self.lanes_per_word)

    @property
    def lane_count(self) -> int:
        """Lanes of a vector with its padding, which is masked like all others."""
        return self.word_count * self.lanes_per_word

    @property
    def byte_count(self) -> int:
        """Bytes of a serialised vector."""
        return self.word_count * (WORD_BITS // 8)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a lane in memory: unsigned and little endian everywhere, as the mask generator writes."""
        return np.dtype(f"<u{self.lane_bits // 8}")


def _require_lane_bits(lane_bits: int) -> None:
    if lane_bits not in LANE_WIDTHS:
        raise ParameterError(f"lanes of {lane_bits} bits; need 8, 16 or 32")


def _require_scale(clip: float, max_magnitude: int) -> None:
    if not 1 <= max_magnitude < 1 << 30:
        raise ParameterError(f"q_max {max_magnitude} is not in 1 to 2^30 - 1")
    # The product is computed on the way to the ring; an infinite one would turn every value into a
    # saturated one.
    if not (math.isfinite(clip) and clip > 0 and math.isfinite(clip * max_magnitude)):
        raise ParameterError(f"clip {clip} is not a positive, finite number that q_max can scale")


def check_budget(group_size: int, max_magnitude: int, lane_bits: int) -> None:
    """Make sure that sums of a group, and differences of two sums, fit a lane: n * q_max < 2^(b-2).

    A sum needs b - 1 bits and a difference one more; without the second, a wrapped poison would look
    close to Krum. Raises BudgetError, and ParameterError for a group below 3, a q_max below 1 or lanes
    other than 8, 16 or 32 bits.
    """
    _require_lane_bits(lane_bits)
    if group_size < MINIMUM_GROUP_SIZE:
        raise ParameterError(f"group size {group_size} below minimum {MINIMUM_GROUP_SIZE}")
    if max_magnitude < 1:
        raise ParameterError(f"q_max {max_magnitude} below minimum 1")
    total, budget = group_size * max_magnitude, (1 << (lane_bits - 2)) - 1
    if total > budget:
        raise BudgetError(
            f"{group_size} owners x q_max {max_magnitude} = {total} exceeds the {lane_bits}-bit budget {budget}",
            f"use a q_max of at most {budget // group_size}, a smaller group or wider lanes",
        )


def uniforms_from_bytes(entropy: bytes, count: int) -> Floats:
    """`count` numbers uniform in [0, 1) with 53 bits each, from 8 * count bytes of a CSPRNG. float64[count].

    Raises VectorError when the number of bytes is another one.
    """
    if len(entropy) != 8 * count:
        raise VectorError(f"{len(entropy)} bytes of entropy for {count} values; need {8 * count}")
    # 53 bits are what a float64 holds exactly: no rounding, so 1.0 can never come out.
    return (np.frombuffer(entropy, dtype="<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53


def quantise(values: Floats, clip: float, max_magnitude: int, uniforms: Floats) -> Integers:
    """Clip to [-clip, clip], scale to max_magnitude, round stochastically, clamp. float64[d] to int64[d].

    `uniforms` are d numbers in [0, 1), fresh from a CSPRNG for each vector: see uniforms_from_bytes, and
    quantise_drawing, which draws them itself.
    The result has magnitudes of at most max_magnitude, and the mean of the scaled, clipped value.
    Computed in float64 whatever the input's type: in float32 rounding gives max_magnitude + 1 for some
    max_magnitude. Raises VectorError for a wrong shape or a value that is not finite, ParameterError
    for a bad clip or magnitude.
    """
    draws = np.asarray(uniforms, dtype=np.float64)
    if draws.ndim != 1:
        raise VectorError("gradient and uniforms both need exactly one dimension")
    if np.size(values) != draws.size:
        raise VectorError(f"gradient has {np.size(values)} values, task needs {draws.size}")
    if draws.size and not (draws.min() >= 0.0 and draws.max() < 1.0):
        raise VectorError("uniforms are not all in [0, 1)")

    def below(fractions: Floats, start: int, up: npt.NDArray[np.bool_]) -> None:
        np.less(draws[start : start + fractions.size], fractions, out=up)

    return _round(values, clip, max_magnitude, below, np.dtype(np.int64)).astype(np.int64, copy=False)


def quantise_drawing(values: Floats, clip: float, max_magnitude: int, fill: FillWords, lane_bits: int) -> Signed:
    """As quantise, with uniforms u = r / 2^32 of words r that `fill` draws, one for each value in their order.
    float64[d] to integers[d] of lane_bits bits, little endian: nothing wider is made on the way, in blocks
    that stay in the cache.

    `fill` writes the next words of a CSPRNG's stream, <u4; see prg.KeyStream. A value rounds up with the
    probability of its fraction, more by less than 2^-32: so far is the mean from the scaled value, and no
    further. Raises as quantise does, and ParameterError for lanes that max_magnitude does not fit.
    """
    _require_lane_bits(lane_bits)
    words, draws = np.empty(_BLOCK_VALUES, dtype="<u4"), np.empty(_BLOCK_VALUES)

    def below(fractions: Floats, start: int, up: npt.NDArray[np.bool_]) -> None:
        size = fractions.size
        fill(words[:size])
        np.copyto(draws[:size], words[:size])
        # A product with a power of two, and a word as a float64, are exact: so is the comparison.
        fractions *= 2.0**32
        np.less(draws[:size], fractions, out=up)

    return _round(values, clip, max_magnitude, below, np.dtype(f"<i{lane_bits // 8}"))


def _round(values: Floats, clip: float, max_magnitude: int, below: Below, dtype: np.dtype[Any]) -> Signed:
    """`below` says where the uniforms of a block, by its start, are below its fractions, which it may overwrite."""
    _require_scale(clip, max_magnitude)
    if max_magnitude >= np.iinfo(dtype).max:
        # Before the clamp there may be one more.
        raise ParameterError(f"q_max {max_magnitude} does not fit {8 * dtype.itemsize} bits")
    gradient = np.asarray(values, dtype=np.float64)
    if gradient.ndim != 1:
        raise VectorError("gradient and uniforms both need exactly one dimension")
    result: Signed = np.empty(gradient.size, dtype=dtype)
    # Products and quotients round monotonically: nothing within the clip comes out further than the clip itself.
    beyond = clip * max_magnitude / clip > max_magnitude
    # In blocks that stay in the cache, and in place: several times as fast, to the bit the same.
    scaled, floors = np.empty(_BLOCK_VALUES), np.empty(_BLOCK_VALUES)
    ups = np.empty(_BLOCK_VALUES, dtype=np.bool_)
    for start in range(0, gradient.size, _BLOCK_VALUES):
        block = gradient[start : start + _BLOCK_VALUES]
        size = block.size
        fraction, floor, up, integers = scaled[:size], floors[:size], ups[:size], result[start : start + size]
        smallest, largest = float(np.minimum.reduce(block)), float(np.maximum.reduce(block))
        # A NaN comes out of both.
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            place = start + int(np.argmin(np.isfinite(block)))
            raise VectorError(f"gradient value {place} is not finite; not posting")
        if smallest < -clip or largest > clip:
            block = np.clip(block, -clip, clip, out=fraction)
        np.multiply(block, max_magnitude, out=fraction)
        fraction /= clip
        np.floor(fraction, out=floor)
        fraction -= floor
        below(fraction, start, up)
        np.copyto(integers, floor, casting="unsafe")
        np.add(integers, up.view(np.int8), out=integers)
        if beyond:
            # Once more after rounding: clip * q_max / clip came out a hair above q_max.
            np.clip(integers, -max_magnitude, max_magnitude, out=integers)
    return result


def dequantise(sums: Integers, clip: float, max_magnitude: int) -> Floats:
    """Integers, or sums of them, back to the scale of the gradient: sums * clip / max_magnitude.
    int64[d] to float64[d].

    Raises ParameterError for a bad clip or magnitude.
    """
    _require_scale(clip, max_magnitude)
    return np.asarray(sums, dtype=np.float64) * clip / max_magnitude


def clip_fraction(values: Floats, clip: float) -> float:
    """The share of values beyond the clip, 0.0 to 1.0: what the monitor shows as clip rate.

    0.0 for no values.
    """
    return float(np.mean(np.abs(values) > clip)) if np.size(values) else 0.0


def clamp_sum(lifted: Integers, group_size: int, max_magnitude: int) -> Integers:
    """Clamp each lane of a group's lifted sum to what honest owners can add up to: +-(n * q_max).

    int64 to int64.
    """
    bound = group_size * max_magnitude
    return np.clip(lifted, -bound, bound)


def to_ring(integers: Signed, layout: RingLayout) -> Lanes:
    """Signed integers to lanes, padded with zero lanes: integers[value_count] to layout.dtype[lane_count].

    Raises VectorError for a wrong shape, or a value outside [-2^(b-1), 2^(b-1)), which lift could not
    give back.
    """
    signed = np.asarray(integers)
    if signed.dtype.kind != "i" or signed.ndim != 1:
        raise VectorError("only a one-dimensional vector of signed integers goes to the ring")
    if signed.size != layout.value_count:
        raise VectorError(f"gradient has {signed.size} values, task needs {layout.value_count}")
    half = 1 << (layout.lane_bits - 1)
    # Of a lane's own width all fit.
    if 8 * signed.itemsize > layout.lane_bits and (int(signed.min()) < -half or int(signed.max()) >= half):
        raise VectorError(f"a value does not fit a lane of {layout.lane_bits} bits")
    lanes: Lanes = np.empty(layout.lane_count, dtype=layout.dtype)
    np.copyto(lanes[: signed.size], signed, casting="unsafe")
    lanes[signed.size :] = 0
    return lanes


def lift(lanes: Lanes, layout: RingLayout) -> Integers:
    """Lanes to signed integers in [-2^(b-1), 2^(b-1)): layout.dtype[lane_count] to int64[lane_count],
    with padding.

    Raises VectorError for a wrong shape or type.
    """
    require_lanes(lanes, layout)
    return lanes.view(f"<i{layout.lane_bits // 8}").astype(np.int64)


def pack(lanes: Lanes, layout: RingLayout) -> bytes:
    """The bytes of a vector as the contract reads them: lanes big endian, lane 0 first.
    layout.byte_count bytes.

    Raises VectorError for a wrong shape or type.
    """
    require_lanes(lanes, layout)
    return lanes.astype(lanes.dtype.newbyteorder(">")).tobytes()


def unpack(vector: bytes, layout: RingLayout) -> Lanes:
    """A vector's bytes back to lanes, in memory of their own: layout.dtype[lane_count].

    Any bytes of the right length are a vector. Raises VectorError for another length.
    """
    if len(vector) != layout.byte_count:
        raise VectorError(f"vector has {len(vector)} bytes, task needs {layout.byte_count}")
    return np.frombuffer(vector, dtype=layout.dtype.newbyteorder(">")).astype(layout.dtype)


def require_lanes(lanes: Lanes, layout: RingLayout) -> None:
    """Raise VectorError unless `lanes` are one whole padded vector of `layout`, of its type, in one piece."""
    if lanes.dtype != layout.dtype or lanes.shape != (layout.lane_count,) or not lanes.flags.c_contiguous:
        raise VectorError(
            f"lanes are {lanes.dtype}{list(lanes.shape)}, task needs {layout.dtype}[{layout.lane_count}] in one piece"
        )
