"""omnilytics status: asks the running daemon of a folder."""

from __future__ import annotations

from pathlib import Path

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option


@click.command()
@home_option
@json_option
def status(home: Path, as_json: bool) -> None:
    """Say where the running daemon is: health, chain, broker, balance, tasks, and for whom it waits.

    Exit code 3 when no daemon runs on the folder.

    \b
    Example: omnilytics status --home ./alice
    """
    from omnilytics.daemon.control.client import ControlClient
    from omnilytics.daemon.control.report import status_lines

    with ControlClient(home) as daemon:
        told = daemon.ask("status")
    emit("status", told, as_json, "\n".join(status_lines(told)))
