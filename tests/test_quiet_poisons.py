"""What quiet poisons, backdoors and free riders post."""

from __future__ import annotations

import numpy as np
import pytest

from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.protection.sides import Floats
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.scaling import FEATURE_LIMIT
from tests.adversaries.poisons import POISONS
from tests.adversaries.quiet_poisons import (
    INNER_PRODUCT,
    QUIET_POISONS,
    RANDOM_SHARE,
    STAMPED_SHARE,
    TARGET_CLASS,
    TRIGGER_COLUMNS,
    for_one_owner,
    stamp,
)
from tests.envelope_sides import payload_of

MODEL = Model(Architecture(), 5, 3)
SIDE = EnvelopeOwner(MODEL)
ROWS = np.random.default_rng(1).normal(size=(40, 5))
LABELS = np.random.default_rng(2).integers(0, 3, 40)
WEIGHTS = np.random.default_rng(3).normal(size=MODEL.value_count)


def post(kind: str, seed: int = 4, clip: float = 2.0) -> Floats:
    generator = np.random.default_rng(seed)
    return QUIET_POISONS[kind](SIDE, payload_of(MODEL, WEIGHTS), ROWS, LABELS, clip, generator)


@pytest.fixture
def honest() -> Floats:
    return SIDE.statistic(payload_of(MODEL, WEIGHTS), ROWS, LABELS)


def test_all_have_names_on_the_command_line() -> None:
    assert QUIET_POISONS.items() <= POISONS.items()


def test_a_little_is_below_the_honest_value_and_near_it(honest: Floats) -> None:
    away = honest - post("little")
    assert (away >= 0.0).all() and away.max() > 0.0
    # Standard errors shrink with the rows; the honest gradient does not.
    assert np.linalg.norm(away) < 2.0 * np.linalg.norm(honest)


def test_the_inner_product_points_back(honest: Floats) -> None:
    assert post("inner-product") == pytest.approx(-INNER_PRODUCT * honest)


def test_one_label_is_the_honest_statistic_of_one_label(honest: Floats) -> None:
    taught = SIDE.statistic(payload_of(MODEL, WEIGHTS), ROWS, np.full(40, TARGET_CLASS))
    assert post("one-label") == pytest.approx(taught)
    assert not np.allclose(taught, honest)


def test_a_backdoor_is_taught_on_a_share_of_the_rows() -> None:
    chosen = np.random.default_rng(4).random(40) < STAMPED_SHARE
    rows, labels = ROWS.copy(), LABELS.copy()
    rows[chosen, :TRIGGER_COLUMNS] = FEATURE_LIMIT
    labels[chosen] = TARGET_CLASS
    assert 5 < chosen.sum() < 35
    assert post("backdoor") == pytest.approx(SIDE.statistic(payload_of(MODEL, WEIGHTS), rows, labels))
    assert (stamp(ROWS)[:, TRIGGER_COLUMNS:] == ROWS[:, TRIGGER_COLUMNS:]).all()


def test_free_riders_do_not_look_at_their_rows() -> None:
    assert not post("idle").any()
    busy = post("idle-random", clip=3.0)
    assert 0.0 < np.abs(busy).max() <= 3.0 * RANDOM_SHARE


def test_a_replay_is_the_first_round_for_ever_and_every_owner_remembers_its_own(honest: Floats) -> None:
    first, second = for_one_owner(QUIET_POISONS["replay"]), for_one_owner(QUIET_POISONS["replay"])
    assert first is not second
    generator = np.random.default_rng(0)
    later = payload_of(MODEL, 2.0 * WEIGHTS, 2)
    assert first(SIDE, payload_of(MODEL, WEIGHTS), ROWS, LABELS, 1.0, generator) == pytest.approx(honest)
    assert first(SIDE, later, ROWS, LABELS, 1.0, generator) == pytest.approx(honest)
    assert second(SIDE, later, ROWS, LABELS, 1.0, generator) == pytest.approx(SIDE.statistic(later, ROWS, LABELS))
    assert for_one_owner(POISONS["noise"]) is POISONS["noise"]
