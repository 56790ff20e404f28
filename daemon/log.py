"""Structured logs: one JSON object a line in a file, readable text on a terminal. The only way anything is logged.

Monitoring reads nothing but these files, so the fields are an interface: see FIELDS. Secrets
registered with `protect` are cut out of every line, whatever field they try to leave by.

Lines that strangers can cause (FLOODABLE) are limited, see log_flood: `data.count` of a summary is how many lines of
its kind were not written since the last that was.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from omnilytics.daemon.log_flood import OTHERS, Flood
from omnilytics.daemon.log_tail import LogTail
from omnilytics.peers.errors import MessageError

SCHEMA_VERSION = 1
# Every line has the first eight; the others where they apply. `data` holds what only one event has.
FIELDS = (
    "v", "ts", "mono", "seq", "boot_id", "peer", "role", "event",
    "level", "msg", "task", "round", "group", "phase", "dur_ms", "peer_to",
    "tx", "block", "gas", "wei", "code", "data",
)  # fmt: skip
FLOODABLE = frozenset(("message.dropped",))
LEVELS = ("debug", "info", "warning", "error")


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
        self._file: TextIO | None = None
        self._terminal = terminal
        self._role = role
        self._peer = peer
        self._seq = 0
        self._clock = clock
        self._flood = Flood()
        self.boot_id = secrets.token_hex(8)
        # The least level that is written to the file, and to the terminal.
        self.file_level = "debug"
        self.terminal_level = "info"
        # The newest lines, for who asks this very daemon.
        self.tail = LogTail(self.boot_id)
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
        self.tail.note(event, self._redact(msg))
        # A level that is none is worth a look.
        rank = LEVELS.index(level) if level in LEVELS else len(LEVELS)
        to_file = rank >= LEVELS.index(self.file_level)
        to_terminal = self._terminal is not None and rank >= LEVELS.index(self.terminal_level)
        if not (to_file or to_terminal):
            return
        # A line that only a terminal shows is not missing in the file.
        self._seq += to_file
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
        if to_file:
            text = self._redact(json.dumps(line, default=_plain, separators=(",", ":")))
            self.tail.add(self._seq, rank, text)
            if self._file is not None:
                self._file.write(text + "\n")
        if to_terminal:
            print(self._redact(_readable(line)), file=self._terminal)

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


def _readable(line: dict[str, Any]) -> str:
    clock = line["ts"][11:19]
    place = "".join(f" {name} {line[name]}" for name in ("task", "round", "group") if name in line)
    return f"{clock} {line['level']:<7} {line['event']:<18}{place} {line['msg']}"


def terminal_if(wanted: bool) -> TextIO | None:
    """Standard error, where readable logs are wanted there."""
    return sys.stderr if wanted else None
