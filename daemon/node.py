"""The wiring page: one participant's process. Reads inputs, hands them to its part, keeps everything running.

One queue of events feeds one part (a data owner's or a model owner's), so that no two of its steps ever
overlap. Training, masking and settling sums run in threads and come back as events.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

from omnilytics.daemon.broker import Arrived, Broker
from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.config import Settings
from omnilytics.daemon.ending import end_tasks
from omnilytics.daemon.head_watch import HeadWatch
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log import Logger, show, terminal_if
from omnilytics.daemon.market_log import heartbeat_facts
from omnilytics.daemon.transactions import FeePolicy, TransactionQueue
from omnilytics.peers.errors import ChainError, ChainMismatchError, LockError, OmniLyticsError
from omnilytics.peers.market import Member, TaskParams, TaskSnapshot
from omnilytics.peers.owner_round import Pace

TICK_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
MAX_BACKOFF_SECONDS = 30.0
# A message has at most 512 bytes: the queue never holds more than some megabytes of them.
MAX_WAITING_EVENTS = 10_000
MAX_PRESENCES = 4096

_T = TypeVar("_T")


def free_bytes(path: Path) -> int | None:
    """Free space where a folder is; None where nobody can say."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


@dataclass(frozen=True)
class SnapshotSeen:
    """The task as a new block shows it."""

    snapshot: TaskSnapshot


@dataclass(frozen=True)
class PresenceChanged:
    """The broker says that somebody is there, or has gone."""

    address: bytes
    online: bool


@dataclass(frozen=True)
class TimePassed:
    """Time has passed."""


@dataclass(frozen=True)
class WorkDone:
    """Work that ran outside the event loop has ended; `proceed` goes on with its result."""

    proceed: Callable[[], Awaitable[None]]


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


Event = SnapshotSeen | Arrived | PresenceChanged | TimePassed | WorkDone


class Part(Protocol):
    """What a participant plays: the model owner's part or a data owner's."""

    task_id: int | None

    async def prepare(self) -> None:
        """Before anything else: find or create the task."""

    async def handle(self, event: Event) -> None:
        """One event."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do, for ever."""


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
        self.pace = Pace(settings.resend_seconds, settings.away_grace_seconds, settings.patience_seconds)
        self.broker: Broker
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._work: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._bug: BaseException | None = None
        self._look_again = asyncio.Event()
        self._members_changed = True
        # Who the broker says is there or away, and since when we know.
        self.online: dict[bytes, tuple[bool, float]] = {}
        # Messages that came faster than they could be read.
        self.dropped = 0
        # The newest block whose state our part has been shown.
        self._seen_block = 0

    # ------------------------------------------------------------------ running

    async def run(self, part: Part) -> None:
        """Plays a part until it is finished or a signal comes. Raises OmniLyticsError for what only people can mend."""
        loop = asyncio.get_running_loop()
        if self._surroundings.signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            loop.add_signal_handler(signal.SIGHUP, self.log.reopen)
        background: list[asyncio.Task[Any]] = []
        reason = "error"
        try:
            stopping = asyncio.create_task(self._stop.wait())
            connecting = asyncio.create_task(self._connect())
            background = [stopping, connecting]
            await asyncio.wait({stopping, connecting}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                reason = "signal"
                return
            await connecting
            background = [
                asyncio.create_task(coroutine)
                for coroutine in (
                    self.broker.run(),
                    self.transactions.run(),
                    self._tick(),
                    self._heartbeat(),
                )
            ]
            self.log("daemon.ready", "ready")
            playing = asyncio.create_task(self._play(part))
            done, _ = await asyncio.wait({stopping, playing, *background}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # A background task never ends by itself: if one has, its error is ours.
                if task is not stopping:
                    await task
            background += [stopping, playing]
            if self._bug is not None:
                raise OmniLyticsError(f"{type(self._bug).__name__} in background work") from self._bug
            reason = "finished" if playing in done else "signal"
            with contextlib.suppress(OSError):
                await self.broker.say_goodbye()
        except OmniLyticsError as error:
            self.log("daemon.failed", str(error), "error", code=error.code, help=error.help)
            raise
        finally:
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
        # A local chain that was started anew has the same chain id and addresses, but another genesis.
        identity = self.chain.genesis + self.chain.market
        if self.journal.bind("chain", identity) != identity:
            raise ChainMismatchError(
                "this data folder belongs to another chain or market",
                help="use another --home for every chain and market",
            )
        self.broker = self._surroundings.broker(
            self.settings.broker,
            self.chain.run_name,
            self.me,
            self.log,
            self._hear,
            lambda address, online: self._hear(PresenceChanged(address, online)),
        )

    async def _play(self, part: Part) -> None:
        await part.prepare()
        watching = asyncio.create_task(self._watch(part))
        # It never ends by itself: if it has, its error is ours, and one more event wakes us to see it.
        watching.add_done_callback(lambda _: self._events.put_nowait(TimePassed()))
        try:
            while not part.finished:
                event = await self._events.get()
                if watching.done():
                    await watching
                await self._handle(part, event)
        finally:
            await end_tasks([watching])

    async def _handle(self, part: Part, event: Event) -> None:
        if isinstance(event, PresenceChanged):
            # The broker may name anybody it likes, any number of them: the newest are enough.
            online, since = self.online.pop(event.address, (None, 0.0))
            self.online[event.address] = event.online, since if online == event.online else self.clock()
            while len(self.online) > MAX_PRESENCES:
                del self.online[next(iter(self.online))]
        try:
            await part.handle(event)
        except ChainError as error:
            # Duties are looked at again with the next block; nothing is lost but time.
            self.log("rpc.error", str(error), "warning", code=error.code)

    def _hear(self, event: Arrived | PresenceChanged) -> None:
        """Queues what the broker says, unless it floods us: what matters is sent again."""
        if self._events.qsize() >= MAX_WAITING_EVENTS:
            self.dropped += 1
            return
        self._events.put_nowait(event)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._surroundings.tick_seconds)
            self._events.put_nowait(TimePassed())

    async def _heartbeat(self) -> None:
        while True:
            self.log.summarise()
            facts = heartbeat_facts(
                self.heads,
                self._seen_block,
                self.transactions.pending_count,
                self.broker.connected.is_set(),
                self._surroundings.disk_free(self.settings.home),
            )
            self.log("heartbeat", "alive", dropped_topics=self.broker.dropped, dropped_in_flood=self.dropped, **facts)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    # ----------------------------------------------------------------- watching

    async def _watch(self, part: Part) -> None:
        """Puts a snapshot on the queue whenever the head changes; members are read again only when they may differ."""
        params: TaskParams | None = None
        members: tuple[Member, ...] | None = None
        seen: Head | None = None
        membership: tuple[object, ...] = ()
        pause = self.settings.poll_seconds
        while True:
            try:
                head = await self.chain.head()
                self.heads.observe(head)
                new = seen is None or head.hash != seen.hash
                if part.task_id is not None and new and await self.heads.confirmed(head):
                    if seen is not None and not await self.heads.continues(head, seen):
                        # The other branch may have drawn other groups, and look the same in everything else.
                        self._members_changed = True
                    params = params or await self.chain.params(part.task_id)
                    depth = self.settings.finality_depth
                    snapshot = await self.chain.snapshot(part.task_id, params, head, depth, members or ())
                    state = snapshot.state
                    now = (
                        state.status,
                        state.phase,
                        state.round,
                        state.member_count,
                        state.short,
                        state.dissolved,
                    )
                    if members is None or now != membership or self._members_changed:
                        self._members_changed = False
                        members = await self.chain.members(part.task_id, snapshot.state_block)
                        snapshot = replace(snapshot, members=members)
                        membership = now
                    seen = head
                    self._seen_block = snapshot.state_block
                    self._events.put_nowait(SnapshotSeen(snapshot))
                pause = self.settings.poll_seconds
            except ChainError as error:
                self.log("rpc.error", str(error), "warning", code=error.code)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
            self._look_again.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look_again.wait()

    async def _after_transaction(self, _key: str, _receipt: object) -> None:
        self._members_changed = True
        self._look_again.set()

    def members_may_have_changed(self) -> None:
        """The next snapshot reads all members again."""
        self._members_changed = True

    # --------------------------------------------------------------------- work

    def in_thread(self, work: Callable[[], _T], proceed: Callable[[_T | OmniLyticsError], Awaitable[None]]) -> None:
        """Runs work off the event loop; its result, or its error, comes back as an event."""

        async def run() -> None:
            outcome: _T | OmniLyticsError
            try:
                outcome = await asyncio.to_thread(work)
            except OmniLyticsError as error:
                outcome = error
            self._events.put_nowait(WorkDone(lambda: proceed(outcome)))

        task = asyncio.create_task(run())
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


@contextlib.contextmanager
def lock_home(home: Path) -> Any:
    """Holds the data folder for this process. Raises LockError naming the holder."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockError(
                f"data directory {home} in use by pid {holder}",
                help="stop that process, or use another --home",
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
