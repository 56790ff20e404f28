"""`scripts/idle-figures`: what daemons cost that do nothing, and how long many take to start; written into
docs/operations.md.

Every figure of that table is measured here: processor time and memory as the kernel counts them (/proc), the start as
the time until the last daemon has logged that it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np

from scripts.bench_suite.process_figures import cpu_seconds, memory_mib
from scripts.broker_process import start_broker
from scripts.chain_process import Chain, start_anvil
from scripts.deployment import deploy, read_artifact
from scripts.processes import ManagedProcess, Supervisor
from scripts.toolchain import ROOT

PAGE = ROOT / "docs" / "operations.md"
START, END = "<!-- idle: written by scripts/idle-figures -->", "<!-- end of idle -->"
PROGRAM = (sys.executable, "-P", "-m", "omnilytics.daemon.cli")
BLOCK_SECONDS = 12.0
# A start is over then: libraries are loaded, what is remembered is remembered.
SETTLE_SECONDS = 30.0
READY_SECONDS = 600.0


@dataclass
class Measured:
    """One daemon: seconds of processor time when we began to look, and what it is called in the table."""

    words: str
    process: ManagedProcess
    cpu_before: float = 0.0


def keys_for(home: Path) -> str:
    """A folder with light keys; its address."""
    from omnilytics.daemon.keystore import create_keys

    home.mkdir(parents=True)
    (home / "password").write_text("idle\n")
    (home / "password").chmod(0o400)
    return str(create_keys(home / "keys", "idle", light=True).account.address)


class Stage:
    """A chain, a broker, a market, and daemons on them."""

    def __init__(self, folder: Path, chain: Chain, broker: str, market: str, supervisor: Supervisor) -> None:
        self.folder, self.chain, self.broker, self.market, self.supervisor = folder, chain, broker, market, supervisor
        rng = np.random.default_rng(1)
        for name, columns in (("fits", 4), ("other", 5)):
            rows, labels = rng.normal(size=(400, columns)), np.arange(400) % 2
            np.savez(folder / f"{name}.npz", X=rows, y=labels)

    def places(self, home: Path) -> list[str]:
        """Where a daemon lives, and whom it talks to."""
        words = ("--home", str(home), "--chain", self.chain.rpc_url, "--market", self.market, "--broker", self.broker)
        return list(words)

    async def daemon(self, name: str, *words: str) -> ManagedProcess:
        """Starts one; it has an account with money."""
        home = self.folder / name
        await self.chain.call("anvil_setBalance", keys_for(home), hex(10**20))
        argv = [*PROGRAM, *words, *self.places(home)]
        return await self.supervisor.start(name, argv, log=self.folder / f"{name}.txt", events=home / "log.jsonl")


async def ready(process: ManagedProcess, event: str = "daemon.ready") -> None:
    """Returns when it has logged this."""
    await process.wait_event(event, timeout=READY_SECONDS)


async def idle(stage: Stage, minutes: float) -> list[str]:
    """Three daemons that wait, for so many minutes."""
    model = await stage.daemon(
        "model", "model", "run", "--test", str(stage.folder / "fits.npz"), "--protection", "envelope",
        "--join-seconds", str(int(3600 + 120 * minutes)), "--batch-size", "16", "--rounds", "2",
    )  # fmt: skip
    await ready(model, "task.ready")
    waiting = await stage.daemon("waiting", "owner", "run", "--data", str(stage.folder / "other.npz"))
    joined = await stage.daemon("joined", "owner", "run", "--data", str(stage.folder / "fits.npz"), "--allow-thin-sums")
    await ready(waiting, "task.refused")
    await joined.wait_line(_joins, what="a join", timeout=READY_SECONDS)
    daemons = [
        Measured("owner, waiting for a task", waiting),
        Measured("owner, in a task that waits for others", joined),
        Measured("model owner, waiting for owners", model),
    ]
    await asyncio.sleep(SETTLE_SECONDS)
    began = time.monotonic()
    for each in daemons:
        each.cpu_before = cpu_seconds(each.process.pid)
    await asyncio.sleep(60 * minutes)
    seconds = time.monotonic() - began
    lines = []
    for each in daemons:
        used = cpu_seconds(each.process.pid) - each.cpu_before
        resident, own = memory_mib(each.process.pid)
        lines.append(
            f"| {each.words} | {resident:.0f} MiB | {own:.0f} MiB | {used:.1f} s | {100 * used / seconds:.2f} % |"
        )
    return lines


def _joins(line: str) -> bool | None:
    record = json.loads(line)
    return True if record["event"] == "tx.mined" and record["data"]["function"] == "join" else None


@dataclass(frozen=True)
class Started:
    """Owners started at once: seconds until the last is ready, their processor time until then, and MiB of each."""

    count: int
    seconds: float
    cpu: float
    resident: float
    own: float


async def many(stage: Stage, count: int) -> Started:
    """Starts so many owners at once, and stops them when the last is ready."""
    for number in range(count):
        keys = keys_for(stage.folder / f"many-{number}")
        await stage.chain.call("anvil_setBalance", keys, hex(10**20))
    began = time.monotonic()
    started = []
    for number in range(count):
        home = stage.folder / f"many-{number}"
        argv = [*PROGRAM, "owner", "run", "--data", str(stage.folder / "other.npz"), *stage.places(home)]
        log = stage.folder / f"many-{number}.txt"
        started.append(await stage.supervisor.start(home.name, argv, log=log, events=home / "log.jsonl"))
    await asyncio.gather(*(ready(process) for process in started))
    seconds, used = time.monotonic() - began, sum(cpu_seconds(process.pid) for process in started)
    resident, own = (sum(each) / count for each in zip(*(memory_mib(p.pid) for p in started), strict=True))
    await asyncio.gather(*(process.stop() for process in started))
    return Started(count, seconds, used, resident, own)


async def start_only(folder: Path, count: int) -> Started:
    """The start of so many owners, on a chain of their own."""
    folder.mkdir(parents=True)
    async with staged(folder) as stage:
        return await many(stage, count)


@contextlib.asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    """A chain of its own, a broker and a market, until the block is left."""
    async with (
        start_anvil(folder / "chain", block_time=BLOCK_SECONDS) as chain,
        start_broker("embedded", folder / "broker") as broker,
        Supervisor() as supervisor,
    ):
        deployed = await asyncio.to_thread(deploy, chain.rpc_url, read_artifact(), chain.private_keys[0])
        yield Stage(folder, chain, broker.url, deployed.market, supervisor)


async def measure(folder: Path, minutes: float, count: int) -> tuple[list[str], Started]:
    """All of it, on a chain of its own."""
    folder.mkdir(parents=True)
    async with staged(folder) as stage:
        click.echo(f"starting {count} owners", err=True)
        start = await many(stage, count)
        click.echo(f"{start.seconds:.1f} s; now {minutes:g} minutes of nothing", err=True)
        return await idle(stage, minutes), start


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=float, default=10.0, show_default=True, help="How long idle daemons are looked at.")
@click.option("--owners", type=int, default=30, show_default=True, help="How many are started at once.")
@click.option("--print", "print_only", is_flag=True, help="Print the table and write nothing.")
def main(minutes: float, owners: int, print_only: bool) -> None:
    """Measure idle daemons and the start of many, and write the figures into docs/operations.md."""
    stamp = datetime.now(UTC)
    before = os.getloadavg()[0]
    lines, started = asyncio.run(measure(ROOT / "runs" / f"idle-{stamp:%Y-%m-%dT%H-%M-%S}", minutes, owners))
    command = " ".join(["scripts/idle-figures", *sys.argv[1:]])
    said = (
        f"`{command}`, {stamp:%Y-%m-%d}: {os.cpu_count()} processors, blocks every {BLOCK_SECONDS:g} s, default "
        f"settings, {minutes:g} minutes; load of other work on the machine when it began: {before:.1f}."
    )
    table = ["| daemon | resident | of its own | processor time | of one processor |", "|---|---|---|---|---|", *lines]
    cores, seconds, used = os.cpu_count() or 1, started.seconds, started.cpu
    last = (
        f"{owners} owners started at once were all ready (libraries, keys, chain) after {seconds:.1f} s. They took "
        f"{used:.1f} s of processor time until then: {used / owners:.2f} s each, {used / cores:.1f} s on each of "
        f"{cores} processors that do nothing else."
    )
    text = "\n".join([START, said, "", *table, "", last, END])
    if print_only:
        click.echo(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(START, 1)
    PAGE.write_text(head + text + rest.split(END, 1)[1], encoding="utf-8")
    click.echo(PAGE, err=True)


if __name__ == "__main__":
    main(prog_name="scripts/idle-figures")
