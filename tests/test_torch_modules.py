"""PyTorch modules as trainers. Skipped where torch is not installed: it is an extra, and larger than all the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.task_design import Wishes, design_task
from omnilytics.daemon.training.data import Dataset, load_digits, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.reference import train_plain
from omnilytics.daemon.training.trainers import allow, trainer_for
from omnilytics.peers.errors import ParameterError

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def torch_is_allowed() -> Iterator[None]:
    allow(("torch",))
    yield
    allow(())


def transposed(model: Model, flat: np.ndarray) -> np.ndarray:
    """A vector in the layout of models.py in that of torch, whose matrices are [outputs, inputs]."""
    return np.concatenate([part for matrix, biases in model.unflatten(flat) for part in (matrix.T.ravel(), biases)])


@pytest.mark.parametrize("hidden", [(5,), (7, 4)])
def test_its_gradients_are_numpys(hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    model = Model(Architecture(hidden), 6, 3)
    flat, features, labels = model.init(rng), rng.normal(size=(9, 6)), rng.integers(0, 3, 9)
    trainer = trainer_for(f"torch:{model.describe()}", 6, 3)
    assert trainer.value_count == model.value_count
    found = trainer.gradient(transposed(model, flat), features, labels)
    assert found == pytest.approx(transposed(model, model.gradient(flat, features, labels)), abs=1e-12)
    assert np.array_equal(trainer.predict(transposed(model, flat), features), model.predict(flat, features))
    assert trainer.tensors()[0] == ("0.weight", (hidden[0], 6))


def test_the_same_arguments_give_the_same_gradient_and_rows_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(1)
    trainer = trainer_for("torch:cnn:4,6", 64, 10)
    flat = trainer.init(np.random.default_rng(2))
    assert np.array_equal(flat, trainer.init(np.random.default_rng(2)))
    features, labels = rng.normal(size=(8, 64)), rng.integers(0, 10, 8)
    whole = trainer.gradient(flat, features, labels)
    assert np.array_equal(whole, trainer.gradient(flat, features, labels))
    single = [trainer.gradient(flat, features[row : row + 1], labels[row : row + 1]) for row in range(8)]
    assert whole == pytest.approx(np.mean(single, axis=0), abs=1e-12)


def test_a_convolutional_network_trains_in_the_market() -> None:
    rest, own = split_holdout(load_digits(), 0.2, np.random.default_rng(0))
    design = design_task(Wishes("torch:cnn:8,16", "envelope", 3, 16, None, None, None, 0), own)
    assert isinstance(design.side, EnvelopeModel)
    scaled = Dataset(design.scaling.apply(rest.features), rest.labels, rest.classes)
    owners = [scaled.take(np.arange(number, scaled.row_count, 6)) for number in range(6)]
    run = train_plain(
        design.spec.side,
        design.side,
        owners,
        design.test,
        [[[0, 1, 2], [3, 4, 5]]] * 40,
        lambda number, owner: bytes([number, owner]),
        lambda number, owner: np.random.default_rng([number, owner]).choice(owners[owner].row_count, 64, replace=False),
        design.spec.clip,
    )
    assert run.accuracies[-1] > 0.9, run.accuracies
    # What was trained loads into a module of the same kind, by its names.
    from omnilytics.daemon.training.torch_modules import ConvolutionalNetwork

    state, start = {}, 0
    for name, shape in design.side.model.tensors():
        size = int(np.prod(shape))
        state[name] = torch.from_numpy(run.learned.weights[start : start + size].copy().reshape(shape))
        start += size
    module = ConvolutionalNetwork(8, (8, 16), 10).double()
    module.load_state_dict(state)
    with torch.no_grad():
        told = module(torch.from_numpy(design.test.features.copy())).argmax(dim=1).numpy()
    assert np.array_equal(told, design.side.model.predict(run.learned.weights, design.test.features))


@pytest.mark.parametrize(
    ("architecture", "features", "words"),
    [
        ("torch", 64, "unknown model 'torch'; use torch:cnn:WIDTH"),
        ("torch:rnn:3", 64, "unknown model 'torch:rnn:3'"),
        ("torch:cnn", 64, "unknown model 'torch:cnn'"),
        ("torch:cnn:0", 64, "layer width 0"),
        ("torch:cnn:8", 63, "63 columns are none"),
        ("torch:cnn:8,8,8,8", 64, "halves pictures of 8 x 8 more often"),
        ("torch:cnn:2000", 64, "a convolution of 2000 channels; at most 1024"),
        ("torch:mlp:65536,65536", 64, "the module has 4299948042 values"),
    ],
)
def test_what_cannot_be_trained_is_said_in_words(architecture: str, features: int, words: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)):
        trainer_for(architecture, features, 10)


def test_modules_of_ones_own() -> None:
    from torch import nn

    from omnilytics.daemon.training.torch_modules import ModuleTrainer

    def normalised() -> Any:
        return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Dropout(0.5), nn.Linear(6, 3))

    trainer = ModuleTrainer(normalised)
    flat = trainer.init(np.random.default_rng(0))
    places = dict(trainer.tensors())
    assert places["1.weight"] == (6,)
    assert flat[30:36].tolist() == [1.0] * 6 and flat[24:30].tolist() == [0.0] * 6, "scales are ones, biases zeros"
    rows, labels = np.random.default_rng(1).normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
    found = trainer.gradient(flat, rows, labels)
    assert np.array_equal(found, trainer.gradient(flat, rows, labels)), "no dropout"
    with pytest.raises(ParameterError, match="buffers, which no gradient trains"):
        ModuleTrainer(lambda: nn.BatchNorm1d(4))
    with pytest.raises(ParameterError, match="the module has 0 values"):
        ModuleTrainer(nn.ReLU)
