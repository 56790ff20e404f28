"""`scripts/bench`: the figures of docs/performance.md, each beside what it is compared with, in one run."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from omnilytics.daemon.cli import main_with
from scripts.bench_suite.flower import REQUIREMENTS, FlowerStage, environment
from scripts.bench_suite.masks import DIMENSIONS, NEIGHBOURS, masks_table, our_stages, run_masks
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
    _publish("masks", f"{pinned}; the fastest of at least {turns} turns; one thread.\n\n{masks_table(rows)}", write)


if __name__ == "__main__":
    main_with(main)
