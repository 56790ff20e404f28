"""A data owner's work in one round: the checked model in, the quantised update out. Runs off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.batch import choose_batch, generator_from_entropy
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.payload import ModelPayload
from omnilytics.peers.errors import VectorError
from omnilytics.peers.market import TaskParams
from omnilytics.peers.quantise import clip_fraction, quantise, uniforms_from_bytes

# (model, weights, features, labels, clip, generator) -> gradient, float64[d]. An honest owner ignores the last two.
GradientFunction = Callable[
    [Model, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], float, np.random.Generator],
    NDArray[np.float64],
]


def honest_gradient(
    model: Model,
    weights: NDArray[np.float64],
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    clip: float,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """The mean cross-entropy gradient over the batch."""
    return model.gradient(weights, features, labels)


@dataclass(frozen=True)
class Update:
    """What goes into the ring, and how much of it was clipped (a fraction)."""

    quantised: NDArray[np.int64] = field(repr=False)
    clipped: float


def compute_update(
    payload: ModelPayload,
    spec: TaskSpec,
    params: TaskParams,
    dataset: Dataset,
    batch_entropy: bytes,
    rounding_entropy: bytes,
    gradient_function: GradientFunction = honest_gradient,
) -> Update:
    """One gradient on one random batch, clipped and quantised.

    batch_entropy chooses the batch; rounding_entropy (8 d bytes from a CSPRNG) rounds stochastically.
    Raises VectorError for a gradient that may not be posted.
    """
    rows = choose_batch(dataset.row_count, spec.batch_size, batch_entropy)
    batch = dataset.take(rows)
    gradient = gradient_function(
        spec.model,
        payload.weights,
        payload.scaling.apply(batch.features),
        batch.labels,
        spec.clip,
        generator_from_entropy(batch_entropy, "gradient"),
    )
    if gradient.shape != (params.value_count,):
        raise VectorError(f"gradient has {gradient.size} values, task needs {params.value_count}")
    uniforms = uniforms_from_bytes(rounding_entropy, params.value_count)
    return Update(quantise(gradient, spec.clip, params.max_magnitude, uniforms), clip_fraction(gradient, spec.clip))
