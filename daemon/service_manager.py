"""What a service manager is told: that we are ready, how we are, that we are alive, that we stop.

systemd's protocol, sd_notify(3): one datagram of lines to the Unix socket that NOTIFY_SOCKET names, and nothing comes
back. So little that a dependency would be more to look after than these lines; `omnilytics start` listens for the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

# systemd shows one line; what is longer helps nobody.
MOST_STATUS_BYTES = 1000


class ServiceManager:
    """Tells whoever started us; without such a one, nobody. Never fails, never waits."""

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        """address: the socket's path, or @ and a name in the abstract namespace; empty: nobody is told.

        watchdog_seconds: how long we may be silent before we are killed; 0: nobody counts.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds
        self._told = ""

    @staticmethod
    def of(environment: Mapping[str, str], pid: int | None = None) -> ServiceManager:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, as systemd sets them for this process (pid)."""
        address = environment.get("NOTIFY_SOCKET", "")
        for_us = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid() if pid is None else pid))
        microseconds = environment.get("WATCHDOG_USEC", "")
        watchdog = int(microseconds) / 1e6 if for_us and microseconds.isdecimal() else 0.0
        return ServiceManager(address if address[:1] in ("/", "@") else "", watchdog)

    def ready(self, status: str) -> None:
        """We work: whatever waits for us may start."""
        self._told = status
        self._send("READY=1", _status(status))

    def report(self, status: str, alive: bool) -> None:
        """How we are, if that is news; and that we are alive, where that is counted."""
        lines = [] if status == self._told else [_status(status)]
        if alive and self.watchdog_seconds:
            lines.append("WATCHDOG=1")
        self._told = status
        if lines:
            self._send(*lines)

    def stopping(self) -> None:
        """We are about to end."""
        self._send("STOPPING=1", _status("stopping"))

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # Whoever listened may have gone; a full queue is theirs to empty.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)


def _status(text: str) -> str:
    line = " ".join(text.split())
    return "STATUS=" + line.encode()[:MOST_STATUS_BYTES].decode(errors="ignore")
