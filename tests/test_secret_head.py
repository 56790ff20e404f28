"""secret_head.py and group_choice.py: one encoding, a head that learns and stays secret, poison that is left out."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.protection import group_choice
from omnilytics.daemon.protection.feature_map import (
    RANDOM_CUT,
    FeatureMap,
    MapShape,
    RandomFeatures,
    Trunk,
    _random_layer,
)
from omnilytics.daemon.protection.group_choice import hold_out_choice, inconsistency
from omnilytics.daemon.protection.ridge import Moments
from omnilytics.daemon.protection.secret_head import (
    PublishedMap,
    SecretHeadModel,
    SecretHeadOwner,
    decode_map_payload,
    encode_map_payload,
    least_class_rows,
    least_group_rows,
)
from omnilytics.daemon.protection.sides import Learned, ModelSide, OwnerSide
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.errors import ModelMismatchError, ParameterError, VectorError
from omnilytics.peers.quantise import dequantise, quantise
from scripts.secret_head_figures_main import Poison, accuracy, attacker_accuracy, label_flip_hard, members_told, noise

CLASSES = ("a", "b", "c")
COLUMNS = 4
ROUND = 5
MAP = RandomFeatures(COLUMNS, 12, bytes(32))
SCALING = FeatureScaling(np.array([0.5, 0.0, -1.0, 2.0]), np.array([1.0, 2.0, 0.25, 4.0]))
ENTROPY = bytes(range(32))


def data(rows: int, seed: int) -> Dataset:
    """Three clouds around three corners."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), rng.integers(0, 3, rows - 3)])
    return Dataset(rng.normal(size=(rows, COLUMNS)) + 2.0 * np.eye(3, COLUMNS)[labels], labels, CLASSES)


def model(feature_map: FeatureMap = MAP, validation: Dataset | None = None, selection: str = "") -> SecretHeadModel:
    return SecretHeadModel(feature_map, 3, SCALING, validation, selection=selection)


def owner(feature_map: FeatureMap = MAP, least: int = 1) -> SecretHeadOwner:
    return SecretHeadOwner(feature_map.shape, COLUMNS, 3, least)


def small_trunk() -> Trunk:
    network = Model(Architecture((6, 5)), COLUMNS, 3)
    return Trunk.fit(network, network.init(np.random.default_rng(1)), data(40, 9))


MAPS = pytest.mark.parametrize("feature_map", [MAP, small_trunk()], ids=["random", "trunk"])


def test_both_sides_are_what_the_interface_says() -> None:
    owner_side: OwnerSide = owner()
    model_side: ModelSide = model()
    assert owner_side.class_count == 3
    assert owner_side.value_count == 13 * 14 // 2 + 13 * 3
    assert model_side.begin().weights.shape == (13 * 3,)
    assert SecretHeadOwner.fresh_rows
    assert "used once" in SecretHeadOwner.promise
    assert SecretHeadOwner(MapShape.parse("random:128"), 64, 10).value_count == 9_675
    assert SecretHeadOwner(MapShape.parse("random:512"), 64, 10).value_count == 136_971


@MAPS
def test_a_payload_round_trips(feature_map: FeatureMap) -> None:
    plaintext = model(feature_map).publish(model(feature_map).begin(), ROUND, ENTROPY)
    published = owner(feature_map).read(plaintext, ROUND)
    rows = data(10, 1).features
    assert np.array_equal(published.feature_map.apply(rows), feature_map.apply(rows))
    assert np.array_equal(published.scaling.mean, SCALING.mean)
    assert np.array_equal(published.scaling.scale, SCALING.scale)
    assert encode_map_payload(published, ROUND) == plaintext


def test_nothing_that_was_learned_is_published() -> None:
    side = model()
    learned = side.begin()
    batch = data(60, 2)
    values = owner().statistic(PublishedMap(MAP, SCALING), batch.features, batch.labels)
    later = side.learn(learned, ENTROPY, values)
    assert later.weights.any()
    assert side.publish(learned, ROUND, ENTROPY) == side.publish(later, ROUND, bytes(32))
    assert "weights" not in repr(later)


def test_the_digest_is_of_map_and_scaling_and_not_of_the_round() -> None:
    digests = {owner().read(model().publish(model().begin(), number, ENTROPY), number).digest for number in range(3)}
    assert len(digests) == 1
    others = [
        PublishedMap(RandomFeatures(COLUMNS, 12, bytes(31) + b"\1"), SCALING),
        PublishedMap(MAP, FeatureScaling(SCALING.mean + 1.0, SCALING.scale)),
        PublishedMap(MAP, FeatureScaling(SCALING.mean, SCALING.scale * 2.0)),
        PublishedMap(small_trunk(), SCALING),
    ]
    assert len(digests | {other.digest for other in others}) == 5
    zero = FeatureScaling(np.zeros(COLUMNS), SCALING.scale)
    assert PublishedMap(MAP, zero).digest == PublishedMap(MAP, FeatureScaling(-zero.mean, SCALING.scale)).digest


def header_changed(**fields: object) -> bytes:
    said = {"feature_count": COLUMNS, "map": MAP.shape.describe(), "round": ROUND} | fields
    header = json.dumps({k: v for k, v in said.items() if v is not None}, sort_keys=True, separators=(",", ":"))
    body = encode_map_payload(PublishedMap(MAP, SCALING), ROUND)[-(32 + 8 * COLUMNS) :]
    return struct.pack(">4sBH", b"OLSH", 1, len(header)) + header.encode() + body


def test_the_changed_header_is_the_real_one_when_nothing_is_changed() -> None:
    assert header_changed() == encode_map_payload(PublishedMap(MAP, SCALING), ROUND)


@pytest.mark.parametrize(
    "data_",
    [
        b"",
        b"OLMP" + header_changed()[4:],
        b"OLSH\2" + header_changed()[5:],
        b"OLSH\1\xff\xff" + header_changed()[7:],
        header_changed(round=6),
        header_changed(round=5.0),
        header_changed(round="5"),
        header_changed(round=None),
        header_changed(extra=1),
        header_changed(feature_count=3),
        header_changed(feature_count=True),
        header_changed(map="random:13"),
        header_changed(map="random:012"),
        header_changed(map=["random:12"]),
        header_changed()[:-1],
        header_changed() + b"\0",
        header_changed().replace(b'":', b'": ', 1),
        header_changed()[:-4] + struct.pack("<f", 0.0),
        header_changed()[:-4] + struct.pack("<f", float("nan")),
        header_changed()[:-32] + struct.pack("<f", float("inf")) + header_changed()[-28:],
        header_changed()[:-28] + struct.pack("<f", -0.0) + header_changed()[-24:],
    ],
)
def test_any_other_payload_is_refused(data_: bytes) -> None:
    with pytest.raises(ModelMismatchError):
        owner().read(data_, ROUND)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_that_differ_never_read_as_the_same(draw: st.DataObject) -> None:
    """Any change of any byte is refused, or is another map or scaling."""
    maps: list[FeatureMap] = [MAP, small_trunk()]
    feature_map = draw.draw(st.sampled_from(maps))
    plaintext = encode_map_payload(PublishedMap(feature_map, SCALING), ROUND)
    place = draw.draw(st.integers(0, len(plaintext) - 1))
    cut = draw.draw(st.integers(0, 2))
    change = draw.draw(st.binary(min_size=0, max_size=4))
    other = plaintext[:place] + change + plaintext[place + cut :]
    try:
        read = decode_map_payload(other, feature_map.shape, COLUMNS, ROUND)
    except ModelMismatchError:
        assert other != plaintext
    else:
        assert encode_map_payload(read, ROUND) == other
        assert (read.digest == PublishedMap(feature_map, SCALING).digest) == (other == plaintext)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused_in_words(noise_: bytes) -> None:
    for start in (b"", b"OLSH\1", b"OLSH\1\0\2{}"):
        with pytest.raises(ModelMismatchError):
            owner().read(start + noise_, ROUND)


@MAPS
def test_statistics_of_parts_add_up_to_the_statistic_of_the_whole(feature_map: FeatureMap) -> None:
    side, published, batch = owner(feature_map), PublishedMap(feature_map, SCALING), data(60, 3)
    whole = side.statistic(published, batch.features, batch.labels)
    assert whole.shape == (side.value_count,)
    assert whole.min() >= 0.0
    assert whole.max() <= side.clip
    parts = [side.statistic(published, batch.features[k::4], batch.labels[k::4]) for k in range(4)]
    assert np.mean(parts, axis=0) == pytest.approx(whole, abs=1e-13)


@MAPS
def test_the_head_is_ridge_regression_on_all_rows_of_all_rounds(feature_map: FeatureMap) -> None:
    side, published, batch = model(feature_map), PublishedMap(feature_map, SCALING), data(90, 4)
    learned = side.begin()
    for k in range(3):
        rows = batch.take(np.arange(k, 90, 3))
        learned = side.learn(learned, ENTROPY, owner(feature_map).statistic(published, rows.features, rows.labels))
    mapped, targets = feature_map.apply(batch.features), np.eye(3)[batch.labels]
    w = mapped.shape[1]
    ridge = side.regulariser * (mapped**2).sum() / w
    extended = np.vstack([mapped, np.sqrt(ridge) * np.eye(w)])
    head = np.linalg.lstsq(extended, np.vstack([targets, np.zeros((w, 3))]))[0]
    assert learned.weights.reshape(w, 3) == pytest.approx(head, rel=1e-8, abs=1e-9)
    assert side.rounds(learned) == 3
    assert side.accuracy(learned, batch) == ((mapped @ head).argmax(axis=1) == batch.labels).mean()
    assert side.accuracy(learned, batch) > 0.7


def test_classes_with_few_rows_in_a_batch_are_left_out() -> None:
    batch = data(40, 5)
    rows = np.concatenate([np.flatnonzero(batch.labels == 0)[:2], np.flatnonzero(batch.labels > 0)])
    features, labels = batch.features[rows], batch.labels[rows]
    published = PublishedMap(MAP, SCALING)
    without = owner(least=3).statistic(published, features, labels)
    assert np.array_equal(without, owner().statistic(published, features[2:], labels[2:]))
    assert not Moments.from_statistic(without, 12, 3).cross[:, 0].any()
    with pytest.raises(VectorError, match="no class has 50 rows"):
        owner(least=50).statistic(published, features, labels)


def test_rows_that_do_not_fit_are_refused() -> None:
    published, batch = PublishedMap(MAP, SCALING), data(12, 5)
    features, labels = batch.features, batch.labels
    wrong = ((features, labels[:-1]), (features, labels + 3), (features, labels - 1), (features[:0], labels[:0]))
    for bad_features, bad_labels in (*wrong, (features[:, :3], labels), (features, labels + 2**60)):
        with pytest.raises(ParameterError):
            owner().statistic(published, bad_features, bad_labels)


def test_one_row_of_a_class_can_be_read_off_the_statistic() -> None:
    """Why classes with few rows are left out: the block of a class is the sum of its rows' features."""
    wide = RandomFeatures(COLUMNS, 40, bytes(32))
    batch = data(40, 5)
    rows = np.concatenate([np.flatnonzero(batch.labels == 0)[:1], np.flatnonzero(batch.labels > 0)])
    values = owner(wide).statistic(PublishedMap(wide, SCALING), batch.features[rows], batch.labels[rows])
    cross = Moments.from_statistic(values, 40, 3).cross[:, 0] * len(rows)
    units = cross[:-1]
    lit = (units > 0.0) & (units < 1.0)
    # Where a unit is lit and not cut it is linear in the row: solve for the row.
    matrix, biases = _random_layer(COLUMNS, 40, bytes(32))
    found = np.linalg.lstsq(matrix[:, lit].T, RANDOM_CUT * units[lit] - biases[lit])[0]
    assert found == pytest.approx(batch.features[rows[0]], abs=1e-6)


def test_the_rules_on_rows() -> None:
    assert least_group_rows(64, 64, 10) == 130
    assert least_group_rows(64, 96, 10) == 224
    assert least_group_rows(64, 512, 10) == 5351
    assert least_group_rows(1000, 64, 2) == 130
    assert least_class_rows(64, 64) == 2
    assert least_class_rows(64, 512) == 9
    assert least_class_rows(100, 8) == 2


def test_members_are_told_from_others_below_the_rule_and_hardly_above() -> None:
    """The argument of least_group_rows: full rank is not enough, four times as many rows are."""

    def told(share: float) -> float:
        return float(np.mean([members_told(seed, 24, share) for seed in range(2)]))

    assert told(0.5) == pytest.approx(100.0)
    assert told(1.0) > 95.0
    assert told(4.0) < 75.0
    assert told(20.0) < 60.0


def honest_means(groups: int, rows: int = 60, q_max: int = 5461) -> dict[int, np.ndarray]:
    """Group numbers with gaps, each with its mean statistic as the chain gives it."""
    side, published, rng = owner(), PublishedMap(MAP, SCALING), np.random.default_rng(1)
    means = {}
    for group in range(groups):
        batch = data(rows, 100 + group)
        values = side.statistic(published, batch.features, batch.labels)
        means[3 * group + 1] = dequantise(quantise(values, 1.0, q_max, rng.random(len(values))), 1.0, q_max)
    return means


def poisoned(means: dict[int, np.ndarray], groups: tuple[int, ...]) -> dict[int, np.ndarray]:
    changed = dict(means)
    for group in groups:
        moments = Moments.from_statistic(means[group], 12, 3)
        changed[group] = Moments(moments.gram, np.roll(moments.cross, 1, axis=1)).statistic()
    return changed


@pytest.mark.parametrize("validation", [None, data(50, 77)], ids=["krum", "hold-out"])
@pytest.mark.parametrize("strict", [False, True])
def test_flipped_labels_are_left_out(validation: Dataset | None, strict: bool) -> None:
    side = model(validation=validation)
    means = poisoned(honest_means(9), (1, 13))
    chosen = side.choose(side.begin(), ENTROPY, means, 2, strict)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == (5 if strict else 7)
    assert set(chosen) <= set(means) - {1, 13}
    assert chosen == side.choose(side.begin(), ENTROPY, dict(reversed(means.items())), 2, strict)


@pytest.mark.parametrize("selection", ["krum", "hold-out"])
def test_moments_of_no_rows_go_first(selection: str) -> None:
    """Zeros do no harm, so hold-out alone would not mind them; nor would Krum among groups of mixed labels."""
    side = model(validation=data(50, 77), selection=selection)
    means = honest_means(7)
    means[4] = np.zeros_like(means[4])
    means[19] = -means[19]
    assert set(side.choose(side.begin(), ENTROPY, means, 2, False)) == set(means) - {4, 19}


def test_honest_groups_are_consistent_whatever_q_max() -> None:
    for q_max in (400, 5461):
        for values in honest_means(5, q_max=q_max).values():
            assert inconsistency(Moments.from_statistic(values, 12, 3)) < group_choice.CONSISTENT


def test_one_at_a_time_finds_what_all_sets_find(monkeypatch: pytest.MonkeyPatch) -> None:
    side, rows = model(), data(50, 77)
    means = {g: side._moments(v) for g, v in poisoned(honest_means(9), (1, 13)).items()}
    before = Moments(np.zeros((13, 13)), np.zeros((13, 3)))
    mapped = MAP.apply(rows.features)
    whole = hold_out_choice(before, means, mapped, rows.labels, 2, True, 0.01)
    monkeypatch.setattr(group_choice, "MOST_SETS", 1)
    greedy = hold_out_choice(before, means, mapped, rows.labels, 2, True, 0.01)
    assert not {1, 13} & set(whole)
    assert not {1, 13} & set(greedy)
    assert len(greedy) == len(whole)


def test_too_few_groups_are_refused() -> None:
    for side in (model(), model(validation=data(9, 1))):
        with pytest.raises(ParameterError, match="need 7"):
            side.choose(side.begin(), ENTROPY, honest_means(6), 2, False)


def test_poison_is_bounded_and_bad_averages_are_refused() -> None:
    side = model()
    loud = side.learn(side.begin(), ENTROPY, np.full(owner().value_count, 1e9))
    full = side.learn(side.begin(), ENTROPY, np.ones(owner().value_count))
    assert loud.memory == full.memory
    for bad in (np.ones(3), np.full(owner().value_count, np.nan), np.full(owner().value_count, np.inf)):
        with pytest.raises(VectorError):
            side.learn(side.begin(), ENTROPY, bad)


def test_memory_of_another_task_is_refused() -> None:
    learned = model().begin()
    for memory in (
        b"",
        learned.memory[:-8],
        b"OLSX" + learned.memory[4:],
        learned.memory[:4] + b"\2" + learned.memory[5:],
    ):
        with pytest.raises(ParameterError, match="not of this task"):
            model().learn(Learned(learned.weights, memory), ENTROPY, np.ones(owner().value_count))


def test_bad_sides_are_refused() -> None:
    with pytest.raises(ParameterError, match="classes"):
        SecretHeadOwner(MAP.shape, COLUMNS, 1)
    with pytest.raises(ParameterError, match="feature"):
        SecretHeadOwner(MAP.shape, 0, 3)
    with pytest.raises(ParameterError, match="least rows"):
        SecretHeadOwner(MAP.shape, COLUMNS, 3, 0)
    with pytest.raises(ParameterError, match="columns"):
        SecretHeadModel(MAP, 3, FeatureScaling(np.zeros(3), np.ones(3)))
    with pytest.raises(ParameterError, match="regulariser"):
        SecretHeadModel(MAP, 3, SCALING, regulariser=0.0)
    with pytest.raises(ParameterError, match="selection"):
        model(selection="best")
    with pytest.raises(ParameterError, match="rows of the model owner"):
        model(selection="hold-out")
    with pytest.raises(ParameterError, match="classes"):
        SecretHeadModel(MAP, 4, SCALING, data(9, 1))


def test_digits_with_16_bits() -> None:
    """128 features: within half a point of exact statistics, far above an owner with 50 rows of its own."""
    exact, narrow = accuracy(0, "random:128", 0, 32), accuracy(0, "random:128", 16, 32)
    assert exact > 92.0
    assert abs(exact - narrow) < 0.5
    assert attacker_accuracy(0, "random:128") < 85.0


@pytest.mark.parametrize("selection", ["krum", "hold-out"])
@pytest.mark.parametrize("poison", [noise, label_flip_hard])
def test_digits_with_two_poisoned_groups(selection: str, poison: Poison) -> None:
    assert accuracy(0, "random:64", 16, 32, poison, 2, selection) > 88.0
    assert accuracy(0, "random:64", 16, 32, poison, 2, "all") < 60.0
