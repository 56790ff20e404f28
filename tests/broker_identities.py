"""Participants with certificates from an authority of a test's own, made by the ways that people use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eth_account import Account

from omnilytics.daemon.broker_access import BROKER_FOLDER, CA_FILE, CERTIFICATE_FILE, KEY_FILE, BrokerAccess
from omnilytics.daemon.broker_request import install, make_request, read_request
from omnilytics.daemon.keystore import Keys
from omnilytics.peers.keys import BoxIdentity
from scripts.broker_authority import Authority
from tests.round_network import secret

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Identity:
    """A participant: its folder, its keys, and the files with which it connects."""

    home: Path
    keys: Keys
    access: BrokerAccess

    @property
    def address(self) -> bytes:
        return self.keys.address

    @property
    def hex(self) -> str:
        return self.keys.address.hex()


def keys_named(name: str) -> Keys:
    """The same keys for the same name, always."""
    return Keys(Account.from_key(secret(f"{name} account")), BoxIdentity.from_entropy(secret(f"{name} box")))


def admitted(authority: Authority, folder: Path, name: str, now: datetime | None = None, days: int = 90) -> Identity:
    """Asks for a certificate, gets it and installs it."""
    now = now or datetime.now(UTC)
    home, keys = folder / name, keys_named(name)
    home.mkdir(exist_ok=True)
    request = read_request(make_request(home, keys, HOST, now).read_text())
    install(home, authority.admit(request, now, days).read_bytes(), now)
    where = home / BROKER_FOLDER
    return Identity(home, keys, BrokerAccess(where / CA_FILE, where / CERTIFICATE_FILE, where / KEY_FILE))
