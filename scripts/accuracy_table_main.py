"""`scripts/accuracy-table`: runs whole markets under each protection and writes their accuracy and gas into
docs/protections.md.

Every figure of that table comes from the summaries of these runs; nothing in it is typed by hand.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from scripts.launcher.options import TestbedOptions
from scripts.launcher.run import run_testbed
from scripts.toolchain import ROOT

PAGE = ROOT / "docs" / "protections.md"
START, END = "<!-- accuracy: written by scripts/accuracy-table -->", "<!-- end of accuracy -->"


@dataclass(frozen=True)
class Case:
    """A market, named by the options that make it."""

    words: str
    options: TestbedOptions
    # Long runs of many rounds are played once.
    seeds: int


CASES = (
    Case("scripts/testbed", TestbedOptions(), 3),
    Case("scripts/testbed --features 128", TestbedOptions(features=128), 3),
    Case("scripts/testbed --features 512", TestbedOptions(features=512), 3),
    Case(
        "scripts/testbed --protection perturbed --model mlp:64,32",
        TestbedOptions(protection="perturbed", model="mlp:64,32", rounds=20, lane_bits=32),
        1,
    ),
    Case("scripts/testbed --protection envelope", TestbedOptions(protection="envelope", rounds=20), 1),
)


def row(words: str, runs: list[dict[str, Any]]) -> str:
    """A case's runs as a line of the table."""
    gas = np.mean([sum(sum(item["gas"].values()) for item in run["rounds"]) / len(run["rounds"]) for run in runs])
    cells = [
        f"`{words}`",
        f"{runs[0]['values']:,}",
        str(len(runs[0]["rounds"])),
        ", ".join(f"{100 * run['accuracy_final']:.1f} %" for run in runs),
        ", ".join(f"{100 * run['accuracy_plain']:.1f} %" for run in runs),
        f"{gas / runs[0]['owner_count'] / 1e6:.2f} M",
        ", ".join(f"{run['wall_seconds']:.0f}" for run in runs),
    ]
    return "| " + " | ".join(cells) + " |"


async def measure(folder: Path) -> list[str]:
    """Runs all cases, one after the other."""
    lines = [
        "| market | values | rounds | accuracy, by seed | the same in one process | gas an owner and round | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, case in enumerate(CASES):
        click.echo(f"== {case.words}", err=True)
        runs = []
        for seed in range(case.seeds):
            options = TestbedOptions(**{**vars(case.options), "seed": seed, "verify": True})
            runs.append(await run_testbed(options, folder / f"{number}-{seed}"))
            if not runs[-1]["sums_verified"]:
                raise click.ClickException(f"{case.words}, seed {seed}: a decrypted sum is not its owners'")
        lines.append(row(case.words, runs))
        click.echo(lines[-1], err=True)
    return lines


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the markets and write their table into docs/protections.md."""
    stamp = datetime.now(UTC)
    lines = asyncio.run(measure(ROOT / "runs" / f"accuracy-{stamp:%Y-%m-%dT%H-%M-%S}"))
    said = f"`{' '.join(['scripts/accuracy-table', *sys.argv[1:]])}`, {stamp:%Y-%m-%d}: every decrypted sum verified."
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START, 1)
    PAGE.write_text(before + "\n".join([START, said, "", *lines, END]) + rest.split(END, 1)[1], encoding="utf-8")
    click.echo(PAGE, err=True)


if __name__ == "__main__":
    main(prog_name="scripts/accuracy-table")
