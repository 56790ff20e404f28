"""The lock on a data folder: one process at a time, and everybody else learns its pid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from omnilytics.peers.errors import LockError

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Holds the data folder for this process. Raises LockError naming the holder."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            _take(file)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockError(
                f"data directory {home} in use by pid {holder}",
                help="stop that process, or use another --home",
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _take(file: TextIO) -> None:
    """Takes the lock, in a few tries: who only asks for the holder has it for a moment. Raises BlockingIOError."""
    for _ in range(3):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_POLL_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(home: Path) -> int | None:
    """The pid of the daemon that runs in a folder, None where none does. Raises LockError where it is not told."""
    path = home / "lock"
    deadline = time.monotonic() + 2.0
    while True:
        try:
            file = path.open("r", encoding="utf-8")
        except FileNotFoundError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read(32).strip()
            else:
                return None
        if text.isdecimal():
            return int(text)
        # It has the lock and is about to write its pid, or somebody else looked at the lock just now.
        if time.monotonic() > deadline:
            raise LockError(f"data directory {home} is in use by a process that does not tell its pid")
        time.sleep(_POLL_SECONDS)


def holds(pid: int, home: Path) -> bool:
    """Whether that process of this machine has the folder's lock open: a pid may be another container's.

    Where nobody can say (no /proc), it is believed. Raises LockError where we may not look.
    """
    folder = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True
    try:
        wanted = (home / "lock").stat()
        for entry in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise LockError(
            f"data directory {home} is in use by pid {pid}, a process of another user",
            help="stop it as that user, or where it was started",
        ) from error
    return False
