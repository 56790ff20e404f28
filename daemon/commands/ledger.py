"""omnilytics ledger: what this folder has given to whom."""

from __future__ import annotations

from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option

if TYPE_CHECKING:
    from omnilytics.daemon.ledger import Exposure, Ledger


@click.command()
@home_option
@json_option
def ledger(home: Path, as_json: bool) -> None:
    """Show what was posted to whom: rounds, rows, protection, and epsilon where there was noise.

    The daemon may be running.

    \b
    Example: omnilytics ledger --home ./alice
    """
    found = read_ledger(home / "journal.sqlite")
    if as_json:
        rounds = [_as_json(exposure) for exposure in found.exposures]
        emit("ledger", {"rounds": rounds, "epsilon": _epsilon(found)}, True, "")
        return
    in_order = sorted(found.exposures, key=lambda entry: (entry.task, entry.round))
    for _, entries in groupby(in_order, lambda entry: entry.task):
        click.echo(_line(list(entries)))
    if not found.exposures:
        click.echo("nothing was posted yet", err=True)
        return
    silent = sum(not entry.mechanism.noise_multiplier for entry in found.exposures)
    if silent:
        click.echo(f"{silent} of {len(found.exposures)} rounds had no noise: their epsilon has no bound")
    else:
        click.echo(f"epsilon {_epsilon(found):.3f} at delta {found.exposures[-1].delta:g}, over all rounds")


def read_ledger(journal_path: Path) -> Ledger:
    """The ledger of a folder, empty where there is no journal yet. Raises JournalError."""
    from omnilytics.daemon.journal import Journal
    from omnilytics.daemon.ledger import Ledger

    if not journal_path.exists():
        return Ledger()
    with closing(Journal(journal_path)) as journal:
        return Ledger.of(journal.exposures())


def _epsilon(found: Ledger) -> float | None:
    """What all rounds with noise have spent by the last of them; None where there is none."""
    return max((entry.epsilon for entry in found.exposures if entry.epsilon is not None), default=None)


def _line(entries: list[Exposure]) -> str:
    last, how = entries[-1], entries[-1].mechanism
    noise = "no noise"
    if last.epsilon is not None:
        noise = f"noise {how.noise_multiplier:g}, epsilon {last.epsilon:.3f} by then"
    return (
        f"task {last.task} of 0x{last.model_owner.hex()}: {len(entries)} rounds, {how.batch_rows} of {how.rows} rows "
        f"in each, in groups of {last.group_size}, {last.architecture}, {last.protection}, {noise}"
    )


def _as_json(exposure: Exposure) -> dict[str, Any]:
    how = exposure.mechanism
    return {
        "task": exposure.task,
        "round": exposure.round,
        "market": "0x" + exposure.market.hex(),
        "model_owner": "0x" + exposure.model_owner.hex(),
        "architecture": exposure.architecture,
        "group_size": exposure.group_size,
        "protection": exposure.protection,
        "batch_rows": how.batch_rows,
        "rows": how.rows,
        "secret_batch": how.secret_batch,
        "noise_multiplier": how.noise_multiplier,
        "clip_norm": exposure.clip_norm,
        "delta": exposure.delta,
        "epsilon": exposure.epsilon,
    }
