"""The reference run: the same market's training in one process, without quantising, clip or masks.

The testbed compares a market's accuracy with it, like with like: the same first weights, batches,
poisons and selected groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.sides import (
    Learned,
    ModelSide,
    OwnerSide,
    StatisticFunction,
    honest_statistic,
)
from omnilytics.daemon.training.batch import generator_from_entropy
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.payload import as_published
from omnilytics.peers.errors import OmniLyticsError, VectorError


@dataclass(frozen=True)
class PlainRun:
    """accuracies: one fraction of 1 a round, after its step; learned: the last, unrounded."""

    accuracies: tuple[float, ...]
    learned: Learned


def train_plain(
    owner_side: OwnerSide,
    model_side: ModelSide,
    owners: Sequence[Dataset],
    test: Dataset,
    selected: Sequence[Sequence[Sequence[int]]],
    entropy: Callable[[int, int], bytes],
    choose_rows: Callable[[int, int], NDArray[np.int64]],
    clip: float,
    poisons: Mapping[int, StatisticFunction] | None = None,
    round_entropy: Callable[[int], bytes] = lambda number: number.to_bytes(32, "big"),
) -> PlainRun:
    """Train one round for every entry of `selected` and measure the accuracy on `test` after each.

    selected[r] are the groups selected in round r, each the list of its owners' indices into `owners`; an
    empty entry is a round without a step. All features are scaled already and labels follow one class list.
    entropy(r, owner) is what that owner drew in that round and choose_rows(r, owner) the batch that it made of
    it, r counted from 0 as in `selected`. The step is the mean over the selected groups of their owners' mean
    statistic, at the values as published, as in the market. `clip` only tells a poison how large the market's
    values can be. round_entropy(r) is what the model owner publishes with.

    Raises VectorError when training diverges: a value that is not finite.
    """
    functions = poisons or {}
    learned = model_side.begin()
    accuracies: list[float] = []
    for number, groups in enumerate(selected):
        secret = round_entropy(number)
        try:
            published = owner_side.read(model_side.publish(learned, number + 1, secret), number + 1)
        except OmniLyticsError as error:
            raise VectorError(f"the reference run diverges in its round {number + 1}: {error.message}") from error
        means = []
        for group in groups:
            statistics = []
            for owner in group:
                data = owners[owner].take(choose_rows(number, owner))
                function = functions.get(owner, honest_statistic)
                generator = generator_from_entropy(entropy(number, owner), "gradient")
                statistics.append(function(owner_side, published, data.features, data.labels, clip, generator))
            means.append(np.mean(statistics, axis=0))
        if means:
            learned = model_side.learn(learned, secret, np.mean(means, axis=0))
        if not np.isfinite(as_published(learned.weights)).all():
            raise VectorError(f"the reference run diverges in its round {number + 1}: a weight is not finite")
        accuracies.append(model_side.accuracy(learned, test))
    return PlainRun(tuple(accuracies), learned)
