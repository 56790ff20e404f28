"""Owners that follow the protocol to the letter and post a bad gradient.

Each poison is a gradient function with the signature of omnilytics.daemon.training.update.honest_gradient:
(model, weights float64[d], scaled features float64[rows, columns], labels int64[rows], clip, generator) ->
float64[d]. A poisoned owner clips and quantises what it gets, as everybody does. `POISONS` names them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.update import GradientFunction, honest_gradient
from omnilytics.peers.errors import ParameterError


def noise(
    model: Model,
    weights: NDArray[np.float64],
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    clip: float,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Uniform over everything that clipping lets through: the loudest nonsense."""
    return generator.uniform(-clip, clip, model.value_count)


def label_flip(
    model: Model,
    weights: NDArray[np.float64],
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    clip: float,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """The honest gradient of dishonest labels: class y is taught as class_count - 1 - y."""
    return model.gradient(weights, features, model.class_count - 1 - labels)


def multiplied(factor: float) -> GradientFunction:
    """The honest gradient times `factor`."""

    def poison(
        model: Model,
        weights: NDArray[np.float64],
        features: NDArray[np.float64],
        labels: NDArray[np.int64],
        clip: float,
        generator: np.random.Generator,
    ) -> NDArray[np.float64]:
        return factor * honest_gradient(model, weights, features, labels, clip, generator)

    return poison


POISONS: dict[str, GradientFunction] = {
    "noise": noise,
    "scale": multiplied(10.0),
    "sign-flip": multiplied(-1.0),
    "sign-flip-3": multiplied(-3.0),
    "label-flip": label_flip,
}


@dataclass(frozen=True)
class PoisonOrder:
    """So many groups, or single owners, of one kind: what --poison and --poison-owners say."""

    kind: str
    count: int

    @property
    def function(self) -> GradientFunction:
        """The gradient function of the poisoned."""
        return POISONS[self.kind]


def parse_poison(text: str) -> PoisonOrder:
    """Read "KIND:COUNT", as in "noise:2". Raises ParameterError, in words for the user."""
    kind, _, count = text.partition(":")
    if kind not in POISONS:
        raise ParameterError(f"unknown poison {kind!r}; use one of {', '.join(POISONS)}")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", count):
        raise ParameterError(f"poison {text!r} needs a count of at least 1, as in {kind}:1")
    return PoisonOrder(kind, int(count))
