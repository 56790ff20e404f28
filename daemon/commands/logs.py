"""omnilytics logs: the daemon's log for people."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from pathlib import Path

import click

from omnilytics.daemon.commands.options import home_option

FOLLOW_SECONDS = 0.25


@click.command()
@home_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, also after a rotation, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=40, show_default=True, help="Begin so far back.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Leave out what is below.",
)
@click.option("--json", "as_json", is_flag=True, help="The lines as they are stored, one JSON object each.")
def logs(home: Path, follow: bool, lines: int, level: str, as_json: bool) -> None:
    """Show the last lines of the daemon's log, readable; times are UTC.

    \b
    Example: omnilytics logs -f -n 100 --level warning --home ./alice
    """
    from omnilytics.daemon.config import Settings
    from omnilytics.daemon.log_reading import LogTail, at_least, rendered
    from omnilytics.peers.errors import ConfigurationError

    path = Settings(home).log_path
    if not path.exists() and not follow:
        raise ConfigurationError(f"no log {path}", help="no daemon has run in this folder; check --home")
    wanted = at_least(level)
    with LogTail(path) as tail:
        for line in tail.last(lines, wanted):
            click.echo(line.decode(errors="replace") if as_json else rendered(line))
        if not follow:
            return
        # As for every command that goes on for ever: told to stop, it has done its work.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            for line in tail.follow(lambda: time.sleep(FOLLOW_SECONDS)):
                if wanted(line):
                    click.echo(line.decode(errors="replace") if as_json else rendered(line))
