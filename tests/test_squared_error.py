"""squared_error.py: the gradient is the derivative of the loss."""

from __future__ import annotations

import numpy as np
import pytest

from omnilytics.daemon.training import squared_error
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.peers.errors import ParameterError


@pytest.mark.parametrize("hidden", [(), (5,), (6, 4), (7, 5, 3)])
def test_gradient_is_the_derivative_of_the_loss(hidden: tuple[int, ...]) -> None:
    model = Model(Architecture(hidden), 4, 3)
    rng = np.random.default_rng(len(hidden))
    flat = rng.normal(0.0, 0.6, model.value_count)
    features, labels = rng.normal(size=(11, 4)), rng.integers(0, 3, 11)
    gradient = squared_error.gradient(model, flat, features, labels)
    step = 1e-6
    numeric = np.empty_like(flat)
    for index in range(len(flat)):
        bump = np.zeros_like(flat)
        bump[index] = step
        above = squared_error.loss(model, flat + bump, features, labels)
        numeric[index] = (above - squared_error.loss(model, flat - bump, features, labels)) / (2 * step)
    assert gradient == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_first_weights_start_near_zero_scores() -> None:
    model = Model(Architecture((20,)), 10, 3)
    flat = squared_error.first_weights(model, np.random.default_rng(1))
    usual = model.init(np.random.default_rng(1))
    features = np.random.default_rng(2).normal(size=(30, 10))
    assert model.logits(flat, features) == pytest.approx(0.1 * model.logits(usual, features))


def test_bad_rows_are_refused() -> None:
    model = Model(Architecture((3,)), 4, 3)
    flat, features, labels = np.zeros(model.value_count), np.zeros((5, 4)), np.zeros(5, dtype=np.int64)
    for bad_features, bad_labels in (
        (features[:, :3], labels),
        (features, labels[:4]),
        (features, labels + 3),
        (features, labels - 1),
        (features[:0], labels[:0]),
    ):
        with pytest.raises(ParameterError):
            squared_error.gradient(model, flat, bad_features, bad_labels)
