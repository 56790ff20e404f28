"""omnilytics owner run: a data owner's daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.options import network_options, settings_from


@click.group()
def owner() -> None:
    """The data owner's side."""


@owner.command()
@network_options
@click.option(
    "--data", type=click.Path(path_type=Path, dir_okay=False), required=True, help=".npz (X, y), .csv or .parquet."
)
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv and .parquet.")
@click.option(
    "--task",
    type=click.IntRange(1, 2**63 - 1),
    help="The task to join (default: the first open one that fits the data).",
)
@click.option("--max-stake", type=int, metavar="WEI", help="Join no task with a larger stake (default: the policy's).")
@click.option("--restore-stake", is_flag=True, help="After a slashing, restore the stake and play on.")
@click.option("--withdraw-to", metavar="ADDRESS", help="Where earnings go (default: the own account).")
@click.option("--allow-thin-sums", is_flag=True, help="Join tasks whose group sums could give single rows away.")
@click.option("--seed", help="Draw batches from this seed instead of fresh entropy: testbeds only.")
def run(
    data: Path,
    label: str | None,
    task: int | None,
    max_stake: int | None,
    restore_stake: bool,
    allow_thin_sums: bool,
    withdraw_to: str | None,
    seed: str | None,
    **options: Any,
) -> None:
    """Join a task and play it to its end: train, mask, commit, post, settle in turn, collect.

    \b
    Example: omnilytics owner run --home ./alice --chain http://127.0.0.1:8545 \\
                 --market 0x5FbD... --broker mqtt://127.0.0.1:1883 --data rows.npz
    """
    from omnilytics.daemon.run import OwnerOptions, run_owner

    settings, password_file = settings_from(options)
    chosen = OwnerOptions(data, label, task, max_stake, withdraw_to, seed, restore_stake, allow_thin_sums)
    run_owner(settings, password_file, chosen)
