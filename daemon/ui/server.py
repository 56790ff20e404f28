"""Serves the daemon's local page on 127.0.0.1: a process of its own, which asks the daemon over its control socket.

The daemon itself speaks no HTTP. What a browser must show to be let in is in gates.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from aiohttp import web

from omnilytics.daemon.control.client import ControlClient, RefusedError
from omnilytics.daemon.monitor.page_style import STYLE
from omnilytics.daemon.ui import gates, view
from omnilytics.peers.errors import ControlError, OmniLyticsError, PortError

HOST = "127.0.0.1"
_FILES = Path(__file__).resolve().parent
_MAX_BODY_BYTES = 1024
# How old an answer may be that costs the daemon calls of the chain.
TASKS_SECONDS = 2.0
EARNINGS_SECONDS = 10.0

Ask = Callable[..., Awaitable[Any]]


class Page:
    """The page's requests, answered from the daemon's answers."""

    def __init__(
        self, ask: Ask, held: gates.Secrets | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """ask(method, **parameters) gives the daemon's answer, or raises ControlError or RefusedError."""
        self._ask = ask
        self._clock = clock
        self.secrets = held or gates.Secrets()
        # The port that it is served on, once there is one.
        self.port = 0
        self._kept: dict[str, tuple[float, Any]] = {}

    @property
    def address(self) -> str:
        """What the user opens."""
        return f"http://{HOST}:{self.port}/#token={self.secrets.token}"

    def application(self) -> web.Application:
        """For aiohttp."""
        app = web.Application(middlewares=[self._gate], client_max_size=_MAX_BODY_BYTES)
        app.on_response_prepare.append(_with_headers)
        app.router.add_get("/", _file("page.html", "text/html"))
        app.router.add_get("/page.js", _file("page.js", "text/javascript"))
        app.router.add_get("/page.css", _file("page.css", "text/css", STYLE))
        app.router.add_post("/api/session", self._session)
        app.router.add_get("/api/view", self._view)
        app.router.add_get("/api/logs", self._logs)
        app.router.add_post("/api/decide", self._decide)
        return app

    @contextlib.asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[Page]:
        """Serves until the block is left. Raises PortError where the port cannot be had. Port 0 is any that is free."""
        runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, port)
            try:
                await site.start()
            except OSError as error:
                raise PortError(f"port {port} of {HOST} cannot be had: {error.strerror}") from error
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            gates.check_host(self.port, request.headers)
            if request.path.startswith("/api/"):
                gates.check_origin(self.port, request.headers)
                if request.path == "/api/session":
                    gates.check_token(self.secrets, request.headers)
                else:
                    gates.check_session(self.secrets, request.headers, request.cookies.get(self._cookie))
            return await handler(request)
        except gates.Closed as closed:
            return _problem(closed.status, closed.why, "")
        except RefusedError as error:
            return _problem(409, error.message, error.help)
        except ControlError as error:
            return _problem(503, error.message, error.help)

    @property
    def _cookie(self) -> str:
        # Cookies do not tell ports apart: two daemons' pages need two names.
        return f"omnilytics_{self.port}"

    async def _session(self, _: web.Request) -> web.StreamResponse:
        answer = web.json_response({"key": self.secrets.key})
        answer.set_cookie(self._cookie, self.secrets.cookie, path="/", httponly=True, samesite="Strict")
        return answer

    async def _view(self, _: web.Request) -> web.StreamResponse:
        status = await self._ask("status")
        started = status["state"] != "starting"
        tasks = earnings = None
        if started:
            if status["role"] == "owner":
                tasks = await self._recent("tasks", TASKS_SECONDS)
            earnings = await self._recent("earnings", EARNINGS_SECONDS)
        policy = await self._ask("policy")
        return web.json_response(view.page_view(status, tasks, earnings, policy))

    async def _recent(self, method: str, seconds: float) -> Any:
        """The daemon's answer, not older than so; None where it has none now: the chain may be slow."""
        asked, told = self._kept.get(method, (0.0, None))
        if told is None or self._clock() - asked >= seconds:
            with contextlib.suppress(RefusedError):
                told = await self._ask(method)
            self._kept[method] = self._clock(), told
        return told

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        told = await self._ask(
            "logs", cursor=request.query.get("cursor", ""), level=request.query.get("level", "info"), limit=200
        )
        return web.json_response({**told, "lines": view.log_lines(told["lines"])})

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            return _problem(415, "only JSON is understood", "")
        try:
            said = json.loads(await request.read())
        except (ValueError, RecursionError):
            said = None
        decision = said.get("decision") if isinstance(said, dict) else None
        if decision not in ("accept", "refuse"):
            return _problem(400, "what is decided must be accept or refuse", "")
        told = await self._ask(decision, task=said.get("task"))
        self._kept.pop("tasks", None)
        return web.json_response(told)


def _file(name: str, kind: str, before: str = "") -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    text = before + (_FILES / name).read_text(encoding="utf-8")

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=kind, charset="utf-8")

    return answer


def _problem(status: int, what: str, help: str) -> web.Response:
    return web.json_response({"error": what, "help": help}, status=status)


async def _with_headers(_: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.update(gates.HEADERS)
    answer.headers["Server"] = "omnilytics"


def asker(home: Path) -> Ask:
    """Asks the daemon of a folder, each time anew: it may have been restarted."""

    def ask(method: str, parameters: dict[str, Any]) -> Any:
        with ControlClient(home) as daemon:
            return daemon.ask(method, **parameters)

    async def answer(method: str, **parameters: Any) -> Any:
        return await asyncio.to_thread(ask, method, parameters)

    return answer


async def serve_page(home: Path, port: int, told: Callable[[str], None], open_browser: bool) -> None:
    """Serves the page of a folder's daemon until SIGINT or SIGTERM; `told` gets the address. Raises PortError.

    The daemon need not run yet: the page says so, and goes on when it does.
    """
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    page = Page(asker(home))
    async with page.serve(port):
        told(page.address)
        with _way_in(home, page.address) if open_browser else contextlib.nullcontext():
            await ended.wait()


@contextlib.contextmanager
def _way_in(home: Path, address: str) -> Iterator[None]:
    """Opens a browser by a file that only we can read: its command line, which all can, must not hold the token."""
    door = home.resolve() / f".ui-{os.getpid()}.html"
    target = escape(address, True)
    try:
        with open(os.open(door, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(
                f'<!doctype html><meta http-equiv="refresh" content="0; url={target}"><a href="{target}">go on</a>'
            )
    except OSError as error:
        raise OmniLyticsError(
            f"{door} cannot be written: {error.strerror}", help="name the daemon's folder with --home, or use --no-open"
        ) from error
    try:
        webbrowser.open(door.as_uri())
        yield
    finally:
        door.unlink(missing_ok=True)
