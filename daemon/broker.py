"""The only MQTT: publishes envelopes, receives them, says who is there. Trusted with nothing.

aiomqtt is today's name of asyncio-mqtt. The broker acknowledges a message before its receiver has
seen it, so acknowledgement and resending are the round machines' business, not this module's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiomqtt

from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import BrokerError, ConfigurationError, MessageError
from omnilytics.peers.messages import MAX_MESSAGE_BYTES, parse_topic, topic, topic_filter

MAX_BACKOFF_SECONDS = 30.0
# Without it every hop waits 44 ms for Nagle's algorithm.
_NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


@dataclass(frozen=True)
class BrokerAddress:
    """host, port and, where the URL has them, user and password."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: bool = False


def parse_broker_url(url: str) -> BrokerAddress:
    """mqtt://[user:password@]host[:port] or mqtts://. Raises ConfigurationError."""
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise ConfigurationError(
            f"broker URL {parts.scheme}://{parts.hostname or ''} is not of the form mqtt://host:port",
            help="use mqtt://host:1883, or mqtts:// for TLS",
        )
    tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, parts.port or (8883 if tls else 1883), parts.username, parts.password, tls)


@dataclass(frozen=True)
class Arrived:
    """An envelope that claims to come from a sender in a round of a task."""

    task: int
    round: int
    sender: bytes
    payload: bytes


class Broker:
    """One participant's connection, for ever reconnecting."""

    def __init__(
        self,
        url: str,
        run: str,
        address: bytes,
        log: Logger,
        on_message: Callable[[Arrived], None],
        on_presence: Callable[[bytes, bool], None],
    ) -> None:
        self._address_of_broker = parse_broker_url(url)
        self._run = run
        self._me = address
        self._log = log
        self._on_message = on_message
        self._on_presence = on_presence
        self._outgoing: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.connected = asyncio.Event()
        self.dropped = 0

    def send(self, task: int, round_number: int, receiver: bytes, payload: bytes) -> None:
        """Queues an envelope. What cannot be sent now is dropped when the round resends it anyway."""
        if self._outgoing.qsize() > 10_000:
            self._outgoing.get_nowait()
        self._outgoing.put_nowait((topic(self._run, task, round_number, receiver, self._me), payload))

    def _presence_topic(self, who: str) -> str:
        return f"omnilytics/{self._run}/presence/{who}"

    async def run(self) -> None:
        """Stays connected until cancelled; pauses between attempts grow to half a minute."""
        pause = 0.2
        while True:
            try:
                await self._session()
            except (aiomqtt.MqttError, OSError) as error:
                problem = BrokerError(f"cannot reach broker: {error}")
                self._log("broker.lost", str(problem), "warning", code=problem.code)
            if self.connected.is_set():
                pause = 0.2
            self.connected.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_BACKOFF_SECONDS)

    async def _session(self) -> None:
        where = self._address_of_broker
        mine = self._presence_topic(self._me.hex())
        async with aiomqtt.Client(
            where.host,
            where.port,
            username=where.username,
            password=where.password,
            identifier=f"omnilytics-{self._run}-{self._me.hex()}",
            protocol=aiomqtt.ProtocolVersion.V311,
            will=aiomqtt.Will(mine, b"0", qos=1, retain=True),
            socket_options=_NO_DELAY,
            tls_params=aiomqtt.TLSParameters() if where.tls else None,
            timeout=10,
            max_queued_outgoing_messages=0,
        ) as client:
            await client.subscribe(topic_filter(self._run, self._me), qos=1)
            await client.subscribe(self._presence_topic("+"), qos=1)
            await client.publish(mine, b"1", qos=1, retain=True)
            self.connected.set()
            self._log("broker.connected", f"connected to {where.host}:{where.port}")
            sender = asyncio.create_task(self._send_all(client))
            try:
                async for message in client.messages:
                    self._arrived(str(message.topic), message.payload)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _send_all(self, client: aiomqtt.Client) -> None:
        while True:
            where, payload = await self._outgoing.get()
            await client.publish(where, payload, qos=1)

    def _arrived(self, where: str, payload: object) -> None:
        data = payload if isinstance(payload, bytes) else b""
        if where.startswith(self._presence_topic("")):
            try:
                who = bytes.fromhex(where.rsplit("/", 1)[1])
            except ValueError:
                return
            if len(who) == 20 and data in (b"0", b"1") and who != self._me:
                self._on_presence(who, data == b"1")
            return
        try:
            if len(data) > MAX_MESSAGE_BYTES:
                raise MessageError("the message is too large")
            named = parse_topic(where)
        except MessageError as error:
            self.dropped += 1
            self._log("message.dropped", str(error), "warning", code=error.code)
            return
        self._on_message(Arrived(named.task, named.round_number, named.sender, data))

    async def say_goodbye(self) -> None:
        """Tells the others at once that we are away (a clean disconnect sends no will)."""
        self._outgoing.put_nowait((self._presence_topic(self._me.hex()), b"0"))
        await asyncio.sleep(0.1)
