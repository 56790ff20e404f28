"""Structured logs: one JSON object a line in a file, readable text on a terminal. The only way anything is logged.

Monitoring reads nothing but these files, so the fields are an interface: see FIELDS. Secrets
registered with `protect` are cut out of every line, whatever field they try to leave by.

The file is rotated by rename when it has grown to its limit: log.jsonl.1 is the newest of the old ones. Readers that
follow inodes lose nothing.

Lines that strangers can cause (FLOODABLE) are limited, see log_flood: `data.count` of a summary is how many lines of
its kind were not written since the last that was.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from omnilytics.daemon.log_flood import OTHERS, Flood
from omnilytics.daemon.log_tail import RecentLines
from omnilytics.peers.errors import MessageError, ParameterError

SCHEMA_VERSION = 1
# Every line has the first eight; the others where they apply. `data` holds what only one event has.
FIELDS = (
    "v", "ts", "mono", "seq", "boot_id", "peer", "role", "event",
    "level", "msg", "task", "round", "group", "phase", "dur_ms", "peer_to",
    "tx", "block", "gas", "wei", "code", "data",
)  # fmt: skip
FLOODABLE = frozenset(("message.dropped",))
LEVELS = ("debug", "info", "warning", "error")
Listener = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Rotation:
    """When a log's file is put aside, and how many old ones are kept; 0 bytes: never."""

    bytes: int = 0
    files: int = 5


def show(value: bytes) -> str:
    """Bytes as people know them from the chain: 0x and hex."""
    return "0x" + value.hex()


class Logger:
    """Writes one participant's log."""

    def __init__(
        self,
        path: Path | None,
        role: str,
        peer: str,
        terminal: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: path of the JSON-lines file (None: no file), the participant's role and address,
        where readable text goes (None: nowhere), and a clock (seconds) by which floods are limited."""
        self._path = path
        self._size = 0
        self._level = "debug"
        self._listeners: dict[str, list[Listener]] = {}
        # Set before anything is logged; see rotate.
        self.rotation = Rotation()
        self._file: TextIO | None = None
        self._terminal = terminal
        self._role = role
        self._peer = peer
        self._seq = 0
        self._clock = clock
        self._flood = Flood()
        self.boot_id = secrets.token_hex(8)
        # The newest lines, for who asks this very daemon.
        self.tail = RecentLines(self.boot_id)
        # Secrets and the ways in which they could be written.
        self._secrets: dict[bytes, tuple[str, ...]] = {}
        self._kept: dict[bytes, tuple[str, ...]] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.reopen()

    def reopen(self) -> None:
        """Opens the file again: after a rotation by rename (SIGHUP)."""
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
            self._size = self._path.stat().st_size

    @property
    def level(self) -> str:
        """The lowest level that is written."""
        return self._level

    def set_level(self, level: str) -> None:
        """Leaves out lines below a level of LEVELS from now on, and says so. Raises ParameterError for another word."""
        if level not in LEVELS:
            raise ParameterError(f"no log level '{level}'", help=f"one of {', '.join(LEVELS)}")
        if level != self._level:
            self._level = level
            self._write("log.level", f"from now on {level} and above", level, {})

    def step_level(self, steps: int) -> None:
        """Says less (steps above 0) or more, as far as that goes: what signals ask for."""
        self.set_level(LEVELS[min(max(LEVELS.index(self._level) + steps, 0), len(LEVELS) - 1)])

    def subscribe(self, events: Iterable[str], listener: Listener) -> None:
        """Calls a listener with the event and the redacted line of each of these events, whatever their level."""
        for event in events:
            self._listeners.setdefault(event, []).append(listener)

    def _rotate(self) -> None:
        """Puts the file aside under a new name. Where that cannot be done, it goes on as it was, and is tried again
        when as much has been added."""
        assert self._path is not None
        path, limit, self._size = self._path, self.rotation, 0
        fresh = path.with_name(f"{path.name}.new")
        with contextlib.suppress(OSError):
            # The new file is there before the oldest goes: it must not get its inode, by which readers know a file.
            file = fresh.open("w", encoding="utf-8", buffering=1)
            try:
                for number in range(limit.files - 1, 0, -1):
                    older = path.with_name(f"{path.name}.{number}")
                    if older.exists():
                        older.replace(path.with_name(f"{path.name}.{number + 1}"))
                path.replace(path.with_name(f"{path.name}.1"))
                fresh.replace(path)
            except OSError:
                file.close()
                raise
            if self._file is not None:
                self._file.close()
            self._file = file

    def protect(self, *values: bytes, keep: bool = False) -> None:
        """Cuts these secrets (at least 16 bytes each) out of every later line, however they are written.

        With `keep` they are never forgotten: keys that outlive their round.
        """
        for value in values:
            if len(value) >= 16:
                # A repr escapes an apostrophe or not, as the bytes around it want; in JSON its backslashes are doubled
                # and its quotes escaped.
                parts = [repr(part)[2:-1] for part in value.split(b"'")]
                reprs = ("'".join(parts), "\\'".join(parts))
                in_json = (json.dumps(text)[1:-1] for text in reprs)
                ways = tuple(dict.fromkeys((value.hex(), value.hex().upper(), *reprs, *in_json)))
                (self._kept if keep else self._secrets)[value] = ways
        # Seeds die with their round; the newest thousands are enough and keep memory flat.
        while len(self._secrets) > 4096:
            del self._secrets[next(iter(self._secrets))]

    def __call__(self, event: str, msg: str = "", level: str = "info", **fields: Any) -> None:
        """Logs an event. Fields that are not in FIELDS go into `data`; bytes are shown as hex."""
        if event in FLOODABLE and not self._flood.admits(msg, fields.get("peer_to"), level, self._clock()):
            self.summarise()
            return
        self._write(event, msg, level, fields)

    def summarise(self, at_once: bool = False) -> None:
        """Tells how many lines were not written, where that is due; `at_once` in any case."""
        for told in self._flood.summaries(self._clock(), at_once):
            kind = told.kind
            text = f"{told.count} {kind.reason}" if kind is OTHERS else f"{kind.reason}: {told.count} more times"
            fields = {"code": MessageError.code, "peer_to": kind.sender, "count": told.count}
            self._write("message.dropped", text, told.level, fields)

    def _write(self, event: str, msg: str, level: str, fields: dict[str, Any]) -> None:
        written = level not in LEVELS or LEVELS.index(level) >= LEVELS.index(self._level)
        listeners = self._listeners.get(event, ())
        if not written and not listeners:
            return
        self._seq += written
        line: dict[str, Any] = {
            "v": SCHEMA_VERSION,
            "ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "mono": round(time.monotonic(), 4),
            "seq": self._seq,
            "boot_id": self.boot_id,
            "peer": self._peer,
            "role": self._role,
            "event": event,
            "level": level,
            "msg": msg,
        }
        data: dict[str, Any] = {}
        for name, value in fields.items():
            if value is not None:
                (line if name in FIELDS else data)[name] = value
        if data:
            line["data"] = data
        text = self._redact(json.dumps(line, default=_plain, separators=(",", ":")))
        for listener in listeners:
            listener(event, json.loads(text))
        if not written:
            return
        self.tail.add(self._seq, LEVELS.index(level) if level in LEVELS else len(LEVELS), text)
        if self._file is not None:
            self._file.write(text + "\n")
            self._size += len(text) + 1
            if 0 < self.rotation.bytes <= self._size:
                self._rotate()
        if self._terminal is not None and level != "debug":
            print(self._redact(readable(line)), file=self._terminal)

    def _redact(self, text: str) -> str:
        for written in (*self._kept.values(), *self._secrets.values()):
            for way in written:
                if way in text:
                    text = text.replace(way, "[redacted]")
        return text

    def close(self) -> None:
        """Tells what is not told yet and closes the file; nothing may be logged after it."""
        self.summarise(at_once=True)
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return show(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)


def readable(line: dict[str, Any]) -> str:
    """A line for people, in one row."""
    clock = line["ts"][11:19]
    place = "".join(f" {name} {line[name]}" for name in ("task", "round", "group") if name in line)
    return f"{clock} {line['level']:<7} {line['event']:<18}{place} {line['msg']}"


def terminal_if(wanted: bool) -> TextIO | None:
    """Standard error, where readable logs are wanted there."""
    return sys.stderr if wanted else None
