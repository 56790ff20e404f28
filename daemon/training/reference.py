"""The reference run: the same market's training in one process, without quantising, clip or masks.

The testbed compares a market's accuracy with it, like with like: the same first weights, minibatches,
poisons and selected groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.batch import choose_batch, generator_from_entropy
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.optimisers import Optimiser
from omnilytics.daemon.training.payload import as_published
from omnilytics.daemon.training.update import GradientFunction, honest_gradient
from omnilytics.peers.errors import VectorError


@dataclass(frozen=True)
class PlainRun:
    """accuracies: one fraction of 1 a round, after its step; weights: the last, float64[d], unrounded."""

    accuracies: tuple[float, ...]
    weights: NDArray[np.float64]


def train_plain(
    model: Model,
    weights: NDArray[np.float64],
    owners: Sequence[Dataset],
    test: Dataset,
    selected: Sequence[Sequence[Sequence[int]]],
    entropy: Callable[[int, int], bytes],
    batch_size: int,
    optimiser: Optimiser,
    clip: float,
    poisons: Mapping[int, GradientFunction] | None = None,
) -> PlainRun:
    """Train one round for every entry of `selected` and measure the accuracy on `test` after each.

    selected[r] are the groups selected in round r, each the list of its owners' indices into `owners`; an
    empty entry is a round without a step. All features are scaled already and labels follow one class list.
    entropy(r, owner) is what that owner drew its batch from, r counted from 0 as in `selected`; `update.py`
    makes the same batch of it. The step is the mean over the selected groups of their owners' mean
    gradient. The optimiser keeps float64 weights; gradients and accuracies are those of the weights as
    published, as in the market. `clip` only tells a poison how large the market's values can be.

    Raises VectorError when training diverges: a gradient or weight that is not finite.
    """
    functions = poisons or {}
    current = weights.astype(np.float64)
    state = optimiser.initial_state(model.value_count)
    accuracies: list[float] = []
    for number, groups in enumerate(selected):
        published = as_published(current)
        means = []
        for group in groups:
            gradients = []
            for owner in group:
                drawn, data = entropy(number, owner), owners[owner]
                rows = choose_batch(data.row_count, batch_size, drawn)
                function = functions.get(owner, honest_gradient)
                generator = generator_from_entropy(drawn, "gradient")
                features, labels = data.features[rows], data.labels[rows]
                gradients.append(function(model, published, features, labels, clip, generator))
            means.append(np.mean(gradients, axis=0))
        if means:
            state, current = optimiser.step(state, current, np.mean(means, axis=0))
        published = as_published(current)
        if not np.isfinite(published).all():
            raise VectorError(f"the reference run diverges in its round {number + 1}: a weight is not finite")
        accuracies.append(model.accuracy(published, test.features, test.labels))
    return PlainRun(tuple(accuracies), current)
