"""The local page's server over real HTTP: its gates, its answers, and that it stays on this machine."""

from __future__ import annotations

import asyncio
import json
import stat
import webbrowser
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp import web

from omnilytics.daemon.control.client import NobodyThereError, RefusedError
from omnilytics.daemon.ui import server
from omnilytics.daemon.ui.gates import HEADERS, KEY_HEADER
from omnilytics.daemon.ui.server import Page
from omnilytics.peers.errors import OmniLyticsError, PortError
from tests.test_control_report import STATUS
from tests.test_ui_view import EARNINGS, POLICY, TASKS

LINE = {"ts": "2026-11-24T12:00:01.000+00:00", "level": "info", "event": "a", "msg": "<b>", "task": 1}


@dataclass
class Daemon:
    """What the page's server asks, answered without a daemon."""

    answers: dict[str, Any] = field(
        default_factory=lambda: {
            "status": STATUS,
            "tasks": TASKS,
            "earnings": EARNINGS,
            "policy": POLICY,
            "logs": {"lines": [LINE], "cursor": "life:1", "missed": 0},
            "accept": {"task": 2, "decision": "accepted"},
            "refuse": {"task": 2, "decision": "refused"},
        }
    )
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, method: str, **parameters: Any) -> Any:
        self.asked.append((method, parameters))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Visitor:
    """Somebody with an HTTP client, who may have been let in."""

    page: Page
    daemon: Daemon
    session: aiohttp.ClientSession
    time: list[float]

    async def ask(
        self,
        path: str,
        method: str = "GET",
        data: Any = None,
        let_in: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and body."""
        held = self.page.secrets
        sent = {KEY_HEADER: held.key, "Cookie": f"omnilytics_{self.page.port}={held.cookie}"} if let_in else {}
        sent |= {"Content-Type": "application/json"} if method == "POST" else {}
        sent |= headers or {}
        body = data if isinstance(data, bytes) else json.dumps(data).encode() if method == "POST" else None
        async with self.session.request(
            method, f"http://127.0.0.1:{self.page.port}{path}", data=body, headers=sent
        ) as answer:
            self.headers = answer.headers
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text


@pytest.fixture
async def visitor() -> AsyncIterator[Visitor]:
    daemon, time = Daemon(), [100.0]
    page = Page(daemon, clock=lambda: time[0])
    async with page.serve(0), aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Visitor(page, daemon, session, time)


# ------------------------------------------------------------------------------ gates


@pytest.mark.parametrize("path", ["/api/view", "/api/logs", "/api/decide", "/api/session", "/api/none"])
async def test_without_the_secrets_nothing_is_told_and_nobody_is_asked(visitor: Visitor, path: str) -> None:
    for method in ("GET", "POST"):
        for headers in (
            {},
            {KEY_HEADER: visitor.page.secrets.cookie},
            {"Cookie": f"omnilytics_{visitor.page.port}={visitor.page.secrets.cookie}"},
            {"Cookie": f"omnilytics={visitor.page.secrets.cookie}", KEY_HEADER: visitor.page.secrets.key},
        ):
            status, told = await visitor.ask(
                path, method, {"task": 2, "decision": "accept"}, let_in=False, headers=headers
            )
            assert status == 401 and set(told) == {"error", "help"}, (method, headers)
    assert visitor.daemon.asked == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
    ids=str,
)
async def test_another_host_or_page_is_refused_with_all_secrets(
    visitor: Visitor, headers: dict[str, str], status: int
) -> None:
    for path, method in (("/api/view", "GET"), ("/api/decide", "POST"), ("/api/session", "POST")):
        token = {KEY_HEADER: visitor.page.secrets.token} if path == "/api/session" else {}
        told = await visitor.ask(path, method, {"task": 2, "decision": "accept"}, headers=headers | token)
        assert told[0] == status, path
    assert visitor.daemon.asked == []
    if status == 421:
        for path in ("/", "/page.js", "/page.css", "/none"):
            assert (await visitor.ask(path, headers=headers))[0] == 421, "DNS rebinding finds not even the page"


async def test_the_token_is_traded_for_a_cookie_that_no_script_sees_and_a_key(visitor: Visitor) -> None:
    held = visitor.page.secrets
    assert visitor.page.address == f"http://127.0.0.1:{visitor.page.port}/#token={held.token}"
    status, told = await visitor.ask("/api/session", "POST", {}, let_in=False, headers={KEY_HEADER: held.token})
    assert (status, told) == (200, {"key": held.key})
    cookie, *rules = visitor.headers["Set-Cookie"].split("; ")
    assert cookie == f"omnilytics_{visitor.page.port}={held.cookie}"
    assert set(rules) == {"HttpOnly", "Path=/", "SameSite=Strict"}
    assert (await visitor.ask("/api/session", "POST", {}))[0] == 401, "the key is no token"


async def test_the_page_itself_holds_no_secret_and_nothing_from_elsewhere(visitor: Visitor) -> None:
    held = visitor.page.secrets
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, text = await visitor.ask(path, let_in=False)
        assert status == 200 and visitor.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert not any(secret in text for secret in (held.token, held.cookie, held.key))
        assert "//" not in text.replace("// ", "") and "@import" not in text and "innerHTML" not in text
    _, page = await visitor.ask("/")
    assert "style=" not in page and "onclick" not in page and page.count("<script") == 1


async def test_every_answer_has_the_policy_and_is_not_kept(visitor: Visitor) -> None:
    for path in ("/", "/api/view", "/none", "/api/none"):
        for let_in in (True, False):
            await visitor.ask(path, let_in=let_in)
            for name, value in HEADERS.items():
                assert visitor.headers[name] == value, path
            assert "aiohttp" not in visitor.headers["Server"]


async def test_only_this_machine_is_listened_to(visitor: Visitor) -> None:
    with mock.patch.object(web, "TCPSite", wraps=web.TCPSite) as site:
        async with Page(visitor.daemon).serve(0):
            pass
    assert site.call_args.args[1] == "127.0.0.1"
    with pytest.raises(PortError, match=f"port {visitor.page.port} of 127.0.0.1 cannot be had"):
        async with Page(visitor.daemon).serve(visitor.page.port):
            pass


# ---------------------------------------------------------------------------- answers


async def test_the_view_is_made_of_the_daemons_answers(visitor: Visitor) -> None:
    status, told = await visitor.ask("/api/view")
    assert status == 200 and told["health"] == ["good", "ready"]
    assert [item["task"] for item in told["tasks"]["items"]] == [2] and told["earnings"]["rows"]
    assert [method for method, _ in visitor.daemon.asked] == ["status", "tasks", "earnings", "policy"]


async def test_what_costs_the_daemon_calls_of_the_chain_is_asked_now_and_then(visitor: Visitor) -> None:
    for _ in range(3):
        await visitor.ask("/api/view")
    visitor.time[0] += server.TASKS_SECONDS
    await visitor.ask("/api/view")
    visitor.time[0] += server.EARNINGS_SECONDS
    await visitor.ask("/api/view")
    counts = {name: sum(method == name for method, _ in visitor.daemon.asked) for name in visitor.daemon.answers}
    assert (counts["status"], counts["tasks"], counts["earnings"]) == (5, 3, 2)
    await visitor.ask("/api/decide", "POST", {"task": 2, "decision": "accept"})
    await visitor.ask("/api/view")
    assert visitor.daemon.asked[-3:-1] == [("status", {}), ("tasks", {})], "a decision shows at once"


async def test_while_the_chain_does_not_answer_the_rest_is_shown(visitor: Visitor) -> None:
    visitor.daemon.answers["status"] = STATUS | {"state": "starting"}
    _, told = await visitor.ask("/api/view")
    assert told["tasks"] is None and told["earnings"] is None and told["tiles"]
    visitor.daemon.answers |= {"status": STATUS, "tasks": RefusedError("slow"), "earnings": RefusedError("slow")}
    _, told = await visitor.ask("/api/view")
    assert told["tasks"] is None and told["earnings"] is None and told["tiles"]


async def test_a_daemon_that_is_gone_is_told_in_words(visitor: Visitor) -> None:
    visitor.daemon.answers["status"] = NobodyThereError("no daemon is running on ./alice")
    status, told = await visitor.ask("/api/view")
    assert (status, told["error"]) == (503, "no daemon is running on ./alice") and "owner run" in told["help"]


async def test_log_lines_are_read_on(visitor: Visitor) -> None:
    status, told = await visitor.ask("/api/logs?cursor=life%3A1&level=warning")
    shown = [["info", "12:00:01", "a task 1", "<b>"]]
    assert (status, told) == (200, {"lines": shown, "cursor": "life:1", "missed": 0})
    assert visitor.daemon.asked == [("logs", {"cursor": "life:1", "level": "warning", "limit": 200})]


async def test_a_decision_is_handed_on_and_a_no_comes_back_in_words(visitor: Visitor) -> None:
    for decision in ("accept", "refuse"):
        assert (await visitor.ask("/api/decide", "POST", {"task": 2, "decision": decision}))[0] == 200
    assert visitor.daemon.asked == [("accept", {"task": 2}), ("refuse", {"task": 2})]
    visitor.daemon.answers["accept"] = RefusedError("task 2 takes no more owners", help="decide of one that is open")
    status, told = await visitor.ask("/api/decide", "POST", {"task": 2, "decision": "accept"})
    assert (status, told) == (409, {"error": "task 2 takes no more owners", "help": "decide of one that is open"})


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"task=2&decision=accept", "application/x-www-form-urlencoded", 415),
        (b'{"task":2,"decision":"accept"}', "text/plain", 415),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"[" * 900, "application/json", 400),
        (b'{"task":2}', "application/json", 400),
        (b'{"task":2,"decision":"stop"}', "application/json", 400),
        (b'{"task":2,"decision":["accept"]}', "application/json", 400),
        (b'{"task":2,"decision":"' + b"a" * 2000 + b'"}', "application/json", 413),
    ],
    ids=str,
)
async def test_what_is_no_decision_is_refused_without_a_question(
    visitor: Visitor, data: bytes, kind: str, status: int
) -> None:
    told = await visitor.ask("/api/decide", "POST", data, headers={"Content-Type": kind})
    assert told[0] == status and "Traceback" not in str(told[1])
    assert visitor.daemon.asked == []


async def test_other_methods_and_paths_are_none(visitor: Visitor) -> None:
    assert (await visitor.ask("/api/decide"))[0] == 405
    assert (await visitor.ask("/api/view", "POST", {}))[0] == 405
    for path in ("/../server.py", "/server.py", "/%2e%2e/server.py", "/page.js/", "/favicon.ico"):
        assert (await visitor.ask(path))[0] == 404, path


# ---------------------------------------------------------------------------- the door


async def test_the_browser_is_opened_by_a_file_that_only_we_can_read(tmp_path: Path) -> None:
    seen: list[tuple[str, int, str]] = []

    def opened(url: str) -> bool:
        door = Path(url.removeprefix("file://"))
        seen.append((url, stat.S_IMODE(door.stat().st_mode), door.read_text()))
        return True

    with (
        mock.patch.object(webbrowser, "open", opened),
        server._way_in(tmp_path, "http://127.0.0.1:1/#token=x&y"),
    ):
        pass
    ((url, mode, text),) = seen
    assert mode == 0o600 and "token" not in url and "http://127.0.0.1:1/#token=x&amp;y" in text
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OmniLyticsError, match="cannot be written"), server._way_in(tmp_path / "none", "http://x"):
        pass


async def test_a_daemon_is_asked_anew_each_time(tmp_path: Path) -> None:
    ask = server.asker(tmp_path)
    with pytest.raises(NobodyThereError):
        await ask("status")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        writer.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]}).encode() + b"\n")
        writer.close()

    listening = await asyncio.start_unix_server(answer, tmp_path / "control.sock")
    try:
        assert await ask("accept", task=3) == {"task": 3}
    finally:
        listening.close()
