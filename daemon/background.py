"""A daemon without a terminal: started, waited for until it is ready, found again by its lock, stopped.

How it was started is kept in HOME/start.json, so that a restart and a service need not be told again. Readiness comes
as the datagram that systemd would get (service_manager.py): nothing sleeps, nothing reads logs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnilytics.daemon.home_lock import holder, holds
from omnilytics.peers.errors import ConfigurationError, LockError, OmniLyticsError

# -P: a file in the folder where somebody happens to be must not be imported in place of ours.
PROGRAM = (sys.executable, "-P", "-m", "omnilytics.daemon.cli")
START_NAME = "start.json"
OUTPUT_NAME = "daemon.out"
# The version of start.json. One that is newer is refused; an older one would be brought up to date here.
START_VERSION = 1
_MOST_BYTES = 65_536
# What a daemon wrote before it ended, as far as it is shown.
_TAIL_BYTES = 2_000
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Start:
    """How a daemon is started: the arguments after `omnilytics`, and the folder that its paths are relative to."""

    folder: Path
    arguments: tuple[str, ...]


def remember(home: Path, start: Start) -> None:
    """Keeps how the daemon of a folder is started. Only its owner reads it: a broker's URL may hold a password."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = json.dumps({"v": START_VERSION, "folder": str(start.folder), "arguments": list(start.arguments)})
    fresh = home / f"{START_NAME}.new"
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    fresh.replace(home / START_NAME)


def remembered(home: Path) -> Start:
    """How it was started last. Raises ConfigurationError where it never was, or the file is of no use."""
    path = home / START_NAME
    cure = f"start it once with its options: omnilytics start --home {home} owner run --data rows.npz"
    if not path.exists():
        raise ConfigurationError(f"no daemon was started in {home} before", help=cure)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        version, folder, arguments = said["v"], said["folder"], said["arguments"]
        if not isinstance(version, int) or not isinstance(folder, str) or not isinstance(arguments, list):
            raise TypeError
        if not all(isinstance(argument, str) for argument in arguments):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigurationError(f"{path} cannot be used", help=cure) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", help=cure) from error
    if version > START_VERSION:
        raise ConfigurationError(
            f"{path} is of version {version}; this program knows {START_VERSION}", help="upgrade the program"
        )
    return Start(Path(folder), tuple(arguments))


def stop(home: Path, seconds: float, kill: bool = False) -> int | None:
    """Ends the daemon of a folder: SIGTERM, and waits until the lock is free. Its pid, None where none ran.

    With `kill`, SIGKILL when the seconds have passed: it loses nothing that is not lost with power. Raises LockError
    when it has not ended, or is not a process that we can see.
    """
    pid = holder(home)
    if pid is None:
        return None
    if not holds(pid, home):
        raise LockError(
            f"data directory {home} is in use by pid {pid} of another machine or container",
            help="stop it where it was started",
        )
    for number in (signal.SIGTERM, signal.SIGKILL) if kill else (signal.SIGTERM,):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if holder(home) != pid:
                return pid
            time.sleep(_POLL_SECONDS)
    raise LockError(
        f"pid {pid} has not ended within {seconds:g} s",
        help="it may be training: wait longer with --timeout, or end it with --kill, which loses nothing",
    )


# ------------------------------------------------------------------------ the start


@dataclass(frozen=True)
class Started:
    """A daemon that runs. ready: whether it has said so; status: its own words."""

    pid: int
    ready: bool
    status: str


def start(home: Path, command: Sequence[str], folder: Path, seconds: float, say: Callable[[str], None]) -> Started:
    """Starts a daemon in a session of its own and waits until it is ready, for so many seconds at most.

    `say` is told each status meanwhile. Raises LockError where one runs already, and FailedStart with the daemon's
    own words and exit code when it ends instead.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    pid = holder(home)
    if pid is not None:
        raise LockError(f"data directory {home} in use by pid {pid}", help="it runs already: omnilytics status, stop")
    output = home / OUTPUT_NAME
    with _ear() as (ear, address), os.fdopen(_fresh(output), "wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NOTIFY_SOCKET": address},
            # Ctrl-C and the end of the terminal are not for it.
            start_new_session=True,
        )
        ready, status = _listen(ear, process, seconds, say)
    if process.poll() is not None:
        raise FailedStart(process.returncode, _tail(output))
    # It goes on without us. Python warns of a child that nobody waits for, unless it seems to have ended.
    process.returncode = 0
    return Started(process.pid, ready, status)


class FailedStart(OmniLyticsError):
    """The daemon has ended before it was ready; its words and its exit code."""

    code = "start"

    def __init__(self, exit_code: int, words: str) -> None:
        super().__init__(
            f"the daemon has ended with exit code {exit_code}", help=words or "see log.jsonl in its folder"
        )
        # Killed by a signal, or all is well in its own view: not for whoever wanted it to run.
        self.leave_with = exit_code if exit_code > 0 else self.exit_code


@contextlib.contextmanager
def _ear() -> Iterator[tuple[socket.socket, str]]:
    """A socket for the daemon's datagrams, in a folder that only we enter."""
    with (
        tempfile.TemporaryDirectory(prefix="omnilytics-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        address = str(Path(folder) / "notify")
        ear.bind(address)
        ear.setblocking(False)
        yield ear, address


def _listen(
    ear: socket.socket, process: subprocess.Popen[bytes], seconds: float, say: Callable[[str], None]
) -> tuple[bool, str]:
    """(whether it said that it is ready, its last status)."""
    status, until = "", time.monotonic() + seconds
    while process.poll() is None and (left := until - time.monotonic()) > 0:
        # An end sends no datagram: so not longer than this at a time.
        if not select.select([ear], [], [], min(left, _POLL_SECONDS))[0]:
            continue
        lines = ear.recv(65_536).decode(errors="replace").split("\n")
        for line in lines:
            if line.startswith("STATUS=") and line != f"STATUS={status}":
                status = line.removeprefix("STATUS=")
                say(status)
        if "READY=1" in lines:
            return True, status
    return False, status


def _fresh(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""
