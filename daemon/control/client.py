"""Asks a running daemon over its control socket: what commands and the local page use."""

from __future__ import annotations

import socket
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
