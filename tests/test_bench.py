"""The benchmark's own stages do what they are compared for, and its tables say what was measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner

from scripts.bench_main import main
from scripts.bench_suite.flower import Taken
from scripts.bench_suite.gas import BaselineGas, Cell, baseline_gas, floor_gas, gas_table, market_gas
from scripts.bench_suite.masks import Compared, compare, masks_table, our_stages
from scripts.chain_process import start_anvil


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
    seconds |= {"threads32": 0.08, "threads16": 0.04}
    sent = {"flower": 8000, "ours32": 4000, "ours16": 2000}
    cells = [cell.strip() for cell in masks_table([Compared(1000, 30, seconds, sent)]).splitlines()[-1].split("|")]
    assert cells[1:-1] == [
        "1,000", "30", "1,000.0", "100.0", "50.0", "10.0", "20.0", "80.0", "40.0", "12.5", "25.0", "1.20", "1.50",
        "8,000", "4,000", "2,000",
    ]  # fmt: skip


def test_a_group_has_at_least_two_neighbours() -> None:
    result = CliRunner().invoke(main, ["masks", "--neighbours", "1"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


# --------------------------------------------------------------------------- gas


def test_the_floor_counts_bytes_as_eip_7623_does() -> None:
    assert floor_gas(b"") == 21_000
    assert floor_gas(bytes(3) + b"\x01\xff") == 21_000 + 3 * 10 + 2 * 40


async def test_a_round_is_played_to_its_end_and_every_call_is_counted(tmp_path: Path) -> None:
    async with start_anvil(tmp_path, block_time=0) as anvil:
        cells = [Cell(20, 3, 3, 16), Cell(20, 3, 3, 16, delivery="broker")]
        row, over_broker = await market_gas(anvil, cells, lambda text: None)
    assert {name: spent.calls for name, spent in row.spent.items()} == {
        "openRound": 1, "commit": 9, "post": 9, "settle": 1,
    }  # fmt: skip
    assert {name: spent.calls for name, spent in over_broker.spent.items()} == {
        "openRound": 1, "commit": 9, "acknowledge": 1, "settle": 1,
    }  # fmt: skip
    assert over_broker.a_value() < row.a_value()
    assert all(spent.gas >= spent.floor for spent in row.spent.values())
    total = sum(spent.gas for spent in row.spent.values())
    assert row.a_value() == total / (20 * 9)
    told = gas_table([row], BaselineGas(70_000.0, 24_000.0)).splitlines()[-1].split("|")
    assert told[1].strip() == "20" and told[-2].strip() == f"{94_000 / row.a_value():,.0f}"


async def test_the_baseline_stores_three_words_a_value_and_adds_them_up(tmp_path: Path) -> None:
    async with start_anvil(tmp_path, block_time=0) as anvil:
        found = await asyncio.to_thread(baseline_gas, anvil, 2, 100)
    # A new word of storage costs 22,100 (EIP-2929); adding up reads three cold words and changes three.
    assert 3 * 22_100 < found.store < 4 * 22_100
    assert 3 * (2_100 + 2_100 + 2_900) < found.add < 3 * 2 * (2_100 + 2_100 + 2_900)
