"""ridge.py: moments add up, and their solution is the ridge regression of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.protection.ridge import Moments, moment_count
from omnilytics.peers.errors import ParameterError, VectorError


def sample(rows: int, width: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.hstack([rng.random((rows, width)), np.ones((rows, 1))]), rng.integers(0, classes, rows)


def lstsq_ridge(mapped: np.ndarray, labels: np.ndarray, classes: int, regulariser: float) -> np.ndarray:
    """Ridge by ordinary least squares on extra rows, without any normal equations."""
    w, rows = mapped.shape[1], len(mapped)
    ridge = regulariser * (mapped**2).sum() / rows / w
    extended = np.vstack([mapped / np.sqrt(rows), np.sqrt(ridge) * np.eye(w)])
    targets = np.vstack([np.eye(classes)[labels] / np.sqrt(rows), np.zeros((w, classes))])
    return np.asarray(np.linalg.lstsq(extended, targets)[0])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 30), st.integers(2, 5), st.floats(1e-4, 1.0), st.integers(0, 2**32))
def test_the_solution_is_ridge_regression(rows: int, width: int, classes: int, regulariser: float, seed: int) -> None:
    """Also with fewer rows than features."""
    mapped, labels = sample(rows, width, classes, seed)
    head = Moments.of_rows(mapped, labels, classes).solve(regulariser)
    assert head == pytest.approx(lstsq_ridge(mapped, labels, classes, regulariser), rel=1e-7, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 4), st.integers(0, 2**32))
def test_a_statistic_round_trips(width: int, classes: int, seed: int) -> None:
    mapped, labels = sample(20, width, classes, seed)
    moments = Moments.of_rows(mapped, labels, classes)
    values = moments.statistic()
    assert values.shape == (moment_count(width, classes),)
    read = Moments.from_statistic(values, width, classes)
    # Not bit for bit: BLAS promises no symmetry below the last bits, the triangle does.
    assert read.gram == pytest.approx(moments.gram, abs=1e-14)
    assert np.array_equal(read.gram, read.gram.T)
    assert np.array_equal(read.cross, moments.cross)
    assert np.array_equal(read.statistic(), values)


def test_the_order_of_a_statistic() -> None:
    mapped, labels = np.array([[0.5, 0.25, 1.0]]), np.array([1])
    expected = [0.25, 0.125, 0.5, 0.0625, 0.25, 1.0, 0.0, 0.5, 0.0, 0.25, 0.0, 1.0]
    assert Moments.of_rows(mapped, labels, 2).statistic().tolist() == expected


def test_parts_add_up_to_the_whole() -> None:
    mapped, labels = sample(60, 8, 3, 5)
    whole = Moments.of_rows(mapped, labels, 3).statistic()
    parts = [Moments.of_rows(mapped[k::3], labels[k::3], 3).statistic() for k in range(3)]
    assert np.mean(parts, axis=0) == pytest.approx(whole, abs=1e-14)


def test_the_gradient_is_that_of_half_the_squared_error() -> None:
    mapped, labels = sample(30, 5, 3, 6)
    moments = Moments.of_rows(mapped, labels, 3)
    head = np.random.default_rng(7).normal(size=(6, 3))
    targets = np.eye(3)[labels]

    def loss(at: np.ndarray) -> float:
        return float(((mapped @ at - targets) ** 2).sum(axis=1).mean() / 2)

    step = 1e-6
    numeric = np.zeros_like(head)
    for index in np.ndindex(*head.shape):
        bump = np.zeros_like(head)
        bump[index] = step
        numeric[index] = (loss(head + bump) - loss(head - bump)) / (2 * step)
    assert moments.gradient(head) == pytest.approx(numeric, abs=1e-8)


def test_an_indefinite_matrix_is_solved_as_the_nearest_definite_one() -> None:
    rng = np.random.default_rng(8)
    vectors = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    eigenvalues = np.array([2.0, 1.0, 0.5, 0.1, -0.2, -0.3])
    cross = rng.normal(size=(6, 2))
    head = Moments(vectors @ np.diag(eigenvalues) @ vectors.T, cross).solve(0.01)
    ridge = 0.01 * eigenvalues.sum() / 6
    definite = vectors @ np.diag(np.maximum(eigenvalues, 0.0) + ridge) @ vectors.T
    assert head == pytest.approx(np.linalg.solve(definite, cross), rel=1e-9)
    # Slightly negative: as rounding leaves it.
    assert np.abs(Moments(np.diag([1.0, 1.0, -1e-3]), cross[:3]).solve(0.01)).max() < 1e3


def test_nothing_gives_a_head_of_zeros() -> None:
    assert not Moments(np.zeros((4, 4)), np.ones((4, 2))).solve().any()
    assert not Moments(-np.eye(4), np.ones((4, 2))).solve().any()


def test_solutions_do_not_depend_on_scale() -> None:
    mapped, labels = sample(30, 5, 3, 9)
    moments = Moments.of_rows(mapped, labels, 3)
    assert (moments + moments + moments).solve() == pytest.approx(moments.solve(), rel=1e-9)


def test_bad_input_is_refused() -> None:
    mapped, labels = sample(4, 3, 2, 1)
    for bad in (labels[:3], labels[:, None], labels + 2, labels - 5):
        with pytest.raises(ParameterError):
            Moments.of_rows(mapped, bad, 2)
    with pytest.raises(ParameterError, match="0 rows"):
        Moments.of_rows(mapped[:0], labels[:0], 2)
    values = Moments.of_rows(mapped, labels, 2).statistic()
    with pytest.raises(VectorError, match="values, task needs"):
        Moments.from_statistic(values[1:], 3, 2)
    for bad_value in (np.nan, np.inf):
        values[5] = bad_value
        with pytest.raises(VectorError, match="value 5 is not finite"):
            Moments.from_statistic(values, 3, 2)
