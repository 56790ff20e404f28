"""`scripts/bench`: the figures of docs/performance.md, each beside what it is compared with, in one run."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.cli import main_with
from scripts.bench_suite.figures import gas_figures, mask_figures, read_figures, remember
from scripts.bench_suite.flower import REQUIREMENTS, FlowerStage, environment
from scripts.bench_suite.gas import baseline_gas, default_cells, gas_table, market_gas
from scripts.bench_suite.growth import laws, laws_table, plot_laws, plot_rounds
from scripts.bench_suite.many_tasks import COUNTS, PLAYED, open_table, open_tasks, played_table, played_tasks
from scripts.bench_suite.masks import DIMENSIONS, NEIGHBOURS, masks_table, our_stages, run_masks
from scripts.bench_suite.rounds import (
    GOAL,
    RoundsCell,
    estimate,
    goal_line,
    rounds_table,
    run_rounds,
)
from scripts.bench_suite.rounds import default_cells as round_cells
from scripts.bench_suite.startup import IMPORTS, measure_imports, start_figures, start_table
from scripts.bench_suite.summary import START_OWNERS, plot_sections, summary_table
from scripts.chain_process import start_anvil
from scripts.idle_figures_main import start_only
from scripts.pages import replace_part
from scripts.toolchain import ROOT, MissingProgramError, find_mosquitto

PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
SCRIPT = "scripts/bench"
START_GOAL = 25.0
# Minutes where nothing was measured yet.
MINUTES = {"gas": 5.0, "masks": 6.0, "rounds": 11.0, "start": 1.0, "growth": 6.0}
ORDER = tuple(MINUTES)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _command() -> str:
    """What was typed, without where things lie on this machine."""
    return " ".join([SCRIPT, *("CHECKOUT" if "/" in word else word for word in sys.argv[1:])])


def _publish(
    name: str,
    text: str,
    write: bool,
    figures: Mapping[str, Any],
    began: float,
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Prints a part; puts it into the page and its figures beside it, with command and day; then the summary anew.

    draw: makes the part's picture.
    """
    click.echo(text)
    if write:
        day, took = f"{datetime.now(UTC):%Y-%m-%d}", round(time.monotonic() - began)
        shown = f"`{_command()}`, {day}, {took} s.\n\n{text}"
        if draw is not None:
            picture = IMAGES / f"bench-{name}.png"
            draw(picture)
            shown = f"{shown}\n\n![{name}](images/{picture.name})"
        replace_part(PAGE, name, SCRIPT, shown)
        remember(name, {**figures, "took": took}, _command(), day)
        _write_summary()


def _write_summary() -> None:
    sections = read_figures()
    pictures = [f"![{path.stem}](images/{path.name})" for path in plot_sections(sections, IMAGES)]
    replace_part(PAGE, "summary", SCRIPT, "\n\n".join([summary_table(sections), *pictures]))


def _check(quick: bool, write: bool) -> None:
    if quick and write:
        raise click.UsageError("leave out --quick to write the table")


def _folder(name: str) -> Path:
    return ROOT / "runs" / f"bench-{name}-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"


def _brokers() -> list[str]:
    try:
        find_mosquitto()
    except MissingProgramError as error:
        _say(f"embedded broker only: {error}")
        return ["embedded"]
    return ["mosquitto", "embedded"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure, side by side, and write docs/performance.md.

    \b
    scripts/bench gas --quick        does it work? seconds; every command has --quick but masks
    scripts/bench rounds --write     measure, and put table, figures and pictures into docs/
    scripts/bench all --write        everything, in order, on a machine that does nothing else
    Each --write makes the summary at the top of the page anew, from docs/performance.json.
    """


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
    began = time.monotonic()
    cells = [(d, k) for d in values or DIMENSIONS for k in neighbours or NEIGHBOURS]
    with FlowerStage(environment()) as flower:
        stages = {"flower": flower.run, **our_stages()}
        rows = list(run_masks(stages, cells, turns, _say))
    pinned = ", ".join(REQUIREMENTS.read_text(encoding="utf-8").split())
    text = f"{pinned}; the fastest of at least {turns} turns; one thread, but where two are told."
    _publish("masks", f"{text}\n\n{masks_table(rows)}", write, mask_figures(rows), began)


@main.command()
@click.option("--quick", is_flag=True, help="One small task only: to see that it works.")
@click.option("--write", is_flag=True, help="Put the table into docs/performance.md.")
def gas(quick: bool, write: bool) -> None:
    """Gas of a round on a real chain, beside the baseline and beside the least that its calldata can cost.

    \b
    Example: scripts/bench gas --quick
    """
    _check(quick, write)
    began = time.monotonic()

    async def run() -> tuple[str, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            async with start_anvil(Path(folder), block_time=0) as anvil:
                baseline = await asyncio.to_thread(baseline_gas, anvil)
                rows = await market_gas(anvil, default_cells(quick), _say)
                return gas_table(rows, baseline), gas_figures(rows, baseline)

    _publish("gas", *_with_write(asyncio.run(run()), write), began)


def _with_write(measured: tuple[str, dict[str, Any]], write: bool) -> tuple[str, bool, dict[str, Any]]:
    return measured[0], write, measured[1]


@main.command()
@click.option("--owners", type=click.IntRange(9, 126), multiple=True, help="Data owners, instead of the page's tasks.")
@click.option("--values", type=click.IntRange(20), multiple=True, help="Values of a model, a multiple of ten.")
@click.option("--group-size", type=click.IntRange(3, 16), default=3, show_default=True, help="With --owners.")
@click.option("--broker", "brokers", type=click.Choice(["embedded", "mosquitto"]), multiple=True, help="Default: both.")
@click.option("--rounds", type=click.IntRange(2), default=4, show_default=True, help="The first does not count.")
@click.option(
    "--before",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="CHECKOUT",
    help="Another checkout of the program, set up: its daemons play the task of 30 owners and 10,000 values too.",
)
@click.option("--profile", is_flag=True, help="Model owner and first owner leave profiles in their folders in runs/.")
@click.option("--quick", is_flag=True, help="One small task only: to see that it works.")
@click.option("--write", is_flag=True, help="Put the table into docs/performance.md.")
def rounds(
    owners: tuple[int, ...],
    values: tuple[int, ...],
    group_size: int,
    brokers: tuple[str, ...],
    rounds: int,
    before: Path | None,
    profile: bool,
    quick: bool,
    write: bool,
) -> None:
    """Seconds of a round by phase, and who takes the processor: real daemons, a block at every transaction.

    \b
    Example: scripts/bench rounds --owners 30 --values 10000 --broker mosquitto
    """
    _check(quick, write)
    began, folder = time.monotonic(), _folder("rounds")
    chosen = list(brokers) or _brokers()
    cells = round_cells(chosen, quick)
    if owners or values:
        cells = [
            RoundsCell(n, group_size, d - d % 10, broker, rounds)
            for broker in chosen
            for n in owners or (30,)
            for d in values or (650,)
        ]
    total = sum(map(estimate, cells))
    _say(f"about {total / 60:.0f} minutes; folder {folder}")
    results, failed = asyncio.run(run_rounds(cells, folder, _say, profile))
    text = "\n\n".join(filter(None, [goal_line(results), rounds_table(results, failed)]))
    figures: dict[str, Any] = {"goal": GOAL, "cells": [result.as_json() for result in results]}
    if before is not None:
        shown = [cell for cell in cells if (cell.owners, cell.values) == (30, 10_000)] or cells
        told, more = _before(before, shown[:1], folder / "before")
        text, figures = f"{text}\n\n{told}", {**figures, **more}
    draw = partial(plot_rounds, figures["cells"]) if results else None
    _publish("rounds", text, write, figures, began, draw)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(cells)} were not measured; the page names them")


def _before(checkout: Path, cells: list[RoundsCell], folder: Path) -> tuple[str, dict[str, Any]]:
    """The same with another checkout's daemons: words and table, and figures."""
    program = checkout / ".venv" / "bin" / "omnilytics"
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    )
    name = f"the daemons of commit {done.stdout.strip()}"
    _say(f"now {name}")
    results, failed = asyncio.run(run_rounds(cells, folder, _say, program=program))
    text = f"In the same run, played by {name}:\n\n{rounds_table(results, failed)}"
    return text, {"before_name": name, "before": [result.as_json() for result in results]}


@main.command()
@click.option("--owners", type=click.IntRange(1), default=START_OWNERS, show_default=True, help="Started at once.")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True, help="Turns of each import.")
@click.option("--quick", is_flag=True, help="One turn, and no owners: to see that it works.")
@click.option("--write", is_flag=True, help="Put the table into docs/performance.md.")
def start(owners: int, turns: int, quick: bool, write: bool) -> None:
    """What libraries cost to load, and how long many owners take to start on this machine.

    \b
    Example: scripts/bench start --owners 10
    """
    _check(quick, write)
    began = time.monotonic()
    _say(f"{len(IMPORTS)} imports, {1 if quick else turns} turns")
    imports = measure_imports(1 if quick else turns)
    started = None
    if not quick:
        _say(f"starting {owners} owners")
        started = asyncio.run(start_only(_folder("start"), owners))
    figures = {"goal": START_GOAL, **start_figures(imports, started)}
    _publish("start", start_table(imports, started), write, figures, began)


@main.command()
@click.option("--open", "opened", type=click.IntRange(1), multiple=True, help=f"Open tasks (default: {COUNTS}).")
@click.option("--played", type=click.IntRange(1, 50), multiple=True, help=f"Tasks at once (default: {PLAYED}).")
@click.option("--quick", is_flag=True, help="A few open tasks only: to see that it works.")
@click.option("--write", is_flag=True, help="Put the tables into docs/performance.md.")
def growth(opened: tuple[int, ...], played: tuple[int, ...], quick: bool, write: bool) -> None:
    """How costs grow with owners, values and tasks: many tasks measured, the other sections' figures fitted.

    \b
    Example: scripts/bench growth --open 100 --played 5
    """
    _check(quick, write)
    began, folder = time.monotonic(), _folder("growth")
    _say(f"about {1 if quick else MINUTES['growth']:.0f} minutes; folder {folder}")
    looked = asyncio.run(open_tasks(folder / "open", sorted(opened) or ((1, 3) if quick else COUNTS), _say))
    results, failed = [], []
    for count in () if quick else sorted(played) or PLAYED:
        _say(f"{count} tasks at once")
        try:
            results.append(asyncio.run(played_tasks(folder / f"played-{count}", count)))
        except Exception as error:  # noqa: BLE001 (whatever it was: the others are worth measuring)
            failed.append(f"{count} tasks at once: {type(error).__name__}: {error}".splitlines()[0])
            _say(f"  failed: {failed[-1]}")
    found = laws(read_figures())
    parts = [laws_table(found) if found else "", open_table(looked), played_table(results) if results else ""]
    parts += [f"Not measured: {reason}." for reason in failed]
    figures = {"open": [vars(each) for each in looked], "played": [vars(each) for each in results]}
    draw = partial(plot_laws, found) if found else None
    _publish("growth", "\n\n".join(filter(None, parts)), write, figures, began, draw)
    if failed:
        raise click.ClickException(f"{len(failed)} were not measured; the page names them")


@main.command()
@click.option("--write", is_flag=True, help="Put it into docs/performance.md, and draw the pictures.")
def summary(write: bool) -> None:
    """The table at the top of the page, from the figures of the other sections; nothing is measured."""
    click.echo(summary_table(read_figures()))
    if write:
        _write_summary()


@main.command("all")
@click.option("--quick", is_flag=True, help="Everything small: to see that it works. About two minutes.")
@click.option("--write", is_flag=True, help="Put everything into docs/performance.md.")
@click.pass_context
def everything(context: click.Context, quick: bool, write: bool) -> None:
    """All of it, one after the other; what fails is said at the end, and the rest is measured.

    \b
    Example: scripts/bench all --write
    """
    _check(quick, write)
    known = read_figures()
    minutes = {name: known.get(name, {}).get("took", 60 * MINUTES[name]) / 60 for name in ORDER}
    if not quick:
        _say(f"about {sum(minutes.values()):.0f} minutes: {', '.join(f'{n} {m:.0f}' for n, m in minutes.items())}")
    failed = []
    for name in ORDER:
        _say(f"--- {name}")
        command = main.commands[name]
        options: dict[str, Any] = {"write": write} if name == "masks" else {"write": write, "quick": quick}
        if name == "masks" and quick:
            options |= {"values": (1000,), "neighbours": (2,), "turns": 1}
        try:
            context.invoke(command, **options)
        except Exception as error:  # noqa: BLE001 (the others are worth measuring)
            failed.append(f"{name}: {error}")
            _say(f"  failed: {failed[-1]}")
    if failed:
        raise click.ClickException("; ".join(failed))


if __name__ == "__main__":
    main_with(main)
