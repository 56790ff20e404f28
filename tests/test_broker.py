"""A participant's connection to a real broker: delivery, presence, and what it does not let through."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from omnilytics.daemon import broker as broker_module
from omnilytics.daemon.broker import Arrived, Broker, BrokerAddress, parse_broker_url, round_trip
from omnilytics.daemon.broker_access import NO_FILES, BrokerAccess
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import BrokerError, ConfigurationError
from omnilytics.peers.messages import MAX_MESSAGE_BYTES, topic
from scripts import broker_process
from scripts.embedded_broker import EmbeddedBroker
from tests.round_network import secret

ROOT = Path(__file__).resolve().parent.parent
RUN, OTHER_RUN = "0123456789abcdef", "fedcba9876543210"
ALICE, BOB, CAROL = (secret(name)[:20] for name in ("alice", "bob", "carol"))
PATIENCE = 20.0


class Connection:
    """A Broker and what it heard."""

    def __init__(
        self, url: str, me: bytes, run: str, log_path: Path | None = None, access: BrokerAccess = NO_FILES
    ) -> None:
        self.messages: list[Arrived] = []
        self.presence: list[tuple[bytes, bool]] = []
        self.log_path = log_path
        self.log = Logger(log_path, "owner", me.hex())
        self.broker = Broker(
            url, run, me, self.log, self.messages.append, lambda who, there: self.presence.append((who, there)), access
        )

    async def connected(self) -> None:
        await asyncio.wait_for(self.broker.connected.wait(), PATIENCE)

    def records(self, event: str) -> list[dict[str, Any]]:
        assert self.log_path is not None
        lines = map(json.loads, self.log_path.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["event"] == event]


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def connection(
    url: str, me: bytes, run: str = RUN, log_path: Path | None = None, wait: bool = True
) -> AsyncIterator[Connection]:
    opened = Connection(url, me, run, log_path)
    task = asyncio.create_task(opened.broker.run())
    try:
        if wait:
            await opened.connected()
        yield opened
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        opened.log.close()


# ----------------------------------------------------------------------- delivery


async def test_an_envelope_reaches_its_receiver_and_nobody_else(broker: broker_process.Broker) -> None:
    async with (
        connection(broker.url, ALICE) as alice,
        connection(broker.url, BOB) as bob,
        connection(broker.url, CAROL) as carol,
    ):
        for number in range(50):
            alice.broker.send(3, 7, BOB, bytes([number]) * 200)
        await eventually(lambda: len(bob.messages) == 50)
        assert bob.messages == [Arrived(3, 7, ALICE, bytes([number]) * 200) for number in range(50)]
        assert carol.messages == []
        assert alice.messages == []


async def test_what_is_sent_before_the_connection_stands_goes_out_then(broker: broker_process.Broker) -> None:
    async with connection(broker.url, BOB) as bob, connection(broker.url, ALICE, wait=False) as alice:
        alice.broker.send(1, 1, BOB, b"early")
        await eventually(lambda: [message.payload for message in bob.messages] == [b"early"])


async def test_another_run_on_the_same_broker_is_not_heard(broker: broker_process.Broker) -> None:
    async with (
        connection(broker.url, ALICE) as alice,
        connection(broker.url, BOB, run=OTHER_RUN) as stranger,
        connection(broker.url, BOB) as bob,
    ):
        alice.broker.send(1, 1, BOB, b"for our bob")
        await eventually(lambda: len(bob.messages) == 1)
        assert stranger.messages == []
        assert (ALICE, True) not in stranger.presence


async def test_waiting_messages_are_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "MAX_WAITING_MESSAGES", 10)
    lonely = Connection("mqtt://127.0.0.1:1", ALICE, RUN)
    for number in range(100):
        lonely.broker.send(1, 1, BOB, bytes([number]))
    waiting = [lonely.broker._outgoing.get_nowait()[1] for _ in range(lonely.broker._outgoing.qsize())]
    assert waiting == [bytes([number]) for number in range(90, 100)]


# ------------------------------------------------------------------------ refusal


async def test_foreign_topics_and_giants_are_dropped_and_counted(broker: broker_process.Broker, tmp_path: Path) -> None:
    good = topic(RUN, 1, 1, BOB, ALICE)
    async with connection(broker.url, BOB, log_path=tmp_path / "log.jsonl") as bob:
        async with aiomqtt.Client(broker.host, broker.port) as attacker:
            bad = [
                (good, bytes(MAX_MESSAGE_BYTES + 1)),
                (good, bytes(200_000)),
                (f"omnilytics/{RUN}/01/1/in/{BOB.hex()}/{ALICE.hex()}", b"x"),
                (f"omnilytics/{RUN}/one/1/in/{BOB.hex()}/{ALICE.hex()}", b"x"),
                (f"omnilytics/{RUN}/1/-1/in/{BOB.hex()}/{ALICE.hex()}", b"x"),
                (f"omnilytics/{RUN}/1/1/in/{BOB.hex()}/{ALICE.hex()[:-2]}", b"x"),
                (f"omnilytics/{RUN}/1/1/in/{BOB.hex()}/{'zz' * 20}", b"x"),
                (f"omnilytics/{RUN}/1/1/in/{BOB.hex()}/{ALICE.hex().upper()}", b"x"),
            ]
            for where, payload in bad:
                await attacker.publish(where, payload, qos=1)
            await attacker.publish(good, b"good", qos=1)
            await attacker.publish(good, b"", qos=1)
            await attacker.publish(good, bytes(MAX_MESSAGE_BYTES), qos=1)
            await eventually(lambda: len(bob.messages) == 3)
        assert bob.broker.dropped == len(bad)
        assert {record["code"] for record in bob.records("message.dropped")} == {"message"}
        assert [len(message.payload) for message in bob.messages] == [4, 0, MAX_MESSAGE_BYTES]


async def test_presence_of_no_address_or_no_meaning_is_ignored(broker: broker_process.Broker) -> None:
    async with connection(broker.url, BOB) as bob, aiomqtt.Client(broker.host, broker.port) as attacker:
        prefix = f"omnilytics/{RUN}/presence/"
        for name, payload in (
            ("zz" * 20, b"1"),
            ("ab" * 19, b"1"),
            (CAROL.hex(), b"2"),
            (CAROL.hex(), b""),
            (CAROL.hex(), b"11"),
            (BOB.hex(), b"0"),  # that we are away we know better
        ):
            await attacker.publish(prefix + name, payload, qos=1)
        await attacker.publish(prefix + ALICE.hex(), b"1", qos=1)
        await eventually(lambda: (ALICE, True) in bob.presence)
        assert bob.presence == [(ALICE, True)]


# ----------------------------------------------------------------------- presence


async def test_everybody_learns_who_is_there_early_or_late(broker: broker_process.Broker) -> None:
    async with connection(broker.url, ALICE) as alice, connection(broker.url, BOB) as bob:
        await eventually(lambda: (BOB, True) in alice.presence and (ALICE, True) in bob.presence)
        assert BOB not in [who for who, _ in bob.presence]


async def test_a_goodbye_is_heard_at_once_and_by_those_who_come_later(broker: broker_process.Broker) -> None:
    async with connection(broker.url, BOB) as bob:
        async with connection(broker.url, ALICE) as alice:
            await eventually(lambda: (ALICE, True) in bob.presence)
            await alice.broker.say_goodbye()
        await eventually(lambda: bob.presence[-1] == (ALICE, False))
        async with connection(broker.url, CAROL) as carol:
            await eventually(lambda: ALICE in [who for who, _ in carol.presence])
            assert (ALICE, False) in carol.presence
            assert (ALICE, True) not in carol.presence


async def test_a_goodbye_without_a_connection_does_not_wait() -> None:
    async with asyncio.timeout(PATIENCE):
        await Connection("mqtt://127.0.0.1:1", ALICE, RUN).broker.say_goodbye()


CHILD = """
import asyncio, sys
from omnilytics.daemon.broker import Broker
from omnilytics.daemon.log import Logger
async def main():
    broker = Broker(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]), Logger(None, "owner", ""), print, print)
    await broker.run()
asyncio.run(main())
"""


async def test_a_killed_process_is_declared_away_by_its_will(broker: broker_process.Broker) -> None:
    async with connection(broker.url, BOB) as bob:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, broker.url, RUN, ALICE.hex(), env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        try:
            await eventually(lambda: (ALICE, True) in bob.presence)
        finally:
            child.send_signal(signal.SIGKILL)
            await child.wait()
        await eventually(lambda: bob.presence[-1] == (ALICE, False))


# ------------------------------------------------------------------- reconnecting


@contextlib.asynccontextmanager
async def embedded(port: int) -> AsyncIterator[int]:
    running = EmbeddedBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await running.start()
    try:
        yield running.port
    finally:
        await running.shutdown()


async def test_after_the_broker_came_back_messages_and_presence_flow_again(tmp_path: Path) -> None:
    async with embedded(0) as port:
        url = f"mqtt://127.0.0.1:{port}"
        stack = contextlib.AsyncExitStack()
        alice = await stack.enter_async_context(connection(url, ALICE, log_path=tmp_path / "alice.jsonl"))
        bob = await stack.enter_async_context(connection(url, BOB))
        alice.broker.send(1, 1, BOB, b"before")
        await eventually(lambda: len(bob.messages) == 1)
    async with stack:
        await eventually(lambda: not alice.broker.connected.is_set() and not bob.broker.connected.is_set())
        await eventually(lambda: len(alice.records("broker.lost")) >= 2)  # it keeps trying
        record = alice.records("broker.lost")[0]
        assert record["msg"].startswith("cannot reach broker")
        assert record["code"] == "broker"
        bob.presence.clear()
        async with embedded(port):
            await alice.connected()
            await bob.connected()
            alice.broker.send(1, 2, BOB, b"after")
            await eventually(lambda: bob.messages[-1] == Arrived(1, 2, ALICE, b"after"))
            await eventually(lambda: (ALICE, True) in bob.presence)


async def test_a_session_that_cannot_send_is_ended_and_begun_anew(
    broker: broker_process.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on hearing, look alive, and never say anything again."""
    async with connection(broker.url, BOB) as bob, connection(broker.url, ALICE) as alice:
        honest = aiomqtt.Client.publish
        failed: list[str] = []

        async def publish(client: aiomqtt.Client, where: str, *arguments: Any, **more: Any) -> None:
            if "/in/" in where and not failed:
                failed.append(where)
                raise aiomqtt.MqttError("Operation timed out")
            await honest(client, where, *arguments, **more)

        monkeypatch.setattr(aiomqtt.Client, "publish", publish)
        alice.broker.send(1, 1, BOB, b"lost")
        await eventually(lambda: bool(failed))
        alice.broker.send(1, 1, BOB, b"resent")
        await eventually(lambda: [message.payload for message in bob.messages] == [b"resent"])


# ---------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://host", BrokerAddress("host", 1883)),
        ("mqtts://host", BrokerAddress("host", 8883, tls=True)),
        ("mqtt://host:1", BrokerAddress("host", 1)),
        ("mqtt://host:1/", BrokerAddress("host", 1)),
        ("mqtt://[::1]:5", BrokerAddress("::1", 5)),
        ("mqtts://user:p%40ss@host:5", BrokerAddress("host", 5, "user", "p@ss", True)),
    ],
)
def test_an_address_is_read(url: str, expected: BrokerAddress) -> None:
    assert parse_broker_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "", "host", "host:1883", "http://host", "mqtt://", "mqtt:host", "mqtt://:1883", "mqtt://host:port",
        "mqtt://host:99999", "mqtt://host:-1", "mqtt://host:0", "mqtt://[::1", "mqtt://host/path", "tcp://u:secret@h",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="mqtt://host:port") as caught:
        parse_broker_url(url)
    assert "secret" not in str(caught.value) + caught.value.help
    assert caught.value.exit_code == 2


def test_a_password_does_not_show() -> None:
    assert "hunter2" not in repr(parse_broker_url("mqtt://user:hunter2@host"))


# ------------------------------------------------------------------- the round trip


async def test_a_round_trip_beside_a_daemon_leaves_its_session_alone(broker: broker_process.Broker) -> None:
    async with connection(broker.url, ALICE) as alice, connection(broker.url, BOB) as bob:
        assert 0 < await round_trip(broker.url, RUN, ALICE) < PATIENCE
        bob.broker.send(1, 1, ALICE, b"still there")
        await eventually(lambda: bool(alice.messages))
        assert [message.payload for message in alice.messages] == [b"still there"]
        assert alice.broker.dropped == 0
        assert (ALICE, False) not in bob.presence


async def test_a_broker_that_is_not_there_or_is_none_is_told() -> None:
    with pytest.raises(BrokerError, match=r"cannot reach broker 127\.0\.0\.1:1: "):
        await round_trip("mqtt://alice:hunter2@127.0.0.1:1", RUN, ALICE)
    with pytest.raises(ConfigurationError, match="broker URL"):
        await round_trip("http://host", RUN, ALICE)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for handler, seconds in ((answer, 2.0), (silence, 0.3)):
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(BrokerError) as caught:
                await round_trip(f"mqtt://alice:hunter2@127.0.0.1:{port}", RUN, ALICE, NO_FILES, seconds)
            assert f"127.0.0.1:{port}" in caught.value.message
            assert "hunter2" not in caught.value.message
