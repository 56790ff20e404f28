"""Krum's scores from a round's logged distances, and order statistics, for showing: floats are enough here.

What is paid is decided on the contract in integers (peers/krum.py is its twin).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def krum_scores(distances: Sequence[Sequence[float]], faulty: int) -> tuple[float, ...]:
    """Of each group the sum of its G - f - 2 smallest squared distances to others (Blanchard et al., NeurIPS 2017)."""
    nearest = max(1, len(distances) - faulty - 2)
    return tuple(
        sum(sorted(value for other, value in enumerate(row) if other != own)[:nearest])
        for own, row in enumerate(distances)
    )


def median(values: Sequence[float]) -> float:
    """The middle value, the lower of two; 0 of none."""
    return percentile(values, 0.5)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank); 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    rank = -(-int(share * 1_000_000) * len(ordered) // 1_000_000)
    return ordered[min(len(ordered), max(1, rank)) - 1]
