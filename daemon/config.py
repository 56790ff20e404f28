"""Where a participant lives and whom it talks to: flags over environment over config.toml over defaults."""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from omnilytics.peers.errors import ConfigurationError, ParameterError

# Bounds what a file of nothing but dots or brackets can cost.
_MOST_BYTES = 16_384
# Tables of the file that others read: daemon/policy.py, daemon/training/private.py and daemon/data_registry.py.
_TABLES = ("policy", "privacy", "data")
# Each setting may come from the environment, as OMNILYTICS_CHAIN_ID; these are options that are no settings.
ENVIRONMENT_PREFIX = "OMNILYTICS_"
_OTHER_VARIABLES = ("HOME", "PASSWORD_FILE")

_DEEP_KEY = re.compile(r"(?:\.[^.\n=]{1,80}){64}")

CONFIG_NAME = "config.toml"

# Settings that are one of a few words.
_CHOICES = {"log_level": ("debug", "info", "warning", "error"), "notify": ("auto", "on", "off")}
# What a key takes, by the type of its default.
_KINDS = {tuple: "a list of texts", bool: "true or false", int: "a whole number", float: "a number"}

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
    # Where earnings go, 0x and 40 hex digits; empty: to the daemon's own account.
    payout_address: str = ""
    # The log is put aside when it has so many megabytes (0: never), and so many old ones are kept.
    log_megabytes: int = 64
    log_files: int = 5
    # The lowest level that is written: debug, info, warning, error. The monitor's finer panels need debug.
    log_level: str = "debug"
    # Notifications on the desktop: "auto" where there is one, "on", "off".
    notify: str = "auto"
    # Those tables of the file that it has, as they stand there; see `table`.
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, words in _CHOICES.items():
            if getattr(self, name) not in words:
                raise ConfigurationError(
                    f"option '{name}' is '{getattr(self, name)}'", help=f"it is one of {', '.join(words)}"
                )
        if self.log_files < 1:
            raise ConfigurationError("option 'log_files' is 0", help="keep at least 1, or set log_megabytes = 0")

    @property
    def payout(self) -> bytes | None:
        """20 bytes, None for the daemon's own account. Raises ConfigurationError."""
        from omnilytics.peers.addresses import parse_address

        if not self.payout_address:
            return None
        try:
            return parse_address(self.payout_address)
        except ParameterError as error:
            raise ConfigurationError(f"payout_address: {error.message}", help=error.help) from error

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
    def config_path(self) -> Path:
        """The configuration file."""
        return self.home / CONFIG_NAME

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


def load_settings(home: Path, overrides: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from home/config.toml, under the environment's, under those of `overrides` that are not None.

    Raises ConfigurationError for a file that is not TOML, an unknown key or a value of a wrong type.
    """
    return find_settings(home, overrides, environment)[0]


def find_settings(
    home: Path, overrides: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """As load_settings, and where each setting's value comes from: "flag", a variable's name, the file's, "default"."""
    known = {entry.name: entry.default for entry in fields(Settings) if entry.name not in ("home", "tables")}
    path = home / CONFIG_NAME
    said = _read_file(path)
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
    sources = dict.fromkeys(known, "default") | dict.fromkeys(said, path.name)
    spoken = _read_environment(os.environ if environment is None else environment, known)
    said |= spoken
    sources |= {name: ENVIRONMENT_PREFIX + name.upper() for name in spoken}
    given = {name: value for name, value in overrides.items() if value is not None}
    said |= given
    sources |= dict.fromkeys(given, "flag")
    for name, value in said.items():
        _check(name, value, known[name])
    return Settings(home, **said, tables=tables), sources


def _read_file(path: Path) -> dict[str, Any]:
    """The file as it stands, {} where there is none. Raises ConfigurationError."""
    if not path.exists():
        return {}
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigurationError(f"{path} has {path.stat().st_size} bytes; at most {_MOST_BYTES} make sense")
        return parse_toml(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ConfigurationError(f"{path} is nested too deep") from None
    # Not UTF-8, not TOML, or a number of thousands of digits.
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """TOML. Raises ValueError for what is none, RecursionError for what is nested too deep, before it costs memory."""
    # The parser's memory grows with the square of a dotted key's parts.
    if _DEEP_KEY.search(text):
        raise RecursionError
    return tomllib.loads(text)


def _read_environment(environment: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the variables, each of its own type. Raises ConfigurationError, never showing a value."""
    variables = {ENVIRONMENT_PREFIX + name.upper(): name for name in known}
    others = [ENVIRONMENT_PREFIX + name for name in _OTHER_VARIABLES]
    said: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in others:
            continue
        if variable not in variables:
            names = [name.removeprefix(ENVIRONMENT_PREFIX) for name in (*variables, *others)]
            close = difflib.get_close_matches(variable.removeprefix(ENVIRONMENT_PREFIX), names, n=1)
            raise ConfigurationError(
                f"unknown variable {variable} in the environment"
                + (f"; did you mean {ENVIRONMENT_PREFIX}{close[0]}?" if close else ""),
                help=f"unset {variable}, or correct its name: omnilytics config show lists the settings",
            )
        name = variables[variable]
        default = known[name]
        try:
            if isinstance(default, bool):
                said[name] = {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
            elif isinstance(default, float):
                said[name] = float(text)
            elif default is None or isinstance(default, int):
                said[name] = int(text)
            else:
                said[name] = text
        except (ValueError, KeyError):
            wanted = "true or false" if isinstance(default, bool) else "a number"
            raise ConfigurationError(
                f"{variable} in the environment is not {wanted}", help=f"correct it, or unset {variable}"
            ) from None
    return said


def _check(name: str, value: Any, default: Any) -> None:
    """Raises ConfigurationError for a value that a setting cannot have."""
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
        # A text may be an address with a password in it, in whatever brackets.
        shown = f": {value!r}" if isinstance(value, (bool, int, float)) else f": {type(value).__name__}"
        raise ConfigurationError(f"option '{name}' has a value of the wrong type{shown}")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        raise ConfigurationError(f"option '{name}' is negative: {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"option '{name}' is not finite: {value!r}")


def read_table(into: type[_Table], name: str, table: Mapping[str, Any]) -> _Table:
    """One table of the file as a dataclass whose fields, with their defaults, are the table's keys.

    A field's default tells its type: true or false, a whole number, a number, or texts (kept as a tuple). Raises
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
        elif isinstance(known[key], bool):
            fits = isinstance(value, bool)
            values[key] = value
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
            wanted = _KINDS[type(known[key])]
            raise ConfigurationError(f"'{key}' in [{name}] has a value of the wrong type; it is {wanted}")
    return into(**values)
