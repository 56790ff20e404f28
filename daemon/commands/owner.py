"""omnilytics owner run: a data owner's daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.options import network_options, settings_from
from omnilytics.daemon.signals import leaving_at_once


@click.group()
def owner() -> None:
    """The data owner's side."""


@owner.command()
@network_options
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE|NAME",
    help=".npz (X, y), .csv or .parquet, or a name of omnilytics data list (default: the only one there).",
)
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv and .parquet.")
@click.option(
    "--task",
    type=click.IntRange(1, 2**63 - 1),
    help="The task to join (default: the first open one that fits the data).",
)
@click.option("--stay", is_flag=True, help="When a task is over join the next one, and so on until stopped.")
@click.option(
    "--max-tasks",
    type=click.IntRange(1),
    metavar="N",
    help="Play up to so many tasks at once (default: the policy's most_tasks, 1); more than one is --stay, too.",
)
@click.option("--max-stake", type=int, metavar="WEI", help="Join no task with a larger stake (default: the policy's).")
@click.option("--restore-stake", is_flag=True, help="After a slashing, restore the stake and play on.")
@click.option("--withdraw-to", metavar="ADDRESS", help="Where earnings go (default: the own account).")
@click.option("--allow-thin-sums", is_flag=True, help="Join tasks whose group sums could give single rows away.")
@click.option("--seed", help="Draw batches from this seed instead of fresh entropy: testbeds only.")
def run(
    data: Path | None,
    label: str | None,
    task: int | None,
    stay: bool,
    max_tasks: int | None,
    max_stake: int | None,
    restore_stake: bool,
    allow_thin_sums: bool,
    withdraw_to: str | None,
    seed: str | None,
    **options: Any,
) -> None:
    """Join a task and play it to its end: train, mask, commit, post, settle in turn, collect.

    With --stay the daemon finds its tasks by itself, one after the other or, with --max-tasks, several at once;
    [policy] in the folder's config.toml says which (omnilytics policy show). Whatever was joined before is played on.

    \b
    Example: omnilytics owner run --home ./alice --chain http://127.0.0.1:8545 \\
                 --market 0x5FbD... --broker mqtt://127.0.0.1:1883 --data rows.npz
             omnilytics owner run --home ./alice --data rows.npz --stay --max-tasks 3
    """
    with leaving_at_once():
        from omnilytics.daemon.data_registry import choose, read_registry
        from omnilytics.daemon.run import OwnerOptions, run_owner

        settings, password_file = settings_from(options)
        rows = choose(read_registry(settings.table("data"), settings.home), data, label)
        file, names, thin = rows.file, rows.label, allow_thin_sums
        chosen = OwnerOptions(file, names, task, max_stake, withdraw_to, seed, restore_stake, thin, stay, max_tasks)
        run_owner(settings, password_file, chosen)
