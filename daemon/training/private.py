"""Local differential privacy of an owner's own update: every row's gradient clipped, Gaussian noise added.

Off by default. It is local: each owner clips and adds noise before its update is quantised and masked, and trusts no
mate to do the same. What it is worth is in daemon/accounting.py, what it costs in docs/privacy.md (Abadi et al.,
"Deep Learning with Differential Privacy", CCS 2016, arXiv 1607.00133, with the noise at every owner).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.config import read_table
from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.protection.sides import OwnerSide, Published, StatisticFunction
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.payload import ModelPayload
from omnilytics.peers.errors import ConfigurationError
from omnilytics.peers.quantise import uniforms_from_bytes

#: Takes a number of values and gives as many from a standard normal distribution, float64[count].
NormalSource = Callable[[int], NDArray[np.float64]]


@dataclass(frozen=True)
class PrivacyOptions:
    """The keys of [privacy]: nothing is done to gradients while both are 0.

    clip_norm is the largest L2 norm of one row's gradient over all values; noise_multiplier the noise's standard
    deviation in the sum over a batch, as a multiple of clip_norm; delta what epsilon is told at. Raises
    ConfigurationError for noise without a clip, and for numbers that cannot be.
    """

    noise_multiplier: float = 0.0
    clip_norm: float = 0.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and math.isfinite(self.clip_norm)):
            raise ConfigurationError("noise_multiplier and clip_norm in [privacy] must be finite")
        if self.noise_multiplier < 0.0 or self.clip_norm < 0.0:
            raise ConfigurationError("noise_multiplier and clip_norm in [privacy] must not be negative")
        if self.noise_multiplier > 0.0 and self.clip_norm == 0.0:
            raise ConfigurationError(
                "noise_multiplier in [privacy] needs a clip_norm: noise hides what has a bound",
                help="set clip_norm under [privacy]; docs/privacy.md shows what values cost",
            )
        if not 0.0 < self.delta < 1.0:
            raise ConfigurationError(f"delta in [privacy] is {self.delta:g}; it must lie between 0 and 1")

    @property
    def active(self) -> bool:
        """Whether gradients are clipped, with or without noise."""
        return self.clip_norm > 0.0


def read_privacy(table: Mapping[str, Any]) -> PrivacyOptions:
    """The options that a configuration file says. Raises ConfigurationError."""
    return read_table(PrivacyOptions, "privacy", table)


def system_normals(count: int) -> NDArray[np.float64]:
    """`count` standard normals, float64[count], by the transform of Box and Muller (1958) from os.urandom.

    The entropy is the operating system's and nothing else's: a seed that replays batches never reaches it. No value
    is beyond 8.6 in magnitude, because uniforms have 53 bits.
    """
    half = -(-count // 2)
    radii = np.sqrt(-2.0 * np.log1p(-uniforms_from_bytes(os.urandom(8 * half), half)))
    angles = 2.0 * np.pi * uniforms_from_bytes(os.urandom(8 * half), half)
    return np.concatenate([radii * np.cos(angles), radii * np.sin(angles)])[:count]


def private_gradient(options: PrivacyOptions, normals: NormalSource = system_normals) -> StatisticFunction:
    """What an owner's daemon computes in place of the mean gradient: the clipped mean, with noise.

    The noise of the mean has standard deviation noise_multiplier * clip_norm / rows in every value.
    """

    def gradient(
        side: OwnerSide,
        published: Published,
        features: NDArray[np.float64],
        labels: NDArray[np.int64],
        clip: float,
        generator: np.random.Generator,
    ) -> NDArray[np.float64]:
        # Other statistics have other norms, and an installed trainer's rows none that is known: an owner with
        # [privacy] joins no such task.
        assert isinstance(side, EnvelopeOwner) and isinstance(published, ModelPayload)
        assert isinstance(side.model, Model)
        mean = clipped_mean_gradient(side.model, published.weights, features, labels, options.clip_norm)
        if options.noise_multiplier > 0.0:
            mean += normals(len(mean)) * (options.noise_multiplier * options.clip_norm / len(labels))
        return mean

    return gradient


def row_gradient_norms(
    model: Model, flat: NDArray[np.float64], features: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The exact L2 norm of each row's own gradient over all d values, float64[rows]; infinite where it overflows.

    No gradient of a row is ever made: a layer's is the outer product of its inputs a, with a 1 for the biases, and
    its errors e, whose squared norm is (|a|^2 + 1) |e|^2 (Goodfellow, arXiv 1510.01799).
    """
    return _norms(_backpropagate(model, flat, features, labels))


def clipped_mean_gradient(
    model: Model,
    flat: NDArray[np.float64],
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    clip_norm: float,
) -> NDArray[np.float64]:
    """The sum of the rows' gradients, each scaled down to an L2 norm of at most clip_norm, over the rows: float64[d].

    features: float64[rows, feature_count]; labels: int64[rows]. A row whose gradient is not finite counts as zero:
    to refuse the round for its sake would show that it is there. So the result is finite, and replacing one row
    moves it by 2 clip_norm / rows at most. Raises ParameterError as `Model.gradient` does.
    """
    layers = _backpropagate(model, flat, features, labels)
    norms = _norms(layers)
    usable = np.isfinite(norms)
    shares = np.zeros(len(norms))
    shares[usable] = np.minimum(1.0, clip_norm / np.maximum(norms[usable], np.finfo(np.float64).tiny)) / len(norms)
    parts: list[NDArray[np.float64]] = []
    for inputs, errors in layers:
        weighted = errors[usable] * shares[usable, None]
        parts += [(inputs[usable].T @ weighted).ravel(), weighted.sum(axis=0)]
    return np.concatenate(parts)


#: (inputs float64[rows, inputs], errors float64[rows, outputs]) of a layer, where errors are the derivatives of each
#: row's own cross-entropy by the layer's outputs before its ReLU.
_Layer = tuple[NDArray[np.float64], NDArray[np.float64]]


def _backpropagate(
    model: Model, flat: NDArray[np.float64], features: NDArray[np.float64], labels: NDArray[np.int64]
) -> list[_Layer]:
    model.check_rows(features, labels)
    layers = model.unflatten(flat)
    # Weights made for the purpose overflow; rows that do are left out by their norms.
    with np.errstate(over="ignore", invalid="ignore"):
        activations = model.activations(flat, features)
        logits = activations[-1]
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        errors = shifted / shifted.sum(axis=1, keepdims=True)
        errors[np.arange(len(labels)), labels] -= 1.0
        found: list[_Layer] = [(activations[-2], errors)]
        for number in range(len(layers) - 1, 0, -1):
            errors = (errors @ layers[number][0].T) * (activations[number] > 0.0)
            found.append((activations[number - 1], errors))
    return found[::-1]


def _norms(layers: list[_Layer]) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [(np.square(inputs).sum(axis=1) + 1.0) * np.square(errors).sum(axis=1) for inputs, errors in layers]
        norms: NDArray[np.float64] = np.sqrt(np.sum(squares, axis=0))
    return np.where(np.isnan(norms), np.inf, norms)
