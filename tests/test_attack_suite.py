"""The attack suite: its market is the market, and its page is written by it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from omnilytics.daemon.protection.perturbation import report
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.reference import train_plain
from scripts.attack_main import main
from scripts.attack_suite.defences import ENVELOPE_DEFENCES, SECRET_HEAD_DEFENCES, Defence, MomentumOwner, gas_of_round
from scripts.attack_suite.inversion import best_matches, rounded, rounding_noise
from scripts.attack_suite.market import Setting, choose_all, make_scene, play
from scripts.attack_suite.poisoning import ONE_GROUP, TWO_OWNERS, hostile_owners, verdict
from scripts.attack_suite.report import PAGE
from scripts.attack_suite.reports import rows_from_reports
from scripts.attack_suite.tables import spread
from scripts.pages import begin_mark, end_mark, replace_part, table

ENVELOPE = Setting("envelope", "softmax", 3)
SECRET_HEAD = Setting("secret-head", "random:32", 1)


def test_the_market_is_the_reference_run_but_for_quantising() -> None:
    scene = make_scene(ENVELOPE, 0)
    groups = [list(range(group * 3, group * 3 + 3)) for group in range(6)]
    counted = {
        (number, owner): scene.batch(owner, number + 1) for number in range(3) for owner in range(len(scene.owners))
    }

    def rows(number: int, owner: int) -> np.ndarray:
        batch = counted[number, owner].features
        return np.array([np.flatnonzero((scene.owners[owner].features == row).all(axis=1))[0] for row in batch])

    plain = train_plain(
        scene.design.spec.side,
        scene.design.side,
        scene.owners,
        scene.design.test,
        [groups] * 3,
        lambda number, owner: bytes(32),
        rows,
        scene.design.spec.clip,
    )
    market = play(scene, choose=choose_all)
    assert market.learned.weights == pytest.approx(plain.learned.weights, abs=5e-3)
    assert market.accuracy == pytest.approx(plain.accuracies[-1], abs=0.01)


@pytest.mark.parametrize("setting", [ENVELOPE, SECRET_HEAD], ids=["contract", "model owner"])
def test_a_noisy_group_is_left_out_and_ruins_plain_averaging(setting: Setting) -> None:
    scene = make_scene(setting, 0)
    hostile = hostile_owners("noise", ONE_GROUP.seats(setting))
    assert sorted(hostile) == [0, 1, 2]
    defended, clean = play(scene, hostile), play(scene)
    assert not any(0 in groups for groups in defended.selected)
    assert abs(defended.accuracy - clean.accuracy) < 0.05
    assert play(scene, hostile, choose_all).accuracy < clean.accuracy - 0.2


def test_who_is_hostile() -> None:
    assert TWO_OWNERS.seats(ENVELOPE) == [0, 3]


def test_momentum_at_owners_is_the_model_owners_momentum() -> None:
    scene = make_scene(ENVELOPE, 0)
    plain = play(scene, choose=choose_all)
    moved = make_scene(replace(ENVELOPE, optimiser="sgd:5.0"), 0)
    sides = {owner: MomentumOwner(moved.design.spec.side) for owner in range(18)}
    after = play(moved, choose=choose_all, sides=sides)
    assert after.learned.weights == pytest.approx(plain.learned.weights, abs=0.05)


@pytest.mark.parametrize(
    "defence, setting",
    [(defence, replace(ENVELOPE, rounds=1)) for defence in ENVELOPE_DEFENCES]
    + [(defence, SECRET_HEAD) for defence in SECRET_HEAD_DEFENCES],
    ids=lambda value: getattr(value, "words", ""),
)
def test_every_defence_plays(defence: Defence, setting: Setting) -> None:
    scene = make_scene(defence.setting(setting), 0)
    outcome = play(scene, None, defence.chooser(scene), defence.sides(scene))
    assert 0.3 < outcome.accuracy <= 1.0


def test_gas_grows_with_owners_and_falls_without_settlement() -> None:
    small = gas_of_round(ENVELOPE, 650, True)
    assert gas_of_round(ENVELOPE, 650, False) < small < gas_of_round(replace(ENVELOPE, owners=27), 650, True)
    assert gas_of_round(ENVELOPE, 6_500, True) > 5 * small - 18 * 300_000


def test_rounding_noise_is_what_rounding_does() -> None:
    values = np.random.default_rng(0).uniform(0.0, 1.0, 20_000)
    away = rounded(values, 1.0, 3, np.random.default_rng(1)) - values
    assert float(away.std()) == pytest.approx(rounding_noise(1.0, 3), rel=0.05)


def test_rows_that_find_no_match_count_as_lost() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 6))
    assert sorted(best_matches(rows, rows[:2]))[:2] == [0.0, 0.0]


def test_verdicts_name_the_worst() -> None:
    said = verdict([(-1.0, "noise", "1 owner"), (-3.0, "scale", "1 owner")], [(-5.0, "little", "2 owners")])
    assert "scale by 1 owner: -3.0" in said
    assert "beyond f: little" in said


def test_tables_and_spreads() -> None:
    assert spread([1.0, 3.0]) == "2.0 ± 1.0"
    assert spread([1.0], sign=True) == "+1.0"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_parts_of_a_page_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{begin_mark('x', 'scripts/a')}\nold\n{end_mark('x')}\nafter\n", encoding="utf-8")
    replace_part(page, "x", "scripts/a", "new")
    assert page.read_text(encoding="utf-8") == f"before\n{begin_mark('x', 'scripts/a')}\nnew\n{end_mark('x')}\nafter\n"
    with pytest.raises(ValueError, match="no marks of the part 'y'"):
        replace_part(page, "y", "scripts/a", "new")


def test_every_part_of_the_page_is_filled_and_says_by_what() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = re.findall(r"<!-- ([a-z-]+): written by scripts/attack", text)
    assert len(names) == len(set(names)) >= 12
    for name in names:
        part = text.split(begin_mark(name, "scripts/attack"))[1].split(end_mark(name))[0]
        assert re.match(r"\n`scripts/attack [a-z ]+[^`]*--write`, \d{4}-\d\d-\d\d\.\n\n", part), name
        assert part.count("\n|") >= 3, name


def test_a_quick_look_at_everything() -> None:
    result = CliRunner().invoke(main, ["all", "--quick"])
    assert result.exit_code == 0, result.output
    for part in ("stealing", "poisoning-secret-head", "traps", "reports", "class-shares", "recovery"):
        assert f"## {part}\n" in result.output


def test_quick_figures_are_not_for_the_page() -> None:
    result = CliRunner().invoke(main, ["all", "--quick", "--write"])
    assert result.exit_code == 2
    assert "mean nothing" in result.output


def test_a_row_alone_in_a_report_is_read_off_it() -> None:
    """Alone, every unit that it turns on gives it away, in each of the three sums; among many, none does."""
    rng = np.random.default_rng(0)
    model = Model(Architecture((8,)), 6, 3)
    weights, direction = rng.normal(size=model.value_count), rng.normal(size=3)
    rows, labels = rng.normal(size=(40, 6)), rng.integers(0, 3, 40)
    alone = rows_from_reports(model, report(model, weights, direction, rows[:1], labels[:1]))
    active = np.abs(alone).max(axis=1) > 0
    assert active.any() and np.allclose(alone[active], rows[0])
    blends = rows_from_reports(model, report(model, weights, direction, rows, labels))
    assert np.abs(blends[:, None] - rows[None]).max(axis=2).min() > 0.05
