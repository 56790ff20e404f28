"""A data owner's work in one round: the checked model in, the quantised update out. Runs off the event loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from omnilytics.daemon.protection.sides import OwnerSide, Published, StatisticFunction, honest_statistic
from omnilytics.daemon.training.batch import generator_from_entropy
from omnilytics.daemon.training.data import Dataset
from omnilytics.peers.errors import VectorError
from omnilytics.peers.market import TaskParams
from omnilytics.peers.prg import KeyStream
from omnilytics.peers.quantise import Signed, clip_fraction, quantise_drawing


@dataclass(frozen=True)
class Update:
    """What goes into the ring, and how much of it was clipped (a fraction)."""

    quantised: Signed = field(repr=False)
    clipped: float


def compute_update(
    side: OwnerSide,
    published: Published,
    clip: float,
    params: TaskParams,
    batch: Dataset,
    batch_entropy: bytes,
    rounding_entropy: bytes,
    statistic_function: StatisticFunction = honest_statistic,
) -> Update:
    """The statistic of one batch (features unscaled), clipped and quantised.

    rounding_entropy (32 bytes from a CSPRNG) rounds stochastically; batch_entropy is only for poisons that draw.
    Raises VectorError for a statistic that may not be posted.
    """
    statistic = statistic_function(
        side,
        published,
        published.scaling.apply(batch.features),
        batch.labels,
        clip,
        generator_from_entropy(batch_entropy, "gradient"),
    )
    if statistic.shape != (params.value_count,):
        raise VectorError(f"gradient has {statistic.size} values, task needs {params.value_count}")
    draw = KeyStream(rounding_entropy).fill
    quantised = quantise_drawing(statistic, clip, params.max_magnitude, draw, params.lane_bits)
    return Update(quantised, clip_fraction(statistic, clip))
