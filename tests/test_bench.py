"""The benchmark's own stages do what they are compared for, and its tables say what was measured."""

from __future__ import annotations

from click.testing import CliRunner

from scripts.bench_main import main
from scripts.bench_suite.flower import Taken
from scripts.bench_suite.masks import Compared, compare, masks_table, our_stages


def test_our_stages_send_as_many_bytes_as_lanes_need() -> None:
    sent = compare(our_stages(), values=1000, neighbours=2, turns=1).sent
    # 1,000 values in 256-bit words: 63 of 16 lanes, 125 of 8.
    assert sent["ours16"] == sent["masks16"] == 63 * 32
    assert sent["ours32"] == sent["masks32"] == 125 * 32


def test_the_fastest_turn_counts_and_turns_are_taken_in_turn() -> None:
    called: list[str] = []

    def stage(name: str, *seconds: float) -> object:
        left = list(seconds)

        def run(values: int, neighbours: int) -> Taken:
            called.append(name)
            return Taken(left.pop(0), values * neighbours)

        return run

    row = compare({"a": stage("a", 3.0, 2.0), "b": stage("b", 1.0, 5.0)}, 10, 3, 2)  # type: ignore[dict-item]
    assert called == ["a", "b", "a", "b"]
    assert row == Compared(10, 3, {"a": 2.0, "b": 1.0}, {"a": 30, "b": 30})


def test_the_table_has_ratios_of_what_was_measured() -> None:
    seconds = {"flower": 1.0, "ours32": 0.1, "ours16": 0.05, "masks32": 0.06, "cipher32": 0.05}
    seconds |= {"masks16": 0.03, "cipher16": 0.02}
    sent = {"flower": 8000, "ours32": 4000, "ours16": 2000}
    cells = [cell.strip() for cell in masks_table([Compared(1000, 30, seconds, sent)]).splitlines()[-1].split("|")]
    assert cells[1:-1] == [
        "1,000", "30", "1,000.0", "100.0", "50.0", "10.0", "20.0", "1.20", "1.50", "8,000", "4,000", "2,000",
    ]  # fmt: skip


def test_a_group_has_at_least_two_neighbours() -> None:
    result = CliRunner().invoke(main, ["masks", "--neighbours", "1"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
