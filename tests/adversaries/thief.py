"""Model thieves: registered owners that keep what they are shown, and make a model of it.

Every function here has nothing but what a registered owner reads in a round and, where it says so, rows of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omnilytics.daemon.protection.feature_map import RandomFeatures
from omnilytics.daemon.protection.perturbed import PublishedPerturbation
from omnilytics.daemon.protection.ridge import Moments
from omnilytics.daemon.protection.sides import Floats, Labels
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.squared_error import hidden_outputs

REGULARISERS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PENALTIES = (0.01, 0.1, 1.0, 10.0)
PROBES = 500


def with_constant(values: Floats) -> Floats:
    """With a column of ones for the biases."""
    return np.hstack([values, np.ones((len(values), 1))])


def best_learnt(rows: Dataset, test: Dataset, mapped: Floats, mapped_test: Floats) -> float:
    """The best accuracy on `test` of heads learnt from the mapped rows, the settings chosen by the test rows
    themselves: more than any thief can do. Ridge, logistic regression and support vectors."""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.svm import SVC

    moments = Moments.of_rows(mapped, rows.labels, len(rows.classes))
    heads = [moments.solve(regulariser) for regulariser in REGULARISERS]
    found = [float(((mapped_test @ head).argmax(axis=1) == test.labels).mean()) for head in heads]
    if len(np.unique(rows.labels)) > 1:
        learners = [LogisticRegression(C=penalty, max_iter=300) for penalty in PENALTIES]
        learners += [SVC(C=penalty) for penalty in PENALTIES[2:]]
        found += [float(learner.fit(mapped, rows.labels).score(mapped_test, test.labels)) for learner in learners]
    return max(found)


def best_alone(rows: Dataset, test: Dataset, seed: int) -> float:
    """What rows give by themselves: on raw features and on random features of the thief's own."""
    found = [best_learnt(rows, test, with_constant(rows.features), with_constant(test.features))]
    for width in (128, 512):
        own = RandomFeatures(rows.column_count, width, seed.to_bytes(32, "big"))
        found.append(best_learnt(rows, test, own.apply(rows.features), own.apply(test.features)))
    return max(found)


@dataclass(frozen=True)
class Disguise:
    """A round's perturbed model as an owner reads it."""

    published: PublishedPerturbation

    @property
    def model(self) -> Model:
        """The architecture."""
        return self.published.model

    def hidden(self, features: Floats) -> Floats:
        """The last hidden outputs, float64[rows, width], each up to a positive factor the model's own."""
        return hidden_outputs(self.model.unflatten(self.published.payload.weights), features)[-1]

    def scores(self, features: Floats) -> Floats:
        """y' = y + gamma alpha a."""
        return self.model.logits(self.published.payload.weights, features)

    def noise(self, features: Floats) -> Floats:
        """alpha a, float64[rows, classes]: all of the noise but gamma."""
        alpha: Floats = 1.0 + self.hidden(features).sum(axis=1, keepdims=True)
        return alpha * self.published.direction

    def without(self, gamma: float, features: Floats) -> Floats:
        """The scores for a guess of gamma."""
        return self.scores(features) - gamma * self.noise(features)


def gamma_from_labels(disguise: Disguise, features: Floats, labels: Labels) -> float:
    """The gamma that brings the scores of labelled rows nearest to their targets; one row is enough."""
    noise = disguise.noise(features)
    targets = np.eye(noise.shape[1])[labels]
    return float(np.sum((disguise.scores(features) - targets) * noise) / np.sum(noise**2))


def gamma_from_noise_alone(disguise: Disguise, features: Floats) -> float:
    """The gamma that makes the scores of unlabelled rows, or of random ones, smallest: the noise is the louder part."""
    noise = disguise.noise(features)
    return float(np.sum(disguise.scores(features) * noise) / np.sum(noise**2))


def projected(disguise: Disguise, features: Floats) -> Floats:
    """The scores without their part along a, whatever gamma is: no label and no row needed."""
    scores, direction = disguise.scores(features), disguise.published.direction
    result: Floats = scores - np.outer(scores @ direction, direction) / (direction @ direction)
    return result


def gammas_from_rounds(disguises: Sequence[Disguise], columns: int, generator: np.random.Generator) -> Floats:
    """Gamma of each round, from random inputs alone: those that make successive rounds' scores agree, since the model
    hardly moves between them while a and gamma are drawn anew. Least squares, one unknown a round."""
    probes = generator.normal(size=(PROBES, columns))
    scores = [disguise.scores(probes).ravel() for disguise in disguises]
    noises = [disguise.noise(probes).ravel() for disguise in disguises]
    count = len(disguises)
    system, right = np.zeros((count, count)), np.zeros(count)
    for first in range(count):
        for second in range(count):
            if first != second:
                system[first, first] += noises[first] @ noises[first]
                system[first, second] -= noises[first] @ noises[second]
                right[first] += noises[first] @ (scores[first] - scores[second])
    return np.asarray(np.linalg.solve(system, right), dtype=np.float64)


def canonical_hidden(model: Model, weights: Floats) -> Floats:
    """The first hidden layer's units, incoming weights and bias, each scaled to length 1: what positive scaling of
    units leaves as it is. float64[inputs + 1, width]."""
    matrix, biases = model.unflatten(weights)[0]
    units = np.vstack([matrix, biases])
    result: Floats = units / np.maximum(np.linalg.norm(units, axis=0), 1e-12)
    return result
