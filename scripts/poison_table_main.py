"""`scripts/poison-table`: runs the default market clean and under every poison, and writes docs/poisoning.md.

Every figure of that page comes from the summaries of these runs; nothing on it is typed by hand.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from scripts.launcher.options import TestbedOptions
from scripts.launcher.run import run_testbed
from scripts.toolchain import ROOT
from tests.adversaries.poisons import parse_poison

PAGE = ROOT / "docs" / "poisoning.md"


@dataclass(frozen=True)
class Case:
    """One run: what is poisoned, in words, and the options that do it."""

    words: str
    poison: str | None = None
    poison_owners: str | None = None


CASES = (
    Case("nobody"),
    Case("noise, one whole group", poison="noise:1"),
    Case("scale x10, one whole group", poison="scale:1"),
    Case("sign flip, one whole group", poison="sign-flip:1"),
    Case("sign flip x3, one whole group", poison="sign-flip-3:1"),
    Case("label flip, one whole group", poison="label-flip:1"),
    Case("noise, one owner", poison_owners="noise:1"),
    Case("scale x10, one owner", poison_owners="scale:1"),
    Case("sign flip, one owner", poison_owners="sign-flip:1"),
    Case("label flip, one owner", poison_owners="label-flip:1"),
)


def row(words: str, summary: dict[str, Any], clean: float) -> str:
    """A run as a line of the table."""
    hostile = {owner["group"] for owner in summary["owners"] if owner["poisoned"]}
    learned = sum(bool(hostile & set(item["averaged_groups"])) for item in summary["rounds"])
    used = f"{learned} of {len(summary['rounds'])}" if hostile else "-"
    final = summary["accuracy_final"]
    return f"| {words} | {used} | {100 * final:.2f} % | {100 * (final - clean):+.2f} |"


async def measure(options: TestbedOptions, runs: Path) -> list[str]:
    """Runs all cases, one after the other, and returns the table's lines."""
    lines = [
        "| poisoned | rounds in which the model owner learned from its group | final accuracy | points to clean |",
        "|---|---|---|---|",
    ]
    clean = 0.0
    for number, case in enumerate(CASES):
        chosen = replace(
            options,
            poison=parse_poison(case.poison) if case.poison else None,
            poison_owners=parse_poison(case.poison_owners) if case.poison_owners else None,
        )
        click.echo(f"== {case.words}", err=True)
        summary = await run_testbed(chosen, runs / f"{number:02d}")
        clean = clean or summary["accuracy_final"]
        lines.append(row(case.words, summary, clean))
        click.echo(lines[-1], err=True)
    return lines


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=int, default=20, show_default=True, help="Of the envelope's runs.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--owners", type=int, default=18, show_default=True)
def main(rounds: int, seed: int, owners: int) -> None:
    """Run every poison against the default and against the envelope, and write docs/poisoning.md."""
    stamp = datetime.now(UTC)
    arguments = " ".join(sys.argv[1:])
    page = [
        "# Poisoning, measured on a chain",
        "",
        f"Written by `scripts/poison-table{' ' + arguments if arguments else ''}`, {stamp:%Y-%m-%d}, with real chain, "
        f"broker and processes: {owners} owners in groups of 3, digits,",
        f"Dirichlet skew 10, f = 1, seed {seed}. One run a row. Groups are drawn on the chain: another run differs by "
        "some tenths of a point. Many more attacks, over several seeds, in one process: [attacks.md](attacks.md).",
    ]
    for options, words in (
        (
            TestbedOptions(owners=owners, seed=seed),
            "one round; the model owner selects with its own rows. One row of its test set is 0.56 points.",
        ),
        (
            TestbedOptions(owners=owners, rounds=rounds, seed=seed, protection="envelope"),
            f"softmax regression, {rounds} rounds; the contract selects with Multi-Krum. One row of the model owner's "
            "test set is 0.28 points.",
        ),
    ):
        folder = ROOT / "runs" / f"poisons-{stamp:%Y-%m-%dT%H-%M-%S}-{options.protection}"
        lines = asyncio.run(measure(options, folder))
        page += ["", f"## {options.protection}", "", words[0].upper() + words[1:], "", *lines]
    page += [
        "",
        "Where the contract selects, only noise and scale by a whole group are claimed to be rejected always. A sign "
        "flip of factor 1 late in training is as short as an",
        "honest gradient, and Krum cannot tell them apart; one poisoned owner is diluted by its honest mates.",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    click.echo(PAGE, err=True)


if __name__ == "__main__":
    main(prog_name="scripts/poison-table")
