"""An MQTT broker for tests and testbeds, on a free port of 127.0.0.1; anybody on this machine may connect, unless it
is secured: TLS, client certificates, and topics for each participant, as broker_rules says.

    async with start_broker("embedded", folder) as broker:
        aiomqtt.Client(broker.host, broker.port)

The choices: "embedded" (amqtt, in this process's event loop), "mosquitto" (a process of its own), "bridged" (two of
these, bridged to one another), or the address of a broker that runs already: mqtt://[user:password@]host[:1883] or
mqtts://...[:8883]. The market trusts none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scripts.broker_rules import LIMITS, Limits, mosquitto_acl, mosquitto_bridge, mosquitto_security
from scripts.processes import ManagedProcess, ProcessError, Supervisor
from scripts.toolchain import find_mosquitto

if TYPE_CHECKING:
    from scripts.broker_authority import Authority

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_START_TIMEOUT = 10.0


class BrokerUnreachableError(Exception):
    """The address names no broker, or nothing listens there."""


@dataclass(frozen=True)
class Broker:
    """A broker that accepts connections. `process` is None unless it is a process that we started."""

    url: str
    host: str
    port: int
    kind: str
    process: ManagedProcess | None = None
    # The second of two that are bridged.
    other: Broker | None = None

    @property
    def processes(self) -> list[ManagedProcess]:
        """Those that we started."""
        mine = [self.process] if self.process is not None else []
        return mine + (self.other.processes if self.other is not None else [])

    @property
    def urls(self) -> list[str]:
        """Where participants may connect: to any of them."""
        return [self.url, *(self.other.urls if self.other is not None else [])]

    @property
    def printable_url(self) -> str:
        """The address without a password, for people and logs."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@dataclass(frozen=True)
class BrokerSecurity:
    """Whose certificates a broker takes, the run that it is for (16 hex digits, or + for all), and quotas."""

    authority: Authority
    run: str = "+"
    limits: Limits = LIMITS


@contextlib.asynccontextmanager
async def start_broker(kind: str, folder: Path, security: BrokerSecurity | None = None) -> AsyncIterator[Broker]:
    """Runs the broker until the block is left, or only checks that the one at address `kind` listens.

    `security` is for brokers of our own. Raises MissingProgramError, ProcessError or BrokerUnreachableError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "embedded":
        async with _embedded(security) as broker:
            yield broker
    elif kind == "mosquitto":
        async with _mosquitto(folder, security) as broker:
            yield broker
    elif kind == "bridged":
        async with _bridged(folder, security) as broker:
            yield broker
    else:
        yield await _existing(kind)


@contextlib.asynccontextmanager
async def _embedded(security: BrokerSecurity | None) -> AsyncIterator[Broker]:
    from scripts.embedded_broker import EmbeddedBroker

    for noisy in ("amqtt", "transitions"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if security is not None:
        from scripts.embedded_security import SecuredBroker

        embedded: EmbeddedBroker = SecuredBroker(security.authority, security.run, security.limits)
    else:
        embedded = EmbeddedBroker(
            {
                "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}},
                # Only what is needed: the default plugins also log every packet and publish $SYS topics.
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
    await embedded.start()
    try:
        # asyncio sets TCP_NODELAY on what it accepts; without it every hop would cost 44 ms.
        scheme = "mqtt" if security is None else "mqtts"
        yield Broker(f"{scheme}://127.0.0.1:{embedded.port}", "127.0.0.1", embedded.port, "embedded")
    finally:
        await embedded.shutdown()


MOSQUITTO_CONF = """\
# Written by scripts/broker_process.py for one local run.
listener {port} 127.0.0.1
{access}
# Without it every hop costs 44 ms.
set_tcp_nodelay true
# Retained messages and sessions survive a restart of the broker.
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
# Not stdout, which it buffers.
log_dest stderr
{user}{bridge}"""
OPEN_ACCESS = """\
# Anybody on this machine may connect, nobody else.
allow_anonymous true
# Unbounded in practice; 0 would make one denied message disconnect its sender.
max_queued_messages 1000000
max_queued_bytes 0
max_inflight_messages 100
# Not message_size_limit, which acknowledges what it drops.
max_packet_size 16777216
"""
BRIDGE_NAME = "bridge-other"


@contextlib.asynccontextmanager
async def _bridged(folder: Path, security: BrokerSecurity | None) -> AsyncIterator[Broker]:
    """Two Mosquittos, the second with a bridge to the first."""
    files = None
    if security is not None:
        files = security.authority.certify_bridge(BRIDGE_NAME, datetime.now(UTC))
    (folder / "other").mkdir(parents=True, exist_ok=True)
    async with _mosquitto(folder, security) as first:
        ca = None if security is None else security.authority.ca_path
        bridge = mosquitto_bridge("first", first.host, first.port, ca, files)
        async with _mosquitto(folder / "other", security, bridge) as second:
            yield replace(first, kind="bridged", other=replace(second, kind="bridged"))


@contextlib.asynccontextmanager
async def _mosquitto(folder: Path, security: BrokerSecurity | None, bridge: str = "") -> AsyncIterator[Broker]:
    program = find_mosquitto()
    access, scheme = OPEN_ACCESS, "mqtt"
    if security is not None:
        acl = folder / "mosquitto.acl"
        acl.write_text(mosquitto_acl(security.run, [BRIDGE_NAME]), encoding="utf-8")
        acl.chmod(0o600)
        access, scheme = mosquitto_security(security.authority, acl, security.limits), "mqtts"
    config = folder / "mosquitto.conf"
    # Mosquitto cannot pick a free port itself; where another program takes ours in between, we try another.
    for attempt in (1, 2, 3):
        port = _free_port()
        # Started as root it would become another user, who may not write here, and forget its parent.
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(
            MOSQUITTO_CONF.format(port=port, access=access, folder=folder.resolve(), user=user, bridge=bridge)
        )
        async with Supervisor() as supervisor:
            log = folder / "mosquitto.log"
            process = await supervisor.start("mosquitto", [program, "-c", str(config)], log=log)
            try:
                await _until_listening(process, port)
            except ProcessError:
                if attempt == 3 or "Address already in use" not in process.log.read_text(errors="replace"):
                    raise
                continue
            yield Broker(f"{scheme}://127.0.0.1:{port}", "127.0.0.1", port, "mosquitto", process)
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_listening(process: ManagedProcess, port: int) -> None:
    def running(line: str) -> bool | None:
        return True if line.rstrip().endswith(" running") else None

    await process.wait_line(running, what="its start", timeout=_START_TIMEOUT)
    await _connect("127.0.0.1", port)


async def _existing(url: str) -> Broker:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        host = None
    if not host:
        raise BrokerUnreachableError(
            f"--broker {url!r} is neither embedded nor mosquitto nor bridged nor an address such as mqtt://host:1883"
        )
    broker = Broker(url, host, port, "existing")
    try:
        await _connect(host, port)
    except (OSError, TimeoutError) as error:
        reason = str(error) or "no answer"
        raise BrokerUnreachableError(f"cannot reach the broker {broker.printable_url}: {reason}") from error
    return broker


async def _connect(host: str, port: int) -> None:
    async with asyncio.timeout(_START_TIMEOUT):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
