"""Attacks on rows find rows where sums are thin: an attack that finds nothing would prove nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from omnilytics.daemon.protection.feature_map import RandomFeatures
from omnilytics.daemon.protection.ridge import Moments
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Architecture, Model
from tests.adversaries.reconstruction import (
    GradientSeen,
    MomentsSeen,
    Seen,
    Trap,
    correlations,
    drawn_like,
    fit_rows,
    matched,
    recover_rows,
)

COLUMNS, CLASSES = 6, 3


def some_rows(count: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(rng.normal(size=(count, COLUMNS)), np.sort(rng.integers(0, CLASSES, count)), ("a", "b", "c"))


def seen_moments(rows: Dataset, width: int) -> MomentsSeen:
    feature_map = RandomFeatures(COLUMNS, width, bytes(32))
    return MomentsSeen(feature_map, Moments.of_rows(feature_map.apply(rows.features), rows.labels, CLASSES))


def seen_gradient(rows: Dataset) -> GradientSeen:
    model = Model(Architecture(), COLUMNS, CLASSES)
    weights = np.random.default_rng(3).normal(size=model.value_count)
    return GradientSeen(model, weights, model.gradient(weights, rows.features, rows.labels))


@pytest.mark.parametrize("make", [lambda rows: seen_moments(rows, 10), seen_gradient], ids=["moments", "gradient"])
def test_the_slope_of_a_misfit_is_its_slope(make: object) -> None:
    assert callable(make)
    true, guess = some_rows(5, 1), some_rows(5, 2)
    seen: Seen = make(Dataset(true.features, guess.labels, true.classes))
    _, slope = seen.misfit(guess.features, guess.labels, 0.1)
    step = 1e-6
    for row, column in ((0, 0), (2, 3), (4, 5)):
        values = []
        for sign in (1.0, -1.0):
            moved = guess.features.copy()
            moved[row, column] += sign * step
            values.append(seen.misfit(moved, guess.labels, 0.1)[0])
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope[row, column], rel=1e-4, abs=1e-6)


def test_nothing_is_amiss_with_the_true_rows() -> None:
    rows = some_rows(5, 1)
    for seen in (seen_moments(rows, 10), seen_gradient(rows)):
        assert seen.misfit(rows.features, rows.labels, 0.1)[0] == pytest.approx(0.0, abs=1e-12)


def found(rows: Dataset, width: int) -> NDArray[np.float64]:
    """Correlations of true rows with the better of both attacks' matches."""
    seen, own = [seen_moments(rows, width)], some_rows(200, 9)
    guesses = [
        fit_rows(seen, rows.labels, own, np.random.default_rng(0), 600),
        recover_rows(seen, rows.labels, own, 1e-4, np.random.default_rng(0), 300),
    ]
    return max((matched(rows.features, guess)[0] for guess in guesses), key=lambda alike: float(alike.mean()))


def test_few_rows_under_a_wide_map_come_back_and_many_under_a_narrow_one_do_not() -> None:
    assert found(some_rows(4, 1), 32).min() > 0.98
    many = some_rows(80, 1)
    anyway, _ = matched(many.features, drawn_like(many.labels, some_rows(200, 9), np.random.default_rng(0)))
    assert (found(many, 4) > 0.98).mean() <= (anyway > 0.98).mean() + 0.1


def test_matching_is_one_to_one() -> None:
    rows = some_rows(7, 1).features
    order = np.random.default_rng(0).permutation(7)
    alike, match = matched(rows, 2.0 * rows[order] + 1.0)
    assert alike == pytest.approx(np.ones(7))
    assert (order[match] == np.arange(7)).all()


def test_a_trap_pulls_rows_out_of_a_sum() -> None:
    rows, own = some_rows(20, 1), some_rows(400, 9)
    model = Model(Architecture((200,)), COLUMNS, CLASSES)
    trap = Trap.of(model, own, np.random.default_rng(0))
    pulled = trap.rows(model.gradient(trap.weights, rows.features, rows.labels))
    assert (correlations(rows.features, pulled).max(axis=1) > 0.999).sum() >= 10
