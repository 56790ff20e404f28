"""reference.py and clip.py: whole training runs in one process, on all the data that users bring."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.protection.sides import OwnerSide, Published
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.batch import DEFAULT_BATCH_SIZE, choose_batch
from omnilytics.daemon.training.clip import suggest_clip
from omnilytics.daemon.training.data import Dataset, dirichlet_split, load_digits, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import Sgd, default_optimiser
from omnilytics.daemon.training.payload import ModelPayload, as_published
from omnilytics.daemon.training.reference import PlainRun, train_plain
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.daemon.training.update import compute_update
from omnilytics.peers.errors import ParameterError, VectorError
from omnilytics.peers.market import TaskParams
from omnilytics.peers.quantise import dequantise
from tests.envelope_sides import model_of, payload_of, sides


def entropy(number: int, owner: int) -> bytes:
    return bytes([number, owner])


def batches(owners: list[Dataset], size: int) -> Callable[[int, int], np.ndarray]:
    return lambda number, owner: choose_batch(owners[owner].row_count, size, entropy(number, owner))


def sklearn_table(name: str) -> Dataset:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    classes = tuple(str(label) for label in range(len(bunch.target_names)))
    return Dataset(bunch.data.astype(np.float64), bunch.target.astype(np.int64), classes)


def market(dataset: Dataset, spec: str, owners: int, rounds: int = 20, seed: int = 1) -> tuple[PlainRun, float]:
    """A run over all owners, in groups of three, and the clip that the model owner would choose."""
    rng = np.random.default_rng(seed)
    rest, held = split_holdout(dataset, 0.2, rng)
    scaling = FeatureScaling.fit(held.features)

    def scaled(rows: Dataset) -> Dataset:
        return Dataset(scaling.apply(rows.features), rows.labels, rows.classes)

    parts = [scaled(rest.take(part)) for part in dirichlet_split(rest.labels, owners, 10.0, rng)]
    architecture = Architecture.parse(spec)
    model = Model(architecture, dataset.column_count, len(dataset.classes))
    weights = model.init(rng)
    owner_side, model_side = sides(model, weights, default_optimiser(architecture))
    clip = suggest_clip(owner_side, payload_of(model, weights), scaled(held), DEFAULT_BATCH_SIZE, rng)
    groups = [list(range(start, start + 3)) for start in range(0, owners, 3)]
    run = train_plain(
        owner_side,
        model_side,
        parts,
        scaled(held),
        [groups] * rounds,
        entropy,
        batches(parts, DEFAULT_BATCH_SIZE),
        clip,
    )
    return run, clip


def pixels() -> Dataset:
    digits = load_digits()
    return Dataset(np.floor(digits.features * 15.9375), digits.labels, digits.classes)


@pytest.mark.parametrize("spec", ["softmax", "mlp:64,32"])
@pytest.mark.parametrize(
    ("name", "owners", "least"),
    [("digits", 18, 0.92), ("pixels", 18, 0.92), ("breast_cancer", 18, 0.93), ("wine", 15, 0.91)],
)
def test_all_data_trains_in_twenty_rounds(name: str, owners: int, least: float, spec: str) -> None:
    dataset = pixels() if name == "pixels" else load_digits() if name == "digits" else sklearn_table(name)
    run, _ = market(dataset, spec, owners)
    assert len(run.accuracies) == 20
    assert run.accuracies[-1] > least


def test_a_run_can_be_repeated() -> None:
    first, clip = market(load_digits(), "mlp:8", 6, rounds=3)
    second, same_clip = market(load_digits(), "mlp:8", 6, rounds=3)
    assert first.accuracies == second.accuracies
    assert np.array_equal(first.learned.weights, second.learned.weights)
    assert clip == same_clip


def tiny() -> tuple[Model, list[Dataset]]:
    rng = np.random.default_rng(0)
    model = Model(Architecture(), 2, 2)
    rows = [Dataset(rng.normal(size=(9, 2)), rng.integers(0, 2, 9), ("0", "1")) for _ in range(4)]
    return model, rows


def test_the_step_is_the_mean_of_the_selected_groups_at_the_published_weights() -> None:
    model, rows = tiny()
    start = np.random.default_rng(1).normal(size=model.value_count)
    run = train_plain(*sides(model, start), rows, rows[0], [[[0, 1], [3]]], entropy, batches(rows, 100), 1.0)
    at = [model.gradient(as_published(start), data.features, data.labels) for data in rows]
    expected = start - 0.5 * ((at[0] + at[1]) / 2 + at[3]) / 2
    assert run.learned.weights == pytest.approx(expected, abs=1e-15)


def test_an_owners_update_is_the_reference_gradient_quantised() -> None:
    """The daemon and the reference draw the same batch from the same entropy and compute the same."""
    rng = np.random.default_rng(4)
    raw = Dataset(rng.normal(3.0, 2.0, (40, 2)), rng.integers(0, 2, 40), ("0", "1"))
    scaling = FeatureScaling.fit(raw.features)
    scaled = Dataset(scaling.apply(raw.features), raw.labels, raw.classes)
    spec = TaskSpec("mlp:5", 2, ("0", "1"), 8.0, 16)
    model = model_of(spec.side)
    weights = model.init(rng)
    run = train_plain(*sides(model, weights, Sgd(1.0)), [scaled], scaled, [[[0]]], entropy, batches([scaled], 16), 8.0)
    params = cast(TaskParams, SimpleNamespace(value_count=model.value_count, max_magnitude=2**29, lane_bits=32))
    payload = ModelPayload.of(model, weights, scaling, 1)
    noise = rng.bytes(32)
    batch = raw.take(choose_batch(40, 16, entropy(0, 0)))
    update = compute_update(spec.side, payload, 8.0, params, batch, entropy(0, 0), noise)
    assert dequantise(update.quantised, 8.0, 2**29) == pytest.approx(weights - run.learned.weights, abs=3e-8)
    assert update.clipped == 0.0


def test_a_round_without_selection_does_not_step() -> None:
    model, rows = tiny()
    start = np.zeros(model.value_count)
    run = train_plain(*sides(model, start), rows, rows[0], [[[0]], [], [[1]]], entropy, batches(rows, 4), 1.0)
    assert len(run.accuracies) == 3
    assert run.accuracies[0] == run.accuracies[1]


def test_poisons_apply_to_their_owner_only() -> None:
    model, rows = tiny()
    start = np.zeros(model.value_count)
    seen: list[tuple[int, float]] = []

    def poison(
        side: OwnerSide,
        published: Published,
        features: np.ndarray,
        labels: np.ndarray,
        clip: float,
        generator: np.random.Generator,
    ) -> np.ndarray:
        seen.append((len(labels), clip))
        return np.zeros(model.value_count)

    train_plain(*sides(model, start), rows, rows[0], [[[0, 1]], [[2, 3]]], entropy, batches(rows, 4), 2.5, {1: poison})
    assert seen == [(4, 2.5)]


def test_divergence_is_told() -> None:
    model, rows = tiny()
    with pytest.raises(VectorError, match="diverges in its round 1"):
        train_plain(
            *sides(model, np.zeros(model.value_count), Sgd(1e300)),
            rows,
            rows[0],
            [[[0]]] * 3,
            entropy,
            batches(rows, 4),
            1.0,
        )


@pytest.mark.parametrize("spec", ["softmax", "mlp:64,32"])
def test_the_clip_lies_above_what_the_most_skewed_owners_send(spec: str) -> None:
    """Every owner holds one class, the worst there is."""
    rng = np.random.default_rng(2)
    rest, held = split_holdout(load_digits(), 0.2, rng)
    scaling = FeatureScaling.fit(held.features)
    model = Model(Architecture.parse(spec), 64, 10)
    weights = model.init(rng)
    sample = Dataset(scaling.apply(held.features), held.labels, held.classes)
    clip = suggest_clip(EnvelopeOwner(model), payload_of(model, weights), sample, 64, rng)
    assert 1.0 < clip < 15.0
    assert float(f"{clip:.2g}") == clip
    narrow = suggest_clip(
        EnvelopeOwner(model), payload_of(model, weights), sample, 64, np.random.default_rng(2), lane_bits=8
    )
    assert narrow < clip / 5
    for label in range(10):
        own = rest.take(np.flatnonzero(rest.labels == label).astype(np.int64))
        gradient = model.gradient(weights, scaling.apply(own.features), own.labels)
        assert np.abs(gradient).max() < clip


class Endless(EnvelopeOwner):
    def statistic(self, published: Published, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.full(self.value_count, np.nan)


def test_a_sample_that_says_nothing_gives_no_clip() -> None:
    model = Model(Architecture((2,)), 2, 2)
    blank = Dataset(np.zeros((4, 2)), np.array([0, 1, 0, 1]), ("0", "1"))
    flat = np.zeros(model.value_count)
    one_sided = Dataset(np.zeros((2, 2)), np.array([0, 0]), ("0", "1"))
    sure = np.array([0.0] * 10 + [1e6, -1e6])
    with pytest.raises(ParameterError, match="of zero on the sample"):
        suggest_clip(EnvelopeOwner(model), payload_of(model, sure), one_sided, 4, np.random.default_rng(0))
    with pytest.raises(ParameterError, match="not finite"):
        suggest_clip(Endless(model), payload_of(model, flat), blank, 4, np.random.default_rng(0))
    with pytest.raises(ParameterError, match="batch size"):
        suggest_clip(EnvelopeOwner(model), payload_of(model, flat), blank, 0, np.random.default_rng(0))
