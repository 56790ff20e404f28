"""models.py and optimisers.py: gradients against finite differences, specs, layout, steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import (
    Momentum,
    OptimiserState,
    Sgd,
    default_optimiser,
    parse_optimiser,
)
from omnilytics.peers.errors import ParameterError

architectures = st.lists(st.integers(1, 6), max_size=3).map(lambda widths: Architecture(tuple(widths)))


@pytest.mark.parametrize("text", ["softmax", "mlp:1", "mlp:64,32", "mlp:8,8,8"])
def test_architecture_text_is_read_back(text: str) -> None:
    assert Architecture.parse(text).describe() == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown model ''"),
        ("cnn", "unknown model 'cnn'"),
        ("softmax:3", "unknown model"),
        ("mlp", "needs the widths"),
        ("mlp:", "needs the widths"),
        ("mlp:64,", "needs the widths"),
        ("mlp:-3", "needs the widths"),
        ("mlp:64, 32", "needs the widths"),
        ("mlp:²", "needs the widths"),
        ("mlp:0", "layer width 0 is not in"),
        ("mlp:064", "needs the widths"),
        ("mlp:70000", "layer width 70000 is not in"),
        ("mlp:" + "9" * 5000, "needs the widths"),
        ("mlp:999999999", "is not in"),
        ("mlp:" + ",".join(["2"] * 9), "9 hidden layers; at most 8"),
    ],
)
def test_bad_architecture_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        Architecture.parse(text)


def test_value_counts() -> None:
    assert Architecture().value_count(64, 10) == 650
    assert Architecture((64, 32)).value_count(64, 10) == 64 * 65 + 32 * 65 + 10 * 33 == 6570


@pytest.mark.parametrize(("features", "classes"), [(0, 2), (3, 1)])
def test_impossible_model_is_refused(features: int, classes: int) -> None:
    with pytest.raises(ParameterError, match="needs at least"):
        Model(Architecture(), features, classes)


def test_layout_is_matrix_rows_then_biases_layer_by_layer() -> None:
    model = Model(Architecture((2,)), 3, 2)
    flat = np.arange(14.0)
    (first, first_biases), (last, last_biases) = model.unflatten(flat)
    assert first.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert first_biases.tolist() == [6, 7]
    assert last.tolist() == [[8, 9], [10, 11]]
    assert last_biases.tolist() == [12, 13]
    with pytest.raises(ParameterError, match=r"weights have 13 values, .* needs 14"):
        model.unflatten(flat[:13])


@settings(max_examples=60, deadline=None)
@given(architectures, st.integers(1, 5), st.integers(2, 4), st.integers(1, 7), st.integers(0, 2**32))
def test_gradient_is_the_slope_of_the_loss(
    architecture: Architecture, features: int, classes: int, rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    model = Model(architecture, features, classes)
    flat = rng.normal(0.0, 1.0, model.value_count)
    table = rng.normal(0.0, 1.0, (rows, features))
    labels = rng.integers(0, classes, rows)
    gradient = model.gradient(flat, table, labels)
    assert gradient.shape == (model.value_count,)
    assert gradient.dtype == np.float64
    step = 1e-6
    slopes = np.array(
        [
            (model.loss(flat + shift, table, labels) - model.loss(flat - shift, table, labels)) / (2 * step)
            for shift in step * np.eye(model.value_count)
        ]
    )
    # A ReLU within a step of its kink has no slope there: at most a value or two of random ones.
    assert np.mean(np.abs(gradient - slopes) > 1e-6) < 0.1


def test_gradient_and_loss_stay_finite_for_huge_logits() -> None:
    model = Model(Architecture(), 2, 3)
    flat = np.full(model.value_count, 1e150)
    table, labels = np.array([[1e150, -1e149]]), np.array([1])
    assert np.isfinite(model.gradient(flat, table, labels)).all()
    assert np.isfinite(model.loss(flat, table, labels))


def test_first_loss_of_softmax_is_that_of_guessing() -> None:
    model = Model(Architecture(), 4, 10)
    flat = model.init(np.random.default_rng(1))
    assert not flat.any()
    assert model.loss(flat, np.ones((3, 4)), np.array([0, 5, 9])) == pytest.approx(np.log(10))


def test_network_init_is_he_and_a_function_of_the_generator() -> None:
    model = Model(Architecture((400,)), 200, 10)
    flat = model.init(np.random.default_rng(1))
    assert np.array_equal(flat, model.init(np.random.default_rng(1)))
    (first, first_biases), (last, last_biases) = model.unflatten(flat)
    assert first.std() == pytest.approx(np.sqrt(2 / 200), rel=0.05)
    assert last.std() == pytest.approx(np.sqrt(1 / 400), rel=0.05)
    assert not first_biases.any()
    assert not last_biases.any()


@pytest.mark.parametrize(
    ("table", "labels", "words"),
    [
        (np.zeros((2, 3)), np.array([0, 1]), "features have shape"),
        (np.zeros((2, 4)), np.array([0]), "2 rows of features but labels"),
        (np.zeros((0, 4)), np.array([], dtype=np.int64), "0 rows"),
        (np.zeros((1, 4)), np.array([2]), r"outside 0\.\.1"),
        (np.zeros((1, 4)), np.array([-1]), r"outside 0\.\.1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(table: np.ndarray, labels: np.ndarray, words: str) -> None:
    model = Model(Architecture(), 4, 2)
    with pytest.raises(ParameterError, match=words):
        model.gradient(np.zeros(10), table, labels)


def test_predict_and_accuracy() -> None:
    model = Model(Architecture(), 1, 2)
    flat = np.array([-1.0, 1.0, 0.0, 0.0])
    table = np.array([[-2.0], [3.0], [0.0]])
    assert model.predict(flat, table).tolist() == [0, 1, 0]
    assert model.accuracy(flat, table, np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_steps() -> None:
    flat, gradient = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    optimiser = Momentum(0.1, 0.5)
    state = optimiser.initial_state(2)
    state, once = optimiser.step(state, flat, gradient)
    assert once.tolist() == pytest.approx([0.95, 2.1])
    state, twice = optimiser.step(state, once, gradient)
    assert twice.tolist() == pytest.approx([0.95 - 0.075, 2.1 + 0.15])
    assert flat.tolist() == [1.0, 2.0]
    _, plain = Sgd(0.1).step(Sgd(0.1).initial_state(2), flat, gradient)
    assert plain.tolist() == pytest.approx([0.95, 2.1])


def test_state_survives_the_journal() -> None:
    state = OptimiserState(np.random.default_rng(0).normal(size=5))
    assert np.array_equal(OptimiserState.from_bytes(state.to_bytes()).velocity, state.velocity)


def test_a_gradient_of_another_length_is_refused() -> None:
    with pytest.raises(ParameterError, match="gradient has 3 values, the model 2"):
        Sgd(1.0).step(Sgd(1.0).initial_state(2), np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("optimiser", [Momentum(0.5), Momentum(0.25, 0.8), Sgd(0.125)])
def test_optimiser_text_is_read_back(optimiser: Momentum | Sgd) -> None:
    assert parse_optimiser(optimiser.describe()) == optimiser


@pytest.mark.parametrize(
    "text", ["", "adam:1", "sgd", "sgd:1,2", "sgd:x", "momentum:0", "momentum:nan", "momentum:1,1", "sgd:inf"]
)
def test_bad_optimiser_is_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_optimiser(text)


def test_defaults() -> None:
    assert default_optimiser(Architecture()).describe() == "momentum:0.5,0.9"
    assert default_optimiser(Architecture((64, 32))).describe() == "momentum:0.3,0.9"
