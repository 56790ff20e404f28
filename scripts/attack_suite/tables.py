"""Figures as text: means with their spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def spread(values: Sequence[float] | NDArray[np.float64], digits: int = 1, sign: bool = False) -> str:
    """Mean ± standard deviation over seeds; without the latter for one value."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    mean = form.format(float(np.mean(values)))
    return mean if len(values) < 2 else f"{mean} ± {float(np.std(values)):.{digits}f}"


def said_seeds(seeds: Sequence[int]) -> str:
    """A line before a table."""
    return f"Seeds: {len(seeds)}.\n\n"
