"""As much of a node as the parts use, without a chain, a broker or threads: tests say when background work is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from omnilytics.daemon.chain import Head, PostedPart
from omnilytics.daemon.journal import Journal
from omnilytics.peers.errors import OmniLyticsError
from omnilytics.peers.market import Outcome, RoundOpening, TaskParams, TaskState
from omnilytics.peers.owner_round import Pace
from tests.market_views import state
from tests.round_network import Entropy


@dataclass
class Queue:
    """A transaction queue that only remembers what it was asked for; what is in `known` is not wanted again."""

    sent: list[tuple[str, tuple[Any, ...], int]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    remembers: bool = False

    def idle(self, task: int) -> bool:
        return True

    def wanted(self, key: str, block: int) -> bool:
        return key not in self.known

    def submit(self, key: str, function: str, *arguments: Any, value: int = 0, **fields: Any) -> None:
        self.sent.append((function, arguments, value))
        if self.remembers:
            self.known.add(key)


@dataclass
class ChainStub:
    """A chain that shows what a test puts here."""

    due: int = 0
    market: bytes = bytes(20)
    chain_id: int = 1
    head_hash: bytes = bytes(32)
    # How often each group was paid.
    paid: int = 0
    tasks: dict[int, tuple[bytes, TaskParams, TaskState]] = field(default_factory=dict)
    openings: dict[int, RoundOpening] = field(default_factory=dict)
    payloads: dict[int, bytes] = field(default_factory=dict)
    parts: list[PostedPart] = field(default_factory=list)
    events: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    endings: dict[int, Outcome] = field(default_factory=dict)
    # Of which settle calls the gas was asked: groups, words, whether the last.
    settles: list[tuple[int, int, bool]] = field(default_factory=list)

    async def withdrawable(self, account: bytes, tasks: list[int], block: int | None = None) -> int:
        return self.due

    async def paid_rounds(self, task: int) -> list[int]:
        return [self.paid] * 3

    async def head(self) -> Head:
        return Head(100, 500, self.head_hash, 0, bytes(32))

    async def task_count(self) -> int:
        return max(self.tasks, default=0)

    async def created_task(self, task: int, until: int) -> tuple[bytes, bytes]:
        return self.tasks[task][0], state().model_owner

    async def params(self, task: int) -> TaskParams:
        return self.tasks[task][1]

    async def state(self, task: int, block: int | None = None) -> TaskState:
        return self.tasks[task][2]

    async def opening(self, task: int, round_number: int, until: int) -> RoundOpening:
        return self.openings[round_number]

    async def payload(self, opening: RoundOpening) -> bytes:
        return self.payloads[opening.round]

    async def posted(self, opening: RoundOpening, until: int) -> list[PostedPart]:
        return self.parts

    async def settle_gas(self, groups: int, group_size: int, words: int, lane_bits: int, last: bool) -> int:
        self.settles.append((groups, words, last))
        return 1_000_000

    async def round_events(self, event: str, opening: RoundOpening, until: int) -> list[Mapping[str, Any]]:
        return self.events.get(event, [])

    async def round_endings(self, task: int, until: int) -> dict[int, Outcome]:
        return self.endings


@dataclass
class LogStub:
    """A log that can be read back, and knows what it must never say."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    protected: set[bytes] = field(default_factory=set)

    def __call__(self, event: str, msg: str = "", level: str = "info", **fields: Any) -> None:
        self.events.append((event, {"msg": msg, "level": level, **fields}))

    def protect(self, *secrets: bytes, keep: bool = False) -> None:
        self.protected |= set(secrets)


@dataclass
class BrokerStub:
    """Keeps what is sent: (task, round, receiver, envelope)."""

    sent: list[tuple[int, int, bytes, bytes]] = field(default_factory=list)

    def send(self, task: int, round_number: int, receiver: bytes, payload: bytes) -> None:
        self.sent.append((task, round_number, receiver, payload))


@dataclass
class NodeStub:
    """As much of a node as a part uses."""

    me: bytes
    journal: Journal
    transactions: Queue = field(default_factory=Queue)
    chain: ChainStub = field(default_factory=ChainStub)
    log: LogStub = field(default_factory=LogStub)
    clock: Callable[[], float] = lambda: 0.0
    entropy: Callable[[int], bytes] = field(default_factory=lambda: Entropy("node"))
    broker: BrokerStub = field(default_factory=lambda: BrokerStub())
    keys: Any = None
    pace: Pace = field(default_factory=Pace)
    heads: Any = field(default_factory=lambda: SimpleNamespace(observe=lambda head: None, pause=lambda least: least))
    # Background work that is under way: what it computes, and what happens then.
    working: list[tuple[Callable[[], Any], Callable[[Any], Awaitable[None]]]] = field(default_factory=list)

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.log.events if name == event]

    def members_may_have_changed(self, task: int) -> None:
        pass

    def in_thread(self, task: int, work: Callable[[], Any], proceed: Callable[[Any], Awaitable[None]]) -> None:
        self.working.append((work, proceed))

    async def work_done(self, number: int = 0) -> None:
        """One piece of background work ends, and its result comes back."""
        work, proceed = self.working.pop(number)
        try:
            outcome = work()
        except OmniLyticsError as error:
            outcome = error
        await proceed(outcome)
