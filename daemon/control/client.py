"""Asks a running daemon over its control socket: what commands and the local page use."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnilytics.daemon.control import address
from omnilytics.daemon.control.json_rpc import MAX_ANSWER_BYTES, RpcError, read_answer, request_line
from omnilytics.peers.errors import ControlError, OmniLyticsError

ANSWER_SECONDS = 40.0


class NobodyThereError(ControlError):
    """No daemon of this folder is running."""

    code = "control.nobody"


class RefusedError(OmniLyticsError):
    """The daemon would not: its words, its help."""

    code = "control.refused"


class ControlClient:
    """One connection to the daemon of a folder."""

    def __init__(self, home: Path, seconds: float = ANSWER_SECONDS) -> None:
        """Raises NobodyThereError where no daemon of this folder listens, ControlError where none can be asked."""
        path = address.recorded_path(home)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        self._number = 0
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise NobodyThereError(f"no daemon is running on {home}") from error
        except OSError as error:
            self._socket.close()
            raise ControlError(
                f"the control socket {path} cannot be reached: {error.strerror or error}",
                help="only the user that runs the daemon may ask it",
            ) from error
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        """Hangs up."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The daemon's process, as the system knows it; None where it does not say."""
        if not hasattr(socket, "SO_PEERCRED"):
            return None
        told = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", told)[0]) or None

    def ask(self, method: str, **parameters: Any) -> Any:
        """The result of a method. Raises ControlError for no answer, RefusedError for the daemon's no."""
        self._number += 1
        try:
            self._socket.sendall(request_line(self._number, method, parameters))
            line = self._file.readline(MAX_ANSWER_BYTES + 1)
        except OSError as error:
            raise ControlError(
                f"the daemon does not answer: {error.strerror or error}", help="look into its log; it may be stuck"
            ) from error
        if not line.endswith(b"\n"):
            raise ControlError("the daemon hung up without an answer", help="look into its log, and ask again")
        try:
            return read_answer(line, self._number)
        except RpcError as error:
            help = str((error.data or {}).get("help", "")) or "see the daemon's log"
            raise RefusedError(error.message, help=help) from None
        except ValueError as error:
            raise ControlError("what answers there is no daemon of this program") from error

    def wait_for_end(self, seconds: float) -> bool:
        """Whether the daemon's process has ended within so many seconds."""
        deadline = time.monotonic() + seconds
        with _watched(self.pid) as handle:
            self._socket.settimeout(seconds)
            try:
                # It says nothing more: this returns when it hangs up.
                while self._file.readline(MAX_ANSWER_BYTES):
                    pass
            except TimeoutError:
                return False
            except OSError:
                pass
            if handle is None:
                return True
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            return bool(ready)


@contextlib.contextmanager
def _watched(pid: int | None) -> Iterator[int | None]:
    """A handle that becomes readable when the process ends; None where the system has none."""
    handle = None
    if pid is not None and hasattr(os, "pidfd_open"):
        # Gone already, or in another world of processes than ours.
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)
