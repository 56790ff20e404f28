"""omnilytics init: a folder with new keys and a configuration."""

from __future__ import annotations

import os
import secrets
import shlex
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option

_SETTINGS = ("chain", "chain_id", "market", "broker")


@click.command()
@home_option
@click.option("--chain", metavar="URL", help="Ethereum RPC (http or https).")
@click.option("--chain-id", type=int, help="Refuse any other chain.")
@click.option("--market", metavar="ADDRESS", help="The market contract.")
@click.option("--broker", metavar="URL", help="MQTT broker, mqtt://[user:password@]host:port or mqtts://.")
@click.option("--data", type=click.Path(path_type=Path, dir_okay=False), help="A data owner's rows: .npz or .csv.")
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv.")
@click.option("--light", is_flag=True, help="Fast, weak key files: for throw-away keys of testbeds only.")
@json_option
def init(home: Path, data: Path | None, label: str | None, light: bool, as_json: bool, **options: Any) -> None:
    """Make a data folder with new keys, a random password and a commented config.toml.

    Nothing needs to be given, and nothing that is there is overwritten. What is given is checked first, and stands in
    config.toml then; a password file that is there already protects the new keys.

    \b
    Example: omnilytics init --home ./alice --chain http://127.0.0.1:8545 \\
                 --market 0x5FbD... --broker mqtt://127.0.0.1:1883 --data rows.csv --label outcome
    """
    from omnilytics.daemon.commands.data import describe, read_source
    from omnilytics.daemon.config import CONFIG_NAME, Settings, load_settings
    from omnilytics.daemon.config_text import config_text
    from omnilytics.daemon.data_registry import DataSource, entry_text, name_for
    from omnilytics.daemon.keystore import create_keys, read_password
    from omnilytics.peers.errors import ConfigurationError, KeyFileError

    if any((home / "keys" / name).exists() for name in ("account.json", "box.json")):
        raise KeyFileError(f"{home} has keys already", help="use another --home, or the keys that are there")
    given = {name: options[name] for name in _SETTINGS if options[name] is not None}
    config_path = home / CONFIG_NAME
    if config_path.exists() and (given or data is not None):
        raise ConfigurationError(
            f"{config_path} is there already, and is not overwritten",
            help="edit it, or move it away; init without options makes the keys beside it",
        )
    _check(load_settings(home, given), given)
    sources, about = {}, None
    if data is not None:
        source = DataSource(data.resolve(), label)
        about = read_source(source)
        sources[name_for(data)] = source
        entry_text(name_for(data), source)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    password_path = home / "password"
    if not password_path.exists():
        write_new(password_path, secrets.token_urlsafe(24) + "\n", 0o400)
    keys = create_keys(home / "keys", read_password(password_path), light)
    if not config_path.exists():
        # It may hold the broker's password.
        write_new(config_path, config_text(given, sources), 0o600)
    settings = Settings(home)
    answer: dict[str, Any] = {
        "address": keys.account.address,
        "home": str(home),
        "config": str(config_path),
        "keys": str(settings.keys_folder),
        "password_file": str(password_path),
        "data": None if about is None else {"name": name_for(data or home), **about},
    }
    emit("init", answer, as_json, keys.account.address)
    click.echo(f"keys are in {settings.keys_folder}; back them up together with {password_path}", err=True)
    if about is not None:
        click.echo(f"data: {describe(about)}", err=True)
    where = "" if os.environ.get("OMNILYTICS_HOME") else f" --home {shlex.quote(str(home))}"
    if not load_settings(home, {}).market:
        click.echo(f"market is not set: write its address into {config_path}", err=True)
    if about is None:
        click.echo(f"a data owner's next step: omnilytics data add FILE{where}", err=True)
    click.echo(f"send some ether to the address, then: omnilytics doctor{where}", err=True)


def write_new(path: Path, text: str, mode: int) -> None:
    """Writes a file that must not be there yet. Raises FileExistsError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _check(settings: Any, given: dict[str, Any]) -> None:
    """Raises ConfigurationError for what was given and cannot be, before anything is made."""
    if "chain" in given:
        _ = settings.chain_url
    if "market" in given:
        _ = settings.market_address
    if "broker" in given:
        from omnilytics.daemon.broker import parse_broker_url

        parse_broker_url(settings.broker)
