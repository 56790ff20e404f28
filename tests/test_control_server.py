"""The control socket for real: who is let in, what a client may cost, and that no answer ends the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon.control import address, server
from omnilytics.daemon.control.client import ControlClient, NobodyThereError, RefusedError
from omnilytics.daemon.control.json_rpc import (
    BUSY,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MAX_REQUEST_BYTES,
    PARSE_ERROR,
    TOO_SLOW,
    Method,
    Whole,
)
from omnilytics.daemon.control.server import MAX_CONNECTIONS, ControlServer
from omnilytics.peers.errors import ChainError, ControlError
from tests.part_stubs import LogStub
from tests.test_json_rpc import HOSTILE

PATIENCE = 20.0


class Daemon:
    """Some methods, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.log = LogStub()

    async def count(self, number: int) -> dict[str, int]:
        self.asked.append(number)
        return {"number": number}

    async def fail(self) -> None:
        raise ChainError("no block today", help="come again")

    async def break_down(self) -> None:
        raise KeyError("a seed, for all we know")

    async def sleep(self) -> None:
        await asyncio.Event().wait()

    def methods(self) -> dict[str, Method]:
        return {
            "count": Method(self.count, {"number": Whole(0, 10**6)}, ("number",)),
            "fail": Method(self.fail),
            "break_down": Method(self.break_down),
            "sleep": Method(self.sleep),
        }


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def home(tmp_path: Path, daemon: Daemon) -> AsyncIterator[Path]:
    async with ControlServer(daemon.methods(), daemon.log, answer_seconds=0.2).serve(tmp_path):
        yield tmp_path


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="o") as folder:
        yield Path(folder)


async def asked(home: Path, method: str, **parameters: Any) -> Any:
    def ask() -> Any:
        with ControlClient(home) as client:
            return client.ask(method, **parameters)

    return await asyncio.to_thread(ask)


@contextlib.asynccontextmanager
async def raw(home: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(address.recorded_path(home))
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.close()


def request(method: str, id: int | None = 1, **params: Any) -> bytes:
    said = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if id is None else {"id": id})
    return json.dumps(said).encode() + b"\n"


async def test_it_answers_and_is_for_its_user_alone(home: Path, daemon: Daemon) -> None:
    assert await asked(home, "count", number=3) == {"number": 3}
    found = (home / "control.sock").stat()
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600 and found.st_uid == os.getuid()
    assert not daemon.log.events


async def test_another_user_is_hung_up_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_user_of", lambda _: os.getuid() + 1)
    async with raw(home) as (reader, writer):
        with contextlib.suppress(OSError):
            writer.write(request("count", number=1))
            assert await reader.read() == b""


async def test_one_connection_asks_many_things(home: Path, daemon: Daemon) -> None:
    async with raw(home) as (reader, writer):
        writer.write(b"\n" + request("count", 1, number=1) + request("count", 2, number=2))
        writer.write(request("count", None, number=3) + request("count", 4, number=4))
        answers = [json.loads(await reader.readline()) for _ in range(3)]
    assert [(answer["id"], answer["result"]["number"]) for answer in answers] == [(1, 1), (2, 2), (4, 4)]
    assert daemon.asked == [1, 2, 3, 4], "a notification is done and not answered"


async def test_errors_come_in_words_and_a_bug_without_any(home: Path, daemon: Daemon) -> None:
    with pytest.raises(RefusedError, match="no block today") as caught:
        await asked(home, "fail")
    assert caught.value.help == "come again"
    async with raw(home) as (reader, writer):
        writer.write(request("break_down", 5) + request("count", 6, number=1))
        said = await reader.readline()
        assert json.loads(said)["error"]["code"] == INTERNAL_ERROR
        assert b"seed" not in said and b"Key" not in said and b"Traceback" not in said
        assert json.loads(await reader.readline())["id"] == 6
    assert [(event, fields["msg"]) for event, fields in daemon.log.events] == [
        ("control.failed", "KeyError in break_down")
    ]


async def test_what_takes_too_long_is_told_so_and_given_up(home: Path) -> None:
    async with raw(home) as (reader, writer):
        writer.write(request("sleep", 1) + request("count", 2, number=1))
        assert json.loads(await reader.readline())["error"]["code"] == TOO_SLOW
        assert json.loads(await reader.readline())["id"] == 2


async def test_whatever_is_sent_the_next_one_is_served(home: Path, daemon: Daemon) -> None:
    async with raw(home) as (reader, writer):
        for line, _ in HOSTILE:
            if line.strip() and len(line) < MAX_REQUEST_BYTES:
                writer.write(line + b"\n")
                answer = json.loads(await reader.readline())
                assert -32768 <= answer["error"]["code"] <= -32000 and "result" not in answer
        writer.write(request("count", 9, number=1))
        assert json.loads(await reader.readline())["result"] == {"number": 1}
    assert daemon.asked == [1] and not daemon.log.events


async def test_a_line_without_an_end_costs_no_more_than_its_bound(home: Path) -> None:
    async with raw(home) as (reader, writer):
        writer.write(b"x" * (4 * MAX_REQUEST_BYTES))
        assert json.loads(await reader.readline())["error"]["code"] == INVALID_REQUEST
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "and it hangs up"
    assert await asked(home, "count", number=1) == {"number": 1}


async def test_half_a_line_is_nothing(home: Path, daemon: Daemon) -> None:
    async with raw(home) as (reader, writer):
        writer.write(request("count", number=1)[:-1])
        writer.write_eof()
        assert await reader.read() == b""
    assert daemon.asked == []


async def test_too_many_connections_are_told_so(home: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            reader, writer = await stack.enter_async_context(raw(home))
            writer.write(b"{\n")
            assert json.loads(await reader.readline())["error"]["code"] == PARSE_ERROR
        reader, _ = await stack.enter_async_context(raw(home))
        assert json.loads(await reader.readline())["error"]["code"] == BUSY
        assert await reader.read() == b""


async def test_who_says_nothing_is_hung_up_on(tmp_path: Path, daemon: Daemon) -> None:
    async with (
        ControlServer(daemon.methods(), daemon.log, idle_seconds=0.05).serve(tmp_path),
        raw(tmp_path) as (reader, _),
    ):
        assert await reader.read() == b""


# ---------------------------------------------------------------------- birth and death


async def test_a_dead_daemons_socket_is_replaced_and_ours_is_taken_away(tmp_path: Path, daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NobodyThereError, match="no daemon is running"):
        ControlClient(tmp_path)
    async with ControlServer(daemon.methods(), daemon.log).serve(tmp_path):
        assert await asked(tmp_path, "count", number=1) == {"number": 1}
    assert not (tmp_path / "control.sock").exists()
    with pytest.raises(NobodyThereError) as caught:
        ControlClient(tmp_path)
    assert caught.value.exit_code == 3 and "omnilytics owner run" in caught.value.help


async def test_a_file_in_its_place_is_left_alone(tmp_path: Path, daemon: Daemon) -> None:
    (tmp_path / "control.sock").write_text("mine")
    with pytest.raises(ControlError, match="is no socket"):
        async with ControlServer(daemon.methods(), daemon.log).serve(tmp_path):
            pass
    assert (tmp_path / "control.sock").read_text() == "mine"


async def test_a_folder_with_a_long_path_is_reached_all_the_same(
    tmp_path: Path, daemon: Daemon, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ("a" * 60) / ("b" * 60)
    home.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    async with ControlServer(daemon.methods(), daemon.log).serve(home) as path:
        assert path.parent.parent == short and stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await asked(home, "count", number=1) == {"number": 1}
    assert list(home.iterdir()) == [] and list(path.parent.iterdir()) == []


async def test_nonsense_from_the_other_end_is_an_error_in_words(tmp_path: Path) -> None:
    answers = [b"", b"{}\n", b"\xff\n", b"[" * 10 + b"\n", b"no end"]

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answers.pop(0))
        writer.close()

    listening = await asyncio.start_unix_server(lie, tmp_path / "control.sock")
    try:
        while answers:
            with pytest.raises(ControlError) as caught:
                await asked(tmp_path, "count")
            assert caught.value.help
    finally:
        listening.close()
