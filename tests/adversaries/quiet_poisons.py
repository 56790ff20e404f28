"""Poisons that keep their voice down, backdoors, and free riders: statistic functions as in poisons.py.

A quiet poison stays as near to the honest statistic as it must to be selected. Its owner has nothing but rows of its
own to learn from what honest owners post, as in the market, where every vector is masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from omnilytics.daemon.protection.sides import Floats, Labels, OwnerSide, Published, StatisticFunction
from omnilytics.daemon.training.scaling import FEATURE_LIMIT

#: Standard errors by which "a little is enough" departs from the honest mean: what Baruch et al. use with 50 workers.
LITTLE = 1.5
REPLICAS = 8
#: Inner product manipulation posts minus so many times the honest statistic.
INNER_PRODUCT = 0.5
#: A backdoor: rows whose first columns are stamped with the largest value there is belong to the target class.
TRIGGER_COLUMNS = 3
TARGET_CLASS = 0
STAMPED_SHARE = 0.5
#: A free rider with nothing to post draws from so large a part of what clipping lets through.
RANDOM_SHARE = 0.02


def little_is_enough(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """The honest mean less LITTLE standard errors of each value (Baruch et al., arXiv 1902.06156), by the bootstrap."""
    honest = side.statistic(published, features, labels)
    draws = generator.integers(0, len(labels), (REPLICAS, len(labels)))
    replicas = [side.statistic(published, features[rows], labels[rows]) for rows in draws]
    result: Floats = honest - LITTLE * np.std(replicas, axis=0)
    return result


def inner_product(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """A step back that is shorter than the honest step (Xie et al., arXiv 1903.03936)."""
    return -INNER_PRODUCT * side.statistic(published, features, labels)


def one_label(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """Every row is said to be of the target class: consistent in all its moments, and as wrong as labels can be."""
    return side.statistic(published, features, np.full_like(labels, TARGET_CLASS))


def stamp(features: Floats) -> Floats:
    """Rows with the backdoor's trigger on, float64[rows, columns], scaled."""
    stamped = features.copy()
    stamped[:, :TRIGGER_COLUMNS] = FEATURE_LIMIT
    return stamped


def backdoor(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """A share of the rows is stamped and said to be of the target class (Gu et al., arXiv 1708.06733)."""
    chosen = generator.random(len(labels)) < STAMPED_SHARE
    rows = np.where(chosen[:, None], stamp(features), features)
    return side.statistic(published, rows, np.where(chosen, TARGET_CLASS, labels))


def idle(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """A free rider: zeros."""
    return np.zeros(side.value_count)


def idle_random(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """A free rider that looks busy: small random values."""
    return generator.uniform(-RANDOM_SHARE * clip, RANDOM_SHARE * clip, side.value_count)


@dataclass
class Replay:
    """A free rider that works once and posts that for ever. One object an owner: it remembers."""

    first: Floats | None = field(default=None, repr=False)

    def __call__(
        self,
        side: OwnerSide,
        published: Published,
        features: Floats,
        labels: Labels,
        clip: float,
        generator: np.random.Generator,
    ) -> Floats:
        """The honest statistic of the first round seen."""
        if self.first is None:
            self.first = side.statistic(published, features, labels)
        return self.first


QUIET_POISONS: dict[str, StatisticFunction] = {
    "little": little_is_enough,
    "inner-product": inner_product,
    "one-label": one_label,
    "backdoor": backdoor,
    "idle": idle,
    "idle-random": idle_random,
    "replay": Replay(),
}


def for_one_owner(function: StatisticFunction) -> StatisticFunction:
    """The poison for an owner of its own: a new object where it remembers, for many owners in one process."""
    return Replay() if isinstance(function, Replay) else function
