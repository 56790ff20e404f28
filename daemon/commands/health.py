"""omnilytics health: whether the folder's daemon is well, as an exit code."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from omnilytics.daemon.commands.options import home_option

# Container engines know 0 and 1.
_UNWELL = 1


@click.command()
@home_option
@click.option("--live", is_flag=True, help="Ask only whether it lives: what a restart would mend.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def health(home: Path, live: bool, as_json: bool) -> None:
    """Say whether the folder's daemon is ready, and why not; exit code 1 where it is not.

    It asks nobody: it reads what the daemon writes down every few seconds, so a daemon that hangs is told too.

    \b
    Example: omnilytics health --home ./alice --live
    """
    from omnilytics.daemon.health_file import read_health
    from omnilytics.daemon.home_lock import holder

    verdict = read_health(home, holder(home) is not None, time.time())
    if as_json:
        said = {"live": verdict.live, "ready": verdict.ready, "reasons": verdict.reasons, "notes": verdict.notes}
        click.echo(json.dumps({"schema": 1, **said}))
    else:
        click.echo(verdict.status)
    if not (verdict.live if live else verdict.ready):
        sys.exit(_UNWELL)
