"""The data sets of a participant that have a name: tables [data.NAME] of config.toml. Pure.

A table has `file`, and `label` (the label's column) for .csv. Rows are read where they lie; nothing is copied.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnilytics.peers.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class DataSource:
    """Where rows are read from; label is the column of a .csv."""

    file: Path
    label: str | None = None


def read_registry(table: Mapping[str, Any], home: Path) -> dict[str, DataSource]:
    """The sources of the table [data], files relative to the data folder. Raises ConfigurationError."""
    found: dict[str, DataSource] = {}
    for name, entry in table.items():
        where = f"[data.{name}]"
        if not isinstance(entry, Mapping):
            raise ConfigurationError(
                f"'{name}' in [data] is no table", help='write [data.NAME] with file = "rows.csv" below it'
            )
        for key, value in entry.items():
            if key not in ("file", "label"):
                close = difflib.get_close_matches(key, ("file", "label"), n=1)
                raise ConfigurationError(
                    f"unknown key '{key}' in {where}" + (f"; did you mean '{close[0]}'?" if close else "")
                )
            if not isinstance(value, str) or not value or "\0" in value:
                raise ConfigurationError(f"'{key}' in {where} has a value of the wrong type; it is a text")
        if "file" not in entry:
            raise ConfigurationError(f"{where} names no file", help='add file = "rows.csv" below it')
        found[name] = DataSource(home / entry["file"], entry.get("label"))
    return found


def choose(sources: Mapping[str, DataSource], named: Path | None, label: str | None) -> DataSource:
    """The rows that a command line means: a registered name, a file, or without any the only one registered.

    Raises ConfigurationError where that says nothing, or too little.
    """
    if named is not None:
        known = sources.get(str(named))
        if known is not None:
            return DataSource(known.file, label or known.label)
        return DataSource(named, label)
    if not sources:
        raise ConfigurationError(
            "no data is registered in this folder", help="omnilytics data add FILE, or name a file with --data"
        )
    if len(sources) > 1:
        raise ConfigurationError(
            f"{len(sources)} data sets are registered: {', '.join(sources)}", help="choose one: --data NAME"
        )
    (only,) = sources.values()
    return DataSource(only.file, label or only.label)


def name_for(file: Path) -> str:
    """A name from a file's own."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-")[:64] or "rows"


def entry_text(name: str, source: DataSource) -> str:
    """The lines of config.toml for a source. Raises ConfigurationError for a name that needs quotes."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"'{name}' is no name for data", help="up to 64 letters, digits, - and _: --name hospital-2024"
        )
    lines = [f"[data.{name}]", f"file = {toml_text(str(source.file))}"]
    if source.label is not None:
        lines.append(f"label = {toml_text(source.label)}")
    return "\n".join(lines) + "\n"


def toml_text(text: str) -> str:
    """A TOML basic string."""
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped, and surrogates, which it has not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
