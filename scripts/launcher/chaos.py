"""Trouble on purpose: kills and restarts of owners at random moments, a broker that is gone for a while, a reorg.

Everything here happens to a run from outside, as it would to real daemons: SIGKILL, cut connections, the chain's own
reorganisation. What happened to whom is kept for the summary.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from scripts.chain_process import rpc_call
from scripts.launcher.follow import Record
from scripts.launcher.options import TestbedOptions
from scripts.launcher.participants import Participant
from scripts.processes import ManagedProcess

# A killed owner's daemon stays away for up to this long: longer than a round of a default run takes.
MAX_AWAY_SECONDS = 4.0
# A kill falls anywhere in the time that a round takes, and a little beyond.
ROUND_SPREAD_SECONDS = 3.0
# The round (or the last, of fewer) in whose commit phase the broker is cut off, or whose posts are reorganised away.
TROUBLED_ROUND = 2


@dataclass
class Mishap:
    """One thing that was done to a run: what, to whom, when, and what became of it."""

    what: str
    whom: str
    round: int
    phase: str
    second: float
    # Wall clock, as the logs write it.
    ts: str
    away_seconds: float = 0.0
    # Only kills: the first round opened after its restart, and whether it was back there: it played, or followed
    # the round while a mate declared that their group sits out. None where it was killed again before that.
    next_round: int | None = None
    back_in_next_round: bool | None = None


class CutableProxy:
    """A TCP relay between daemons and broker that can be cut: connections die and new ones are refused."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._cut = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[CutableProxy]:
        """Relays until the block is left."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._drop_all()

    async def cut(self, seconds: float) -> None:
        """Nothing gets through for so long."""
        self._cut = True
        self._drop_all()
        await asyncio.sleep(seconds)
        self._cut = False

    def _drop_all(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for writer in list(self._writers):
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.close()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        both = {
            asyncio.create_task(_pump(reader, far_writer)),
            asyncio.create_task(_pump(far_reader, writer)),
        }
        self._tasks |= both
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        self._tasks -= both
        for side in (writer, far_writer):
            self._writers.discard(side)
            side.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@dataclass
class Chaos:
    """Watches a run's records and does what the options ask for."""

    options: TestbedOptions
    owners: dict[str, Participant]
    processes: dict[str, ManagedProcess]
    restart: Callable[[Participant], Awaitable[ManagedProcess]]
    proxy: CutableProxy | None
    rpc_url: str
    say: Callable[[str], None]
    mishaps: list[Mishap] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _started: float = field(default_factory=time.monotonic)
    _round: int = 0
    _phase: str = ""
    _done: set[str] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """Whether somebody killed has not been started again yet."""
        return bool(self._tasks)

    def see(self, name: str, record: Record) -> None:
        """One record of a participant; only the model owner's tell where the market stands."""
        if name != "model" or record["event"] != "phase.enter":
            return
        self._round, self._phase = record["round"], record["phase"]
        if self._phase == "commit":
            self._plan_kills()
        troubled = self._round == min(TROUBLED_ROUND, self.options.rounds)
        if troubled and self._phase == "commit" and self.options.drop_broker:
            self._once("broker", self._cut_broker())
        if troubled and self._phase == "post" and self.options.fee_jump:
            self._once("fee", self._raise_base_fee())
        if troubled and self._phase == "settle" and self.options.reorg:
            self._once("reorg", self._reorganise())

    def _plan_kills(self) -> None:
        # From seed and round, so that the same owners fall in a repeated run.
        generator = random.Random(f"{self.options.seed}/chaos/{self._round}")
        count = round(self.options.chaos * len(self.owners))
        for name in generator.sample(sorted(self.owners), count):
            delay = generator.uniform(0, ROUND_SPREAD_SECONDS)
            away = generator.uniform(0.2, MAX_AWAY_SECONDS)
            self._spawn(self._kill_and_restart(name, delay, away))

    def _once(self, what: str, work: Awaitable[None]) -> None:
        if what in self._done:
            asyncio.ensure_future(work).cancel()
            return
        self._done.add(what)
        self._spawn(work)

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _mishap(self, what: str, whom: str, away: float) -> Mishap:
        second = round(time.monotonic() - self._started, 2)
        ts = datetime.now(UTC).isoformat(timespec="milliseconds")
        mishap = Mishap(what, whom, self._round, self._phase, second, ts, round(away, 2))
        self.mishaps.append(mishap)
        return mishap

    async def _kill_and_restart(self, name: str, delay: float, away: float) -> None:
        await asyncio.sleep(delay)
        process = self.processes[name]
        if process.returncode is not None:
            # It has finished its task, or is away already.
            return
        self._mishap("killed", name, away)
        process.kill_group()
        await process.wait()
        await asyncio.sleep(away)
        self.processes[name] = await self.restart(self.owners[name])

    async def _cut_broker(self) -> None:
        assert self.proxy is not None
        self._mishap("broker cut off", "everybody", self.options.drop_broker)
        self.say(f"the broker is cut off for {self.options.drop_broker:g} s")
        await self.proxy.cut(self.options.drop_broker)
        self.say("the broker is back")

    async def _reorganise(self) -> None:
        self._mishap("reorg", "everybody", 0.0)
        self.say(f"the last {self.options.reorg} blocks are reorganised away")
        await asyncio.to_thread(rpc_call, self.rpc_url, "anvil_reorg", self.options.reorg, [])

    async def _raise_base_fee(self) -> None:
        self._mishap("base fee", "everybody", 0.0)
        self.say(f"the base fee jumps to {self.options.fee_jump} gwei")
        wei = hex(self.options.fee_jump * 10**9)
        await asyncio.to_thread(rpc_call, self.rpc_url, "anvil_setNextBlockBaseFeePerGas", wei)

    async def stop(self) -> None:
        """Ends whatever is still planned."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def through_proxy(broker_url: str, port: int) -> str:
    """The broker's address with the proxy in its place."""
    parts = urlsplit(broker_url)
    credentials = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{credentials + '@' if credentials else ''}127.0.0.1:{port}").geturl()


def outcomes(mishaps: list[Mishap], records: list[tuple[str, Record]], rounds: int) -> list[dict[str, Any]]:
    """The mishaps with what became of the killed: were they back in the first round opened after their restart?"""
    opened = {
        record["round"]: record["ts"]
        for name, record in records
        if name == "model" and record["event"] == "phase.enter" and record.get("phase") == "commit"
    }
    void = {
        record["round"]: set(record["data"]["void_groups"])
        for name, record in records
        if name == "model" and record["event"] == "round.done"
    }
    told = []
    for mishap in mishaps:
        if mishap.what == "killed":
            _judge(mishap, mishaps, [record for name, record in records if name == mishap.whom], opened, void, rounds)
        told.append(asdict(mishap))
    return told


def _judge(
    mishap: Mishap,
    mishaps: list[Mishap],
    own: list[Record],
    opened: dict[int, str],
    void: dict[int, set[int]],
    rounds: int,
) -> None:
    """Whether a killed owner was back in the first round that was opened after its restart."""
    never = "9999"
    again = min((m.ts for m in mishaps if m.whom == mishap.whom and m.ts > mishap.ts), default=never)
    lives = [record for record in own if mishap.ts < record["ts"] < again]
    ready = next((record["ts"] for record in lives if record["event"] == "daemon.ready"), None)
    following = [number for number, ts in sorted(opened.items()) if ready is not None and ready < ts < again]
    if not following or following[0] > rounds:
        return
    mishap.next_round = following[0]
    there = [record for record in lives if record.get("round") == mishap.next_round]
    if not there and again != never:
        return
    groups = {record["group"] for record in own if "group" in record}
    played = any(record["event"] in ("round.begin", "round.sat-out") for record in there)
    mishap.back_in_next_round = played or (bool(there) and bool(groups & void.get(mishap.next_round, set())))
