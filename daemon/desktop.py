"""Notifications on the desktop, where there is one: a task joined, money paid, something only people can do.

By notify-send, a program of every freedesktop desktop: a process of its own, so that nothing that goes wrong with the
session's bus can reach the daemon. The words are ours and numbers; nothing of strangers, nothing secret.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omnilytics.daemon.amounts import ether_words

MODES = ("auto", "on", "off")
# At least so many seconds between two, and at most so many an hour: the log has everything.
PAUSE_SECONDS = 5.0
MOST_AN_HOUR = 20
# notify-send without a desktop that answers waits for the bus.
PATIENCE_SECONDS = 30.0
# Events that ask for somebody, and what is said. All else is in the log.
_ACTION = {
    "safe-mode": "This data folder is old or a copy. Nothing is posted until the newest one is used.",
    "stake.short": "The stake was slashed. The group does not play until it is restored.",
    "rpc.disagreement": "The two RPCs show different chains. Nothing is done until they agree.",
    "task.failed": "The task cannot be played on. See the log for what to do.",
    "daemon.failed": "The daemon has ended with an error.",
    "daemon.bug": "The daemon has ended with an error of its own.",
}
EVENTS = frozenset((*_ACTION, "tx.mined", "balance.low"))


@dataclass(frozen=True)
class Notice:
    """What a desktop shows."""

    title: str
    text: str
    urgent: bool = False


def notice_of(event: str, line: Mapping[str, Any]) -> Notice | None:
    """What a line of the log is worth telling, if anything."""
    data = line.get("data") or {}
    task = f"Task {line['task']}" if isinstance(line.get("task"), int) else "OmniLytics"
    if event in _ACTION:
        return Notice(f"{task}: action needed", _ACTION[event], urgent=True)
    if event == "balance.low":
        wei = line.get("wei")
        text = (
            f"Add {ether_words(wei)} for the next rounds." if isinstance(wei, int) else "Add some for the next rounds."
        )
        return Notice("OmniLytics: the account runs out of money", text, urgent=True)
    if event == "tx.mined" and data.get("function") == "join":
        return Notice(f"{task} joined", "Its rounds are played from now on.")
    received = data.get("wei_received")
    if event == "tx.mined" and data.get("function") == "withdraw" and isinstance(received, int) and received > 0:
        return Notice(f"{task}: paid", f"{ether_words(received)} was collected.")
    return None


def notifier(mode: str, environment: Mapping[str, str]) -> str | None:
    """The program to notify with, or None: "auto" wants a desktop in the environment, "on" only the program."""
    desktop = bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    if mode == "off" or (mode == "auto" and not desktop):
        return None
    return shutil.which("notify-send", path=environment.get("PATH"))


class Desktop:
    """Shows notices, not too many of them."""

    def __init__(self, program: str, environment: Mapping[str, str], clock: Callable[[], float]) -> None:
        """clock: seconds that never go back."""
        self._program = program
        # Whose we are is nobody's business there.
        self._environment = {
            name: value
            for name, value in environment.items()
            if not name.startswith(("OMNILYTICS_", "NOTIFY_SOCKET", "WATCHDOG_"))
        }
        self._clock = clock
        self._shown_at: deque[float] = deque(maxlen=MOST_AN_HOUR)
        self._withheld = 0
        self._running: list[tuple[float, subprocess.Popen[bytes]]] = []

    def hear(self, event: str, line: dict[str, Any]) -> None:
        """A line of the log."""
        notice = notice_of(event, line)
        if notice is None:
            return
        self._reap()
        now = self._clock()
        full = len(self._shown_at) == MOST_AN_HOUR and now - self._shown_at[0] < 3600.0
        soon = bool(self._shown_at) and now - self._shown_at[-1] < PAUSE_SECONDS
        if full or (soon and not notice.urgent):
            self._withheld += 1
            return
        self._shown_at.append(now)
        text = notice.text + (f" ({self._withheld} more in the log)" if self._withheld else "")
        self._withheld = 0
        urgency = "critical" if notice.urgent else "normal"
        command = [self._program, "--app-name=OmniLytics", f"--urgency={urgency}", "--", notice.title, text]
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )
            self._running.append((now, process))

    def _reap(self) -> None:
        """Collects those that have ended, and ends those that hang."""
        for started, process in self._running:
            if process.poll() is None and self._clock() - started > PATIENCE_SECONDS:
                process.kill()
                process.wait()
        self._running = [entry for entry in self._running if entry[1].returncode is None]
