"""`scripts/attack`: every promise attacked in one process, and docs/attacks.md written from what came out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import click

from scripts.attack_suite.report import (
    IMAGES,
    PAGE,
    Amount,
    Part,
    poisoning_parts,
    privacy_parts,
    stealing_parts,
    write,
)

TOPICS = ("stealing", "poisoning", "privacy", "all")
STEPS, QUICK_STEPS = 300, 5


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("topic", type=click.Choice(TOPICS), default="all")
@click.option("--quick", is_flag=True, help="One seed of the fastest attacks only, in seconds; cannot be written.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Markets to attack.")
@click.option("--write", "to_page", is_flag=True, help="Put tables and pictures into docs/.")
def main(topic: str, quick: bool, seeds: int, to_page: bool) -> None:
    """Attack what the market promises: that the model (stealing), owners' rows (privacy) and the training (poisoning)
    are safe. Prints tables in Markdown; a whole run takes some twenty minutes on one core.
    """
    if quick and to_page:
        raise click.UsageError("figures of --quick mean nothing; leave out --quick to write them")
    amount = Amount(1 if quick else seeds, 1 if quick else min(seeds, 2), QUICK_STEPS if quick else STEPS, quick)
    command = " ".join(["scripts/attack", *sys.argv[1:]])
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    start = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - start:6.0f} s  {text}", err=True)

    if to_page:
        IMAGES.mkdir(exist_ok=True)
    runs: dict[str, Callable[[], Iterator[Part]]] = {
        "stealing": lambda: stealing_parts(amount, say),
        "poisoning": lambda: poisoning_parts(amount, say),
        "privacy": lambda: privacy_parts(amount, say, IMAGES if to_page else None),
    }
    for name, run in runs.items():
        if topic not in (name, "all"):
            continue
        for part in run():
            click.echo(f"## {part[0]}\n\n{part[1]}\n")
            if to_page:
                write(part, command, day)
                click.echo(PAGE, err=True)


if __name__ == "__main__":
    main(prog_name="scripts/attack")
