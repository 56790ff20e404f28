"""`scripts/bench`: the figures of docs/performance.md, each beside what it is compared with, in one run."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click

from omnilytics.daemon.cli import main_with
from scripts.bench_suite.flower import REQUIREMENTS, FlowerStage, environment
from scripts.bench_suite.gas import baseline_gas, default_cells, gas_table, market_gas
from scripts.bench_suite.masks import DIMENSIONS, NEIGHBOURS, masks_table, our_stages, run_masks
from scripts.chain_process import start_anvil
from scripts.pages import replace_part
from scripts.toolchain import ROOT

PAGE = ROOT / "docs" / "performance.md"
SCRIPT = "scripts/bench"


def _say(text: str) -> None:
    click.echo(text, err=True)


def _publish(name: str, text: str, write: bool) -> None:
    """Prints a part, and puts it into the page, with its command and day."""
    click.echo(text)
    if write:
        command = " ".join([SCRIPT, *sys.argv[1:]])
        replace_part(PAGE, name, SCRIPT, f"`{command}`, {datetime.now(UTC):%Y-%m-%d}.\n\n{text}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure, side by side, and write docs/performance.md."""


@main.command()
@click.option("--values", type=click.IntRange(1), multiple=True, help=f"Vector lengths (default: {DIMENSIONS}).")
@click.option("--neighbours", type=click.IntRange(2, 254), multiple=True, help=f"Mates (default: {NEIGHBOURS}).")
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True, help="Turns of each, at least.")
@click.option("--write", is_flag=True, help="Put the table into docs/performance.md.")
def masks(values: tuple[int, ...], neighbours: tuple[int, ...], turns: int, write: bool) -> None:
    """An owner's masking stage beside Flower's SecAgg+ client stage, and beside the cipher alone.

    \b
    Example: scripts/bench masks --values 1000000 --neighbours 30
    """
    cells = [(d, k) for d in values or DIMENSIONS for k in neighbours or NEIGHBOURS]
    with FlowerStage(environment()) as flower:
        stages = {"flower": flower.run, **our_stages()}
        rows = list(run_masks(stages, cells, turns, _say))
    pinned = ", ".join(REQUIREMENTS.read_text(encoding="utf-8").split())
    text = f"{pinned}; the fastest of at least {turns} turns; one thread, but where two are told."
    _publish("masks", f"{text}\n\n{masks_table(rows)}", write)


@main.command()
@click.option("--quick", is_flag=True, help="One small task only: to see that it works.")
@click.option("--write", is_flag=True, help="Put the table into docs/performance.md.")
def gas(quick: bool, write: bool) -> None:
    """Gas of a round on a real chain, beside the baseline and beside the least that its calldata can cost.

    \b
    Example: scripts/bench gas --quick
    """
    if quick and write:
        raise click.UsageError("leave out --quick to write the table")

    async def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            async with start_anvil(Path(folder), block_time=0) as anvil:
                baseline = await asyncio.to_thread(baseline_gas, anvil)
                return gas_table(await market_gas(anvil, default_cells(quick), _say), baseline)

    _publish("gas", asyncio.run(run()), write)


if __name__ == "__main__":
    main_with(main)
