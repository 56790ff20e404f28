"""omnilytics broker: a certificate from a broker's operator, and whether the broker lets us do what we must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option, network_options, settings_from


@click.group()
def broker() -> None:
    """Prove to a broker's operator who you are, and try the connection."""


@broker.command()
@home_option
@click.option("--broker", "url", metavar="URL", help="The broker's address (default: that of HOME/config.toml).")
@click.option("--password-file", type=click.Path(path_type=Path), help="Default: HOME/password.")
@json_option
def request(home: Path, url: str | None, password_file: Path | None, as_json: bool) -> None:
    """Make a TLS key, and a request for a certificate that the account signs.

    Send the request to the broker's operator (it holds no secret), and give what comes back to `broker install`.

    \b
    Example: omnilytics broker request --home ./alice --broker mqtts://broker.example.org:8883
    """
    from datetime import UTC, datetime

    from omnilytics.daemon.broker import parse_broker_url
    from omnilytics.daemon.broker_request import make_request
    from omnilytics.daemon.config import load_settings
    from omnilytics.daemon.keystore import load_keys, read_password

    settings = load_settings(home, {"broker": url})
    host = parse_broker_url(settings.broker).host
    keys = load_keys(settings.keys_folder, read_password(password_file or settings.password_path))
    path = make_request(home, keys, host, datetime.now(UTC))
    emit("broker request", {"file": str(path), "host": host}, as_json, str(path))
    click.echo(f"send it to the operator of {host}; the key stays in {path.parent}", err=True)


@broker.command()
@home_option
@click.argument("admission", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@json_option
def install(home: Path, admission: Path, as_json: bool) -> None:
    """Take the certificate that the operator made for the request into use.

    \b
    Example: omnilytics broker install --home ./alice 0x5FbD....pem
    """
    from datetime import UTC, datetime

    from omnilytics.daemon.broker_request import install as install_certificate

    certificate = install_certificate(home, admission.read_bytes(), datetime.now(UTC))
    until = certificate.not_valid_after_utc
    told = {"folder": str(home / "broker"), "good_until": until.isoformat()}
    emit("broker install", told, as_json, f"installed in {home / 'broker'}; good until {until:%Y-%m-%d}")
    click.echo("a daemon that runs takes it at its next connection", err=True)


@broker.command()
@network_options
@json_option
def check(as_json: bool, **options: Any) -> None:
    """Connect once, and say whether the broker passes on what we say and lets us hear what is for us.

    Not while the folder's daemon runs: the broker would take the two for one.

    \b
    Example: omnilytics broker check --home ./alice --chain http://127.0.0.1:8545 \\
                 --market 0x5FbD... --broker mqtts://broker.example.org:8883
    """
    import asyncio

    from omnilytics.daemon.broker import Broker, parse_broker_url
    from omnilytics.daemon.broker_access import read_access
    from omnilytics.daemon.chain import Chain
    from omnilytics.daemon.home_lock import lock_home
    from omnilytics.daemon.keystore import load_keys, read_password
    from omnilytics.daemon.log import Logger

    settings, password_file = settings_from(options)
    where = parse_broker_url(settings.broker)
    access = read_access(settings)
    keys = load_keys(settings.keys_folder, read_password(password_file))

    async def try_it() -> str:
        chain = Chain(settings.chain_url, settings.market_address)
        try:
            await chain.connect(settings.chain_id)
        finally:
            await chain.close()
        log = Logger(None, "broker check", "")
        connection = Broker(settings.broker, chain.run_name, keys.address, log, print, print, access)
        await connection.check()
        return chain.run_name

    with lock_home(settings.home):
        run = asyncio.run(try_it())
    text = f"{where.host}:{where.port} passes on what we say and what is for us (run {run})"
    emit("broker check", {"host": where.host, "port": where.port, "run": run}, as_json, text)
