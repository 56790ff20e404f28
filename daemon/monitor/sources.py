"""Reads log files while they are written: finds them, follows rotations, and hands out records in one order.

Nothing here is remembered but a position a file: memory does not grow with what has been read. The order of
records is that of their time stamps; lines of one file keep the file's order, and ties go by the file's name.
"""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from omnilytics.daemon.monitor.records import MAX_LINE_BYTES, Record, parse_line
from omnilytics.peers.errors import ConfigurationError

BLOCK_BYTES = 1 << 16
MAX_FILES = 4096
# What a folder's logs are called: log.jsonl, owner-03.jsonl, and log.jsonl.1 after a rotation by rename.
_PATTERNS = ("*.jsonl", "*.jsonl.[0-9]*")
STANDARD_INPUT = "-"


@dataclass
class LogFile:
    """One file, by its inode: it keeps its place when it is renamed."""

    name: str
    path: Path
    position: int = 0
    size: int = 0
    bad_lines: int = 0
    truncations: int = 0
    # Device and inode; None for standard input.
    key: tuple[int, int] | None = None
    # Not found by the last scan: gone, or renamed while we looked.
    missing: bool = False
    # Within a line that is too long: it is skipped to its end.
    skipping: bool = False
    # The time up to which its records have been handed out: a clock that was set back does not reorder its lines.
    clock: float = field(default=0.0, repr=False)

    @property
    def behind(self) -> int:
        """Bytes that are written and not read."""
        return max(0, self.size - self.position)

    def look(self) -> bool:
        """Asks for the file's size; False when it is gone."""
        try:
            self.size = self.path.stat().st_size
        except OSError:
            return False
        if self.size < self.position:
            self.position, self.skipping = 0, False
            self.truncations += 1
        return True

    def records(self) -> Iterator[Record]:
        """Whole lines up to the size seen last. What is not JSON, or no record, is counted and left out."""
        end = self.size
        try:
            file = self.path.open("rb")
        except OSError:
            return
        with file:
            status = os.fstat(file.fileno())
            if self.key is not None and (status.st_dev, status.st_ino) != self.key:
                # Renamed since we looked: it is read under its new name next time.
                return
            file.seek(self.position)
            rest = b""
            while self.position < end:
                block = file.read(min(BLOCK_BYTES, end - self.position - len(rest)))
                if not block:
                    return
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    self.position += len(line) + 1
                    if self.skipping:
                        self.skipping = False
                        continue
                    record = parse_line(line)
                    if record is None:
                        self.bad_lines += 1
                    else:
                        yield record
                if len(rest) > MAX_LINE_BYTES:
                    self.position += len(rest)
                    self.bad_lines += not self.skipping
                    self.skipping, rest = True, b""
                elif len(rest) == end - self.position:
                    # A line that is being written: next time.
                    return


def find_files(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Log files among these files and folders, (name, path), in the order of names.

    A folder is a testbed's run (its logs/), a folder of logs, or a folder of participants' folders.
    """
    found: dict[Path, str] = {}
    for path in paths:
        if path.is_dir():
            base = path / "logs" if (path / "logs").is_dir() else path
            inside = sorted(item for pattern in _PATTERNS for item in base.glob(pattern))
            inside = inside or sorted(item for pattern in _PATTERNS for item in base.glob(f"*/{pattern}"))
            for item in inside:
                found.setdefault(item, _name_of(item))
        elif path.exists():
            found.setdefault(path, _name_of(path))
    return sorted(((name, path) for path, name in found.items()), key=lambda entry: (entry[0], str(entry[1])))


def _name_of(path: Path) -> str:
    name = path.name.split(".jsonl")[0]
    return (path.resolve().parent.name or name) if name == "log" else name


class LogSources:
    """All files of a market, and standard input where it is asked for."""

    def __init__(self, paths: Sequence[Path], stdin: BinaryIO | None = None) -> None:
        self._paths = list(paths)
        self._files: dict[tuple[int, int], LogFile] = {}
        self._stdin = stdin
        self._stdin_file = LogFile(STANDARD_INPUT, Path(STANDARD_INPUT))
        self.vanished = 0

    @staticmethod
    def named(names: Sequence[str]) -> LogSources:
        """From a command line, where - is standard input. Raises ConfigurationError for what is not there."""
        paths = [Path(name) for name in names if name != STANDARD_INPUT]
        for path in paths:
            if not path.exists():
                raise ConfigurationError(
                    f"no file or folder {path}", help="give a run's folder, a folder of logs, or -"
                )
        stdin = sys.stdin.buffer if STANDARD_INPUT in names else None
        sources = LogSources(paths, stdin)
        sources.scan()
        if stdin is None and not sources.files:
            raise ConfigurationError(
                f"no logs (*.jsonl) in {', '.join(map(str, paths))}", help="give a run's folder, a folder of logs, or -"
            )
        return sources

    @property
    def files(self) -> list[LogFile]:
        """What is followed, standard input last."""
        here = (file for file in self._files.values() if not file.missing)
        files = sorted(here, key=lambda file: (file.name, str(file.path)))
        return [*files, self._stdin_file] if self._stdin is not None else files

    def scan(self) -> None:
        """Looks for new, renamed and vanished files, and at all sizes."""
        here: set[tuple[int, int]] = set()
        for name, path in find_files(self._paths):
            try:
                status = path.stat()
            except OSError:
                continue
            key = status.st_dev, status.st_ino
            file = self._files.get(key)
            if file is None and len(self._files) < MAX_FILES:
                file = self._files[key] = LogFile(name, path, key=key)
            if file is not None and key not in here:
                file.path, file.missing = path, False
            here.add(key)
        for key in [key for key in self._files if key not in here]:
            # A rotation may have come between looking for names and looking at files: it is found under its new name
            # next time, and must not be read from its beginning then.
            if self._files[key].missing:
                del self._files[key]
                self.vanished += 1
            else:
                self._files[key].missing = True
        for file in self._files.values():
            if not file.missing:
                file.look()

    def new_records(self) -> Iterator[tuple[str, Record]]:
        """Records that were written since the last call, (source's name, record), in order."""
        self.scan()
        waiting: list[tuple[float, str, int, Record, Iterator[Record], LogFile]] = []
        files = [(file, file.records()) for file in self._files.values() if file.behind and not file.missing]
        for number, (file, records) in enumerate(sorted(files, key=lambda item: (item[0].name, str(item[0].path)))):
            record = next(records, None)
            if record is not None:
                file.clock = max(file.clock, record.ts)
                waiting.append((file.clock, file.name, number, record, records, file))
        heapq.heapify(waiting)
        while waiting:
            _, name, number, record, records, file = waiting[0]
            yield name, record
            following = next(records, None)
            if following is None:
                heapq.heappop(waiting)
            else:
                file.clock = max(file.clock, following.ts)
                heapq.heapreplace(waiting, (file.clock, name, number, following, records, file))

    def piped(self) -> Iterator[tuple[str, Record]]:
        """Standard input to its end, in its own order; waits for it."""
        stdin, file = self._stdin, self._stdin_file
        if stdin is None:
            return
        while line := stdin.readline(MAX_LINE_BYTES + 1):
            file.position += len(line)
            file.size = file.position
            whole = line.endswith(b"\n")
            if file.skipping:
                file.skipping = not whole
                continue
            record = parse_line(line) if whole or len(line) <= MAX_LINE_BYTES else None
            if record is None:
                file.bad_lines += 1
                file.skipping = not whole and len(line) > MAX_LINE_BYTES
            else:
                yield STANDARD_INPUT, record
