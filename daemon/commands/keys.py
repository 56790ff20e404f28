"""omnilytics keys: who this participant is, and whether its key files are safe and can be opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option


@click.command()
@home_option
@click.option(
    "--password-file",
    envvar="OMNILYTICS_PASSWORD_FILE",
    type=click.Path(path_type=Path),
    help="Default: HOME/password.",
)
@click.option("--address", "address_only", is_flag=True, help="Only the address, which needs no password.")
@json_option
def keys(home: Path, password_file: Path | None, address_only: bool, as_json: bool) -> None:
    """Show the account's address, the public box key and the key files' modes; never anything secret.

    Both files are opened, so that a password that is wrong shows here.

    \b
    Example: omnilytics keys --home ./alice
    """
    from omnilytics.daemon.config import Settings

    settings = Settings(home)
    files = [settings.keys_folder / "account.json", settings.keys_folder / "box.json"]
    if address_only:
        address = stored_address(files[0])
        emit("keys", {"address": address}, as_json, address)
        return
    from omnilytics.daemon.keystore import load_keys, read_password

    password_path = password_file or settings.password_path
    loaded = load_keys(settings.keys_folder, read_password(password_path))
    about = [{"file": str(path), "mode": f"{path.stat().st_mode & 0o777:04o}"} for path in (*files, password_path)]
    answer: dict[str, Any] = {
        "address": loaded.account.address,
        "box_public_key": "0x" + loaded.box.public.hex(),
        "files": about,
    }
    lines = [f"address         {answer['address']}", f"box public key  {answer['box_public_key']}"]
    lines += [f"{entry['mode']}            {entry['file']}" for entry in about]
    emit("keys", answer, as_json, "\n".join(lines))


def stored_address(path: Path) -> str:
    """The address that an account's key file names in clear, with its checksum. Raises KeyFileError."""
    from eth_utils.address import to_checksum_address

    from omnilytics.peers.errors import KeyFileError

    if not path.exists():
        raise KeyFileError(f"no key file {path}", help="make one: omnilytics init")
    try:
        return str(to_checksum_address("0x" + json.loads(path.read_text(encoding="utf-8"))["address"]))
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path} is not a key file", help="restore it from a backup") from error
    except OSError as error:
        raise KeyFileError(f"key file {path} cannot be read: {error.strerror}") from error
