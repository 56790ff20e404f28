"""What scripts/bench makes of a run: phases that add up, processor time of a window, laws, and the page's tables."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from omnilytics.daemon.journal import Journal
from scripts import bench_main
from scripts.bench_main import main
from scripts.bench_suite import figures
from scripts.bench_suite.figures import read_figures, remember
from scripts.bench_suite.growth import Law, fit, laws, laws_table, plot_laws, plot_rounds
from scripts.bench_suite.process_figures import MACHINE, CpuSampler, children, cpu_seconds, memory_mib
from scripts.bench_suite.rounds import (
    PHASES,
    Failed,
    RoundsCell,
    default_cells,
    estimate,
    goal_line,
    journal_bytes,
    round_times,
    rounds_table,
    run_rounds,
    summarise,
)
from scripts.bench_suite.summary import plot_sections, summary_table

CELL = RoundsCell(30, 3, 10_000, "embedded", 3)


def line(at: float, event: str, number: int, **more: Any) -> dict[str, Any]:
    ts = datetime.fromtimestamp(1000 + at, UTC).isoformat(timespec="milliseconds")
    return {"ts": ts, "event": event, "round": number, **more}


def mined(at: float, function: str, number: int) -> dict[str, Any]:
    return line(at, "tx.mined", number, data={"function": function})


def a_round(start: float, number: int) -> list[tuple[str, dict[str, Any]]]:
    """Two owners: the second one is late in everything but settling. Eight seconds in all."""
    return [
        ("model", mined(start + 0.5, "openRound", number)),
        ("owner-00", line(start + 1.0, "seed.agreed", number)),
        ("owner-01", line(start + 1.5, "seed.agreed", number)),
        ("owner-00", line(start + 1.8, "train.done", number, dur_ms=500)),
        ("owner-01", line(start + 2.5, "train.done", number, dur_ms=1000)),
        ("owner-01", line(start + 3.0, "stage.enter", number, phase="committing")),
        ("owner-00", mined(start + 3.5, "commit", number)),
        ("owner-01", mined(start + 4.0, "commit", number)),
        ("owner-01", mined(start + 5.0, "post", number)),
        ("owner-00", mined(start + 7.0, "settle", number)),
        ("model", line(start + 8.0, "round.done", number, data={"outcome": "selected"})),
    ]


def test_phases_end_with_the_last_owner_and_add_up_to_the_round() -> None:
    times = round_times([*a_round(0, 1), *a_round(8, 2), *a_round(16, 3)])
    assert [each.round for each in times] == [2, 3], "the first has no round before it"
    for each in times:
        assert each.seconds == pytest.approx(8.0)
        assert sum(each.phases.values()) == pytest.approx(each.seconds)
        assert each.training == 1.0
    assert list(times[0].phases.values()) == pytest.approx([0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 2.0, 1.0])


def test_a_void_round_has_no_phases_that_it_did_not_reach() -> None:
    records = [*a_round(0, 1), ("model", mined(9, "openRound", 2))]
    records += [("model", line(20, "round.done", 2, data={"outcome": "void"}))]
    (only,) = round_times(records)
    assert (only.outcome, only.training, only.phases["open"], only.phases["learn"]) == ("void", 0.0, 1.0, 11.0)
    assert only.phases["settle"] == 0.0


def test_processor_time_of_a_window_lies_between_two_looks() -> None:
    sampler = CpuSampler({"a": [1], "b": [2]})
    sampler.times, sampler.taken = [0.0, 10.0], [{"a": 1.0, "b": 0.0}, {"a": 6.0, "b": 2.0}]
    assert sampler.between(2.0, 4.0) == pytest.approx({"a": 1.0, "b": 0.4})
    assert sampler.between(-5.0, 50.0) == pytest.approx({"a": 5.0, "b": 2.0})


def test_the_kernels_figures_of_this_process_are_read() -> None:
    me = os.getpid()
    sampler = CpuSampler({"us": [me], "nobody": [2**22 + 1]})
    sampler.sample(1.0)
    assert sampler.taken[0]["us"] == cpu_seconds(me) > 0
    assert sampler.taken[0]["nobody"] == 0.0
    assert sampler.taken[0][MACHINE] >= sampler.taken[0]["us"]
    resident, own = memory_mib(me)
    assert resident >= own > 0
    assert children(2**22 + 1) == {}


def results() -> Any:
    sampler = CpuSampler({})
    names = ("owners", "model owner", "chain", "broker", "launcher", MACHINE)
    sampler.times = [1008.0, 1024.0]
    sampler.taken = [dict.fromkeys(names, 0.0), dict(zip(names, (8.0, 2.0, 3.0, 1.0, 0.5, 20.0), strict=True))]
    disk = {"owner log": 100.0, "owner journal": 200.0, "model log": 300.0, "model journal": 400.0}
    return summarise(CELL, round_times([*a_round(0, 1), *a_round(8, 2), *a_round(16, 3)]), sampler, disk)


def test_a_result_is_of_one_round_and_its_table_says_what_was_not_measured() -> None:
    result = results()
    assert (result.rounds, result.complete, result.seconds, result.added) == (2, 2, 8.0, 7.0)
    assert result.cpu["owners"] == 4.0
    assert result.other_load == pytest.approx(5.5 / (16 * (os.cpu_count() or 1)))
    text = rounds_table([result], [Failed(CELL, "ProcessError: owner-03 ended\nwith more words")])
    assert "| 30 | 3 | 10,000 | embedded | 2 of 2 | 8.00 | 1.00 | 7.00 | 0.50 |" in text
    assert "Not measured: 30 owners, 10,000 values, embedded broker: ProcessError: owner-03 ended." in text
    assert "7.00 s with the embedded broker" in goal_line([result])
    with pytest.raises(ValueError, match="no round"):
        summarise(CELL, [], CpuSampler({}), {})


async def test_a_cell_that_fails_is_told_and_the_next_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def measure(cell: RoundsCell, *_: object) -> Any:
        if cell.owners == 9:
            raise ValueError("no round after the first has ended")
        return results()

    monkeypatch.setattr("scripts.bench_suite.rounds.measure", measure)
    said: list[str] = []
    done, failed = await run_rounds([RoundsCell(9, 3, 650, "embedded"), CELL], tmp_path, said.append)
    assert [each.cell for each in done] == [CELL]
    assert "no round after the first" in failed[0].reason
    assert any("failed" in text for text in said)


def test_the_pages_tasks_are_ones_that_the_contract_takes_and_last_some_minutes() -> None:
    cells = default_cells(["mosquitto", "embedded"], quick=False)
    for cell in cells:
        groups = cell.owners // cell.group_size
        assert cell.owners % cell.group_size == 0 and 5 <= groups <= 24 and cell.owners <= 128
        assert cell.values % 10 == 0
    assert sum(map(estimate, cells)) < 15 * 60
    assert {cell.owners for cell in cells} == {18, 30, 63, 99}


def test_a_journals_values_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    before = journal_bytes(path)
    journal.bind("x", bytes(1000))
    journal.close()
    assert journal_bytes(path) == before + 1001
    with sqlite3.connect(path) as opened:
        assert opened.execute("SELECT COUNT(*) FROM meta").fetchone() == (1,)


# -------------------------------------------------------------------------- growth


def test_a_power_law_is_found_again_and_its_spread_told() -> None:
    found = fit([(x, 3.0 * x**1.5) for x in (1.0, 10.0, 100.0)])
    assert (found.factor, found.exponent, found.spread) == pytest.approx((3.0, 1.5, 1.0))
    assert fit([(1, 1), (10, 20), (100, 100)]).spread == pytest.approx(2 ** (2 / 3))
    for bad in ([(1.0, 2.0)], [(1.0, 2.0), (1.0, 3.0)], [(1.0, 0.0), (2.0, 1.0)]):
        with pytest.raises(ValueError, match="two points"):
            fit(bad)


def sections() -> dict[str, Any]:
    cells = [
        {**results().as_json(), "owners": owners, "values": values}
        for owners, values in ((18, 650), (30, 650), (63, 650), (30, 10_000), (30, 100_000))
    ]
    gas = [
        {"values": d, "groups": 6, "group_size": 3, "lane_bits": 16, "round": 170.0, "floor": 165.0}
        for d in (650, 10_000, 40_000)
    ]
    stages = ("flower", "ours16", "ours32", "masks16", "masks32", "cipher16", "cipher32")
    masks = [
        {
            "values": d,
            "neighbours": 30,
            "ms": {name: d / 1000 + number for number, name in enumerate(stages)},
            "bytes": {"flower": 8 * d, "ours16": 2 * d},
        }
        for d in (10_000, 100_000, 1_000_000)
    ]
    return {
        "rounds": {"day": "2026-01-01", "goal": 5.0, "cells": cells, "before_name": "old", "before": [cells[3]]},
        "gas": {"day": "2026-01-01", "baseline": 94_000.0, "cells": gas},
        "masks": {"day": "2026-01-01", "cells": masks},
        "start": {"day": "2026-01-01", "goal": 25.0, "owners": {"count": 30, "seconds": 20.0}},
    }


def test_laws_are_of_three_points_at_least(tmp_path: Path) -> None:
    found = laws(sections())
    assert all(len(law.points) >= 3 for law in found)
    assert {law.against for law in found} == {"owners", "values"}
    assert "values^1.00" in laws_table([law for law in found if law.unit == "gas"])
    assert laws({}) == []
    plot_laws(found, tmp_path / "growth.png")
    plot_rounds(sections()["rounds"]["cells"], tmp_path / "rounds.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000 < (tmp_path / "rounds.png").stat().st_size
    assert Law("a", "s", "owners", "", ((1, 1), (2, 2), (4, 4))).fit.exponent == pytest.approx(1.0)


# ------------------------------------------------------------------- figures, summary


def test_figures_are_kept_by_section(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    assert read_figures(path) == {}
    remember("gas", {"cells": [1]}, "scripts/bench gas", "2026-01-01", path)
    remember("masks", {"cells": []}, "scripts/bench masks", "2026-01-01", path)
    remember("gas", {"cells": [2]}, "scripts/bench gas", "2026-01-02", path)
    assert read_figures(path)["gas"] == {"command": "scripts/bench gas", "day": "2026-01-02", "cells": [2]}
    assert json.loads(path.read_text())["schema"] == 1


def test_the_summary_has_a_ratio_for_each_figure_and_none_for_what_was_not_measured(tmp_path: Path) -> None:
    text = summary_table(sections())
    assert "| 170.0 | the published OmniLytics+ contract | 94,000 | 553 x less |" in text
    assert "the least that its calldata can cost | 165.0 | 1.030 x the limit" in text
    assert "Flower's SecAgg+ client stage" in text
    assert "| 7.00 s | the goal | 5 s |" in text
    assert "| 7.00 s | old | 7.00 s | 1.0 x less |" in text
    assert "30 owners started at once" in text
    assert summary_table({}).count("\n") == 1
    elsewhere = sections()["rounds"] | {"cells": [{**sections()["rounds"]["cells"][0], "owners": 9}]}
    assert "the goal" not in summary_table({"rounds": elsewhere}), "it is for thirty owners and 10,000 values"
    assert [path.name for path in plot_sections(sections(), tmp_path)] == ["bench-gas.png", "bench-masks.png"]


def test_the_page_has_a_part_for_every_command_and_the_commands_say_what_they_do() -> None:
    page = bench_main.PAGE.read_text(encoding="utf-8")
    for name in (*bench_main.ORDER, "summary"):
        assert f"<!-- {name}: written by scripts/bench, do not edit -->" in page
        told = CliRunner().invoke(main, [name, "--help"]).output
        assert name == "summary" or "Example: scripts/bench" in told
    assert figures.FIGURES.parent == bench_main.PAGE.parent


def test_quick_figures_never_reach_the_page() -> None:
    for name in ("gas", "rounds", "start", "growth", "all"):
        result = CliRunner().invoke(main, [name, "--quick", "--write"])
        assert result.exit_code == 2, name


# ---------------------------------------------------------------- small, and for real


def test_a_market_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_main, "_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(bench_main, "_brokers", lambda: ["embedded"])
    result = CliRunner().invoke(main, ["rounds", "--quick", "--profile"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "| 9 | 3 | 650 | embedded | 1 of 1 |" in result.output
    assert all(name in result.output for name in PHASES)
    profile = tmp_path / "rounds" / "cell-1" / "run" / "participants" / "owner-00" / "profile"
    assert profile.stat().st_size > 10_000


def test_open_tasks_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_main, "_folder", lambda name: tmp_path / name)
    monkeypatch.setattr("scripts.bench_suite.many_tasks.IDLE_SECONDS", 0.5)
    result = CliRunner().invoke(main, ["growth", "--quick"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "| 3 | " in result.output and "createTask, gas" in result.output


def test_imports_are_weighed() -> None:
    result = CliRunner().invoke(main, ["start", "--quick"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (web3,) = [line.split("|") for line in result.output.splitlines() if "web3 as it is" in line]
    (python,) = [line.split("|") for line in result.output.splitlines() if "Python alone" in line]
    assert int(web3[2]) > int(python[2]) and int(web3[3]) > int(python[3])
