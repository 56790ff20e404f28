"""The clip C of a task, chosen by the model owner from its own sample."""

from __future__ import annotations

import math

import numpy as np

from omnilytics.daemon.protection.sides import OwnerSide, Published
from omnilytics.daemon.training.data import Dataset
from omnilytics.peers.errors import ParameterError

#: The clip as a multiple of the largest gradient value that the sample gives.
CLIP_HEADROOM = 3.0
#: The same for lanes of 8 bits, whose q_max is about 20.
NARROW_CLIP_HEADROOM = 0.3

RANDOM_BATCHES = 32


def suggest_clip(
    side: OwnerSide,
    published: Published,
    sample: Dataset,
    batch_size: int,
    rng: np.random.Generator,
    lane_bits: int = 16,
) -> float:
    """A clip that honest statistics hardly ever reach: three times the largest value, at what is published
    first, over batches drawn at random and over batches of one class only; rounded up to two digits.

    Why one class: the most skewed owner there can be holds one class, and its gradient is the largest;
    random batches of a balanced sample give values a quarter as large. Why so much room: a network's
    gradients grow for some rounds before they shrink, a clip too narrow bends every step, and one too wide
    costs nothing, since in lanes of 16 bits values are rounded to steps of C / 5,000 or so, far finer than
    the noise of a batch.

    Lanes of 8 bits are the exception: with q_max near 20 the steps cost up to 3 points of accuracy on
    digits, at a tenth of the clip about 1, and still no value of an owner of mixed classes is cut.

    `sample` has scaled features. Raises ParameterError when the sample's statistics are all zero or not finite.
    """
    if batch_size < 1:
        raise ParameterError(f"batch size {batch_size} is below 1")
    rows = np.arange(sample.row_count, dtype=np.int64)
    pools = [rows] * RANDOM_BATCHES + [rows[sample.labels == label] for label in np.unique(sample.labels)]
    largest = 0.0
    for pool in pools:
        batch = rng.choice(pool, size=min(batch_size, len(pool)), replace=False)
        values = side.statistic(published, sample.features[batch], sample.labels[batch])
        if not np.isfinite(values).all():
            raise ParameterError("the first weights give gradients that are not finite on the sample")
        largest = max(largest, float(np.abs(values).max()))
    if largest == 0.0:
        raise ParameterError("the first weights give gradients of zero on the sample; nothing would be learnt")
    clip = largest * (NARROW_CLIP_HEADROOM if lane_bits == 8 else CLIP_HEADROOM)
    unit = 10.0 ** (math.floor(math.log10(clip)) - 1)
    return float(f"{math.ceil(clip / unit) * unit:.2g}")
