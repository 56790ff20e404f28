"""`scripts/broker-cost`: what TLS with client certificates costs on brokers of this machine.

Connects participants one after the other as daemons do, then sends messages and waits for each one. Processor time
is of this process, in which the embedded broker runs as well; Mosquitto's own is not in it. It says more than the
clock on a machine that does other things too.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from omnilytics.daemon.broker import Arrived, Broker
from omnilytics.daemon.broker_access import NO_FILES, BrokerAccess
from omnilytics.daemon.ending import end_tasks
from omnilytics.daemon.log import Logger
from scripts.broker_authority import create_authority
from scripts.broker_process import BrokerSecurity, start_broker
from tests.broker_identities import HOST, admitted, keys_named

RUN = "0123456789abcdef"


async def measure(kind: str, secured: bool, people: int, messages: int, folder: Path) -> tuple[float, float]:
    """Milliseconds of processor time until one participant is connected, and for a message there."""
    names = [f"person {number}" for number in range(people)]
    security, accesses = None, [NO_FILES] * people
    if secured:
        authority = create_authority(folder / "authority", [HOST], datetime.now(UTC))
        accesses = [admitted(authority, folder, name).access for name in names]
        security = BrokerSecurity(authority, RUN)
    arrived: asyncio.Queue[Arrived] = asyncio.Queue()
    log = Logger(None, "cost", "")
    async with start_broker(kind, folder / kind, security) as broker:
        tasks: list[asyncio.Task[None]] = []

        async def join(name: str, access: BrokerAccess) -> Broker:
            address = keys_named(name).address
            joined = Broker(broker.url, RUN, address, log, arrived.put_nowait, lambda who, there: None, access)
            tasks.append(asyncio.create_task(joined.run()))
            await joined.connected.wait()
            return joined

        keys = [keys_named(name).address for name in names]
        start = time.process_time()
        joined = [await join(name, access) for name, access in zip(names, accesses, strict=True)]
        connecting = time.process_time() - start
        start = time.process_time()
        for _ in range(messages):
            joined[0].send(1, 1, keys[1], bytes(200))
            await arrived.get()
        talking = time.process_time() - start
        await end_tasks(tasks)
    return 1000 * connecting / people, 1000 * talking / messages


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--people", type=click.IntRange(2, 200), default=20, show_default=True, help="Who connect.")
@click.option("--messages", type=click.IntRange(1, 10_000), default=200, show_default=True, help="One after the other.")
def main(people: int, messages: int) -> None:
    """Compare open and secured brokers; prints a table in Markdown.

    \b
    Example: scripts/broker-cost --people 20
    """
    click.echo("| broker | processor time of a connection, ms | of a message, ms |\n|---|---|---|")
    for kind in ("embedded", "mosquitto"):
        for secured in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                got = asyncio.run(measure(kind, secured, people, messages, Path(folder)))
            name = f"{kind}, {'TLS and certificates' if secured else 'open'}"
            click.echo(f"| {name} | {got[0]:.1f} | {got[1]:.2f} |")


if __name__ == "__main__":
    sys.exit(main(prog_name="scripts/broker-cost"))
