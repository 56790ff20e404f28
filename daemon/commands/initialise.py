"""omnilytics init: a folder with new keys."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from omnilytics.daemon.commands.options import home_option


@click.command()
@home_option
@click.option("--light", is_flag=True, help="Fast, weak key files: for throw-away keys of testbeds only.")
def init(home: Path, light: bool) -> None:
    """Make a data folder with new keys and a random password.

    \b
    Example: omnilytics init --home ./alice
    """
    from omnilytics.daemon.keystore import create_keys
    from omnilytics.peers.errors import KeyFileError

    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    password_path = home / "password"
    password = secrets.token_urlsafe(24)
    if any((home / "keys" / name).exists() for name in ("account.json", "box.json")):
        raise KeyFileError(f"{home} has keys already", help="use another --home, or the keys that are there")
    handle = os.open(password_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o400)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(password + "\n")
    keys = create_keys(home / "keys", password, light)
    click.echo(keys.account.address)
    click.echo(f"keys are in {home / 'keys'}; back them up together with {password_path}", err=True)
