"""`scripts/calldata-cost`: what a run's measured gas would cost at other gas prices. Arithmetic, not a measurement.

Gas and calldata come from the logs of a run on a local chain. EIP-7623 charges at least 10 gas for a zero byte of
calldata and 40 for another; masked vectors look random, so 40 a byte is theirs.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

FLOOR_GAS_A_BYTE = 40
# gwei, from rollups to a congested main network: round numbers, nobody's forecast.
GAS_PRICES = (0.01, 0.1, 1.0, 10.0, 50.0)


@dataclass(frozen=True)
class Spent:
    """What a role did with one function in a run: totals over its transactions, and how many played the role."""

    role: str
    function: str
    people: int
    transactions: int
    gas: int
    calldata_bytes: int


def read_run(folder: Path) -> list[Spent]:
    """All mined transactions of a run, reverted ones too, by role and function. Raises click.ClickException."""
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    people: dict[str, set[str]] = defaultdict(set)
    for path in sorted((folder / "logs").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record: dict[str, Any] = json.loads(line)
            people[record["role"]].add(record["peer"])
            if record["event"] in ("tx.mined", "tx.reverted"):
                total = totals[record["role"], record["data"]["function"]]
                for index, amount in enumerate((1, record["gas"], record["data"]["calldata_bytes"])):
                    total[index] += amount
    if not totals:
        raise click.ClickException(f"no transactions in {folder}/logs; name the folder of a testbed's run")
    return [Spent(role, function, len(people[role]), *total) for (role, function), total in totals.items()]


def table(spent: list[Spent]) -> list[str]:
    """Two tables in Markdown: gas by function, and ether by role and gas price."""
    lines = ["| who | function | transactions | gas each | calldata bytes each | of it for calldata, at the most |"]
    lines.append("|---|---|---|---|---|---|")
    for entry in sorted(spent, key=lambda entry: (entry.role, -entry.gas)):
        each, size = (round(total / entry.transactions) for total in (entry.gas, entry.calldata_bytes))
        share = min(1.0, FLOOR_GAS_A_BYTE * entry.calldata_bytes / entry.gas)
        lines.append(
            f"| {entry.role} | {entry.function} | {entry.transactions} | {each:,} | {size:,} | {100 * share:.0f} % |"
        )
    lines += ["", "| in all, for each | gas | " + " | ".join(f"{price:g} gwei" for price in GAS_PRICES) + " |"]
    lines.append("|---|---|" + "---|" * len(GAS_PRICES))
    for role in sorted({entry.role for entry in spent}):
        gas = sum(entry.gas / entry.people for entry in spent if entry.role == role)
        costs = " | ".join(f"{gas * price * 1e-9:.6f} ETH" for price in GAS_PRICES)
        lines.append(f"| {role} | {gas:,.0f} | {costs} |")
    return lines


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(run: Path) -> None:
    """Multiply the gas of a run by gas prices: an arithmetic example for docs/deploy.md.

    \b
    Example: scripts/calldata-cost runs/<time>
    """
    for line in table(read_run(run)):
        click.echo(line)


if __name__ == "__main__":
    sys.exit(main(prog_name="scripts/calldata-cost"))
