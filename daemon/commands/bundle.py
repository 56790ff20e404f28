"""omnilytics bundle: everything that a report of a problem needs, without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.configuration import shown_settings
from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import network_options, overrides_from
from omnilytics.daemon.commands.places import versions


@click.command()
@network_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to (default: omnilytics-bundle-TIME.tar.gz, here).",
)
@json_option
def bundle(out: Path | None, as_json: bool, **options: Any) -> None:
    """Write an archive for a report: settings, versions, doctor's findings, list of files, last lines of the log.

    Passwords, keys, and keys in URLs are cut out of all of it; the key files themselves, the journal and data are never
    in it. It still names addresses, hosts and tasks: look at it before you hand it on.

    \b
    Example: omnilytics bundle --home ./alice
    """
    from omnilytics.daemon.config import CONFIG_NAME, find_settings
    from omnilytics.daemon.doctor import Patient, examine
    from omnilytics.daemon.keystore import read_password
    from omnilytics.daemon.support_bundle import secrets_of, texts, write_bundle
    from omnilytics.peers.errors import ConfigurationError, OmniLyticsError

    home, password_file, overrides = overrides_from(options)
    if not home.is_dir():
        raise ConfigurationError(f"no folder {home}", help="check --home")
    settings, shown, password = None, None, None
    with contextlib.suppress(OmniLyticsError):
        settings, sources = find_settings(home, overrides)
        shown = shown_settings(settings, sources)
    with contextlib.suppress(OmniLyticsError):
        password = read_password(password_file or home / "password")
    patient = Patient(home, overrides, password_file)
    findings = asyncio.run(examine(patient))
    now = time.time()
    path = out or Path(time.strftime("omnilytics-bundle-%Y%m%d-%H%M%S.tar.gz", time.gmtime(now)))
    files = texts(shown, versions(), findings, home)
    try:
        write_bundle(path, files, secrets_of(settings, home / CONFIG_NAME, password, patient.keys), int(now))
    except FileExistsError as error:
        raise ConfigurationError(f"{path} is there already", help="choose another --out") from error
    emit("bundle", {"file": str(path), "contains": list(files)}, as_json, str(path))
    click.echo("look at it before you hand it on: tar xzf; it names addresses, hosts and tasks", err=True)
