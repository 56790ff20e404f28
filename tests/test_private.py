"""Local noise: exact norms of rows, a clip that bounds every row's pull, and noise from nobody's seed."""

from __future__ import annotations

import math
import os
from typing import Any
from unittest import mock

import numpy as np
import pytest

from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.payload import ModelPayload, as_published
from omnilytics.daemon.training.private import (
    PrivacyOptions,
    clipped_mean_gradient,
    private_gradient,
    read_privacy,
    row_gradient_norms,
    system_normals,
)
from omnilytics.peers.errors import ConfigurationError, ParameterError
from tests.envelope_sides import payload_of

ARCHITECTURES = ["softmax", "mlp:7", "mlp:9,5,4"]
Rows = tuple[Model, np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def batch(architecture: str, rows: int = 12, seed: int = 1) -> Rows:
    """(model, weights, features, labels), all random."""
    generator = np.random.default_rng(seed)
    model = Model(Architecture.parse(architecture), 6, 4)
    weights = as_published(generator.normal(size=model.value_count))
    return model, weights, generator.normal(size=(rows, 6)), generator.integers(0, 4, rows)


def row_gradients(found: Rows) -> np.ndarray[Any, Any]:
    """Each row's gradient by the model itself, one row at a time: float64[rows, d]."""
    model, weights, features, labels = found
    return np.array(
        [model.gradient(weights, features[row : row + 1], labels[row : row + 1]) for row in range(len(labels))]
    )


# ------------------------------------------------------------------------------ clip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norms_are_those_of_every_rows_own_gradient(architecture: str) -> None:
    found = batch(architecture)
    expected = np.linalg.norm(row_gradients(found), axis=1)
    assert row_gradient_norms(*found) == pytest.approx(expected, rel=1e-12)
    assert expected.max() > 2 * expected.min(), "rows differ, or the test shows little"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_clipped_mean_is_the_mean_of_clipped_rows(architecture: str) -> None:
    found = batch(architecture)
    gradients = row_gradients(found)
    norms = np.linalg.norm(gradients, axis=1)
    clip_norm = float(np.median(norms))
    expected = (gradients * np.minimum(1.0, clip_norm / norms)[:, None]).mean(axis=0)
    assert clipped_mean_gradient(*found, clip_norm) == pytest.approx(expected, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_wide_clip_changes_nothing(architecture: str) -> None:
    model, weights, features, labels = found = batch(architecture)
    expected = model.gradient(weights, features, labels)
    assert clipped_mean_gradient(*found, 1e9) == pytest.approx(expected, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30, 1e38])
def test_replacing_a_row_moves_the_mean_by_two_clips_at_most(architecture: str, scale: float) -> None:
    """Whatever the weights: they are the model owner's."""
    model, weights, features, labels = batch(architecture)
    clip_norm, first = 0.7, clipped_mean_gradient(model, weights * scale, features, labels, 0.7)
    assert np.isfinite(first).all()
    for row in range(len(labels)):
        others, other_labels = features.copy(), labels.copy()
        others[row], other_labels[row] = -4.0 * np.sign(others[row]), (labels[row] + 1) % 4
        second = clipped_mean_gradient(model, weights * scale, others, other_labels, clip_norm)
        assert np.linalg.norm(first - second) <= 2 * clip_norm / len(labels) * (1 + 1e-9)


def test_a_row_that_overflows_counts_as_zero_and_not_as_a_refusal() -> None:
    model, weights, features, labels = batch("mlp:9,5,4")
    huge = features.copy()
    # The weights alone cannot do it in three layers: stands for eight.
    huge[3] = 1e300
    assert np.isinf(row_gradient_norms(model, weights * 1e38, huge, labels)[3])
    kept = np.delete(np.arange(len(labels)), 3)
    mean = clipped_mean_gradient(model, weights * 1e38, huge, labels, 0.5)
    rest = clipped_mean_gradient(model, weights * 1e38, features[kept], labels[kept], 0.5)
    assert mean * len(labels) == pytest.approx(rest * len(kept), rel=1e-9, abs=1e-14)


def test_a_row_without_a_gradient_is_no_division_by_zero() -> None:
    model = Model(Architecture(), 2, 2)
    sure = np.array([0.0, 0.0, 0.0, 0.0, 900.0, -900.0])
    features, labels = np.ones((3, 2)), np.array([0, 0, 0])
    assert row_gradient_norms(model, sure, features, labels).tolist() == [0.0] * 3
    assert clipped_mean_gradient(model, sure, features, labels, 1.0).tolist() == [0.0] * 6


def test_rows_that_do_not_fit_are_refused() -> None:
    model, weights, features, labels = batch("softmax")
    with pytest.raises(ParameterError, match="a batch has 0 rows"):
        clipped_mean_gradient(model, weights, features[:0], labels[:0], 1.0)
    with pytest.raises(ParameterError, match="a label is outside"):
        clipped_mean_gradient(model, weights, features, labels + 4, 1.0)


# ----------------------------------------------------------------------------- noise


def at(found: tuple[Model, np.ndarray, np.ndarray, np.ndarray]) -> tuple[EnvelopeOwner, ModelPayload, Any, Any]:
    """The same batch as an owner of an envelope task sees it."""
    model, weights, features, labels = found
    return EnvelopeOwner(model), payload_of(model, weights), features, labels


def test_the_noise_is_the_multiplier_times_the_clip_over_the_rows() -> None:
    found = batch("softmax", rows=8)
    options = PrivacyOptions(noise_multiplier=3.0, clip_norm=0.5)
    count = found[0].value_count
    gradient = private_gradient(options, lambda wanted: np.arange(float(wanted)))
    noisy = gradient(*at(found), 1.0, np.random.default_rng(0))
    quiet = clipped_mean_gradient(*found, 0.5)
    assert noisy - quiet == pytest.approx(np.arange(count) * 3.0 * 0.5 / 8)


def test_without_noise_nothing_is_drawn() -> None:
    found = batch("mlp:7")
    gradient = private_gradient(PrivacyOptions(clip_norm=0.5), mock.Mock(side_effect=AssertionError))
    assert np.array_equal(gradient(*at(found), 1.0, np.random.default_rng(0)), clipped_mean_gradient(*found, 0.5))


def test_noise_is_the_systems_whatever_the_batchs_generator() -> None:
    found = batch("softmax")
    gradient = private_gradient(PrivacyOptions(1.0, 1.0))
    first, second = (gradient(*at(found), 1.0, np.random.default_rng(0)) for _ in range(2))
    assert not np.array_equal(first, second)


def test_normals_are_made_of_the_operating_systems_bytes_only() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return np.random.default_rng(len(asked)).bytes(count)

    with mock.patch.object(os, "urandom", entropy):
        found = system_normals(200_001)
    assert asked == [8 * 100_001] * 2
    assert found.shape == (200_001,) and np.isfinite(found).all()
    # Moments of a standard normal, within five standard errors.
    error = 5 / math.sqrt(len(found))
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs((found**power).mean() - moment) < error * math.sqrt(spread), power
    assert abs((found[:100_000] * found[100_001:]).mean()) < error * 2, "sine and cosine halves are independent"


def test_extreme_bytes_give_finite_normals() -> None:
    for byte in (b"\x00", b"\xff"):
        with mock.patch.object(os, "urandom", lambda count, byte=byte: byte * count):
            assert (np.abs(system_normals(3)) <= 8.6).all()


# ----------------------------------------------------------------------------- table


def test_it_is_off_by_default() -> None:
    assert read_privacy({}) == PrivacyOptions()
    assert not PrivacyOptions().active
    assert PrivacyOptions(clip_norm=1.0).active
    options = read_privacy({"noise_multiplier": 2, "clip_norm": 1.5, "delta": 1e-6})
    assert (options.noise_multiplier, options.clip_norm, options.delta, options.active) == (2.0, 1.5, 1e-6, True)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"noise_multiplier": 1.0}, r"needs a clip_norm"),
        ({"noise_multiplyer": 1.0}, r"unknown key 'noise_multiplyer' in \[privacy\]; did you mean 'noise_multiplier'"),
        ({"clip_norm": math.inf}, "must be finite"),
        ({"clip_norm": -1.0}, "negative"),
        ({"clip_norm": "1"}, "wrong type; it is a number"),
        ({"delta": 0.0}, "delta in .privacy. is 0; it must lie between 0 and 1"),
        ({"delta": 1}, "must lie between 0 and 1"),
    ],
    ids=str,
)
def test_mistakes_in_the_table_are_told(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_privacy(table)


def test_negative_numbers_are_refused_however_they_come() -> None:
    with pytest.raises(ConfigurationError, match="must not be negative"):
        PrivacyOptions(noise_multiplier=-1.0, clip_norm=1.0)
