"""Thieves find what they should: a thief that cannot steal would prove nothing."""

from __future__ import annotations

import numpy as np
import pytest

from omnilytics.daemon.protection.perturbed import PerturbedModel, PublishedPerturbation
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.payload import as_published
from omnilytics.daemon.training.squared_error import default_optimiser
from tests.adversaries.thief import (
    Disguise,
    best_alone,
    canonical_hidden,
    gamma_from_labels,
    gammas_from_rounds,
    projected,
)
from tests.envelope_sides import no_scaling

MODEL = Model(Architecture((8,)), 4, 3)


def easy_rows(count: int, seed: int) -> Dataset:
    """Three classes, far apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return Dataset(3.0 * np.eye(4)[labels] + 0.3 * rng.normal(size=(count, 4)), labels, ("a", "b", "c"))


def disguises(weights: np.ndarray, count: int) -> list[Disguise]:
    """The same weights in so many rounds."""
    side = PerturbedModel(MODEL, weights, default_optimiser(), no_scaling(4), easy_rows(30, 0))
    found = []
    for number in range(1, count + 1):
        secret = bytes([number]) * 32
        published = PerturbedOwnerReader.read(side.publish(side.begin(), number, secret), number)
        found.append(Disguise(published))
    return found


class PerturbedOwnerReader:
    """An owner that reads what is published."""

    @staticmethod
    def read(plaintext: bytes, round_number: int) -> PublishedPerturbation:
        from omnilytics.daemon.protection.perturbed import PerturbedOwner

        published = PerturbedOwner(MODEL).read(plaintext, round_number)
        assert isinstance(published, PublishedPerturbation)
        return published


@pytest.fixture
def weights() -> np.ndarray:
    return as_published(MODEL.init(np.random.default_rng(5)))


def test_rounds_combined_take_the_noise_off_without_any_row(weights: np.ndarray) -> None:
    rounds = disguises(weights, 3)
    rows = np.random.default_rng(6).normal(size=(20, 4))
    true = MODEL.logits(weights, rows)
    for disguise, gamma in zip(rounds, gammas_from_rounds(rounds, 4, np.random.default_rng(7)), strict=True):
        assert np.abs(disguise.scores(rows) - true).max() > 1.0
        assert disguise.without(float(gamma), rows) == pytest.approx(true, abs=1e-3)


def test_projection_leaves_what_does_not_lie_along_the_noise(weights: np.ndarray) -> None:
    (disguise,) = disguises(weights, 1)
    rows, direction = np.random.default_rng(8).normal(size=(20, 4)), disguise.published.direction
    true = MODEL.logits(weights, rows)
    bare = true - np.outer(true @ direction, direction) / (direction @ direction)
    assert projected(disguise, rows) == pytest.approx(bare, abs=1e-3)


def test_labels_give_the_gamma_of_a_model_that_fits_them(weights: np.ndarray) -> None:
    rounds = disguises(weights, 2)
    rows = np.random.default_rng(9).normal(size=(300, 4))
    labels = MODEL.logits(weights, rows).argmax(axis=1)
    gamma = float(gammas_from_rounds(rounds, 4, np.random.default_rng(7))[0])
    assert gamma_from_labels(rounds[0], rows, labels) == pytest.approx(gamma, rel=0.3)


def test_scaling_of_hidden_units_hides_nothing_of_their_direction(weights: np.ndarray) -> None:
    (disguise,) = disguises(weights, 1)
    read = disguise.published.payload.weights
    assert not np.allclose(MODEL.unflatten(read)[0][0], MODEL.unflatten(weights)[0][0])
    assert canonical_hidden(MODEL, read) == pytest.approx(canonical_hidden(MODEL, weights), abs=1e-6)


def test_a_thief_alone_learns_what_is_easy() -> None:
    assert best_alone(easy_rows(30, 1), easy_rows(60, 2), seed=0) > 0.95
