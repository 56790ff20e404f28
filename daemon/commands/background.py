"""omnilytics start, stop, restart: a daemon without a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option
from omnilytics.peers.errors import ConfigurationError, OmniLyticsError

if TYPE_CHECKING:
    from omnilytics.daemon.background import Start

# The commands that run until their work is over.
DAEMONS = (("owner", "run"), ("model", "run"))
_WAIT = click.option(
    "--timeout",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait at most so long.",
)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@home_option
@click.option("--foreground", is_flag=True, help="Stay here: for service managers and containers.")
@_WAIT
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def start(
    context: click.Context, home: Path, foreground: bool, timeout: float, as_json: bool, command: tuple[str, ...]
) -> None:
    """Start a daemon in the background and wait until it is ready.

    COMMAND is owner run or model run with its options; it is kept in HOME/start.json, and may be left out the next
    time. Its log is HOME/log.jsonl; what it prints, HOME/daemon.out.

    \b
    Example: omnilytics start --home ./alice owner run
    """
    home, how = find_start(context, home, command)
    if foreground:
        _run_here(context, how)
        return
    told = _start(home, how, timeout)
    emit("start", told, as_json, f"started: pid {told['pid']}, ready")


@click.command()
@home_option
@_WAIT
@click.option("--kill", is_flag=True, help="Then kill it: it is as after a power cut, and loses nothing.")
@json_option
def stop(home: Path, timeout: float, kill: bool, as_json: bool) -> None:
    """Stop the folder's daemon and wait until it has ended.

    \b
    Example: omnilytics stop --home ./alice
    """
    told = _stop(home, timeout, kill)
    emit("stop", told, as_json, _stopped(home, told["pid"]))


@click.command()
@home_option
@_WAIT
@click.option("--kill", is_flag=True, help="Kill it if it does not end in time.")
@json_option
def restart(home: Path, timeout: float, kill: bool, as_json: bool) -> None:
    """Stop the folder's daemon if it runs, and start it as it was started before.

    \b
    Example: omnilytics restart --home ./alice
    """
    from omnilytics.daemon.background import remembered

    home = home.resolve()
    how = remembered(home)
    before = _stop(home, timeout, kill)["pid"]
    if not as_json:
        click.echo(_stopped(home, before))
    told = _start(home, how, timeout) | {"stopped_pid": before}
    emit("restart", told, as_json, f"started: pid {told['pid']}, ready")


def find_start(context: click.Context, home: Path, command: Sequence[str]) -> tuple[Path, Start]:
    """What is to be started, and its folder: the command given, which is checked and remembered, or the last one.

    Raises ConfigurationError, and click's own errors for options that the command does not have.
    """
    from omnilytics.daemon.background import Start, remember, remembered

    if not command:
        home = home.resolve()
        return home, remembered(home)
    path, options = tuple(command[:2]), list(command[2:])
    if path not in DAEMONS:
        known = " or ".join(" ".join(words) for words in DAEMONS)
        raise ConfigurationError(f"'{' '.join(path)}' is no daemon", help=f"start {known}, with its options")
    found: click.Command = context.find_root().command
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    # Parsed here, so that a slip is told at once; nothing of it runs yet.
    inner = found.make_context(" ".join(path), list(options), parent=context)
    if inner.get_parameter_source("home") is ParameterSource.COMMANDLINE:
        said = Path(inner.params["home"])
        if context.get_parameter_source("home") is ParameterSource.COMMANDLINE and said.resolve() != home.resolve():
            raise ConfigurationError(f"two folders: --home {home} and --home {said}", help="name one")
        home = said
    home = home.resolve()
    # Whichever way the folder was named: the last --home counts, and this one is whole.
    how = Start(Path.cwd(), (*path, *options, "--home", str(home)))
    remember(home, how)
    return home, how


def _run_here(context: click.Context, how: Start) -> None:
    try:
        os.chdir(how.folder)
    except OSError as error:
        raise ConfigurationError(f"folder {how.folder} cannot be entered: {error.strerror}") from error
    root = context.find_root().command
    root.main(args=list(how.arguments), prog_name="omnilytics", standalone_mode=False)


def _start(home: Path, how: Start, seconds: float) -> dict[str, Any]:
    from omnilytics.daemon.background import PROGRAM, FailedStart
    from omnilytics.daemon.background import start as start_it
    from omnilytics.daemon.config import load_settings

    if "--verbose" in how.arguments or load_settings(home, {}).verbose:
        raise ConfigurationError(
            "--verbose is for a terminal: in the background nobody rotates it",
            help="leave it out; HOME/log.jsonl has every line",
        )
    if not how.folder.is_dir():
        raise ConfigurationError(f"the folder it was started from is gone: {how.folder}", help="start it once anew")
    try:
        started = start_it(
            home, (*PROGRAM, *how.arguments), how.folder, seconds, lambda status: click.echo(f"  {status}", err=True)
        )
    except FailedStart as error:
        click.echo(f"error: {error.message}", err=True)
        click.echo(error.help, err=True)
        sys.exit(error.leave_with)
    if not started.ready:
        status = started.status or "it has said nothing yet"
        raise OmniLyticsError(
            f"pid {started.pid} runs, but is not ready after {seconds:g} s: {status}",
            help="it goes on trying; its log says more, omnilytics stop ends it",
        )
    return {"pid": started.pid, "ready": True}


def _stop(home: Path, seconds: float, kill: bool) -> dict[str, Any]:
    from omnilytics.daemon.background import stop as stop_it

    return {"pid": stop_it(home.resolve(), seconds, kill)}


def _stopped(home: Path, pid: int | None) -> str:
    return f"stopped: pid {pid}" if pid is not None else f"no daemon runs in {home}"
