"""Where a participant lives and whom it talks to: flags over environment over config.toml over defaults."""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omnilytics.peers.errors import ConfigurationError

# Bounds what a file of nothing but dots or brackets can cost.
_MOST_BYTES = 16_384


@dataclass(frozen=True)
class Settings:
    """One participant's settings; durations in seconds, prices in wei a gas."""

    home: Path
    chain: str = "http://127.0.0.1:8545"
    market: str = ""
    broker: str = "mqtt://127.0.0.1:1883"
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
    known = {field.name: field for field in fields(Settings) if field.name != "home"}
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
    for name in said:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
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
    return Settings(home, **said)
