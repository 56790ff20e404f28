"""Pair masks and pads: what makes a vector unreadable until its whole group is added up.

Pairwise masks as in Bonawitz et al. (CCS 2017, doi 10.1145/3133956.3133982), but without self masks,
shares or any recovery: groups are fixed and all or nothing, so a mask is never revealed and only the
sum of a whole group ever exists. The model owner's pad on top keeps that sum from everybody outside the
task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from omnilytics.peers.errors import ParameterError, VectorError
from omnilytics.peers.prg import PAD, PAIR, Run, Stream, add_streams, pad_context, pair_context
from omnilytics.peers.quantise import MINIMUM_GROUP_SIZE, Lanes


@dataclass(frozen=True)
class PairMask:
    """What one owner needs to mask towards one mate. The seed is secret: it is not in the repr."""

    seed: bytes = field(repr=False)
    own_position: int
    mate_position: int
    own_address: bytes
    mate_address: bytes

    def stream(self, ctx: bytes, group: int) -> Stream:
        """The stream of this pair as this owner applies it: the lower position adds, the higher subtracts."""
        if self.own_position < self.mate_position:
            lower, higher = self.own_address, self.mate_address
        else:
            lower, higher = self.mate_address, self.own_address
        subtract = self.own_position > self.mate_position
        return self.seed, PAIR, pair_context(ctx, group, lower, higher), subtract


def mask_vector(
    lanes: Lanes,
    ctx: bytes,
    group: int,
    position: int,
    pairs: Sequence[PairMask],
    pad_seed: bytes,
    *,
    pad_index: int | None = None,
    group_size: int | None = None,
    run: Run | None = None,
    parts: int = 1,
) -> Lanes:
    """Mask a whole padded vector: y = q + sum over mates (+/-) PRG(pair) + PRG(pad) mod 2^b.

    New lanes of the same type. `pairs` are one for each mate, in any order. `pad_index` says which of the round's
    pads the seed is of (default: the one at `position`). With `group_size` (the task's)
    a missing mate is always noticed; without it, not the one at the highest position. `run` and `parts` are those of
    prg.add_streams. Call it once a round
    and owner, journal the result and send only that: two vectors under one set of masks leak their
    difference. Raises ParameterError when a mate is missing or stands twice, when a seed serves twice, for
    a group below 3 and for wrong lengths; VectorError for lanes that are none.
    """
    size = len(pairs) + 1
    if size < MINIMUM_GROUP_SIZE:
        raise ParameterError(f"group size {size} below minimum {MINIMUM_GROUP_SIZE}")
    if group_size is not None and size != group_size:
        raise ParameterError(f"masks for {size} positions; the group has {group_size}")
    # INVARIANT: a vector leaves only under the masks of all its mates. One mask less, and fewer than
    # the group read it.
    positions = sorted([position, *(pair.mate_position for pair in pairs)])
    if positions != list(range(size)):
        raise ParameterError(f"masks are for positions {positions}; need each of 0 to {size - 1} once")
    if any(pair.own_position != position or pair.own_address != pairs[0].own_address for pair in pairs):
        raise ParameterError("the masks of a vector all belong to one owner and position")
    if len({pairs[0].own_address, *(pair.mate_address for pair in pairs)}) != size:
        raise ParameterError("an address stands twice in a group")
    if len({pad_seed, *(pair.seed for pair in pairs)}) != size:
        raise ParameterError("a seed serves two masks of one vector")
    masked = np.empty_like(lanes)
    streams = [pair.stream(ctx, group) for pair in pairs]
    index = position if pad_index is None else pad_index
    add_streams(lanes, [*streams, (pad_seed, PAD, pad_context(ctx, index), False)], masked, run, parts)
    return masked


def remove_pads(sum_lanes: Lanes, ctx: bytes, pad_seeds: Sequence[bytes], first: int = 0) -> Lanes:
    """Take the pads of all positions off the sum of one whole group. New lanes, same type.

    `pad_seeds` are by position; `first` is the index of the first among the round's pads. Raises ParameterError for
    wrong lengths, VectorError for lanes that are none.
    """
    bare = np.empty_like(sum_lanes)
    pads = [(seed, PAD, pad_context(ctx, index), True) for index, seed in enumerate(pad_seeds, first)]
    add_streams(sum_lanes, pads, bare)
    return bare


def add_vectors(vectors: Sequence[Lanes]) -> Lanes:
    """The sum of vectors in the ring: lane by lane, modulo 2^b. New lanes, same type.

    Raises VectorError for no vectors, or vectors of different lengths or types.
    """
    if not vectors:
        raise VectorError("no vectors to add")
    first = vectors[0]
    if any(vector.dtype != first.dtype or vector.shape != first.shape for vector in vectors):
        raise VectorError("vectors of different lengths or types cannot be added")
    total = first.copy()
    for vector in vectors[1:]:
        np.add(total, vector, out=total)
    return total
