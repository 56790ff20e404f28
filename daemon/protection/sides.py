"""What a protection is: the statistic that owners post in place of data, and what is learnt from its average.

A task names one protection, and its description says all that both sides need to build it. Everything here is
pure; a round's secrets come in as entropy. Both sides are built from the same description, so what an owner is shown
before it joins is what it will do.

The owner's side maps its rows to one vector a round, a *statistic*: a gradient, or a gradient as a function of
weights that nobody shows it. A statistic of several rows is always their mean, so sums over owners are means of means.
The model owner's side publishes what owners compute on, selects groups where the contract does not, and learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.krum import select

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Published(Protocol):
    """What an owner reads from a round's opened payload, checked."""

    @property
    def scaling(self) -> FeatureScaling:
        """The task's scaling of features."""

    @property
    def digest(self) -> bytes:
        """32 bytes, equal for equal values, whatever the round."""


@dataclass(frozen=True)
class Learned:
    """What the model owner has after some rounds: the weights that it would use, and what else it carries along.

    weights: float64 of any length, secret; memory: bytes of the protection's own, secret.
    """

    weights: Floats = field(repr=False)
    memory: bytes = field(repr=False)


class OwnerSide(Protocol):
    """A data owner's side of a protection."""

    @property
    def value_count(self) -> int:
        """d: values of a statistic."""

    @property
    def class_count(self) -> int:
        """Classes of the task."""

    def read(self, plaintext: bytes, round_number: int) -> Published:
        """Reads an opened payload, strictly. Raises ModelMismatchError for anything that the task does not say."""

    def statistic(self, published: Published, features: Floats, labels: Labels) -> Floats:
        """The mean over the rows of what the task asks of each, float64[d], before clipping.

        features: float64[rows, columns], scaled; labels: int64[rows]. Finite only if the inputs are.
        """


class ModelSide(Protocol):
    """The model owner's side of a protection."""

    def begin(self) -> Learned:
        """Before the first round."""

    def publish(self, learned: Learned, round_number: int, entropy: bytes) -> bytes:
        """The round's plaintext; the same for the same arguments. `entropy` (32 bytes) is the round's secret."""

    def choose(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], faulty: int, strict: bool
    ) -> tuple[int, ...]:
        """Selects, of G' >= 2 * faulty + 3 groups, G' - faulty (strict: G' - faulty - 2) by the means of their
        statistics, float64[d] each; ascending. Asked only where the task lets the model owner select.
        """

    def trust(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], selected: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The groups to learn from, at least one, ascending. Asked where the model owner selects: how many it names is
        the contract's rule, and all complete groups are paid; what it averages is its own affair.
        """

    def learn(self, learned: Learned, entropy: bytes, average: Floats) -> Learned:
        """Takes in the average of these groups' statistics, float64[d], of the round with this entropy."""

    def accuracy(self, learned: Learned, rows: Dataset) -> float:
        """Fraction of rows (features scaled) that the model, as it would be used, gets right."""


# (side, published, features, labels, clip, generator) -> statistic, float64[d]. An honest owner ignores the last two.
StatisticFunction = Callable[[OwnerSide, Published, Floats, Labels, float, np.random.Generator], Floats]


def honest_statistic(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """What the task asks for."""
    return side.statistic(published, features, labels)


def krum_choice(means: Mapping[int, Floats], faulty: int, strict: bool) -> tuple[int, ...]:
    """Multi-Krum over float vectors (Blanchard et al., NIPS 2017), for a model owner that selects by itself.

    Group numbers, ascending. Raises ParameterError below 2 * faulty + 3 groups.
    """
    groups = sorted(means)
    distances = [[float(np.sum((means[a] - means[b]) ** 2)) for b in groups] for a in groups]
    # As integers with 40 bits below the largest: the selection is that of peers.krum, not a second one.
    top = max((value for row in distances for value in row), default=0.0) or 1.0
    scaled = [[int(value / top * 2**40) for value in row] for row in distances]
    return tuple(groups[index] for index in select(scaled, faulty, strict))
