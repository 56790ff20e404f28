"""`scripts/poison-table`: runs a market clean and under every poison, and writes the results into docs/poisoning.md.

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


def section(protection: str, command: str, day: str, options: TestbedOptions, lines: list[str]) -> str:
    """One protection's part of the page, between its markers."""
    how = (
        "one round; the model owner selects with its own rows, and one row of its test set is 0.56 points"
        if protection == "secret-head"
        else f"{options.rounds} rounds of softmax regression; the contract selects with Multi-Krum, and one row of the "
        "model owner's test set is 0.28 points"
    )
    return "\n".join(
        [
            f"<!-- {protection} -->",
            f"## {protection}",
            "",
            f"Written by `{command}`, {day}: {options.owners} owners in groups of 3, digits, Dirichlet skew 10, f = 1, "
            f"seed {options.seed}; {how}.",
            "",
            *lines,
            f"<!-- end of {protection} -->",
        ]
    )


def with_section(page: str, protection: str, text: str) -> str:
    """The page with one protection's part replaced, or added at its end. Nothing else is touched."""
    start, end = f"<!-- {protection} -->", f"<!-- end of {protection} -->"
    if start not in page:
        return page.rstrip() + "\n\n" + text + "\n"
    before, rest = page.split(start, 1)
    return before + text + rest.split(end, 1)[1]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--protection",
    type=click.Choice(["secret-head", "envelope"]),
    default="secret-head",
    show_default=True,
    help="Whose part of docs/poisoning.md is measured and written.",
)
@click.option("--rounds", type=int, help="Default: 1 under secret-head, otherwise 20.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--owners", type=int, default=18, show_default=True)
def main(protection: str, rounds: int | None, seed: int, owners: int) -> None:
    """Run a market under every poison, one after the other, and write the results into docs/poisoning.md."""
    rounds = rounds or (1 if protection == "secret-head" else 20)
    options = TestbedOptions(owners=owners, rounds=rounds, seed=seed, protection=protection)
    stamp = datetime.now(UTC)
    lines = asyncio.run(measure(options, ROOT / "runs" / f"poisons-{stamp:%Y-%m-%dT%H-%M-%S}"))
    command = " ".join(["scripts/poison-table", *sys.argv[1:]])
    text = section(protection, command, f"{stamp:%Y-%m-%d}", options, lines)
    PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8"), protection, text), encoding="utf-8")
    click.echo(PAGE, err=True)


if __name__ == "__main__":
    main(prog_name="scripts/poison-table")
