"""From wishes to a task: what is chosen from the model owner's rows, what is refused, and what rows are kept apart."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.protection.catalogue import PROTECTIONS
from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.protection.feature_map import RandomFeatures, Trunk
from omnilytics.daemon.protection.perturbed import PerturbedModel
from omnilytics.daemon.protection.secret_head import SecretHeadModel
from omnilytics.daemon.spec import decode_spec
from omnilytics.daemon.task_design import TaskDesign, Wishes, design_task
from omnilytics.daemon.training.batch import DEFAULT_BATCH_SIZE
from omnilytics.daemon.training.data import Dataset
from omnilytics.peers.errors import DataError, ParameterError

CLASSES = ("a", "b", "c")
COLUMNS = 4
WISHES = {
    "envelope": Wishes("softmax", "envelope", 3, 16, None, None, None, 1),
    "perturbed": Wishes("mlp:6", "perturbed", 3, 32, None, None, None, 1),
    "secret-head": Wishes("random:8", "secret-head", 3, 16, None, None, None, 1),
}
TRUNK = replace(WISHES["secret-head"], architecture="trunk:6,5")
EACH = pytest.mark.parametrize("wishes", WISHES.values(), ids=WISHES)
EVERY = pytest.mark.parametrize("wishes", [*WISHES.values(), TRUNK], ids=[*WISHES, "trunk"])


def own_rows(count: int = 90, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    return Dataset(5.0 + 3.0 * rng.normal(size=(count, COLUMNS)) + 4.0 * np.eye(3, COLUMNS)[labels], labels, CLASSES)


OWN = own_rows()


def published(design: TaskDesign, round_number: int = 1) -> Any:
    side = design.side
    return design.spec.side.read(side.publish(side.begin(), round_number, bytes(32)), round_number)


@EVERY
def test_a_design_is_a_task_that_owners_can_read(wishes: Wishes) -> None:
    design = design_task(wishes, OWN)
    assert decode_spec(design.spec.encode()) == design.spec
    spec = design.spec
    assert (spec.architecture, spec.protection) == (wishes.architecture, wishes.protection)
    assert (spec.feature_count, spec.classes) == (COLUMNS, CLASSES)
    shown = published(design)
    rows = Dataset(shown.scaling.apply(OWN.features), OWN.labels, OWN.classes)
    statistic = spec.side.statistic(shown, rows.features, rows.labels)
    assert statistic.shape == (spec.side.value_count,)
    assert np.abs(statistic).max() <= spec.clip, "an honest statistic of mixed rows is not cut"
    assert 0.0 <= design.side.accuracy(design.side.begin(), design.test) <= 1.0


@EVERY
def test_the_same_wishes_and_rows_are_the_same_task(wishes: Wishes) -> None:
    """A restarted model owner finds its task by these bytes, and goes on with its weights or its map."""
    first, second = design_task(wishes, OWN), design_task(wishes, OWN)
    assert first.spec.encode() == second.spec.encode()
    plaintexts = [design.side.publish(design.side.begin(), 1, bytes(32)) for design in (first, second)]
    assert plaintexts[0] == plaintexts[1]
    assert np.array_equal(first.test.features, second.test.features)
    other = design_task(replace(wishes, seed=2), OWN)
    if wishes.architecture != "softmax":  # whose first weights are zeros
        assert published(first).digest != published(other).digest


def test_each_protection_has_its_side() -> None:
    assert isinstance(design_task(WISHES["envelope"], OWN).side, EnvelopeModel)
    assert isinstance(design_task(WISHES["perturbed"], OWN).side, PerturbedModel)
    for wishes, kind in ((WISHES["secret-head"], RandomFeatures), (TRUNK, Trunk)):
        side = design_task(wishes, OWN).side
        assert isinstance(side, SecretHeadModel) and isinstance(side.feature_map, kind)


# ---------------------------------------------------------------------------- clip


def test_the_envelopes_clip_is_measured_or_asked_for() -> None:
    measured = design_task(WISHES["envelope"], OWN).spec.clip
    assert 0.1 < measured < 100 and float(f"{measured:.2g}") == measured
    assert design_task(replace(WISHES["envelope"], clip=0.25), OWN).spec.clip == 0.25
    assert design_task(replace(WISHES["envelope"], lane_bits=8), OWN).spec.clip < measured


@pytest.mark.parametrize("clip", [None, 0.25, 7.0])
@pytest.mark.parametrize("name", ["perturbed", "secret-head"])
def test_where_the_protection_says_the_clip_wishes_do_not_count(name: str, clip: float | None) -> None:
    assert design_task(replace(WISHES[name], clip=clip), OWN).spec.clip == PROTECTIONS[name].clip == 1.0


# ----------------------------------------------------------------------- batch size


@EACH
@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_a_batch_size_that_is_asked_for_is_taken(wishes: Wishes, batch_size: int) -> None:
    """Owners judge whether their sums are too thin."""
    assert design_task(replace(wishes, batch_size=batch_size), OWN).spec.batch_size == batch_size


@pytest.mark.parametrize("group_size", [3, 4, 7])
@pytest.mark.parametrize("architecture", ["random:8", "random:40", "trunk:6,5"])
def test_secret_heads_batch_is_the_least_that_hides_single_rows(architecture: str, group_size: int) -> None:
    wishes = replace(WISHES["secret-head"], architecture=architecture, group_size=group_size)
    spec = design_task(wishes, OWN).spec
    assert spec.batch_size * group_size >= spec.least_group_rows > (spec.batch_size - 1) * group_size


def test_elsewhere_it_is_the_usual_one_unless_that_is_too_thin() -> None:
    assert design_task(WISHES["envelope"], OWN).spec.batch_size == DEFAULT_BATCH_SIZE
    assert design_task(WISHES["perturbed"], OWN).spec.batch_size == DEFAULT_BATCH_SIZE
    wide = replace(WISHES["perturbed"], architecture="mlp:80,90")
    spec = design_task(wide, OWN).spec
    assert spec.least_group_rows == 4 * 81 and spec.batch_size == 108


# ---------------------------------------------------------------- rows kept apart


def _rows_of(dataset: Dataset) -> set[bytes]:
    return {row.tobytes() for row in dataset.features}


@pytest.mark.parametrize("wishes", [WISHES["perturbed"], WISHES["secret-head"], TRUNK], ids=["mlp", "random", "trunk"])
def test_rows_that_select_groups_never_measure_accuracy(wishes: Wishes) -> None:
    design = design_task(wishes, OWN)
    side = design.side
    used = side.validation if isinstance(side, SecretHeadModel) else getattr(side, "sample", None)
    assert used is not None
    assert not _rows_of(used) & _rows_of(design.test)
    assert used.row_count + design.test.row_count == OWN.row_count
    assert set(used.labels) == set(design.test.labels) == {0, 1, 2}
    # Both are scaled as owners will scale.
    scaled = _rows_of(Dataset(published(design).scaling.apply(OWN.features), OWN.labels, OWN.classes))
    close = np.sort(np.concatenate([used.features, design.test.features]).ravel())
    assert close == pytest.approx(np.sort(np.concatenate([np.frombuffer(row) for row in scaled])), abs=1e-5)


def test_a_trunk_learns_nothing_from_the_rows_that_measure() -> None:
    """Accuracy would be flattered. With the measuring rows in other places, it is the same trunk."""
    first = design_task(TRUNK, OWN)
    assert isinstance(first.side, SecretHeadModel)
    measuring = _rows_of(first.test)
    moved = OWN.features.copy()
    turned = [index for index, row in enumerate(first.scaling.apply(OWN.features)) if row.tobytes() in measuring]
    # Within each class the measuring rows change places, so that scaling and split stay what they were.
    for label in range(3):
        rows = [index for index in turned if OWN.labels[index] == label]
        moved[rows] = moved[rows[1:] + rows[:1]]
    second = design_task(TRUNK, Dataset(moved, OWN.labels, CLASSES))
    assert not np.array_equal(moved, OWN.features)
    assert _rows_of(second.test) == measuring
    assert isinstance(second.side, SecretHeadModel)
    assert second.side.feature_map.encode() == first.side.feature_map.encode()


def test_where_the_contract_selects_all_rows_measure() -> None:
    assert design_task(WISHES["envelope"], OWN).test.row_count == OWN.row_count


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("name", "lane_bits", "least"), [("perturbed", 8, 32), ("perturbed", 16, 32), ("secret-head", 8, 16)]
)
def test_lanes_that_are_too_narrow_are_refused(name: str, lane_bits: int, least: int) -> None:
    with pytest.raises(ParameterError, match=f"needs lanes of {least} bits or more, not {lane_bits}") as caught:
        design_task(replace(WISHES[name], lane_bits=lane_bits), OWN)
    assert caught.value.help == f"--lane-bits {least}"
    design_task(replace(WISHES[name], lane_bits=least), OWN)


@pytest.mark.parametrize(
    "changes",
    [
        {"protection": "none"},
        {"architecture": "random:8"},
        {"architecture": "mlp:0"},
        {"protection": "perturbed", "lane_bits": 32},
        {"protection": "secret-head"},
        {"optimiser": "magic:1"},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        design_task(replace(WISHES["envelope"], **changes), OWN)


@EACH
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 0}, "batch size 0 is below 1"),
        ({"batch_size": -5}, "batch size -5 is below 1"),
        ({"clip": 0.0}, "a clip of 0.0 is not above 0"),
        ({"clip": -1.0}, "a clip of -1.0"),
        ({"clip": math.nan}, "a clip of nan"),
        ({"clip": math.inf}, "a clip of inf"),
    ],
    ids=str,
)
def test_what_no_owner_would_take_is_refused_before_it_is_paid_for(
    wishes: Wishes, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ParameterError, match=says) as caught:
        design_task(replace(wishes, **changes), OWN)
    assert caught.value.help.startswith("raise --")


@EVERY
def test_rows_of_one_class_are_refused(wishes: Wishes) -> None:
    one = Dataset(OWN.features, np.zeros(OWN.row_count, dtype=np.int64), CLASSES)
    with pytest.raises(DataError, match="two classes"):
        design_task(wishes, one)


@pytest.mark.parametrize("wishes", [WISHES["perturbed"], WISHES["secret-head"]], ids=["perturbed", "secret-head"])
def test_too_few_rows_to_keep_some_apart_are_refused(wishes: Wishes) -> None:
    three = Dataset(OWN.features[:3], OWN.labels[:3], CLASSES)
    with pytest.raises(DataError, match="too few to hold some out"):
        design_task(wishes, three)
