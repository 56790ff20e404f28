"""The only MQTT: publishes envelopes, receives them, says who is there. Trusted with nothing.

aiomqtt is today's name of asyncio-mqtt. The broker acknowledges a message before its receiver has
seen it, so acknowledgement and resending are the round machines' business, not this module's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt

from omnilytics.daemon.broker_access import NO_FILES, BrokerAccess, refusal, tls_failure
from omnilytics.daemon.ending import end_tasks
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import BrokerError, ConfigurationError, KeyFileError, MessageError, OmniLyticsError
from omnilytics.peers.messages import MAX_MESSAGE_BYTES, parse_topic, topic, topic_filter

MAX_BACKOFF_SECONDS = 30.0
MAX_WAITING_MESSAGES = 10_000
GOODBYE_SECONDS = 1.0
# Messages that wait for the broker's acknowledgement at once: one after the other a model owner's keys for thirty
# owners take thirty times the way to the broker and back. They leave in their order all the same.
SENDERS = 16
# Our own presence comes back to us, unless the broker lets us not say it, or not hear it.
ECHO_SECONDS = 20.0
CHECK_SECONDS = 5.0
_ADDRESS = re.compile("[0-9a-f]{40}")
# Without it every hop waits 44 ms for Nagle's algorithm.
_NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


@dataclass(frozen=True)
class BrokerAddress:
    """host, port and, where the URL has them, user and password."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False


def parse_broker_url(url: str) -> BrokerAddress:
    """mqtt://[user:password@]host[:port] or mqtts://. Raises ConfigurationError."""
    refusal = ConfigurationError(
        "the broker URL is not of the form mqtt://host:port", help="use mqtt://host:1883, or mqtts:// for TLS"
    )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise refusal from error
    if parts.scheme not in ("mqtt", "mqtts") or not host or port == 0 or parts.path not in ("", "/"):
        raise refusal
    tls = parts.scheme == "mqtts"
    username = unquote(parts.username) if parts.username is not None else None
    password = unquote(parts.password) if parts.password is not None else None
    return BrokerAddress(host, port or (8883 if tls else 1883), username, password, tls)


@dataclass(frozen=True)
class Arrived:
    """An envelope that claims to come from a sender in a round of a task."""

    task: int
    round: int
    sender: bytes
    payload: bytes


class _SocketErrors(logging.Handler):
    """Keeps the newest error of paho's socket, which paho writes to its log and tells nobody else."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.newest: Exception | None = None
        # Not known to logging's tree: nothing of it is printed.
        self.logger = logging.Logger("mqtt", logging.ERROR)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """What paho logs an error with is the error."""
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, OSError):
                self.newest = argument


class _Client(aiomqtt.Client):
    """Does not wait on for a broker's answer when paho has lost the connection, as when TLS is refused."""

    def _on_disconnect(self, *arguments: Any, **more: Any) -> None:
        super()._on_disconnect(*arguments, **more)
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the broker ended the connection before it answered"))


def _not_passed_on(where: str) -> BrokerError:
    return BrokerError(
        f"not authorised for a topic: the broker does not pass on {where}",
        help="it must let us write and read it: does our certificate, or user, bear our address?",
    )


def _explained(error: Exception, host: str, newest: Exception | None, name: str = "broker") -> BrokerError:
    """What paho and aiomqtt say in numbers, and what only their causes say, in words. newest: of paho's socket."""
    if isinstance(error, aiomqtt.exceptions.MqttConnectError):
        code = error.rc
        return refusal(code if code is None or isinstance(code, int) else code.value, str(error))
    # A handshake that failed is what MqttError arose from; an alert after it is only in paho's log.
    for cause in (error, error.__context__, newest):
        if isinstance(cause, ssl.SSLError):
            return tls_failure(cause, host)
    # Some brokers refuse a certificate without a word.
    hint = "does it want a client certificate, or another? ask its operator" if "it answered" in str(error) else ""
    return BrokerError(f"cannot reach {name}: {error}", help=hint)


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
        access: BrokerAccess = NO_FILES,
    ) -> None:
        self._address_of_broker = parse_broker_url(url)
        self._run = run
        self._me = address
        self._log = log
        self._on_message = on_message
        self._on_presence = on_presence
        # Topic, payload, and whether the broker keeps it for those who come later.
        self._outgoing: asyncio.Queue[tuple[str, bytes, bool]] = asyncio.Queue()
        self.connected = asyncio.Event()
        self.dropped = 0
        self._access = access
        self._echo = asyncio.Event()
        self._socket_errors = _SocketErrors()

    def send(self, task: int, round_number: int, receiver: bytes, payload: bytes) -> None:
        """Queues an envelope. What cannot be sent now is dropped when the round resends it anyway."""
        if self._outgoing.qsize() >= MAX_WAITING_MESSAGES:
            self._outgoing.get_nowait()
            self._outgoing.task_done()
        self._outgoing.put_nowait((topic(self._run, task, round_number, receiver, self._me), payload, False))

    def _presence_topic(self, who: str) -> str:
        return f"omnilytics/{self._run}/presence/{who}"

    async def run(self) -> None:
        """Stays connected until cancelled; pauses between attempts grow to half a minute."""
        pause = 0.2
        while True:
            try:
                await self._session()
            except (aiomqtt.MqttError, OSError) as error:
                self._lost(self._explained(error))
            # Files that were good when the daemon started and are not any more; they may be again.
            except (BrokerError, ConfigurationError, KeyFileError) as problem:
                self._lost(problem)
            except (ValueError, LookupError, TypeError, struct.error) as error:
                # paho and aiomqtt raise these for packets that are no MQTT, as a topic that is not UTF-8.
                self._lost(BrokerError(f"the broker does not speak MQTT: {type(error).__name__}"))
            if self.connected.is_set():
                pause = 0.2
            self.connected.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, MAX_BACKOFF_SECONDS)

    def _lost(self, problem: OmniLyticsError) -> None:
        hint = "" if problem.help == problem.default_help else f"; {problem.help}"
        self._log("broker.lost", f"{problem}{hint}", "warning", code=problem.code)

    def _explained(self, error: Exception) -> BrokerError:
        return _explained(error, self._address_of_broker.host, self._socket_errors.newest)

    async def _client(self) -> aiomqtt.Client:
        where = self._address_of_broker
        self._socket_errors.newest = None
        self._echo.clear()
        password = self._access.password()
        self._log.protect(*(secret.encode() for secret in (where.password, password) if secret), keep=True)
        return _Client(
            where.host,
            where.port,
            # A password needs a user: brokers that we know of take the address for its name.
            username=where.username or (None if password is None else self._me.hex()),
            password=where.password if password is None else password,
            logger=self._socket_errors.logger,
            identifier=f"omnilytics-{self._run}-{self._me.hex()}",
            protocol=aiomqtt.ProtocolVersion.V311,
            will=aiomqtt.Will(self._presence_topic(self._me.hex()), b"0", qos=1, retain=True),
            socket_options=_NO_DELAY,
            tls_context=await asyncio.to_thread(self._access.tls_context) if where.tls else None,
            timeout=10,
            max_queued_outgoing_messages=0,
        )

    async def _session(self) -> None:
        mine = self._presence_topic(self._me.hex())
        async with await self._client() as client:
            await self._subscribe(client)
            await client.publish(mine, b"1", qos=1, retain=True)
            self.connected.set()
            self._log("broker.connected", f"connected to {self._address_of_broker.host}:{self._address_of_broker.port}")
            # When either of them fails the connection is of no use: a session that hears but cannot speak is worse
            # than none, because it looks alive.
            both = [asyncio.create_task(self._send_all(client)) for _ in range(SENDERS)]
            both.append(asyncio.create_task(self._receive_all(client)))
            watch = asyncio.create_task(self._expect_echo(mine))
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                await end_tasks([*both, watch])

    async def check(self) -> None:
        """Connects once and sees whether what we say in our own topics comes back; says that we are away.

        Raises BrokerError, ConfigurationError or KeyFileError, in words. For participants that do not run.
        """
        inbox = topic(self._run, 0, 0, self._me, self._me)
        try:
            async with await self._client() as client:
                await self._subscribe(client)
                for where, payload, retain in (
                    (inbox, b"", False),
                    (self._presence_topic(self._me.hex()), b"0", True),
                ):
                    await client.publish(where, payload, qos=1, retain=retain)
                    try:
                        async with asyncio.timeout(CHECK_SECONDS):
                            while str((await anext(client.messages)).topic) != where:
                                pass
                    except TimeoutError:
                        raise _not_passed_on(where) from None
        except (aiomqtt.MqttError, OSError) as error:
            raise self._explained(error) from error

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        for wanted in (topic_filter(self._run, self._me), self._presence_topic("+")):
            granted = await client.subscribe(wanted, qos=1)
            if any(not isinstance(code, int) and code.is_failure for code in granted):
                raise BrokerError(
                    f"not authorised for a topic: the broker does not let us read {wanted}",
                    help="does our certificate, or user, bear our address? ask the broker's operator",
                )

    async def _expect_echo(self, mine: str) -> None:
        """A broker of MQTT 3.1.1 acknowledges what it does not let through: only silence tells."""
        try:
            async with asyncio.timeout(ECHO_SECONDS):
                await self._echo.wait()
        except TimeoutError:
            problem = _not_passed_on(mine)
            self._log("broker.denied", f"{problem}; {problem.help}", "warning", code=problem.code)

    async def _send_all(self, client: aiomqtt.Client) -> None:
        while True:
            where, payload, retain = await self._outgoing.get()
            try:
                await client.publish(where, payload, qos=1, retain=retain)
            finally:
                self._outgoing.task_done()

    async def _receive_all(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self._arrived(str(message.topic), message.payload)

    def _arrived(self, where: str, payload: object) -> None:
        data = payload if isinstance(payload, bytes) else b""
        try:
            if len(data) > MAX_MESSAGE_BYTES:
                raise MessageError("the message is too large")
            if where.startswith(self._presence_topic("")):
                self._presence(where.removeprefix(self._presence_topic("")), data)
                return
            named = parse_topic(where)
            # We subscribe to nothing else, but the broker sends what it likes.
            if named.run != self._run or named.receiver != self._me:
                raise MessageError("the message is for another run or receiver")
        except MessageError as error:
            self.dropped += 1
            self._log("message.dropped", str(error), "warning", code=error.code)
            return
        self._on_message(Arrived(named.task, named.round_number, named.sender, data))

    def _presence(self, who: str, data: bytes) -> None:
        if not _ADDRESS.fullmatch(who) or data not in (b"0", b"1"):
            raise MessageError("presence is of nobody, or neither 0 nor 1")
        address = bytes.fromhex(who)
        if address == self._me:
            self._echo.set()
        else:
            self._on_presence(address, data == b"1")

    async def say_goodbye(self) -> None:
        """Tells the others at once that we are away, and those who come later (a clean disconnect sends no will)."""
        if not self.connected.is_set():
            return
        self._outgoing.put_nowait((self._presence_topic(self._me.hex()), b"0", True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._outgoing.join()


async def round_trip(
    url: str, run: str | None, address: bytes, access: BrokerAccess = NO_FILES, seconds: float = 10.0
) -> float:
    """Publishes to a topic of one's own and waits for it to come back, beside a daemon that may be running: seconds.

    Without a run, which topics are named by, a broker that knows its clients by certificate is only connected to.
    With a client certificate never beside it: such a broker knows both by the certificate, and would end the daemon's
    session. Raises ConfigurationError for a bad URL or bad files, BrokerError where it fails or takes longer.
    """
    where, password = parse_broker_url(url), access.password()
    # Not a daemon's own name: a broker lets one session of a name live, and would end the daemon's.
    token = os.urandom(16)
    # What a broker with permissions lets everybody write and read: from oneself to oneself.
    private = topic(run, 0, 0, address, address) if access.certificate is not None and run is not None else ""
    topic_of_mine = private or f"omnilytics/{run or 'none'}/doctor/{address.hex()}"
    named, started, connected = f"broker {where.host}:{where.port}", time.monotonic(), False
    socket_errors = _SocketErrors()
    try:
        async with (
            asyncio.timeout(seconds),
            _Client(
                where.host,
                where.port,
                username=where.username or (None if password is None else address.hex()),
                password=where.password if password is None else password,
                logger=socket_errors.logger,
                identifier=f"omnilytics-doctor-{token.hex()}",
                protocol=aiomqtt.ProtocolVersion.V311,
                socket_options=_NO_DELAY,
                tls_context=await asyncio.to_thread(access.tls_context) if where.tls else None,
                timeout=seconds,
            ) as client,
        ):
            if access.certificate is not None and run is None:
                return time.monotonic() - started
            await client.subscribe(topic_of_mine, qos=1)
            await client.publish(topic_of_mine, token, qos=1)
            connected = True
            async for message in client.messages:
                if message.payload == token:
                    return time.monotonic() - started
    except TimeoutError:
        if connected and access.certificate is not None:
            raise _not_passed_on(topic_of_mine) from None
        problem = f"no round trip over the {named} in {seconds:.0f} s"
        raise BrokerError(problem) from None
    except (aiomqtt.MqttError, OSError) as error:
        raise _explained(error, where.host, socket_errors.newest, named) from error
    except (ValueError, LookupError, TypeError, struct.error) as error:
        # As in Broker.run: packets that are no MQTT.
        raise BrokerError(f"{where.host}:{where.port} does not speak MQTT: {type(error).__name__}") from error
    raise BrokerError(f"the broker {where.host}:{where.port} ended the connection")
