"""The embedded broker with TLS, client certificates, topic permissions and quotas: the rules of broker_rules.

amqtt calls a plugin for who may connect and for each topic. What it has no call for is done here: whose connection
takes over from whose, wills (which amqtt publishes unchecked), retained messages, the size of packets, and the rate of
a sender, which is held back at its own socket so that nobody else waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.contexts import Action, ListenerConfig
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from scripts.broker_authority import Authority
from scripts.broker_rules import LIMITS, READ, RETAIN, WRITE, Limits, may
from scripts.embedded_broker import EmbeddedBroker

CONNECT_SECONDS = 10.0


class PacketTooLargeError(Exception):
    """No error of amqtt's own, which it would go on after, in the middle of the packet."""


class Permissions(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt is untyped
    """Asks the rules. `session.username` is the name in the certificate, whatever the client said."""

    @dataclass
    class Config:
        """run: the one run that the broker is for, or + for all."""

        run: str = "+"

    async def authenticate(self, *, session: Session) -> bool:
        return bool(session.username)

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        if session is None or not session.username or not topic:
            return False
        rules = WRITE if action == Action.PUBLISH else READ
        return may(rules, session.username, topic, self.config.run)


class TokenBucket:
    """How long a sender must pause: `rate` a second in the long run, `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def take(self, amount: float) -> float:
        """Takes so much and says for how many seconds nothing more may be taken."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._at = now
        return max(0.0, -self._left / self._rate)


class MeteredReader(ReaderAdapter):  # type: ignore[misc]
    """Lets no packet be larger and no sender be faster than the limits; it is the kernel that then stops the sender."""

    def __init__(self, reader: ReaderAdapter, limits: Limits, bucket: TokenBucket) -> None:
        self._reader = reader
        self._most = limits.packet_bytes
        self._bucket = bucket
        # Where the stream stands: at the type of a packet, in its length (so far, and what its next digit counts), or
        # so many bytes before its end.
        self._in_length = False
        self._length, self._digit = 0, 1

    async def read(self, n: int = -1) -> bytes:
        data: bytes = await self._reader.read(n)
        self._follow(data)
        if pause := self._bucket.take(len(data)):
            await asyncio.sleep(pause)
        return data

    def _follow(self, data: bytes) -> None:
        """Raises PacketTooLargeError as soon as a packet says so; amqtt reads types and lengths byte by byte."""
        if self._in_length:
            (digit,) = data or b"\0"
            self._length += (digit & 127) * self._digit
            self._digit *= 128
            self._in_length = digit > 127
            if self._length > self._most:
                raise PacketTooLargeError(f"{self._length} bytes or more, the limit is {self._most}")
        elif self._length > 0:
            self._length -= len(data)
        else:
            self._in_length, self._length, self._digit = True, 0, 1

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class SecuredBroker(EmbeddedBroker):
    """Started, asked for its port, shut down."""

    def __init__(self, authority: Authority, run: str = "+", limits: Limits = LIMITS) -> None:
        self._authority = authority
        self._run = run
        self._limits = limits
        certificate, key = map(str, authority.server_paths)
        super().__init__(
            {
                "listeners": {
                    "default": {
                        "type": "tcp",
                        "bind": "127.0.0.1:0",
                        "ssl": True,
                        "cafile": str(authority.ca_path),
                        "certfile": certificate,
                        "keyfile": key,
                        "max_connections": limits.connections,
                    }
                },
                "plugins": {"scripts.embedded_security.Permissions": {"run": run}},
            }
        )

    def _create_ssl_context(self, listener: ListenerConfig) -> ssl.SSLContext:
        # amqtt's own lets clients without a certificate in.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._authority.ca_path))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(self._authority.crl_path))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        context.load_cert_chain(*self._authority.server_paths)
        return context

    async def _client_connected(self, listener_name: str, reader: ReaderAdapter, writer: WriterAdapter) -> None:
        bucket = TokenBucket(self._limits.bytes_a_second, self._limits.burst_bytes)
        await super()._client_connected(listener_name, MeteredReader(reader, self._limits, bucket), writer)

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        who = _certified_name(writer)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                handler, session = await BrokerProtocolHandler.init_from_connect(reader, writer, self.plugins_manager)
        except (AMQTTError, MQTTError, NoDataError, PacketTooLargeError, TimeoutError, ValueError) as error:
            raise AMQTTError(f"no CONNECT of {who}: {error}") from error
        if session.will_flag and not may(WRITE, who, session.will_topic or "", self._run):
            with contextlib.suppress(OSError):
                await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            raise AMQTTError(f"{who} may not leave its will at {session.will_topic}")
        # Under any other identifier it could take over the session of somebody else. A kept session would bring back
        # what was allowed at another time.
        session.username = session.client_id = who
        session.clean_session = True
        session.parent = 0
        await self._delete_session(who)
        return handler, session

    async def retain_message(
        self, source_session: Session | None, topic_name: str | None, data: Any, qos: int | None = None
    ) -> None:
        who = source_session.username if source_session is not None else None
        if who and topic_name and may(RETAIN, who, topic_name, self._run):
            await super().retain_message(source_session, topic_name, data, qos)


def _certified_name(writer: WriterAdapter) -> str:
    """The common name in the client's certificate, which TLS has checked by now. Raises AMQTTError."""
    tls = writer.get_ssl_info()
    subject = (tls.getpeercert() or {}).get("subject", ()) if tls is not None else ()
    names = [value for part in subject for name, value in part if name == "commonName"]
    if len(names) != 1:
        raise AMQTTError("a client without one name")
    return str(names[0])
