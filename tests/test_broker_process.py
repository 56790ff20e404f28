"""Both local brokers keep what the daemons rely on: QoS 1, retained presence, last will, take-over."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest
import pytest_asyncio
from amqtt.session import Session

from scripts.broker_process import Broker, BrokerUnreachableError, start_broker
from scripts.embedded_broker import EmbeddedBroker, Subscriptions
from scripts.toolchain import MissingProgramError, find_mosquitto

NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


def have_mosquitto() -> bool:
    with contextlib.suppress(MissingProgramError):
        find_mosquitto()
        return True
    return False


NEEDS_MOSQUITTO = pytest.mark.skipif(not have_mosquitto(), reason="mosquitto is not installed")


@pytest_asyncio.fixture(params=["embedded", pytest.param("mosquitto", marks=NEEDS_MOSQUITTO)])
async def each_broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    async with start_broker(request.param, tmp_path) as broker:
        yield broker


def client(broker: Broker, name: str | None = None, will: aiomqtt.Will | None = None) -> aiomqtt.Client:
    return aiomqtt.Client(broker.host, broker.port, identifier=name, will=will, socket_options=NO_DELAY, timeout=5)


async def next_message(connected: aiomqtt.Client, seconds: float = 5) -> tuple[str, bytes, bool]:
    async with asyncio.timeout(seconds):
        message = await anext(aiter(connected.messages))
    assert isinstance(message.payload, bytes)
    return str(message.topic), message.payload, message.retain


async def test_messages_arrive_once_and_in_order(each_broker: Broker) -> None:
    async with client(each_broker) as receiver, client(each_broker) as sender:
        await receiver.subscribe("box/+/in", qos=1)
        for number in range(200):
            await sender.publish("box/a/in", number.to_bytes(2), qos=1)
        got = [int.from_bytes((await next_message(receiver))[1]) for _ in range(200)]
        assert got == list(range(200))


async def test_a_retained_message_waits_for_late_subscribers_and_can_be_replaced(each_broker: Broker) -> None:
    async with client(each_broker) as sender, client(each_broker) as receiver:
        await sender.publish("presence/a", b"old", qos=1, retain=True)
        await sender.publish("presence/a", b"new", qos=1, retain=True)
        await receiver.subscribe("presence/+", qos=1)
        assert await next_message(receiver) == ("presence/a", b"new", True)
        await sender.publish("presence/a", b"", qos=1, retain=True)
        assert (await next_message(receiver))[1] == b""
    async with client(each_broker) as late:
        await late.subscribe("presence/+", qos=1)
        with pytest.raises(TimeoutError):
            await next_message(late, 0.3)


async def test_the_last_will_is_retained_after_a_crash_alone(each_broker: Broker) -> None:
    will = aiomqtt.Will("presence/a", b"offline", qos=1, retain=True)
    async with client(each_broker) as watcher:
        await watcher.subscribe("presence/+", qos=1)
        async with client(each_broker, "a", will) as polite:
            await polite.publish("presence/a", b"online", qos=1, retain=True)
            assert (await next_message(watcher))[1] == b"online"
        with pytest.raises(TimeoutError):
            await next_message(watcher, 0.3)
        async with client(each_broker, "a", will) as crashing:
            with contextlib.suppress(aiomqtt.MqttError):
                cut_connection(crashing)
                assert (await next_message(watcher))[1] == b"offline"
        async with client(each_broker) as late:
            await late.subscribe("presence/+", qos=1)
            assert await next_message(late) == ("presence/a", b"offline", True)


def cut_connection(victim: aiomqtt.Client) -> None:
    connection = victim._client.socket()
    if isinstance(connection, socket.socket):  # else the broker has cut it already
        connection.shutdown(socket.SHUT_RDWR)


async def test_large_messages_pass(each_broker: Broker) -> None:
    async with client(each_broker) as receiver, client(each_broker) as sender:
        await receiver.subscribe("large", qos=1)
        await sender.publish("large", bytes(200_000), qos=1)
        assert len((await next_message(receiver))[1]) == 200_000


async def test_it_listens_on_this_machine_alone(each_broker: Broker) -> None:
    assert each_broker.host == "127.0.0.1"


async def test_a_running_broker_is_used_as_it_is(broker: Broker, tmp_path: Path) -> None:
    url = f"mqtt://user:secret@127.0.0.1:{broker.port}"
    async with start_broker(url, tmp_path) as existing:
        assert (existing.url, existing.kind, existing.port) == (url, "existing", broker.port)
        assert existing.printable_url == f"mqtt://127.0.0.1:{broker.port}"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("mqtt://u:secret@127.0.0.1:9", r"cannot reach the broker mqtt://127\.0\.0\.1:9: "),
        ("http://127.0.0.1", "neither embedded nor mosquitto"),
        ("mosquito", "neither embedded nor mosquitto"),
    ],
)
async def test_wrong_addresses_are_told_without_the_password(tmp_path: Path, kind: str, told: str) -> None:
    with pytest.raises(BrokerUnreachableError, match=told) as caught:
        async with start_broker(kind, tmp_path):
            pass
    assert "secret" not in str(caught.value)


async def test_a_missing_mosquitto_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(MissingProgramError, match="run: sudo apt install mosquitto"):
        async with start_broker("mosquitto", tmp_path):
            pass


async def test_a_second_session_of_a_name_takes_over_and_its_presence_stays(each_broker: Broker) -> None:
    """A daemon that comes back before the broker noticed that its old connection is dead."""
    will = aiomqtt.Will("presence/a", b"offline", qos=1, retain=True)
    async with contextlib.AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(client(each_broker))
        await watcher.subscribe("presence/+", qos=1)
        stack.enter_context(contextlib.suppress(aiomqtt.MqttError))
        old = await stack.enter_async_context(client(each_broker, "a", will))
        await old.subscribe("box/a", qos=1)
        await old.publish("presence/a", b"online 1", qos=1, retain=True)
        new = await stack.enter_async_context(client(each_broker, "a", will))
        await new.subscribe("box/a", qos=1)
        await asyncio.sleep(0.3)
        await new.publish("presence/a", b"online 2", qos=1, retain=True)
        with contextlib.suppress(aiomqtt.MqttError, OSError):
            cut_connection(old)
        await asyncio.sleep(0.5)
        async with client(each_broker) as sender:
            await sender.publish("box/a", b"for the new one", qos=1)
        # and nothing that it did not subscribe to
        assert await next_message(new) == ("box/a", b"for the new one", False)
        async with client(each_broker) as late:
            await late.subscribe("presence/+", qos=1)
            assert (await next_message(late))[1] == b"online 2"


async def test_it_ends_whatever_its_clients_do(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(10),
        contextlib.AsyncExitStack() as stack,
        start_broker("embedded", tmp_path) as broker,
    ):
        for _ in range(3):  # these go at once, without a word
            socket.create_connection((broker.host, broker.port)).close()
        stack.enter_context(socket.create_connection((broker.host, broker.port)))  # this one stays silent
        stack.enter_context(contextlib.suppress(aiomqtt.MqttError))
        await stack.enter_async_context(client(broker))  # and this one does not leave
        await asyncio.sleep(0.1)


async def test_the_embedded_broker_goes_through_subscriptions_while_they_become_more() -> None:
    """amqtt waits while it does, and lost the message when somebody subscribed in that moment."""
    subscriptions = Subscriptions(a=[(Session(), 1)])
    for name, who in subscriptions.items():
        subscriptions[name + "a"] = []
        subscriptions["a"].clear()
        assert len(who) == 1
    for name in subscriptions:
        subscriptions[name + "b"] = []
    assert sorted(subscriptions) == ["a", "aa", "aab", "ab"]
    running = EmbeddedBroker({"listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}}, "plugins": {}})
    assert isinstance(running.subscriptions, Subscriptions)
