"""`scripts/broker-admit`: a broker's operator prepares Mosquitto, certifies participants, and revokes them.

Exit codes are those of `omnilytics --help`.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from omnilytics.daemon.broker_request import read_request
from omnilytics.peers.errors import OmniLyticsError
from scripts.broker_authority import CLIENT_DAYS, Authority, create_authority, open_authority
from scripts.broker_rules import mosquitto_acl, mosquitto_security

FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The authority's folder. Who has it can admit anybody.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def admit() -> None:
    """Run a message broker that only those may use who proved which account is theirs, and each for itself alone."""


@admit.command()
@FOLDER
@click.option("--host", multiple=True, required=True, help="The broker's name or address; the first is its own.")
@click.option("--run", default="+", show_default=True, help="The market's run (omnilytics broker check prints it).")
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="Where it listens.")
@click.option("--bridge", multiple=True, metavar="NAME", help="Certify another broker, as bridge-berlin.")
def prepare(folder: Path, host: tuple[str, ...], run: str, port: int, bridge: tuple[str, ...]) -> None:
    """Make an authority, a certificate for the broker, and Mosquitto's configuration.

    \b
    Example: scripts/broker-admit prepare --folder ./authority --host broker.example.org
             mosquitto -c ./authority/mosquitto.conf
    """
    now = datetime.now(UTC)
    authority = create_authority(folder, list(host), now)
    for name in bridge:
        authority.certify_bridge(name, now)
    acl = folder / "mosquitto.acl"
    acl.write_text(mosquitto_acl(run, bridge), encoding="utf-8")
    acl.chmod(0o600)
    config = folder / "mosquitto.conf"
    config.write_text(
        "# Written by scripts/broker-admit.\n"
        f"listener {port}\n{mosquitto_security(authority, acl)}"
        "# Without it every hop costs 44 ms.\nset_tcp_nodelay true\n"
        f"persistence true\npersistence_location {folder.resolve()}/\n",
        encoding="utf-8",
    )
    click.echo(config)
    click.echo("the user that Mosquitto runs as must be able to read server-key.pem and mosquitto.acl", err=True)


@admit.command()
@FOLDER
@click.option(
    "--days", type=click.IntRange(1, 825), default=CLIENT_DAYS, show_default=True, help="How long it is good."
)
@click.option("--allow", type=click.Path(path_type=Path, exists=True), help="Only addresses in this file, one a line.")
@click.argument("requests", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True))
def sign(folder: Path, days: int, allow: Path | None, requests: tuple[Path, ...]) -> None:
    """Check requests, and certify those who proved that the account is theirs; prints the files to send back.

    A signature proves whose account it is, not that its owner is welcome: that is for you to decide.

    \b
    Example: scripts/broker-admit sign --folder ./authority alice-request.json
    """
    authority = open_authority(folder)
    welcome = None
    if allow is not None:
        welcome = {line.strip().lower().removeprefix("0x") for line in allow.read_text(encoding="utf-8").splitlines()}
    for path in requests:
        request = read_request(path.read_text(encoding="utf-8", errors="replace"))
        if welcome is not None and request.address.hex() not in welcome:
            raise click.ClickException(f"{path}: 0x{request.address.hex()} is not in {allow}")
        click.echo(authority.admit(request, datetime.now(UTC), days))


@admit.command()
@FOLDER
@click.argument("address")
def revoke(folder: Path, address: str) -> None:
    """Refuse an account from now on: all certificates that it was given.

    Mosquitto reads the list when it starts: restart it, which also ends the account's connection.

    \b
    Example: scripts/broker-admit revoke --folder ./authority 0x5FbD...
    """
    authority: Authority = open_authority(folder)
    count = authority.revoke(address.lower().removeprefix("0x"), datetime.now(UTC))
    click.echo(json.dumps({"revoked": address, "certificates": count, "list": str(authority.crl_path)}))


def main() -> None:
    """Runs a command; our errors become a line, a line of help and an exit code."""
    try:
        admit(prog_name="scripts/broker-admit")
    except OmniLyticsError as error:
        click.echo(f"scripts/broker-admit: {error.message}\n  {error.help}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
