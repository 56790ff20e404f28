"""The adversaries' gradients, and that Multi-Krum drops loud groups on digits."""

from __future__ import annotations

import numpy as np
import pytest

from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.training.clip import suggest_clip
from omnilytics.daemon.training.data import Dataset, dirichlet_split, load_digits, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import default_optimiser
from omnilytics.daemon.training.payload import as_published
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.errors import ParameterError
from omnilytics.peers.krum import select, squared_distances
from omnilytics.peers.quantise import RingLayout, dequantise, quantise, to_ring
from tests.adversaries.poisons import POISONS, hostile_groups, parse_poison
from tests.envelope_sides import payload_of

OWNERS, GROUP_SIZE, GROUPS, MAX_MAGNITUDE = 18, 3, 6, 5461


def apply(kind: str) -> tuple[np.ndarray, np.ndarray, Model, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    model = Model(Architecture(), 4, 3)
    rows, labels = rng.normal(size=(6, 4)), rng.integers(0, 3, 6)
    weights = as_published(rng.normal(size=model.value_count))
    honest = model.gradient(weights, rows, labels)
    poisoned = POISONS[kind](EnvelopeOwner(model), payload_of(model, weights), rows, labels, 2.0, rng)
    return poisoned, honest, model, rows, labels


def test_what_each_poison_does() -> None:
    for kind, factor in (("scale", 10.0), ("sign-flip", -1.0), ("sign-flip-3", -3.0)):
        poisoned, honest, *_ = apply(kind)
        assert poisoned == pytest.approx(factor * honest)
    poisoned, honest, *_ = apply("noise")
    assert poisoned.shape == honest.shape
    assert 1.0 < np.abs(poisoned).max() <= 2.0
    poisoned, honest, model, rows, labels = apply("label-flip")
    assert not np.allclose(poisoned, honest)
    weights = as_published(np.random.default_rng(0).normal(size=model.value_count))
    published = payload_of(model, weights)
    flipped = POISONS["label-flip"](EnvelopeOwner(model), published, rows, labels, 2.0, np.random.default_rng(0))
    assert np.array_equal(flipped, model.gradient(weights, rows, 2 - labels))


def test_orders() -> None:
    order = parse_poison("noise:2")
    assert (order.kind, order.count, order.function) == ("noise", 2, POISONS["noise"])


@pytest.mark.parametrize("text", ["", "noise", "noise:", "noise:0", "noise:-1", "noise:x", "lies:1", "noise:99999"])
def test_bad_orders_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"unknown poison|needs a count"):
        parse_poison(text)


def times_selected(kind: str, spec: str, seed: int, rounds: int = 20) -> tuple[int, float]:
    """In how many rounds a wholly poisoned group is selected on digits, and the last accuracy."""
    rng = np.random.default_rng(seed)
    rest, held = split_holdout(load_digits(), 0.2, rng)
    scaling = FeatureScaling.fit(held.features)
    sample = Dataset(scaling.apply(held.features), held.labels, held.classes)
    owners = [rest.take(part) for part in dirichlet_split(rest.labels, OWNERS, 10.0, rng)]
    architecture = Architecture.parse(spec)
    model = Model(architecture, 64, 10)
    weights = model.init(rng)
    clip = suggest_clip(EnvelopeOwner(model), payload_of(model, weights), sample, 64, rng)
    optimiser = default_optimiser(architecture)
    state = optimiser.initial_state(model.value_count)
    layout = RingLayout(model.value_count, 16)
    times = 0
    for _ in range(rounds):
        published = as_published(weights)
        sums = np.zeros((GROUPS, model.value_count), dtype=np.int64)
        for number, owner in enumerate(owners):
            rows = rng.choice(owner.row_count, min(64, owner.row_count), replace=False)
            features, labels = scaling.apply(owner.features[rows]), owner.labels[rows]
            if number < GROUP_SIZE:
                gradient = POISONS[kind](
                    EnvelopeOwner(model), payload_of(model, published), features, labels, clip, rng
                )
            else:
                gradient = model.gradient(published, features, labels)
            sums[number // GROUP_SIZE] += quantise(gradient, clip, MAX_MAGNITUDE, rng.random(model.value_count))
        distances = squared_distances([to_ring(total, layout) for total in sums], layout)
        chosen = select(distances, faulty=1, strict=False)
        times += 0 in chosen
        mean = dequantise(sums[chosen].sum(axis=0), clip, MAX_MAGNITUDE) / len(chosen) / GROUP_SIZE
        state, weights = optimiser.step(state, weights, mean)
    return times, model.accuracy(as_published(weights), sample.features, sample.labels)


@pytest.mark.parametrize("spec", ["softmax", "mlp:64,32"])
@pytest.mark.parametrize("kind", ["noise", "scale", "sign-flip-3"])
def test_a_loud_group_is_never_selected(kind: str, spec: str) -> None:
    for seed in range(3):
        times, accuracy = times_selected(kind, spec, seed)
        assert times == 0
        assert accuracy > 0.905


def test_hostile_groups_are_the_first_that_hold_nobody_spared() -> None:
    groups = {b"a": 0, b"b": 0, b"c": 1, b"d": 2}
    assert hostile_groups(groups, 1) == {0}
    assert hostile_groups(groups, 1, [b"b"]) == {1}
    assert hostile_groups(groups, 2, [b"c"]) == {0, 2}
    assert hostile_groups(groups, 3, [b"a"]) == {0, 1, 2}, "as many as asked for, spared or not"
    assert hostile_groups(groups, 1, [b"not drawn"]) == {0}
    assert hostile_groups(groups, -1, [b"a"]) == {0, 1, 2}
