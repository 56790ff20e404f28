"""Multi-Krum in integers: the twin of the contract's selection.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent" (NIPS 2017).
A group's score is the sum of its squared distances to its G' - f - 2 nearest others; the m groups with
the lowest scores are selected, ties to the lower index. All in exact integers, so that both sides
select the same on every machine. Indices are among the complete groups, ascending; the caller maps them
to group numbers.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from omnilytics.peers.errors import ParameterError
from omnilytics.peers.quantise import Lanes, RingLayout, lift, require_lanes

Distances = list[list[int]]
"""Squared distances, a symmetric G' x G' matrix of exact integers with zeros on the diagonal."""


def pair_order(group_count: int) -> list[tuple[int, int]]:
    """The pairs in the contract's order: (0,1) (0,2) .. (1,2) .. as in the event KrumSelected."""
    return [(a, b) for a in range(group_count) for b in range(a + 1, group_count)]


def distances_from_pairs(values: Sequence[int], group_count: int) -> Distances:
    """The matrix from the contract's flat list of pairs.

    Raises ParameterError for another number of pairs.
    """
    pairs = pair_order(group_count)
    if len(values) != len(pairs):
        raise ParameterError(f"{len(values)} distances for {group_count} groups; need {len(pairs)}")
    matrix = [[0] * group_count for _ in range(group_count)]
    for (a, b), value in zip(pairs, values, strict=True):
        matrix[a][b] = matrix[b][a] = value
    return matrix


def squared_distances(group_sums: Sequence[Lanes], layout: RingLayout) -> Distances:
    """D(a, b) = sum over all lanes, padding too, of lift(S_a - S_b mod 2^b)^2. Exact integers.

    `group_sums` are the ring sums of the complete groups, layout.dtype[lane_count] each, with their
    pads on. The difference is taken in the ring and lifted pair by pair: the common pad cancels, and no
    group can disturb the distance of two others. Raises VectorError for a wrong shape or type.
    """
    for lanes in group_sums:
        require_lanes(lanes, layout)
    values = [_sum_of_squares(lift(group_sums[a] - group_sums[b], layout)) for a, b in pair_order(len(group_sums))]
    return distances_from_pairs(values, len(group_sums))


def scores(distances: Sequence[Sequence[int]], faulty: int) -> list[int]:
    """Krum's score of each group: the sum of its G' - f - 2 smallest distances to others. Lower is better.

    Raises ParameterError below 2f + 3 groups, for a negative f and for a matrix that is not square.
    """
    count = len(distances)
    if faulty < 0:
        raise ParameterError(f"f={faulty} is negative")
    if count < 2 * faulty + 3:
        raise ParameterError(f"{count} groups cannot tolerate f={faulty}; need {2 * faulty + 3}")
    if any(len(row) != count for row in distances):
        raise ParameterError("distances are not a square matrix")
    neighbours = count - faulty - 2
    return [
        sum(sorted(int(row[other]) for other in range(count) if other != own)[:neighbours])
        for own, row in enumerate(distances)
    ]


def select(distances: Sequence[Sequence[int]], faulty: int, strict: bool) -> list[int]:
    """The selected groups' indices, ascending: the m lowest scores, ties to the lower index.

    m = G' - f, or G' - f - 2 when `strict`, where the theory's guarantee is wanted. Errors as in scores.
    """
    group_scores = scores(distances, faulty)
    selected_count = len(group_scores) - faulty - (2 if strict else 0)
    ranked = sorted(range(len(group_scores)), key=lambda index: (group_scores[index], index))
    return sorted(ranked[:selected_count])


def _sum_of_squares(values: npt.NDArray[np.int64]) -> int:
    """Exact up to magnitudes of 2^31 and 2^32 lanes, where a plain 64-bit sum of squares would overflow."""
    magnitude = np.abs(values).astype(np.uint64)
    high, low = magnitude >> np.uint64(16), magnitude & np.uint64(0xFFFF)
    return (int(np.dot(high, high)) << 32) + (int(np.dot(high, low)) << 17) + int(np.dot(low, low))
