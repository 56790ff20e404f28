"""Where a participant lives and whom it talks to: flags over environment over config.toml over defaults."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from omnilytics.peers.errors import ConfigurationError

# Bounds what a file of nothing but dots or brackets can cost.
_MOST_BYTES = 16_384
# Tables of the file that others read: daemon/policy.py and daemon/training/private.py.
_TABLES = ("policy", "privacy")

_Table = TypeVar("_Table")


@dataclass(frozen=True)
class Settings:
    """One participant's settings; durations in seconds, prices in wei a gas."""

    home: Path
    chain: str = "http://127.0.0.1:8545"
    market: str = ""
    broker: str = "mqtt://127.0.0.1:1883"
    # Files of a broker with TLS, and the password of its user; empty: see daemon/broker_access.py.
    broker_ca: str = ""
    broker_certificate: str = ""
    broker_key: str = ""
    broker_password_file: str = ""
    chain_id: int | None = None
    # Blocks under the head whose state is trusted; 0 is for local chains that cannot fork.
    finality_depth: int = 0
    gas_price_cap: int = 500 * 10**9
    gas_tip: int = 10**9
    poll_seconds: float = 0.2
    resend_seconds: float = 1.0
    away_grace_seconds: float = 3.0
    patience_seconds: float = 20.0
    # A second RPC that must agree on the block that is acted on; empty: the first is believed.
    check_chain: str = ""
    # A head that stands still for longer, or differs more from our clock, is worth a warning.
    stall_seconds: float = 60.0
    skew_seconds: float = 60.0
    verbose: bool = False
    # Those tables of the file that it has, as they stand there; see `table`.
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def table(self, name: str) -> Mapping[str, Any]:
        """One table of the file, empty where it is missing; whoever reads it checks it."""
        return self.tables.get(name, {})

    @property
    def market_address(self) -> bytes:
        """20 bytes. Raises ConfigurationError."""
        text = self.market.removeprefix("0x")
        try:
            address = bytes.fromhex(text)
        except ValueError:
            address = b""
        if len(address) != 20:
            raise ConfigurationError(f"market address '{self.market}' is not 0x and 40 hex digits", help="set --market")
        return address

    @property
    def chain_url(self) -> str:
        """The RPC's address. Raises ConfigurationError, without showing it: providers put keys in it."""
        try:
            parts = urlsplit(self.chain)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ConfigurationError(
                "the chain URL is not of the form http://host:port", help="use http://host:8545, or https://"
            )
        return self.chain

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.home / "journal.sqlite"

    @property
    def log_path(self) -> Path:
        """The log's file."""
        return self.home / "log.jsonl"

    @property
    def keys_folder(self) -> Path:
        """The key files' folder."""
        return self.home / "keys"

    @property
    def password_path(self) -> Path:
        """The default password file."""
        return self.home / "password"


def load_settings(home: Path, overrides: dict[str, Any]) -> Settings:
    """Settings from home/config.toml, overridden by those values that are not None.

    Raises ConfigurationError for a file that is not TOML, an unknown key or a value of a wrong type.
    """
    known = {entry.name: entry for entry in fields(Settings) if entry.name not in ("home", "tables")}
    path = home / "config.toml"
    said: dict[str, Any] = {}
    if path.exists():
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ConfigurationError(f"{path} has {path.stat().st_size} bytes; at most {_MOST_BYTES} make sense")
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise ConfigurationError(f"{path} is nested too deep") from None
        # Not UTF-8, not TOML, or a number of thousands of digits.
        except ValueError as error:
            raise ConfigurationError(f"{path}: {error}") from error
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    tables = {name: said.pop(name) for name in _TABLES if name in said}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigurationError(f"'{name}' in {path} is no table", help=f"write [{name}] and its keys below it")
    for name in said:
        if name not in known:
            close = difflib.get_close_matches(name, (*known, *_TABLES), n=1)
            raise ConfigurationError(
                f"unknown option '{name}' in {path}" + (f"; did you mean '{close[0]}'?" if close else "")
            )
    said |= {name: value for name, value in overrides.items() if value is not None}
    for name, value in said.items():
        default = known[name].default
        # Before anything prints it: Python refuses to print thousands of digits.
        if isinstance(value, int) and abs(value) >= 2**256:
            raise ConfigurationError(f"option '{name}' is a number beyond 256 bits")
        if isinstance(default, bool):
            wanted: type | tuple[type, ...] = bool
        elif isinstance(default, float):
            wanted = (int, float)
        else:
            wanted = int if default is None else type(default)
        if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
            raise ConfigurationError(f"option '{name}' has a value of the wrong type: {value!r}")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
            raise ConfigurationError(f"option '{name}' is negative: {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"option '{name}' is not finite: {value!r}")
    return Settings(home, **said, tables=tables)


def read_table(into: type[_Table], name: str, table: Mapping[str, Any]) -> _Table:
    """One table of the file as a dataclass whose fields, with their defaults, are the table's keys.

    A field's default tells its type: a whole number, a number, or a list of texts (kept as a tuple). Raises
    ConfigurationError for an unknown key, with a suggestion, for a value of a wrong type, and for a negative one.
    """
    known = {entry.name: entry.default for entry in fields(into)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ConfigurationError(
                f"unknown key '{key}' in [{name}]" + (f"; did you mean '{close[0]}'?" if close else "")
            )
        if isinstance(known[key], tuple):
            fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
            values[key] = tuple(value) if fits else ()
        else:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
            fits = number and (isinstance(known[key], float) or isinstance(value, int))
            # Before anything prints it: Python refuses to print thousands of digits.
            if fits and isinstance(value, int) and abs(value) >= 2**256:
                raise ConfigurationError(f"'{key}' in [{name}] is a number beyond 256 bits")
            if fits and value < 0:
                raise ConfigurationError(f"'{key}' in [{name}] is negative: {value!r}")
            values[key] = float(value) if fits and isinstance(known[key], float) else value
        if not fits:
            wanted = {tuple: "a list of texts", int: "a whole number", float: "a number"}[type(known[key])]
            raise ConfigurationError(f"'{key}' in [{name}] has a value of the wrong type; it is {wanted}")
    return into(**values)
