"""omnilytics status, omnilytics stop: asks the running daemon of a folder, or ends it."""

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


@click.command()
@home_option
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long its end is waited for.",
)
@json_option
def stop(home: Path, timeout: float, as_json: bool) -> None:
    """Stop the running daemon in order, as SIGTERM does, and wait for its end.

    Exit code 0 also when none is running; 3 when it does not end in time.

    \b
    Example: omnilytics stop --home ./alice
    """
    from omnilytics.daemon.control.client import ControlClient, NobodyThereError
    from omnilytics.peers.errors import ControlError

    try:
        daemon = ControlClient(home)
    except NobodyThereError as nobody:
        emit("stop", {"stopped": False, "running": False, "pid": None}, as_json, nobody.message)
        return
    with daemon:
        pid = daemon.ask("stop")["pid"]
        if not daemon.wait_for_end(timeout):
            raise ControlError(
                f"the daemon (pid {pid}) has not ended within {timeout:g} s", help="look into its log, or wait longer"
            )
    emit("stop", {"stopped": True, "running": False, "pid": pid}, as_json, f"stopped (pid {pid})")
