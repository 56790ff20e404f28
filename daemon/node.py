"""The wiring page: one participant's process. Reads inputs, hands them to its parts, keeps everything running.

One connection to the chain, one to the broker, one journal, one queue of transactions; a part (a data owner's or a
model owner's) for each task that is played, fed by a queue of events of its own, so that no two of its steps ever
overlap. Training, masking and settling sums run in threads and come back as events.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from omnilytics.daemon.block_watch import MAX_BACKOFF_SECONDS, BlockWatch
from omnilytics.daemon.broker import Arrived, Broker
from omnilytics.daemon.chain import Chain, ContractRefused, UnknownTask
from omnilytics.daemon.chain_identity import check_identity
from omnilytics.daemon.config import Settings
from omnilytics.daemon.ending import end_tasks
from omnilytics.daemon.events import Event, Part, PresenceChanged, SnapshotSeen, TimePassed, WorkDone
from omnilytics.daemon.head_watch import HeadWatch
from omnilytics.daemon.health_file import HEALTH_NAME, HealthFile
from omnilytics.daemon.in_flight import FeePolicy
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log import Logger, Rotation, show, terminal_if
from omnilytics.daemon.market_log import heartbeat_facts
from omnilytics.daemon.part_runner import PartRunner
from omnilytics.daemon.signals import ENDING, told_to
from omnilytics.daemon.transactions import TransactionQueue, is_duty_of
from omnilytics.daemon.upkeep import Upkeep
from omnilytics.peers.errors import ChainError, ChainMismatchError, MessageError, OmniLyticsError
from omnilytics.peers.owner_round import Pace

__all__ = [
    "Event", "Node", "Part", "PresenceChanged", "SnapshotSeen", "Surroundings", "TimePassed", "WorkDone",
]  # fmt: skip

TICK_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
# The first pause before a part whose task cannot be read is prepared again; it doubles.
PREPARE_SECONDS = 0.5
MAX_PRESENCES = 4096
# Pieces of training and masking at once, of whatever task: each holds some copies of a vector, and no more of them
# than there are processors would be faster. They take turns as they come, and a part has one under way at a time.
MAX_WORKERS = max(2, os.cpu_count() or 2)

_T = TypeVar("_T")


def free_bytes(path: Path) -> int | None:
    """Free space where a folder is; None where nobody can say."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


@dataclass(frozen=True)
class Surroundings:
    """What a participant lives in: how it reaches chain, broker and disk, its clock and its entropy.

    A process has the real ones. The simulator gives the same participant a world of its own.
    """

    chain: Callable[[str, bytes], Chain] = Chain
    broker: Callable[..., Broker] = Broker
    journal: Callable[[Path], Journal] = Journal
    log: Callable[[Path | None, str, str, TextIO | None], Logger] = Logger
    # Our own clock, seconds; for patience only, never for deadlines.
    clock: Callable[[], float] = time.monotonic
    # Unix seconds, only to be compared with the chain's.
    wall: Callable[[], float] = time.time
    entropy: Callable[[int], bytes] = os.urandom
    # How often its part is told that time has passed.
    tick_seconds: float = TICK_SECONDS
    signals: bool = True
    disk_free: Callable[[Path], int | None] = free_bytes


class Node:
    """A participant's process: its keys, journal, log, chain, broker and queue of events."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        role: str,
        surroundings: Surroundings = Surroundings(),
    ) -> None:
        self.settings = settings
        self.keys = keys
        self.me = keys.address
        self._surroundings = surroundings
        self.clock = surroundings.clock
        self.entropy = surroundings.entropy
        self.log = surroundings.log(settings.log_path, role, show(self.me), terminal_if(settings.verbose))
        self.log.protect(*keys.secrets(), keep=True)
        self.log.rotation = Rotation(settings.log_megabytes << 20, settings.log_files)
        self.log.set_level(settings.log_level)
        self.journal = surroundings.journal(settings.journal_path)
        self.chain = surroundings.chain(settings.chain, settings.market_address)
        self.transactions = TransactionQueue(
            self.chain,
            keys,
            self.journal,
            self.log,
            FeePolicy(settings.gas_price_cap, settings.gas_tip),
            self._after_transaction,
            self.clock,
        )
        self._second_chain = (
            surroundings.chain(settings.check_chain, settings.market_address) if settings.check_chain else None
        )
        self.heads = HeadWatch(
            self.chain,
            self._second_chain,
            settings.finality_depth,
            settings.stall_seconds,
            settings.skew_seconds,
            self.log,
            self.clock,
            surroundings.wall,
        )
        self.upkeep = Upkeep(
            settings,
            self.me,
            self.chain,
            self.transactions,
            self.heads,
            self.log,
            self.clock,
            lambda: hasattr(self, "broker") and self.broker.connected.is_set(),
            lambda: surroundings.disk_free(settings.home),
            os.environ if surroundings.signals else {},
            HealthFile(settings.home / HEALTH_NAME, surroundings.wall) if surroundings.signals else None,
        )
        self.blocks = BlockWatch(self.chain, self.heads, settings.poll_seconds, self.log)
        self.pace = Pace(settings.resend_seconds, settings.away_grace_seconds, settings.patience_seconds)
        self.broker: Broker
        self._runners: list[PartRunner] = []
        self._work: set[asyncio.Task[None]] = set()
        self._workers = asyncio.Semaphore(MAX_WORKERS)
        self._stop = asyncio.Event()
        # For who asks the daemon: starting (until the chain answers), ready, stopping; and since when, by our clock.
        self.state = "starting"
        self.started_at = self.clock()
        self._bug: BaseException | None = None
        # Who the broker says is there or away, and since when we know.
        self.online: dict[bytes, tuple[bool, float]] = {}
        # Messages that came faster than they could be read.
        self.dropped = 0
        # Messages of tasks that nobody here plays.
        self.unclaimed = 0

    # ------------------------------------------------------------------ running

    @property
    def parts(self) -> tuple[Part, ...]:
        """Who plays now."""
        return tuple(runner.part for runner in self._runners)

    def stop(self) -> None:
        """Ends `run` in order, as a signal does."""
        self.state = "stopping"
        self._stop.set()

    async def run(self, part: Part, alongside: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Plays a part until it is finished or a signal comes. Raises OmniLyticsError for what only people can mend.

        `alongside` runs from the first moment to the last: who answers questions about the daemon.
        """
        await self.run_all(lambda: self.play(part), alongside)

    async def run_all(
        self,
        play: Callable[[], Coroutine[Any, Any, None]],
        alongside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Keeps everything running while `play` does, which plays parts by `play`; until it ends or a signal comes.

        Raises OmniLyticsError for what only people can mend.
        """
        actions: dict[signal.Signals, Callable[[], None]] = {}
        if self._surroundings.signals:
            actions = dict.fromkeys(ENDING, self._stop.set) | {
                signal.SIGHUP: self.log.reopen,
                signal.SIGUSR1: lambda: self.log.step_level(-1),
                signal.SIGUSR2: lambda: self.log.step_level(1),
            }
        with told_to(asyncio.get_running_loop(), actions):
            await self._run(play, alongside)

    async def _run(
        self,
        play: Callable[[], Coroutine[Any, Any, None]],
        alongside: Callable[[], Coroutine[Any, Any, None]] | None,
    ) -> None:
        background: list[asyncio.Task[Any]] = []
        reason = "error"
        if alongside is not None:
            self._in_background(alongside())
        try:
            stopping = asyncio.create_task(self._stop.wait())
            connecting = asyncio.create_task(self._connect())
            looking_after = asyncio.create_task(self.upkeep.run())
            background = [stopping, connecting, looking_after]
            await asyncio.wait({stopping, connecting}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                reason = "signal"
                return
            await connecting
            background = [stopping, looking_after]
            for coroutine in (
                self.broker.run(),
                self.transactions.run(),
                self._tick(),
                self._heartbeat(),
                self.blocks.run(),
            ):
                background.append(asyncio.create_task(coroutine))
            self.state = "ready"
            self.log("daemon.ready", "ready")
            self.upkeep.ready()
            playing = asyncio.create_task(play())
            background.append(playing)
            done, _ = await asyncio.wait(background, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # A background task never ends by itself: if one has, its error is ours.
                if task is not stopping:
                    await task
            if self._bug is not None:
                raise OmniLyticsError(f"{type(self._bug).__name__} in background work") from self._bug
            reason = "finished" if playing in done else "signal"
            with contextlib.suppress(OSError):
                await self.broker.say_goodbye()
        except OmniLyticsError as error:
            self.log("daemon.failed", str(error), "error", code=error.code, help=error.help)
            raise
        finally:
            self.state = "stopping"
            self.upkeep.stopping()
            await end_tasks([*background, *self._work])
            await self.chain.close()
            if self._second_chain is not None:
                await self._second_chain.close()
            self.journal.close()
            self.log.summarise(at_once=True)
            self.log("daemon.exit", f"exit: {reason}", reason=reason)
            self.log.close()

    async def _connect(self) -> None:
        pause = 0.5
        while True:
            try:
                await self.chain.connect(self.settings.chain_id)
                break
            except ChainMismatchError:
                raise
            except ChainError as error:
                self.log("rpc.error", str(error), "warning", code=error.code)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
        check_identity(self.journal, self.chain)
        self.broker = self._surroundings.broker(
            self.settings.broker,
            self.chain.run_name,
            self.me,
            self.log,
            self._hear,
            lambda address, online: self._hear(PresenceChanged(address, online)),
        )

    async def play(self, part: Part, prepared: bool = False) -> None:
        """Prepares a part, unless that is done, and plays it until it is finished. Raises what only people can mend."""
        runner = self.runner(part)
        try:
            if not prepared:
                await self._prepare(part)
            self.blocks.add(runner)
            try:
                await runner.play()
            finally:
                self.blocks.remove(runner)
        finally:
            self._runners.remove(runner)

    async def _prepare(self, part: Part) -> None:
        """As long as the chain cannot be read it is tried again: nothing was decided. What it refuses is final, and so
        is a named task that it does not know, unless we have joined it: then a reorg has taken it back for a while."""
        pause = PREPARE_SECONDS
        while True:
            try:
                await part.prepare()
                return
            except (ContractRefused, ChainMismatchError):
                raise
            except ChainError as error:
                named = isinstance(error, UnknownTask) and part.task_id is not None
                if named and not self.journal.joins(part.task_id or 0):
                    raise
                self.log("rpc.error", str(error), "warning", code=error.code, task=part.task_id)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_BACKOFF_SECONDS)

    def runner(self, part: Part) -> PartRunner:
        """From now on the part hears what is for its task."""
        runner = PartRunner(part, self.chain, self.settings.finality_depth, self.log, self.upkeep.step)
        self._runners.append(runner)
        return runner

    def _runner_of(self, task: int | None) -> PartRunner | None:
        return next((runner for runner in self._runners if runner.part.task_id == task), None)

    def _hear(self, event: Arrived | PresenceChanged) -> None:
        """Hands on what the broker says, unless it floods us: what matters is sent again."""
        if isinstance(event, PresenceChanged):
            self._note_presence(event)
            listeners = self._runners
        else:
            runner = self._runner_of(event.task)
            listeners = [runner] if runner is not None else []
            if runner is None:
                self.unclaimed += 1
                self.log(
                    "message.dropped",
                    "the message is of no task that is played here",
                    "debug",
                    code=MessageError.code,
                    peer_to=event.sender,
                )
        for listener in listeners:
            self.dropped += not listener.hear(event, len(self._runners))

    def _note_presence(self, event: PresenceChanged) -> None:
        # The broker may name anybody it likes, any number of them: the newest are enough.
        online, since = self.online.pop(event.address, (None, 0.0))
        self.online[event.address] = event.online, since if online == event.online else self.clock()
        while len(self.online) > MAX_PRESENCES:
            del self.online[next(iter(self.online))]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._surroundings.tick_seconds)
            for runner in self._runners:
                runner.tick()

    async def _heartbeat(self) -> None:
        while True:
            self.log.summarise()
            facts = heartbeat_facts(
                self.heads,
                self.blocks.seen_block,
                self.transactions.pending_count,
                self.broker.connected.is_set(),
                self._surroundings.disk_free(self.settings.home),
            )
            self.log(
                "heartbeat",
                "alive",
                dropped_topics=self.broker.dropped,
                dropped_in_flood=self.dropped,
                balance_wei=self.upkeep.balance,
                **facts,
            )
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _after_transaction(self, key: str, _receipt: object) -> None:
        for runner in self._runners:
            if is_duty_of(runner.part.task_id, key):
                runner.view.members_changed = True
        self.blocks.look_again()

    def members_may_have_changed(self, task: int) -> None:
        """The next snapshot of the task reads all members again."""
        runner = self._runner_of(task)
        if runner is not None:
            runner.view.members_changed = True

    # --------------------------------------------------------------------- work

    def in_thread(
        self, task: int | None, work: Callable[[], _T], proceed: Callable[[_T | OmniLyticsError], Awaitable[None]]
    ) -> None:
        """Runs a task's work off the event loop; its result, or its error, comes back as an event of its part."""
        runner = self._runner_of(task)

        async def run() -> None:
            outcome: _T | OmniLyticsError
            async with self._workers:
                try:
                    outcome = await asyncio.to_thread(work)
                except OmniLyticsError as error:
                    outcome = error
            # Whoever has ordered it may have ended meanwhile; the task's next part knows nothing of it.
            if runner is not None:
                runner.put(WorkDone(lambda: proceed(outcome)))

        self._in_background(run())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work_ended)

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            # A bug in our own code: say it and stop rather than wait for work that never comes.
            self.log("daemon.bug", f"{type(error).__name__} in background work", "error", code="bug")
            self._bug = error
            self._stop.set()
