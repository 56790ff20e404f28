"""The real journal on a disk that can be full, fail to sync, tear a write, or see its process die around one."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any, cast

from omnilytics.daemon.journal import Journal
from tests.simulator.life import CrashedError, Faults, Life


class _FailingConnection:
    """Answers a write as SQLite does when the disk fails: nothing was written, or nobody knows."""

    def __init__(self, real: sqlite3.Connection, message: str, writes: bool) -> None:
        self._real = real
        self._message = message
        self._writes = writes

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> Any:
        """Fails, after writing or without."""
        if self._writes:
            self._real.execute(statement, values)
        raise sqlite3.OperationalError(self._message)


class FaultyJournal(Journal):
    """A journal whose every write is a place to fail or to die."""

    def __init__(self, path: Path, life: Life, faults: Faults, entropy: random.Random) -> None:
        self._life = life
        self._faults = faults
        self._entropy = entropy
        self._restore: list[tuple[Path, Path]] = []
        super().__init__(path)

    def _write(self, statement: str, *values: object) -> int:
        life, faults, entropy = self._life, self._faults, self._entropy
        life.check()
        faults.counters["journal writes"] += 1
        name = life.name
        if faults.strikes("crash_before_write", entropy, name):
            self._die()
        for kind, message, writes in (
            ("disk_full", "database or disk is full", False),
            ("fsync_error", "disk I/O error", entropy.random() < 0.5),
        ):
            if faults.strikes(kind, entropy, name):
                return self._fail(message, writes, statement, values)
        if faults.strikes("crash_torn_write", entropy, name):
            self._tear(statement, values)
        changed = super()._write(statement, *values)
        if faults.strikes("crash_after_write", entropy, name):
            self._die()
        return changed

    def _row(self, statement: str, *values: object) -> tuple[bytes, ...] | None:
        self._life.check()
        return super()._row(statement, *values)

    def _die(self) -> None:
        self._life.die()
        raise CrashedError(self._life.name)

    def _fail(self, message: str, writes: bool, statement: str, values: tuple[object, ...]) -> int:
        real = self._db
        self._db = cast(sqlite3.Connection, _FailingConnection(real, message, writes))
        try:
            return super()._write(statement, *values)
        finally:
            self._db = real

    def _tear(self, statement: str, values: tuple[object, ...]) -> None:
        """Dies in the middle of a write: the log on disk ends somewhere inside this transaction."""
        wal = self._path.with_name(self._path.name + "-wal")
        copies = [(path, path.with_name(path.name + ".torn")) for path in (self._path, wal)]
        before = wal.stat().st_size if wal.exists() else 0
        self._copy(copies)
        super()._write(statement, *values)
        after = wal.stat().st_size
        if after > before:
            self._copy(copies)
            with copies[1][1].open("r+b") as torn:
                torn.truncate(self._entropy.randrange(before, after))
        self._restore = copies
        self._die()

    @staticmethod
    def _copy(copies: list[tuple[Path, Path]]) -> None:
        for path, copy in copies:
            if path.exists():
                shutil.copyfile(path, copy)
            else:
                copy.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; after a torn write the disk shows what was on it at that moment."""
        super().close()
        for path, copy in self._restore:
            path.unlink(missing_ok=True)
            if copy.exists():
                copy.rename(path)
        if self._restore:
            self._path.with_name(self._path.name + "-shm").unlink(missing_ok=True)
        self._restore = []
