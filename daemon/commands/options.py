"""Options that several commands share, and what they turn into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from omnilytics.daemon.config import Settings, load_settings

_Command = TypeVar("_Command", bound=Callable[..., Any])

# A flag's path starts here, not in HOME as one of config.toml does.
_FILE = click.Path(resolve_path=True, dir_okay=False)
_NETWORK = (
    click.option("--chain", metavar="URL", help="Ethereum RPC (http or https)."),
    click.option("--check-chain", metavar="URL", help="A second RPC: nothing is done while the two disagree."),
    click.option("--chain-id", type=int, help="Refuse any other chain."),
    click.option("--market", metavar="ADDRESS", help="The market contract."),
    click.option("--broker", metavar="URL", help="MQTT broker, mqtt://[user:password@]host:port or mqtts://."),
    click.option("--broker-ca", type=_FILE, help="Who vouches for the broker (default: HOME/broker/ca.pem)."),
    click.option("--broker-certificate", type=_FILE, help="Our own (default: HOME/broker/certificate.pem)."),
    click.option("--broker-key", type=_FILE, help="The certificate's key (default: HOME/broker/key.pem)."),
    click.option("--broker-password-file", type=_FILE, help="Password of the user in the broker's address."),
    click.option("--finality-depth", type=int, help="Blocks under the head whose state is trusted (default 0)."),
    click.option("--gas-price-cap", type=int, metavar="WEI", help="Never pay more than this for a gas."),
    click.option("--gas-tip", type=int, metavar="WEI", help="Priority fee for a gas."),
    click.option("--poll-seconds", type=float, help="How often the chain is asked for news."),
    click.option("--patience-seconds", type=float, help="How long mates are waited for before sitting a round out."),
    click.option(
        "--password-file",
        envvar="OMNILYTICS_PASSWORD_FILE",
        type=click.Path(path_type=Path),
        help="Default: HOME/password.",
    ),
    click.option("--verbose", is_flag=True, default=None, help="Readable log on the terminal too."),
)


def home_option(command: _Command) -> _Command:
    """--home, from the environment where the flag is missing."""
    return click.option(
        "--home",
        envvar="OMNILYTICS_HOME",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path.home() / ".local" / "share" / "omnilytics",
        show_default="~/.local/share/omnilytics",
        help="Folder with keys, journal and log of this participant.",
    )(command)


def delivery_option(command: _Command) -> _Command:
    """--delivery: how a task's vectors reach its model owner."""
    return click.option(
        "--delivery",
        type=click.Choice(["chain", "broker"]),
        default="chain",
        show_default=True,
        help="How vectors reach you: posted, or over the broker. Then you acknowledge and settle them.",
    )(command)


def network_options(command: _Command) -> _Command:
    """Where the chain, the market and the broker are; all of it may stand in HOME/config.toml."""
    for option in reversed(_NETWORK):
        command = option(command)
    return home_option(command)


def overrides_from(options: dict[str, Any]) -> tuple[Path, Path | None, dict[str, Any]]:
    """Takes the shared options out of a command's arguments: (home, password file, settings given as flags)."""
    home: Path = options.pop("home")
    password_file: Path | None = options.pop("password_file")
    names = [entry.name for entry in fields(Settings) if entry.name in options]
    return home, password_file, {name: options.pop(name) for name in names}


def settings_from(options: dict[str, Any]) -> tuple[Settings, Path]:
    """Takes the shared options out of a command's arguments: (settings, password file)."""
    home, password_file, overrides = overrides_from(options)
    settings = load_settings(home, overrides)
    return settings, password_file or settings.password_path
