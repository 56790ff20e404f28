"""The clip C of a task, chosen by the model owner from its own sample."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Model
from omnilytics.peers.errors import ParameterError

#: How far above the largest gradient value of the sample the clip lies.
CLIP_HEADROOM = 3.0

RANDOM_BATCHES = 32


def suggest_clip(
    model: Model, flat: NDArray[np.float64], sample: Dataset, batch_size: int, rng: np.random.Generator
) -> float:
    """A clip that honest gradients hardly ever reach: three times the largest gradient value, at the first
    weights, over batches drawn at random and over batches of one class only; rounded up to two digits.

    Why one class: the most skewed owner there can be holds one class, and its gradient is the largest;
    random batches of the model owner's balanced sample are smaller by the share of a class. Why so much
    room: lanes of 16 bits leave a rounding error of C / q_max / 2 at most, about C / 10,000, far
    below the noise of a batch, so a clip too wide costs nothing, while one too narrow bends every step; a
    network's gradients grow for some rounds before they shrink. With lanes of 8 bits (q_max about 20) pass
    a smaller clip by hand.

    `sample` has scaled features; `flat` is float64[d], the task's first weights. Raises ParameterError when
    the sample's gradients are all zero or not finite.
    """
    if batch_size < 1:
        raise ParameterError(f"batch size {batch_size} is below 1")
    rows = np.arange(sample.row_count, dtype=np.int64)
    pools = [rows] * RANDOM_BATCHES + [rows[sample.labels == label] for label in np.unique(sample.labels)]
    largest = 0.0
    for pool in pools:
        batch = rng.choice(pool, size=min(batch_size, len(pool)), replace=False)
        gradient = model.gradient(flat, sample.features[batch], sample.labels[batch])
        largest = max(largest, float(np.abs(gradient).max()))
        if not math.isfinite(largest):
            raise ParameterError("the first weights give gradients that are not finite on the sample")
    if largest == 0.0:
        raise ParameterError("the first weights give gradients of zero on the sample; nothing would be learnt")
    unit = 10.0 ** (math.floor(math.log10(CLIP_HEADROOM * largest)) - 1)
    return float(f"{math.ceil(CLIP_HEADROOM * largest / unit) * unit:.3g}")
