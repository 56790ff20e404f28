"""omnilytics service install: a systemd user unit."""

from __future__ import annotations

import os
from pathlib import Path

import click

from omnilytics.daemon.commands.background import find_start
from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option
from omnilytics.peers.errors import ConfigurationError


@click.group()
def service() -> None:
    """A daemon that the system starts and watches (systemd)."""


@service.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@home_option
@click.option("--name", metavar="NAME", help="The unit is omnilytics-NAME (default: the folder's name).")
@click.option("--print", "print_only", is_flag=True, help="Print the unit and write nothing.")
@click.option("--strict", is_flag=True, help="Take more away from it; needs unprivileged user namespaces.")
@click.option("--force", is_flag=True, help="Replace a unit of that name that is another one.")
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def install(
    context: click.Context,
    home: Path,
    name: str | None,
    print_only: bool,
    strict: bool,
    force: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Write a systemd user unit for the folder's daemon, as it was started last or as COMMAND says.

    Nothing is started; the commands that do are printed.

    \b
    Example: omnilytics service install --home ./alice
    """
    from omnilytics.daemon.background import PROGRAM
    from omnilytics.daemon.systemd_unit import unit_name, unit_text

    home, _ = find_start(context, home, command)
    file_name, text = unit_name(home, name), unit_text(home, PROGRAM, strict)
    if print_only:
        emit("service install", {"unit": file_name, "file": None, "text": text}, as_json, text.removesuffix("\n"))
        return
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "systemd" / "user"
    path = folder / file_name
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text and not force:
        raise ConfigurationError(f"{path} is there already", help="use --name for another daemon, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    emit("service install", {"unit": file_name, "file": str(path), "text": text}, as_json, str(path))
    click.echo("start it, now and at every boot, with:", err=True)
    for line in (
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {path.stem}",
        "loginctl enable-linger          # also while you are not logged in",
    ):
        click.echo(f"  {line}", err=True)
