"""Reads one participant's log for people: the last lines, and those that come, across rotations by rename."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from omnilytics.daemon.log import LEVELS, readable

# More than a line of ours ever has; what is longer is not ours.
MAX_LINE_BYTES = 1 << 20
MOST_ROTATED = 100


class LogTail:
    """The end of a log, and what comes after it: one open file, so that no rotation comes in between."""

    def __init__(self, path: Path) -> None:
        """The file need not be there yet."""
        self._path = path
        self._file: IO[bytes] | None = None
        with contextlib.suppress(FileNotFoundError):
            self._file = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def last(self, count: int, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """The last `count` whole lines that are wanted, without line ends; call it once, before follow.

        Where the file has fewer, those of the files that were renamed away come before: log.jsonl.1 is the newest.
        """
        lines = self._last_here(count, wanted)
        for number in range(1, MOST_ROTATED):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if len(lines) >= count or not older.exists():
                break
            with LogTail(older) as before:
                lines = before._last_here(count - len(lines), wanted) + lines
        return lines

    def _last_here(self, count: int, wanted: Callable[[bytes], bool]) -> list[bytes]:
        kept: deque[bytes] = deque(maxlen=count)
        file = self._file
        if file is None:
            return []
        while line := file.readline():
            if not line.endswith(b"\n"):
                # It is being written.
                file.seek(-len(line), os.SEEK_CUR)
                break
            if wanted(line):
                kept.append(line[:-1])
        return list(kept)

    def follow(self, pause: Callable[[], None]) -> Iterator[bytes]:
        """The lines after those that were read, as they come, for ever; `pause` is called whenever there is none.

        A file that is renamed away is read to its end before the new one of its name is begun; one that was cut short
        is read from its start.
        """
        begun = b""
        while True:
            if self._file is None:
                try:
                    self._file = self._path.open("rb")
                except FileNotFoundError:
                    pause()
                    continue
                begun = b""
            file = self._file
            # Before reading: a daemon opens the new file before it writes on, so what is read now is the old one's end.
            moved = _moved(file, self._path)
            line = file.readline(MAX_LINE_BYTES)
            if line:
                begun += line
                if begun.endswith(b"\n") or len(begun) >= MAX_LINE_BYTES:
                    yield begun.rstrip(b"\n")
                    begun = b""
            elif moved:
                self._close()
            elif os.fstat(file.fileno()).st_size < file.tell():
                file.seek(0)
                begun = b""
            else:
                pause()


def _moved(file: IO[bytes], path: Path) -> bool:
    """Whether another file has the name now; one that only vanished may still be written to."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


def at_least(level: str) -> Callable[[bytes], bool]:
    """Whether a line is of this level or above; what is no line of a log is."""
    wanted = LEVELS[LEVELS.index(level) :]

    def passes(line: bytes) -> bool:
        record = _record(line)
        return record is None or record.get("level") in wanted

    return passes


def rendered(line: bytes) -> str:
    """A line for people: time, level, event, place and words; what is no line of a log as it stands, made harmless."""
    record = _record(line)
    if record is None:
        return printable(line.decode(errors="replace"))
    text = readable({"msg": "", **record})
    code = record.get("code")
    return printable(f"{text}{f' [{code}]' if code else ''}")


def printable(text: str) -> str:
    """A stranger's text for a terminal: no escape sequences, no end of lines."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("ts", "level", "event")):
        return None
    return record
