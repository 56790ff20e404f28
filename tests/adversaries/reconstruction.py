"""Attacks on rows by the model owner: it reads sums over a group, owns rows of the same kind, and may be hostile.

`recover_rows` seeks all rows of a sum at once: those that are likely by a Gaussian fitted to the attacker's own rows
of their class, and whose statistics come out as posted (gradient inversion as in Zhu et al., arXiv 1906.08935, as a
maximum a posteriori estimate; L-BFGS). The attacker is given the number of rows of every class, which b's constant, or
the first gradient of the biases, tells it anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment, minimize

from omnilytics.daemon.protection.feature_map import RANDOM_CUT, RandomFeatures, _random_layer
from omnilytics.daemon.protection.ridge import Moments
from omnilytics.daemon.protection.sides import Floats, Labels
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.scaling import FEATURE_LIMIT

#: What a covariance is blurred by, so that a pixel that the attacker's rows never light can still be lit.
BLUR = 0.02
#: How hard rows are held within what scaling lets through.
WALL = 50.0
#: How faint a trap's first layer is, so that the gradient of its weights is not lost in rounding beside the others'.
FAINT = 1e-3
#: The misfit's scale where no prior stands beside it.
PLAIN_NOISE = 3e-3


class Seen(Protocol):
    """A statistic that the attacker saw."""

    def misfit(self, rows: Floats, labels: Labels, noise: float) -> tuple[float, Floats]:
        """Minus the log-likelihood of the rows, up to a constant, and its gradient, float64[rows, columns]."""


@dataclass(frozen=True)
class MomentsSeen:
    """The mean moments of a group's rows under a random map; noise: standard deviation of rounding, of a value."""

    feature_map: RandomFeatures
    moments: Moments = field(repr=False)

    def misfit(self, rows: Floats, labels: Labels, noise: float) -> tuple[float, Floats]:
        """See Seen. Each of G's values off the diagonal was rounded once and counts once."""
        count, (matrix, _) = len(rows), _random_layer(self.feature_map.inputs, self.feature_map.width, _seed(self))
        mapped = self.feature_map.apply(rows)
        targets = np.eye(self.moments.cross.shape[1])[labels]
        gram = mapped.T @ mapped / count - self.moments.gram
        cross = mapped.T @ targets / count - self.moments.cross
        value = (0.25 * float((gram**2).sum()) + 0.5 * float((cross**2).sum())) / noise**2
        slope = (mapped @ gram + targets @ cross.T)[:, :-1] / (count * noise**2)
        open_units = (mapped[:, :-1] > 0.0) & (mapped[:, :-1] < 1.0)
        return value, (slope * open_units) @ matrix.T / RANDOM_CUT


def _seed(seen: MomentsSeen) -> bytes:
    return seen.feature_map.seed


@dataclass(frozen=True)
class GradientSeen:
    """The mean gradient of softmax regression over a group's rows, at published weights."""

    model: Model
    weights: Floats = field(repr=False)
    gradient: Floats = field(repr=False)

    def misfit(self, rows: Floats, labels: Labels, noise: float) -> tuple[float, Floats]:
        """See Seen."""
        count, ((matrix, _),) = len(rows), self.model.unflatten(self.weights)
        logits = self.model.logits(self.weights, rows)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        error = shares - np.eye(self.model.class_count)[labels]
        ((wanted, wanted_biases),) = self.model.unflatten(self.gradient)
        gap, gap_biases = rows.T @ error / count - wanted, error.mean(axis=0) - wanted_biases
        value = 0.5 * (float((gap**2).sum()) + float((gap_biases**2).sum())) / noise**2
        along = rows @ gap + gap_biases
        through = shares * (along - (shares * along).sum(axis=1, keepdims=True))
        return value, (error @ gap.T + through @ matrix.T) / (count * noise**2)


@dataclass(frozen=True)
class Prior:
    """A Gaussian a class, of one covariance, fitted to the attacker's own rows."""

    means: Floats
    root: Floats = field(repr=False)
    inverse_root: Floats = field(repr=False)

    @classmethod
    def fit(cls, own: Dataset) -> Prior:
        """From rows of every class (a class without any has the mean of all)."""
        whole = own.features.mean(axis=0)
        groups = [own.features[own.labels == label] for label in range(len(own.classes))]
        means = np.array([group.mean(axis=0) if len(group) else whole for group in groups])
        away = own.features - means[own.labels]
        eigenvalues, vectors = np.linalg.eigh(away.T @ away / len(away) + BLUR * np.eye(own.column_count))
        return cls(means, vectors * np.sqrt(eigenvalues), (vectors / np.sqrt(eigenvalues)).T)


def drawn_like(labels: Labels, own: Dataset, generator: np.random.Generator) -> Floats:
    """The attacker's own rows of the same classes, drawn at random: where it starts, and what it had anyway."""
    rows = []
    for label in labels:
        pool = np.flatnonzero(own.labels == label)
        rows.append(own.features[generator.choice(pool if len(pool) else np.arange(own.row_count))])
    return np.array(rows)


def recover_rows(
    seen: Sequence[Seen],
    labels: Labels,
    own: Dataset,
    noise: float,
    generator: np.random.Generator,
    steps: int = 300,
    stages: int = 3,
) -> Floats:
    """The likeliest rows, float64[rows, columns], scaled, for labels in any order (ascending is as good).

    noise: standard deviation of a posted value's rounding. The fit begins loose and tightens to it in `stages`.
    """
    prior = Prior.fit(own)
    centre = prior.means[labels]
    current = (drawn_like(labels, own, generator) - centre) @ prior.inverse_root.T
    shape = current.shape
    for loose in np.geomspace(max(30 * noise, 1e-3), noise, stages):

        def cost(flat: Floats, level: float = float(loose)) -> tuple[float, Floats]:
            whitened = flat.reshape(shape)
            rows = centre + whitened @ prior.root.T
            beyond = rows - np.clip(rows, -FEATURE_LIMIT, FEATURE_LIMIT)
            value, slope = _misfit(seen, rows, labels, level)
            value += 0.5 * float((whitened**2).sum()) + WALL * float((beyond**2).sum())
            return value, ((slope + 2.0 * WALL * beyond) @ prior.root + whitened).ravel()

        found = minimize(cost, current.ravel(), jac=True, method="L-BFGS-B", options=_limits(steps))
        current = found.x.reshape(shape)
    result: Floats = centre + current @ prior.root.T
    return result


def fit_rows(
    seen: Sequence[Seen], labels: Labels, own: Dataset, generator: np.random.Generator, steps: int = 1000
) -> Floats:
    """The same without a prior: from the attacker's own rows to the nearest rows that fit, each column within its
    range in those rows. Better where what is seen determines the rows."""
    start = drawn_like(labels, own, generator)
    low, high = own.features.min(axis=0), own.features.max(axis=0)
    bounds = np.tile(np.stack([low, high], axis=1), (len(labels), 1))

    def cost(flat: Floats) -> tuple[float, Floats]:
        value, slope = _misfit(seen, flat.reshape(start.shape), labels, PLAIN_NOISE)
        return value, slope.ravel()

    found = minimize(cost, start.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options=_limits(steps))
    result: Floats = found.x.reshape(start.shape)
    return result


def _misfit(seen: Sequence[Seen], rows: Floats, labels: Labels, noise: float) -> tuple[float, Floats]:
    parts = [part.misfit(rows, labels, noise) for part in seen]
    return sum(value for value, _ in parts), np.sum([slope for _, slope in parts], axis=0)


def _limits(steps: int) -> dict[str, float]:
    return {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-10}


def correlations(rows: Floats, others: Floats) -> Floats:
    """Pearson's correlation of every row with every other, float64[rows, others]."""
    sides = []
    for side in (rows, others):
        centred = side - side.mean(axis=1, keepdims=True)
        sides.append(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12))
    result: Floats = sides[0] @ sides[1].T
    return result


def matched(rows: Floats, found: Floats) -> tuple[Floats, Labels]:
    """The best one-to-one matching of found rows with true ones: the correlation of each true row with its match, and
    the match's index. Generous to the attacker, who does not know which row is which."""
    table = correlations(rows, found)
    true, match = linear_sum_assignment(-table)
    order = np.argsort(true)
    return table[true[order], match[order]], match[order].astype(np.int64)


@dataclass(frozen=True)
class Trap:
    """First weights of a network that pull single rows out of a sum (Fowl et al., arXiv 2110.13057): all units of the
    first layer look along one direction, each with a threshold of its own, so that neighbours' gradients differ by the
    rows between their thresholds."""

    model: Model
    weights: Floats = field(repr=False)

    @classmethod
    def of(cls, model: Model, own: Dataset, generator: np.random.Generator) -> Trap:
        """Thresholds at the quantiles of the attacker's own rows; one hidden layer."""
        weights = np.zeros(model.value_count)
        (matrix, biases), (last, _) = model.unflatten(weights)
        width = matrix.shape[1]
        direction = FAINT * generator.normal(size=model.feature_count) / np.sqrt(model.feature_count)
        matrix[:] = direction[:, None]
        biases[:] = -np.quantile(own.features @ direction, np.arange(width) / width)
        last[:] = 0.1 / width / FAINT * generator.normal(size=model.class_count)
        return cls(model, weights)

    def rows(self, gradient: Floats) -> Floats:
        """What lies between thresholds, float64[width, columns]: rows where one lies alone, else blends."""
        (matrix, biases), _ = self.model.unflatten(gradient)
        steps = np.diff(np.hstack([matrix, np.zeros((len(matrix), 1))]), axis=1)
        weights = np.diff(np.append(biases, 0.0))
        weights[np.abs(weights) < 1e-12] = 1e-12
        found: Floats = (steps / weights).T
        return found
