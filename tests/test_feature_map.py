"""feature_map.py: maps that are the same everywhere, bounded, and refuse what they cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnilytics.daemon.protection.feature_map import (
    BIAS_LIMIT,
    BIAS_SPREAD,
    MAX_TRUNK_WEIGHT,
    MAX_WIDTH,
    MapShape,
    RandomFeatures,
    Trunk,
    _random_layer,
    decode_map,
)
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.peers.errors import ParameterError

SEED = bytes(range(32))


def rows(count: int = 40, columns: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, columns))


def trunk(hidden: tuple[int, ...] = (5, 4), inputs: int = 6, seed: int = 1) -> Trunk:
    model = Model(Architecture(hidden), inputs, 3)
    sample = Dataset(rows(60, inputs, seed), np.arange(60) % 3, ("a", "b", "c"))
    return Trunk.fit(model, model.init(np.random.default_rng(seed)), sample)


def test_the_seed_alone_makes_the_map() -> None:
    features = rows()
    one, same = RandomFeatures(6, 9, SEED).apply(features), RandomFeatures(6, 9, bytes(bytearray(SEED))).apply(features)
    assert np.array_equal(one, same)
    assert not np.allclose(one, RandomFeatures(6, 9, SEED[::-1]).apply(features))


def test_the_map_of_a_seed_never_changes() -> None:
    """Written down once: another version that gave another map could not play in a task that runs."""
    mapped = RandomFeatures(2, 3, SEED).apply(np.array([[1.0, -1.0], [0.5, 2.0]]))
    assert mapped == pytest.approx(
        np.array([[0.0, 0.13039785729428724, 0.4580042114979044, 1.0], [0.0, 0.0, 0.0, 1.0]]), abs=1e-12
    )


@pytest.mark.parametrize("map_", [RandomFeatures(6, 9, SEED), trunk()], ids=["random", "trunk"])
def test_values_are_in_zero_to_one_with_a_constant(map_: RandomFeatures | Trunk) -> None:
    mapped = map_.apply(100 * rows())
    assert mapped.shape == (40, map_.shape.width + 1)
    assert mapped.min() == 0.0
    assert mapped.max() == 1.0
    assert (mapped[:, -1] == 1.0).all()
    # And it is not all cut or silent where rows are scaled.
    usual = map_.apply(rows())[:, :-1]
    assert 0.02 < usual.mean() < 0.5
    assert (usual == 1.0).mean() < 0.05


def test_random_columns_are_orthonormal_and_biases_bounded() -> None:
    matrix, biases = _random_layer(40, 500, SEED)
    for start in range(0, 500, 40):
        block = matrix[:, start : start + 40]
        assert block.T @ block == pytest.approx(np.eye(block.shape[1]), abs=1e-12)
    assert np.abs(biases).max() == BIAS_SPREAD * BIAS_LIMIT
    # Normal values cut at 2 of 1: their mean and variance.
    assert biases.mean() == pytest.approx(0.0, abs=0.06)
    assert biases.std() == pytest.approx(0.96 * BIAS_SPREAD, rel=0.06)
    # The columns point anywhere: signs even, no two blocks alike.
    assert (matrix > 0.0).mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(matrix[:, :40].T @ matrix[:, 40:80]).max() < 0.8


def test_a_trunk_is_the_networks_hidden_part_up_to_scale() -> None:
    model = Model(Architecture((5, 4)), 6, 3)
    weights = model.init(np.random.default_rng(3))
    sample = Dataset(rows(60), np.arange(60) % 3, ("a", "b", "c"))
    mapped = Trunk.fit(model, weights, sample).apply(sample.features)[:, :-1]
    hidden = model.activations(weights, sample.features)[-2]
    largest = hidden.max(axis=0)
    assert mapped == pytest.approx(hidden / np.where(largest > 0, largest, 1.0), abs=1e-6)
    assert set(np.round(mapped.max(axis=0), 6)) <= {0.0, 1.0}


@pytest.mark.parametrize("map_", [RandomFeatures(6, 9, SEED), trunk(), trunk((7,))], ids=["random", "trunk", "shallow"])
def test_round_trip(map_: RandomFeatures | Trunk) -> None:
    data = map_.encode()
    assert len(data) == map_.shape.byte_count(6)
    read = decode_map(map_.shape, 6, data)
    assert np.array_equal(read.apply(rows()), map_.apply(rows()))
    assert read.encode() == data
    with pytest.raises(ParameterError, match="bytes"):
        decode_map(map_.shape, 6, data + b"\0")


@pytest.mark.parametrize("text", ["random:256", "trunk:64,32", "random:2", "trunk:9"])
def test_shapes_read_back(text: str) -> None:
    assert MapShape.parse(text).describe() == text


@pytest.mark.parametrize(
    "text",
    ["", "random", "random:", "random:1,2", "random:1", "random:0", f"random:{MAX_WIDTH + 1}", "trunk:", "trunk:4,1",
     "trunk:0,4", "mlp:4", "random:+8", "trunk:1,2,3,4,5,6,7,8,9", "random:08"],
)  # fmt: skip
def test_bad_shapes_are_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        MapShape.parse(text)


def test_bad_maps_are_refused() -> None:
    with pytest.raises(ParameterError, match="31 bytes"):
        RandomFeatures(6, 9, SEED[:31])
    with pytest.raises(ParameterError, match="at least 1 feature"):
        RandomFeatures(0, 9, SEED)
    with pytest.raises(ParameterError, match="at most"):
        RandomFeatures(1 << 20, 1024, SEED)
    with pytest.raises(ParameterError, match="shape"):
        RandomFeatures(6, 9, SEED).apply(rows(4, 5))
    good = trunk()
    with pytest.raises(ParameterError, match="cannot have the shape"):
        Trunk(6, MapShape("random", (4,)), good.weights)
    with pytest.raises(ParameterError, match="weights"):
        Trunk(6, good.shape, good.weights[1:])
    for bad in (math.nan, math.inf, 2 * MAX_TRUNK_WEIGHT, -2 * MAX_TRUNK_WEIGHT):
        weights = good.weights.copy()
        weights[7] = bad
        with pytest.raises(ParameterError, match="weight 7"):
            Trunk(6, good.shape, weights)
    with pytest.raises(ParameterError, match="float32"):
        Trunk(6, good.shape, good.weights + 1e-12)
    with pytest.raises(ParameterError, match="no trunk"):
        Trunk.fit(Model(Architecture(), 6, 3), np.zeros(21), Dataset(rows(3), np.arange(3), ("a", "b", "c")))


def test_the_loudest_trunk_stays_finite() -> None:
    hidden = (300,) * 8
    shape = MapShape("trunk", hidden)
    count = Model(Architecture(hidden[:-1]), 6, 300).value_count
    loud = Trunk(6, shape, np.full(count, MAX_TRUNK_WEIGHT) * np.where(np.arange(count) % 2, 1.0, -1.0))
    assert np.isfinite(loud.apply(4 * rows())).all()
