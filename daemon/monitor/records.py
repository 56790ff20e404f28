"""One line of a daemon's log as a typed value; whatever is not one is refused, never trusted.

A log may come from a stranger's machine: every field is checked for its type and size before it is used, and texts
lose what a terminal would obey (escape sequences, ends of lines, marks that turn the direction of writing).
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any, NamedTuple

SCHEMA_VERSION = 1
# Longer lines are not read at all; the longest that a daemon writes has some thousand characters.
MAX_LINE_BYTES = 1 << 20
MAX_TEXT = 400
MAX_NAME = 80
_MOST_ITEMS = 4096
_LARGEST = 1 << 62
_decode = json.JSONDecoder().raw_decode
_LARGEST_WEI = 1 << 128


class Record(NamedTuple):
    """A log line.

    ts: Unix seconds by the writer's clock; stamp: the same as written; fields: the line's other values by name, those
    of `data` among them, unchecked: read them with the functions below.
    """

    ts: float
    stamp: str
    peer: str
    role: str
    event: str
    level: str
    seq: int
    boot: str
    version: int
    fields: dict[str, Any]


def parse_line(line: bytes) -> Record | None:
    """A record of any schema version, or None where the line is none."""
    try:
        # As json.loads, without its looking for encodings that no log is in.
        text = line.decode()
        said, end = _decode(text)
        if type(said) is not dict or (end != len(text) and text[end:].strip()):
            return None
        stamp, seq, version = said["ts"], said["seq"], said["v"]
        peer, role, event, boot = said["peer"], said["role"], said["event"], said["boot_id"]
        if type(seq) is not int or type(version) is not int or not 0 < seq < _LARGEST or not 0 <= version < _LARGEST:
            return None
        if not (len(stamp) < 64 and len(peer) <= MAX_NAME and len(event) <= MAX_NAME and len(boot) <= MAX_NAME):
            return None
        when = datetime.fromisoformat(stamp)
        if when.tzinfo is None or not 2000 < when.year < 3000:
            return None
        data = said.get("data")
        if type(data) is dict:
            said |= data
        if not (peer.isprintable() and event.isprintable() and role.isprintable() and boot.isprintable()):
            peer, event, role, boot = clean(peer), clean(event), clean(role), clean(boot)
        level = said.get("level", "info")
        return Record(
            when.timestamp(), stamp, peer, role[:MAX_NAME], event, level if type(level) is str else "info",
            seq, boot, version, said,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def clean(text: object, most: int = MAX_TEXT) -> str:
    """A stranger's text, fit for a terminal: one line, nothing that is not printable, not too long."""
    if not isinstance(text, str):
        return ""
    if len(text) > most:
        text = text[: most - 1] + "…"
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def text_of(record: Record, name: str, most: int = MAX_TEXT) -> str:
    """A text field, cleaned; empty where it is missing or none."""
    return clean(record.fields.get(name), most)


def whole(record: Record, name: str) -> int | None:
    """A count, number or time: an integer of 0 to 2^62, else None."""
    value = record.fields.get(name)
    return value if type(value) is int and 0 <= value <= _LARGEST else None


def wei(record: Record, name: str = "wei") -> int | None:
    """An amount of money: an integer whose magnitude is under 2^128 (a claim may be nonsense, so negative too)."""
    value = record.fields.get(name)
    return value if type(value) is int and -_LARGEST_WEI < value < _LARGEST_WEI else None


def real(record: Record, name: str) -> float | None:
    """A finite number of a reasonable size, else None."""
    value = record.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e18 < value < 1e18:
        # Not a number is not between any two.
        return None
    return float(value)


def flag(record: Record, name: str) -> bool | None:
    """A yes or no, else None."""
    value = record.fields.get(name)
    return value if type(value) is bool else None


def groups_of(record: Record, name: str) -> tuple[int, ...] | None:
    """Group numbers (0 to 255) in ascending order, else None."""
    value = record.fields.get(name)
    if type(value) is not list or len(value) > 256:
        return None
    if not all(type(item) is int and 0 <= item < 256 for item in value):
        return None
    return tuple(sorted(set(value)))


def names_of(record: Record, name: str) -> list[str]:
    """Addresses; what is no text among them is left out."""
    value = record.fields.get(name)
    if type(value) is not list:
        return []
    return [clean(item, MAX_NAME) for item in value[:_MOST_ITEMS] if isinstance(item, str)]


def matrix_of(record: Record, name: str) -> list[list[float]]:
    """A square matrix of numbers written as decimal text (they may exceed what JSON readers hold); else empty."""
    value = record.fields.get(name)
    if type(value) is not list or not 0 < len(value) <= 64:
        return []
    try:
        rows = [[float(cell) for cell in row] for row in value]
    except (TypeError, ValueError, OverflowError):
        return []
    square = all(len(row) == len(rows) and all(math.isfinite(cell) and cell >= 0 for cell in row) for row in rows)
    return rows if square else []
