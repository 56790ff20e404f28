"""The control socket of a running daemon: takes lines, answers lines. For the daemon's own user, and nobody else.

A connection asks one thing after the other; what it may ask, and how fast it must, is bounded, so that no client can
cost the daemon more than a little memory. What goes wrong in an answer is the asker's and the log's to know: it never
ends the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from omnilytics.daemon.control import address
from omnilytics.daemon.control.json_rpc import (
    BUSY,
    INVALID_REQUEST,
    MAX_REQUEST_BYTES,
    TOO_SLOW,
    BadRequest,
    Method,
    Request,
    RpcError,
    as_rpc_error,
    error_line,
    find,
    read_request,
    result_line,
)
from omnilytics.daemon.ending import end_tasks
from omnilytics.peers.errors import ControlError, OmniLyticsError

Log = Callable[..., None]
MAX_CONNECTIONS = 16
# An asker that sends nothing for so long, or does not take its answer, is hung up on.
IDLE_SECONDS = 60.0
ANSWER_SECONDS = 30.0


class ControlServer:
    """Answers on one socket until the block is left."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        log: Log,
        idle_seconds: float = IDLE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._methods = methods
        self._log = log
        self._idle_seconds = idle_seconds
        self._answer_seconds = answer_seconds
        self._open: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serve(self, home: Path) -> AsyncIterator[Path]:
        """Listens for the daemon of this folder, which the caller has locked. Raises ControlError.

        So a socket that is there already is a dead daemon's, and is replaced.
        """
        path = address.preferred_path(home)
        address.make_folder(path, home)
        listening = _bind(path)
        try:
            address.record(home, path)
            server = await asyncio.start_unix_server(self._greet, sock=listening, limit=MAX_REQUEST_BYTES)
        except OSError as error:
            listening.close()
            raise ControlError(f"the control socket {path} cannot be had: {error.strerror}") from error
        try:
            yield path
        finally:
            server.close()
            await end_tasks(self._open)
            for left in (path, home / "control.path"):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio would print a traceback for what goes wrong in one of its.
        # Our own user, or root: once more what the socket's mode says.
        if _user_of(writer.get_extra_info("socket")) not in (os.getuid(), 0, None):
            writer.transport.abort()
            return
        if len(self._open) >= MAX_CONNECTIONS:
            writer.write(error_line(None, RpcError(BUSY, f"{MAX_CONNECTIONS} connections are open already")))
            writer.close()
            return
        task = asyncio.create_task(self._converse(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._hung_up)

    def _hung_up(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log("control.failed", f"{type(task.exception()).__name__} in a connection", "error", code="bug")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                try:
                    async with asyncio.timeout(self._idle_seconds):
                        line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError:
                    # What follows may be the rest of it: there is no next line to be sure of.
                    too_long = RpcError(INVALID_REQUEST, f"a request has at most {MAX_REQUEST_BYTES} bytes")
                    await self._say(writer, error_line(None, too_long))
                    return
                # A goodbye, or a line that never ended.
                except (asyncio.IncompleteReadError, TimeoutError):
                    return
                if line.strip():
                    await self._say(writer, await self.answer(line))
        except (OSError, TimeoutError):
            return
        finally:
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        if line:
            writer.write(line)
            async with asyncio.timeout(self._idle_seconds):
                await writer.drain()

    async def answer(self, line: bytes) -> bytes:
        """The answer to one line, with its end of line; empty for a notification."""
        try:
            request = read_request(line)
        except RpcError as error:
            return error_line(error.id if isinstance(error, BadRequest) else None, error)
        try:
            method, arguments = find(self._methods, request)
        except RpcError as error:
            return error_line(request.id, error) if request.answered else b""
        told = await self._ask(request, method, arguments)
        return told if request.answered else b""

    async def _ask(self, request: Request, method: Method, arguments: Mapping[str, object]) -> bytes:
        answering = asyncio.ensure_future(method.answer(**arguments))
        try:
            await asyncio.wait({answering}, timeout=self._answer_seconds)
            if not answering.done():
                slow = RpcError(TOO_SLOW, f"no answer within {self._answer_seconds:g} s; the chain may be slow")
                return error_line(request.id, slow)
        finally:
            await end_tasks([answering])
        error = answering.exception()
        if error is None:
            return result_line(request.id, answering.result())
        told = as_rpc_error(error)
        if not isinstance(error, (RpcError, OmniLyticsError)):
            self._log("control.failed", f"{type(error).__name__} in {request.method}", "error", code="bug")
        return error_line(request.id, told)


def _bind(path: Path) -> socket.socket:
    """A listening socket of mode 0600 from its first moment on."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ControlError(f"{path} is no socket", help=f"move {path} away; the daemon makes its own")
            path.unlink()
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(MAX_CONNECTIONS)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ControlError(
            f"the control socket {path} cannot be had: {error.strerror}",
            help="the folder must be on a disk that holds sockets, and ours to write in",
        ) from error
    except ControlError:
        listening.close()
        raise
    return listening


def _user_of(asker: socket.socket) -> int | None:
    """The user at the other end; None where the system does not tell, and the socket's mode must do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    told = asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[1])
