"""A secured broker, Mosquitto and the embedded one alike: who may connect, say and hear what, and how much of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import pytest
import pytest_asyncio

from omnilytics.daemon import broker as broker_module
from omnilytics.daemon.broker_access import BrokerAccess
from omnilytics.daemon.ending import end_tasks
from omnilytics.peers.errors import BrokerError
from omnilytics.peers.messages import MAX_MESSAGE_BYTES, topic, topic_filter
from scripts.broker_authority import Authority, create_authority
from scripts.broker_process import Broker, BrokerSecurity, start_broker
from scripts.broker_rules import LIMITS
from scripts.embedded_security import TokenBucket
from tests.broker_identities import HOST, Identity, admitted
from tests.test_broker import PATIENCE, RUN, Connection, eventually
from tests.test_broker_process import NEEDS_MOSQUITTO, NO_DELAY

NOW = datetime.now(UTC)
OTHER_RUN = "f" * 16


@dataclass(frozen=True)
class Market:
    """A secured broker and four who are admitted to it."""

    broker: Broker
    authority: Authority
    alice: Identity
    bob: Identity
    carol: Identity
    mallory: Identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(tmp_path_factory.mktemp("authority"), [HOST, "localhost"], NOW)


@pytest.fixture(scope="module")
def people(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    folder = tmp_path_factory.mktemp("people")
    return [admitted(authority, folder, name) for name in ("alice", "bob", "carol", "mallory")]


@pytest_asyncio.fixture(params=["embedded", pytest.param("mosquitto", marks=NEEDS_MOSQUITTO)])
async def market(
    request: pytest.FixtureRequest, tmp_path: Path, authority: Authority, people: list[Identity]
) -> AsyncIterator[Market]:
    # A burst that a test can use up.
    limits = replace(LIMITS, burst_bytes=64 << 10, bytes_a_second=128 << 10)
    async with start_broker(request.param, tmp_path, BrokerSecurity(authority, RUN, limits)) as broker:
        yield Market(broker, authority, *people)


def raw(
    market: Market, who: Identity | None, name: str | None = None, will: aiomqtt.Will | None = None
) -> aiomqtt.Client:
    """A client that does as it likes, with somebody's certificate."""
    access = who.access if who is not None else BrokerAccess(market.authority.ca_path)
    return aiomqtt.Client(
        market.broker.host,
        market.broker.port,
        identifier=name,
        will=will,
        tls_context=access.tls_context(),
        socket_options=NO_DELAY,
        timeout=5,
    )


@contextlib.asynccontextmanager
async def participant(
    market: Market, who: Identity, log_path: Path | None = None, access: BrokerAccess | None = None, wait: bool = True
) -> AsyncIterator[Connection]:
    """Somebody's daemon, as far as its broker is concerned."""
    opened = Connection(market.broker.url, who.address, RUN, log_path, access or who.access)
    task = asyncio.create_task(opened.broker.run())
    try:
        if wait:
            await opened.connected()
        yield opened
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        opened.log.close()


ACCEPTED = b"\x20\x02\x00\x00"


def packet(kind: int, content: bytes) -> bytes:
    """An MQTT packet of fewer than 16384 bytes."""
    return bytes([kind << 4, len(content) & 127 | 128, len(content) >> 7]) + content


async def answer(broker: Broker, tls: ssl.SSLContext | None, more: bytes = b"") -> bytes:
    """All that a broker says to a client that says CONNECT and `more`, until the broker ends the connection."""
    connect = packet(1, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
    got = b""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(broker.host, broker.port, ssl=tls)
        try:
            writer.write(connect + more)
            while len(got) < len(ACCEPTED) or more:
                async with asyncio.timeout(PATIENCE):
                    part = await reader.read(1000)
                if not part:
                    break
                got += part
        finally:
            writer.transport.abort()
    return got


def presence(who: Identity, run: str = RUN) -> str:
    return f"omnilytics/{run}/presence/{who.hex}"


async def heard(client: aiomqtt.Client, until: str) -> list[tuple[str, bytes]]:
    """All messages up to the first on the topic `until`."""
    got: list[tuple[str, bytes]] = []
    async with asyncio.timeout(PATIENCE):
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            got.append((str(message.topic), message.payload))
            if got[-1][0] == until:
                break
    return got


# --------------------------------------------------------------------- what is allowed


async def test_participants_talk_and_see_each_other(market: Market) -> None:
    async with participant(market, market.alice) as alice, participant(market, market.bob) as bob:
        for number in range(50):
            alice.broker.send(3, 7, market.bob.address, bytes([number]) * MAX_MESSAGE_BYTES)
        await eventually(lambda: len(bob.messages) == 50)
        assert [message.payload[0] for message in bob.messages] == list(range(50))
        assert bob.messages[0].sender == market.alice.address
        await eventually(lambda: (market.bob.address, True) in alice.presence)
        await alice.broker.say_goodbye()
        await eventually(lambda: bob.presence[-1] == (market.alice.address, False))
        async with participant(market, market.carol) as carol:
            await eventually(lambda: (market.alice.address, False) in carol.presence)


async def test_a_check_says_nothing_where_all_is_well(market: Market) -> None:
    await Connection(market.broker.url, market.alice.address, RUN, None, market.alice.access).broker.check()


# --------------------------------------------------------------------- what is refused


async def test_nobody_writes_in_anothers_name(market: Market) -> None:
    """Nor in another run, nor anywhere else; what the receiver hears next is what it was sent honestly."""
    honest = topic(RUN, 1, 1, market.bob.address, market.alice.address)
    async with participant(market, market.alice) as alice, raw(market, market.bob) as bob:
        await bob.subscribe("#", qos=1)
        for wanted in (topic_filter(RUN, market.bob.address), f"omnilytics/{RUN}/presence/+", "forum/#"):
            await bob.subscribe(wanted, qos=1)
        async with raw(market, market.mallory) as mallory:
            for where, retain in (
                (topic(RUN, 1, 1, market.bob.address, market.alice.address), False),
                (topic(OTHER_RUN, 1, 1, market.bob.address, market.mallory.address), False),
                (presence(market.alice), True),
                (presence(market.bob), True),
                (presence(market.mallory, OTHER_RUN), True),
                (f"omnilytics/{RUN}/presence/x/{market.mallory.hex}", True),
                ("forum/garbage", True),
            ):
                await mallory.publish(where, b"forged", qos=1, retain=retain)
            await mallory.publish(topic(RUN, 1, 1, market.bob.address, market.mallory.address), b"own", qos=1)
            got = await heard(bob, topic(RUN, 1, 1, market.bob.address, market.mallory.address))
        alice.broker.send(1, 1, market.bob.address, b"honest")
        got += await heard(bob, honest)
    assert b"forged" not in [payload for _, payload in got]
    assert [payload for where, payload in got if "/in/" in where] == [b"own", b"honest"]


async def test_garbage_is_not_kept_for_those_who_come_later(market: Market) -> None:
    async with raw(market, market.mallory) as mallory:
        for where in ("forum/garbage", presence(market.alice), presence(market.mallory, OTHER_RUN)):
            await mallory.publish(where, b"forged", qos=1, retain=True)
        await mallory.publish(presence(market.mallory), b"1", qos=1, retain=True)
    async with raw(market, market.bob) as bob:
        for wanted in ("#", "forum/garbage", f"omnilytics/{OTHER_RUN}/presence/+", f"omnilytics/{RUN}/presence/+"):
            await bob.subscribe(wanted, qos=1)
        got = await heard(bob, presence(market.mallory))
    assert {where for where, _ in got} <= {presence(market.mallory), presence(market.bob)}


async def test_nobody_hears_what_is_for_another(market: Market) -> None:
    everything = ("#", "omnilytics/#", f"omnilytics/{RUN}/+/+/in/+/+", topic_filter(RUN, market.bob.address))
    async with (
        participant(market, market.alice) as alice,
        participant(market, market.bob) as bob,
        raw(market, market.mallory) as mallory,
    ):
        for wanted in (*everything, topic_filter(RUN, market.mallory.address)):
            await mallory.subscribe(wanted, qos=1)
        alice.broker.send(1, 1, market.bob.address, b"for bob")
        alice.broker.send(1, 1, market.mallory.address, b"for mallory")
        got = await heard(mallory, topic(RUN, 1, 1, market.mallory.address, market.alice.address))
        await eventually(lambda: len(bob.messages) == 1)
    assert b"for bob" not in [payload for _, payload in got]


async def test_a_will_obeys_the_rules_too(market: Market) -> None:
    """The broker publishes it, long after its writer was checked; or refuses who leaves it."""
    async with raw(market, market.bob) as bob:
        await bob.subscribe(f"omnilytics/{RUN}/presence/+", qos=1)
        for who, whose in ((market.mallory, market.alice), (market.carol, market.carol)):
            will = aiomqtt.Will(presence(whose), b"0", qos=1, retain=True)
            with contextlib.suppress(aiomqtt.MqttError):
                async with raw(market, who, will=will) as dying:
                    await dying.publish(presence(who), b"1", qos=1)
                    dying._client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
                    await asyncio.wait_for(anext(dying.messages), PATIENCE)
        got = await heard(bob, presence(market.carol))
        got += await heard(bob, presence(market.carol))
    assert got[-1] == (presence(market.carol), b"0")
    assert presence(market.alice) not in [where for where, _ in got]


async def test_nobody_takes_over_anothers_connection(market: Market) -> None:
    """MQTT ends a connection when another comes with the same client identifier."""
    async with participant(market, market.alice) as alice, participant(market, market.bob) as bob:
        await eventually(lambda: (market.alice.address, True) in bob.presence)
        async with raw(market, market.mallory, name=f"omnilytics-{RUN}-{market.alice.hex}") as mallory:
            await mallory.subscribe(topic_filter(RUN, market.mallory.address), qos=1)
            alice.broker.send(1, 1, market.mallory.address, b"still here")
            await heard(mallory, topic(RUN, 1, 1, market.mallory.address, market.alice.address))
        assert alice.broker.connected.is_set()
        assert (market.alice.address, False) not in bob.presence


async def test_a_message_that_is_too_large_goes_nowhere(market: Market) -> None:
    where = topic(RUN, 1, 1, market.bob.address, market.mallory.address)
    async with raw(market, market.bob) as bob:
        await bob.subscribe(topic_filter(RUN, market.bob.address), qos=1)
        tls = market.mallory.access.tls_context()
        giant = packet(3, len(where).to_bytes(2) + where.encode() + bytes(LIMITS.packet_bytes))
        assert await answer(market.broker, tls, giant) == ACCEPTED
        async with raw(market, market.mallory) as mallory:
            await mallory.publish(where, bytes(MAX_MESSAGE_BYTES), qos=1)
            assert [len(payload) for _, payload in await heard(bob, where)] == [MAX_MESSAGE_BYTES]


async def test_a_flood_harms_nobody_else(market: Market) -> None:
    """Somebody says as much as it can to one receiver; the others' talk arrives, whole and in order."""
    flood = topic(RUN, 1, 1, market.bob.address, market.mallory.address)
    async with (
        participant(market, market.alice) as alice,
        participant(market, market.carol) as carol,
        raw(market, market.bob) as bob,
        raw(market, market.mallory) as mallory,
    ):
        await bob.subscribe(topic_filter(RUN, market.bob.address), qos=0)

        async def publish_for_ever() -> None:
            while True:
                await mallory.publish(flood, bytes(MAX_MESSAGE_BYTES), qos=1)

        flooding = [asyncio.create_task(publish_for_ever()) for _ in range(4)]
        try:
            await heard(bob, flood)
            for number in range(30):
                alice.broker.send(1, 1, market.carol.address, bytes([number]))
            await eventually(lambda: len(carol.messages) == 30)
        finally:
            await end_tasks(flooding)
        assert [message.payload[0] for message in carol.messages] == list(range(30))
        assert alice.broker.connected.is_set() and carol.broker.connected.is_set()


def test_a_quota_lets_bursts_through_and_holds_the_rest_back() -> None:
    now = 100.0
    bucket = TokenBucket(rate=10, burst=50, clock=lambda: now)
    assert [bucket.take(25), bucket.take(25)] == [0, 0]
    assert bucket.take(20) == 2.0
    now += 2
    assert bucket.take(10) == 1.0
    now += 1000
    assert bucket.take(50) == 0
    assert bucket.take(1) == pytest.approx(0.1)


# ------------------------------------------------------------------------ who connects


def told(market: Market, in_words: str) -> str:
    """asyncio's TLS, the embedded broker's, ends a refused connection without the alert that says why."""
    return in_words if market.broker.kind == "mosquitto" else "ended the connection before it answered; does it want"


async def refused_in_words(market: Market, who: Identity, access: BrokerAccess, folder: Path) -> str:
    """What a daemon's log says that is never let in."""
    async with participant(market, who, folder / "log.jsonl", access, wait=False) as opened:
        await eventually(lambda: bool(opened.records("broker.lost")))
        assert not opened.broker.connected.is_set()
        return str(opened.records("broker.lost")[0]["msg"])


async def test_without_a_certificate_nobody_is_let_in(market: Market, tmp_path: Path) -> None:
    anonymous = BrokerAccess(market.authority.ca_path)
    said = await refused_in_words(market, market.alice, anonymous, tmp_path)
    assert told(market, "the broker wants a client certificate; omnilytics broker request") in said
    assert await answer(market.broker, anonymous.tls_context()) != ACCEPTED
    assert await answer(market.broker, market.alice.access.tls_context()) == ACCEPTED


async def test_nor_without_tls(market: Market) -> None:
    assert await answer(market.broker, None) != ACCEPTED


async def test_nor_with_a_certificate_of_another_authority(market: Market, tmp_path: Path) -> None:
    stranger = create_authority(tmp_path / "stranger", [HOST], NOW)
    forged = admitted(stranger, tmp_path, "alice")
    access = replace(forged.access, ca=market.authority.ca_path)
    said = await refused_in_words(market, market.alice, access, tmp_path)
    assert told(market, "the broker does not know who signed our certificate") in said


async def test_nor_with_an_expired_one(market: Market, tmp_path: Path) -> None:
    """The daemon refuses it itself; so does the broker, when it is tried all the same."""
    old = admitted(market.authority, tmp_path, "alice", NOW - timedelta(days=100))
    said = await refused_in_words(market, old, old.access, tmp_path)
    assert "expired on" in said and "omnilytics broker request" in said
    context = ssl.create_default_context(cafile=str(market.authority.ca_path))
    assert old.access.certificate is not None
    context.load_cert_chain(old.access.certificate, old.access.key)
    assert await answer(market.broker, context) != ACCEPTED


async def test_nor_with_the_brokers_own(market: Market, tmp_path: Path) -> None:
    """Its certificate is for servers, a participant's for clients, so neither can pose as the other."""
    certificate, key = market.authority.server_paths
    access = BrokerAccess(market.authority.ca_path, certificate, key)
    said = await refused_in_words(market, market.alice, access, tmp_path)
    assert told(market, "our certificate") in said


@pytest.mark.parametrize("kind", ["embedded", pytest.param("mosquitto", marks=NEEDS_MOSQUITTO)])
async def test_nor_with_a_revoked_one_once_the_broker_has_read_the_list(kind: str, tmp_path: Path) -> None:
    authority = create_authority(tmp_path / "authority", [HOST], NOW)
    mallory = admitted(authority, tmp_path, "mallory")
    # Renewed in between: none of them is good any more.
    renewed = admitted(authority, tmp_path, "mallory")
    bob = admitted(authority, tmp_path, "bob")
    assert authority.revoke(mallory.hex, NOW) == 2
    async with start_broker(kind, tmp_path, BrokerSecurity(authority, RUN)) as broker:
        market = Market(broker, authority, bob, bob, bob, renewed)
        said = await refused_in_words(market, renewed, renewed.access, tmp_path)
        assert told(market, "revoked our certificate") in said
        async with participant(market, bob):
            pass


# ----------------------------------------------------- what the participant itself checks


async def test_the_brokers_name_is_always_checked(market: Market, tmp_path: Path) -> None:
    """127.0.0.1 is in its certificate, the same address as IPv6 writes it is not."""
    elsewhere = replace(market.broker, url=market.broker.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"))
    said = await refused_in_words(replace(market, broker=elsewhere), market.alice, market.alice.access, tmp_path)
    assert "the broker's certificate is not for the name ::ffff:127.0.0.1" in said


async def test_a_broker_of_an_unknown_authority_is_not_trusted(market: Market, tmp_path: Path) -> None:
    stranger = create_authority(tmp_path / "stranger", [HOST], NOW)
    access = replace(market.alice.access, ca=stranger.ca_path)
    said = await refused_in_words(market, market.alice, access, tmp_path)
    assert "unknown CA" in said and "broker_ca" in said


async def test_a_certificate_in_another_name_is_told_by_the_broker_being_deaf(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alice's daemon with Bob's certificate: Mosquitto acknowledges all and passes nothing on; the embedded broker, as
    some others, lets nobody in whose will it would not publish."""
    monkeypatch.setattr(broker_module, "ECHO_SECONDS", 0.2)
    monkeypatch.setattr(broker_module, "CHECK_SECONDS", 0.2)
    async with participant(market, market.alice, tmp_path / "log.jsonl", market.bob.access, wait=False) as alice:
        deaf = market.broker.kind == "mosquitto"
        event = "broker.denied" if deaf else "broker.lost"
        await eventually(lambda: bool(alice.records(event)))
        said = alice.records(event)[0]["msg"]
    words = "not authorised for a topic" if deaf else "the broker does not authorise us"
    assert words in said and ("bear our address?" if deaf else "does not allow our own topics") in said
    with pytest.raises(BrokerError, match=words):
        await Connection(market.broker.url, market.alice.address, RUN, None, market.bob.access).broker.check()
