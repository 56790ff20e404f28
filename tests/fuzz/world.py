"""One real participant, from the MQTT message to its round machine, in a world that stands still.

Broker adapter, node, part, round machine, training and masking are the product's. Chain, journal and transactions
are as little as they need; nothing runs by itself: the fuzzer turns every wheel.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.broker import Arrived, Broker
from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.config import Settings
from omnilytics.daemon.journal import Journal, StoredVector
from omnilytics.daemon.ledger import Exposure
from omnilytics.daemon.log import Logger
from omnilytics.daemon.model import ModelChoices, ModelPart
from omnilytics.daemon.node import Node, PresenceChanged, SnapshotSeen, Surroundings, TimePassed
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.training.optimisers import OptimiserState, Sgd
from omnilytics.daemon.transactions import TransactionQueue
from omnilytics.peers.errors import OmniLyticsError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.market import Outcome, RoundOpening, RoundPhase, TaskParams, TaskSnapshot, TaskState
from omnilytics.peers.masking import PairMask
from omnilytics.peers.messages import run_identifier
from omnilytics.peers.owner_round import OwnerRound
from tests.fuzz.cast import CHAIN_ID, MARKET, MODEL, SCALING, SPEC, TASK, Person, Round, dataset, keys_of

GENESIS = keccak(b"genesis")
RUN = run_identifier(CHAIN_ID, MARKET, GENESIS)

_T = TypeVar("_T")
# What may stand beside a message.dropped; anything else could carry what nobody may see.
_NOTE_FIELDS = {"code", "task", "round", "peer_to"}
_LONG_HEX = re.compile(r"[0-9a-f]{16}|\\x[0-9a-f]{2}", re.IGNORECASE)


class Finding(AssertionError):
    """Something that must never happen did."""


def run_now(coroutine: Coroutine[Any, Any, _T] | Awaitable[_T]) -> _T:
    """The result of a coroutine that waits for nothing."""
    try:
        cast("Coroutine[Any, Any, _T]", coroutine).send(None)
    except StopIteration as ended:
        return cast(_T, ended.value)
    raise Finding("a handler waits for something, and everything waits for it")


class ListeningLog(Logger):
    """The product's log; its lines are looked at and thrown away."""

    def __init__(self, role: str, peer: str, clock: Callable[[], float]) -> None:
        super().__init__(None, role, peer, clock=clock)
        self.reasons: Counter[str] = Counter()
        self.dropped = 0
        # Dropped messages that the lines account for.
        self.accounted = 0
        self._file = cast(Any, self)

    def write(self, line: str) -> int:
        """Takes the place of the file."""
        if len(line) > 4000 or "\n" in line[:-1]:
            raise Finding(f"a log line of {len(line)} characters, or more than one line")
        said = json.loads(line)
        if said["event"] == "message.dropped":
            self.accounted += said.get("data", {}).get("count", 1)
        return len(line)

    def close(self) -> None:
        """No file to close."""

    def __call__(self, event: str, msg: str = "", level: str = "info", **fields: Any) -> None:
        """Counts what was dropped, and looks for what must not be said."""
        if event in ("daemon.bug", "daemon.failed"):
            raise Finding(f"{event}: {msg}")
        if event == "message.dropped":
            self.dropped += 1
            self.reasons[re.sub(r"\d+", "#", msg)] += 1
            if _LONG_HEX.search(msg):
                raise Finding(f"a note shows bytes: {msg}")
            more = {name for name, value in fields.items() if value is not None} - _NOTE_FIELDS
            if more or len(fields.get("peer_to") or b"") not in (0, 20):
                raise Finding(f"a note says more than it should: {sorted(more)}")
        super().__call__(event, msg, level, **fields)


class MemoryJournal:
    """Remembers what the parts ask for; a second vector of a round is a finding."""

    def __init__(self, part_round: Round) -> None:
        self._values: dict[str, bytes] = {}
        self._round = part_round
        self._claimed: dict[tuple[int, int], bytes] = {}
        self.vectors: dict[tuple[int, int], StoredVector] = {}
        self._exposures: dict[tuple[int, int], Exposure] = {}

    def bind(self, name: str, value: bytes) -> bytes:
        return self._values.setdefault(name, value)

    def get(self, name: str) -> bytes | None:
        return self._values.get(name)

    def claim_round(self, task: int, round_number: int, ctx: bytes) -> bool:
        if (task, round_number) in self._claimed:
            return False
        self._claimed[task, round_number] = ctx
        return True

    def see_model(self, task: int, round_number: int, digest: bytes) -> int | None:
        return None

    def store_vector(self, task: int, round_number: int, stored: StoredVector) -> None:
        if (task, round_number) in self.vectors:
            raise Finding("a second vector for one round")
        self.vectors[task, round_number] = stored

    def vector(self, task: int, round_number: int) -> StoredVector | None:
        return self.vectors.get((task, round_number))

    def joins(self, task: int) -> bool:
        return False

    def decision(self, task: int) -> bool | None:
        return None

    def model_ending(self, task: int, round_number: int) -> bytes:
        return b""

    def plan_exposure(self, exposure: Exposure) -> None:
        self._exposures.setdefault((exposure.task, exposure.round), exposure)

    def enter_exposure(self, task: int, round_number: int) -> bool:
        return (task, round_number) in self._exposures

    def exposures(self) -> list[Exposure]:
        return []

    def round_secrets(self, task: int, round_number: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        known = round_number == self._round.number
        return (self._round.model_key, self._round.pad_seeds) if known else None

    def newest_model(self, task: int) -> tuple[int, NDArray[np.float64], bytes]:
        weights = np.zeros(MODEL.value_count)
        return self._round.number - 1, weights, OptimiserState(weights).to_bytes()


class StillChain:
    """Answers at once, about one task and one round."""

    chain_id = CHAIN_ID
    market = MARKET
    genesis = GENESIS
    run_name = RUN

    def __init__(self, part_round: Round) -> None:
        self._round = part_round
        self.newest: TaskSnapshot | None = None

    async def connect(self, expected_chain_id: int | None = None) -> None:
        pass

    async def head(self) -> Head:
        return Head(1, 12, bytes(32), 0, bytes(32))

    async def created_task(self, task_id: int, until: int) -> tuple[bytes, bytes]:
        return SPEC.encode(), self._round.model_owner.address

    async def params(self, task_id: int) -> TaskParams:
        return self._round.params

    async def state(self, task_id: int, block: int | None = None) -> TaskState:
        assert self.newest is not None
        return self.newest.state

    async def opening(self, task_id: int, round_number: int, until: int) -> RoundOpening:
        return self._round.opening

    async def payload(self, opening: RoundOpening) -> bytes:
        return self._round.payload

    async def round_endings(self, task_id: int, until: int) -> dict[int, Outcome]:
        return {}


class Orders:
    """In place of the queue of transactions: remembers the names of what was ordered."""

    idle = True

    def __init__(self) -> None:
        self.keys: Counter[str] = Counter()

    def wanted(self, key: str, block: int) -> bool:
        return key.startswith(("commit", "sitOut"))

    def submit(self, key: str, function: str, *arguments: Any, **fields: Any) -> None:
        self.keys[function] += 1


class StillNode(Node):
    """A node whose events and threads the fuzzer runs."""

    def in_thread(
        self, task: int | None, work: Callable[[], _T], proceed: Callable[[_T | OmniLyticsError], Awaitable[None]]
    ) -> None:
        """Keeps the work until the fuzzer does it."""
        self.waiting_work.append((work, proceed))

    waiting_work: list[tuple[Callable[[], Any], Callable[[Any], Awaitable[None]]]]


class WatchedOwner(OwnerPart):
    """Says when a vector is ordered, and with which masks."""

    on_mask: Callable[[OwnerRound, tuple[PairMask, ...], bytes], None]
    on_commit: Callable[[OwnerRound], None]

    def _mask(
        self, round_: OwnerRound, quantised: NDArray[np.int64], pairs: tuple[PairMask, ...], pad_seed: bytes
    ) -> None:
        self.on_mask(round_, pairs, pad_seed)
        super()._mask(round_, quantised, pairs, pad_seed)

    def _commit(self, round_: OwnerRound, vector: bytes, root: bytes, quantised: NDArray[np.int64]) -> None:
        self.on_commit(round_)
        super()._commit(round_, vector, root, quantised)


# The cast's task is smaller, and longer, than an owner would agree to.
LENIENT = Policy(
    minimum_batch_rows=1,
    minimum_group_samples=1,
    maximum_rounds_per_task=10**9,
    maximum_rounds_per_model_owner=10**9,
    maximum_rows_exposure=float("inf"),
)


class Attacked:
    """A participant under attack: the owner of a seat, or the model owner."""

    def __init__(self, part_round: Round, seat: int | None, entropy: Callable[[int], bytes]) -> None:
        self.round = part_round
        self.seat = seat
        self.person: Person = part_round.model_owner if seat is None else part_round.owners[seat]
        self.now = 0.0
        self.block = 100
        self.log = ListeningLog("model" if seat is None else "owner", self.person.address.hex(), lambda: self.now)
        self.journal = MemoryJournal(part_round)
        self.chain = StillChain(part_round)
        settings = Settings(Path("/nonexistent"), market="0x" + MARKET.hex())
        surroundings = Surroundings(
            chain=lambda url, market: cast(Chain, self.chain),
            broker=Broker,
            journal=lambda path: cast(Journal, self.journal),
            log=lambda path, role, peer, terminal: self.log,
            clock=lambda: self.now,
            entropy=entropy,
            signals=False,
        )
        self.node = StillNode(settings, keys_of(self.person), "fuzzed", surroundings)
        self.node.waiting_work = []
        self.orders = Orders()
        self.node.transactions = cast(TransactionQueue, self.orders)
        run_now(self.node._connect())
        self.part: WatchedOwner | ModelPart
        if seat is None:
            self.part = ModelPart(self.node, self._model_choices(), TASK)
        else:
            self.part = WatchedOwner(self.node, TASK, OwnerChoices(dataset(), lambda number: bytes(32), policy=LENIENT))
        run_now(self.part.prepare())
        self.runner = self.node.runner(self.part)

    @staticmethod
    def _model_choices() -> ModelChoices:
        async def no_offer(_chain: Chain) -> Any:
            raise AssertionError

        return ModelChoices(
            no_offer, SPEC, EnvelopeModel(MODEL, Sgd(0.1), np.zeros(MODEL.value_count), SCALING), dataset()
        )

    # ------------------------------------------------------------------ turning wheels

    def hand_over(self, where: str, payload: object) -> None:
        """A message as aiomqtt gives it to the broker adapter."""
        self.node.broker._arrived(where, payload)
        self.pump()

    def pump(self) -> None:
        """Handles every event that waits."""
        while self.runner.waiting:
            run_now(self.runner.handle_waiting())

    def _event(self, event: SnapshotSeen | PresenceChanged | TimePassed | Arrived) -> None:
        self.runner.put(event)
        self.pump()

    def see(self, phase: RoundPhase, number: int, committed: frozenset[bytes] = frozenset()) -> None:
        """A new block."""
        self.block += 1
        self.chain.newest = self.round.snapshot(phase, number, self.block, committed)
        self._event(SnapshotSeen(self.chain.newest))

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self._event(TimePassed())

    def work(self) -> None:
        """Whatever ran in a thread has ended."""
        waiting, self.node.waiting_work = self.node.waiting_work, []
        for work, proceed in waiting:
            try:
                outcome: Any = work()
            except OmniLyticsError as error:
                outcome = error
            run_now(proceed(outcome))
        self.pump()

    def sent(self) -> list[tuple[str, bytes]]:
        """What went out since the last call."""
        outgoing = self.node.broker._outgoing
        return [outgoing.get_nowait()[:2] for _ in range(outgoing.qsize())]
