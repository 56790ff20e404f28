"""Starts the processes of a local run, waits until they are ready, and leaves none behind.

Each process leads a session of its own, so that Ctrl-C in the terminal reaches the launcher alone, which then
stops the others in order. Whatever happens to the launcher, its processes end:

- it leaves the `Supervisor` block (return, error, cancellation): SIGTERM to all, SIGKILL after a grace;
- it is killed or crashes: the kernel kills each process (PR_SET_PDEATHSIG); no code of ours needs to run.

The second holds on Linux, for the direct children of the thread that started them (so start them from the
main thread), and is lost where a program changes its user. Grandchildren need it set by their own parents.
"""
# ruff: noqa: ASYNC109  (here a timeout is part of what one waits for, and of the error's text)

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

STOP_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_POLL = 0.02
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ProcessError(Exception):
    """A process did not start, ended early or was not ready in time. Its last log lines are in the text."""


def die_with_parent(death_signal: int = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent ends (Linux; elsewhere nothing happens)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what belongs to how it was started itself, plus `extra`."""
    own = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in own} | dict(extra or {})


@dataclass
class ManagedProcess:
    """A process that a `Supervisor` started. `log` holds its stderr, and its stdout where that has no file."""

    name: str
    log: Path
    events: Path
    _process: asyncio.subprocess.Process
    _events_start: int
    _stopping: bool = field(default=False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Its exit code, once it ends."""
        return await self._process.wait()

    async def wait_event(self, event: str, *, timeout: float) -> dict[str, Any]:
        """The first JSON line of its events file, since it started, whose "event" is `event`.

        Raises ProcessError when it ends or `timeout` seconds pass first.
        """

        def parse(line: str) -> dict[str, Any] | None:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and record.get("event") == event:
                    return record
            return None

        return await self.wait_line(parse, what=f'event "{event}"', timeout=timeout)

    async def wait_line(self, parse: Callable[[str], T | None], *, what: str, timeout: float) -> T:
        """The first thing that `parse` makes of a line of its events file."""
        try:
            async with asyncio.timeout(timeout):
                async for line in self._lines():
                    parsed = parse(line)
                    if parsed is not None:
                        return parsed
        except TimeoutError:
            raise ProcessError(f"{self.name}: no {what} within {timeout:g} s{self._tail()}") from None
        raise ProcessError(f"{self.name}: ended with code {self.returncode} before {what}{self._tail()}")

    async def _lines(self) -> AsyncIterator[str]:
        """Lines of its events file as they come, until it has ended and all are read."""
        position, rest = self._events_start, b""
        while True:
            ended = self.returncode is not None
            if self.events.exists():
                with self.events.open("rb") as file:
                    file.seek(position)
                    fresh = file.read()
                position += len(fresh)
                *lines, rest = (rest + fresh).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if ended:
                return
            await asyncio.sleep(_POLL)

    def _tail(self, lines: int = 8) -> str:
        try:
            last = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            return ""
        return "".join(f"\n  | {line}" for line in last) + f"\n  (its log: {self.log})"

    def send_signal(self, number: int) -> None:
        """Sends it a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, grace: float = STOP_GRACE) -> int:
        """SIGTERM, after `grace` seconds SIGKILL; what it left in its group is killed too. Its exit code."""
        self._stopping = True
        try:
            if self.returncode is None:
                self.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        return await self.wait()
        finally:
            self.kill_group()
        return await self.wait()

    def kill_group(self) -> None:
        """SIGKILL to it and all that it started in its group."""
        self._stopping = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Supervisor:
    """`async with Supervisor() as supervisor:` what it starts has ended once the block is left."""

    def __init__(self, grace: float = STOP_GRACE) -> None:
        self.processes: list[ManagedProcess] = []
        self._grace = grace

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    async def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        stdout: Path | None = None,
        events: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        death_signal: int = signal.SIGKILL,
    ) -> ManagedProcess:
        """Starts `argv` with its output appended to `log` (its stdout to `stdout`, where one is given).

        `events` is the file that `wait_event` reads (default: its stdout); lines of earlier runs in it do not
        count. `env` replaces the environment (default: `clean_environment()`). `death_signal` is what the
        process gets when this one dies without stopping it.
        """
        launcher = os.getpid()

        def in_child() -> None:
            die_with_parent(death_signal)
            if os.getppid() != launcher:  # the launcher died before the kernel knew
                os._exit(1)

        for file in (log, stdout):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
        events = events or stdout or log
        events_start = events.stat().st_size if events.exists() else 0
        with (
            log.open("ab") as log_file,
            (stdout or log).open("ab") as stdout_file,
            # Python 3.12 warns of code between fork and exec where threads run; in_child takes none of their locks.
            warnings.catch_warnings(action="ignore", category=DeprecationWarning),
        ):
            try:
                process = await asyncio.create_subprocess_exec(
                    *map(str, argv),
                    stdin=stdin,
                    stdout=stdout_file,
                    stderr=log_file,
                    env=dict(clean_environment() if env is None else env),
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=in_child,
                )
            except OSError as error:
                raise ProcessError(f"{name}: cannot start {argv[0]}: {error.strerror}") from error
        managed = ManagedProcess(name, log, events, process, events_start)
        self.processes.append(managed)
        return managed

    async def wait_failure(self) -> ManagedProcess:
        """The first process that ends although nobody stopped it; its `returncode` may be 0."""
        while True:
            for process in self.processes:
                if process.returncode is not None and not process._stopping:
                    return process
            await asyncio.sleep(_POLL * 5)

    async def stop_all(self, grace: float | None = None) -> None:
        """Stops all at once. Where it is cancelled meanwhile (a second Ctrl-C), it kills what is left."""
        processes = list(reversed(self.processes))
        patience = self._grace if grace is None else grace
        try:
            await asyncio.gather(*(process.stop(patience) for process in processes))
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill_group()
            self.processes.clear()


@contextlib.contextmanager
def cancelled_by_signals(
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
) -> Iterator[list[signal.Signals]]:
    """Within the block these signals cancel the current task, so that `async with` blocks close in order.

    Yields the list of the signals that came. A signal that was ignored at the start (nohup) stays ignored.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def cancel(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    handled = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, cancel, number)
    try:
        yield received
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
