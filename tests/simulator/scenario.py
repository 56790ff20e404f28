"""One scenario: a task from its creation to the last wei, in virtual time, and what is checked when it is over."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from eth_account import Account
from numpy.typing import NDArray

from omnilytics.daemon.config import Settings
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log import Logger
from omnilytics.daemon.model import ModelChoices, ModelPart
from omnilytics.daemon.node import Node, Part, Surroundings
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.protection.feature_map import MapShape, RandomFeatures
from omnilytics.daemon.protection.secret_head import SecretHeadModel
from omnilytics.daemon.protection.sides import ModelSide, honest_statistic
from omnilytics.daemon.task_offer import TaskOffer
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.optimisers import Momentum
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.errors import OmniLyticsError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import MemberStatus, Outcome, RoundPhase, TaskState, TaskStatus, bits
from tests.envelope_sides import model_of
from tests.simulator.actors import Stage, model_class, owner_class, owner_statistic
from tests.simulator.codec import interface
from tests.simulator.disk import FaultyJournal
from tests.simulator.evm import FIRST_BLOCKS, GENESIS_TIME, Evm
from tests.simulator.invariants import Monitor
from tests.simulator.ledger import Block, ChainView, Ledger
from tests.simulator.life import CrashedError, Faults, Life
from tests.simulator.plan import BATCH_ROWS, Plan
from tests.simulator.post_office import PostOffice, SimulatedBroker
from tests.simulator.signing import QuickKeys
from tests.simulator.virtual_time import VirtualLoop

ETHER = 10**18
# So long after the latest moment at which a task can end, everybody must be done.
GRACE_SECONDS = 400.0
# Longer than the longest pause between two attempts of a daemon at anything.
READY_SECONDS = 35.0
# The same where nothing has failed at which a daemon tries again with growing pauses.
QUICKLY_READY_SECONDS = 8.0
# A daemon's patience is measured in seconds: a tick each half second, not each fifth, saves a fifth of all work.
TICK_SECONDS = 0.5
_COUNTED_LOGS = frozenset(
    (
        *("broker.lost", "message.dropped", "round.missed", "round.sat-out", "rpc.error", "tx.resent", "tx.reverted"),
        *("tx.bumped", "tx.refused", "train.refused", "logs.incomplete", "daemon.failed"),
    )
)


@dataclass(frozen=True)
class Report:
    """How a scenario went."""

    plan: Plan
    rounds: int
    outcomes: Counter[str]
    violations: list[str]
    checks: int
    seconds: float
    blocks: int
    transactions: int
    # The same for every run of the same plan.
    digest: str


class SimulatedLogger(Logger):
    """The product's logger; its lines go to the monitor and, where wanted, to a trace."""

    def __init__(self, path: Path | None, role: str, peer: str, terminal: TextIO | None, owner: Participant) -> None:
        self._owner = owner
        super().__init__(None, role, peer, None, owner.world.loop.time)
        self._file = owner  # type: ignore[assignment]
        # Messages that were dropped, and those that its lines account for.
        self._dropped = 0
        owner.accounted = 0

    def protect(self, *values: bytes, keep: bool = False) -> None:
        for value in values:
            self._owner.world.monitor.keep_secret(value, "protected secret")
        super().protect(*values, keep=keep)

    def __call__(self, event: str, msg: str = "", level: str = "info", **fields: Any) -> None:
        if self._silent:
            return
        self._dropped += event == "message.dropped"
        super().__call__(event, msg, level, **fields)
        self._owner.saw(event, msg, fields)

    @property
    def _silent(self) -> bool:
        return not self._owner.life.alive or self._owner.world.over

    def summarise(self, at_once: bool = False) -> None:
        if not self._silent:
            super().summarise(at_once)

    def close(self) -> None:
        if self._silent:
            return
        self.summarise(at_once=True)
        owner = self._owner
        owner.world.monitor.require(
            owner.accounted == self._dropped,
            "every dropped message is logged or counted",
            f"{owner.name} dropped {self._dropped}, its log accounts for {owner.accounted}",
        )


@dataclass
class Participant:
    """One participant over all its lives."""

    world: World
    name: str
    index: int
    keys: Keys
    home: Path
    life: Life
    role: str
    entropy: random.Random
    make_part: Callable[[Participant, Node], Part]
    # Its clock runs this much too fast.
    drift: float = 1.0
    lives: int = 0
    done: bool = False
    # Seconds until it comes back after its next death; None: never.
    away: float | None = 3.0
    part: Part | None = None
    node: Node | None = None
    running: asyncio.Task[None] | None = None
    stage: Stage = field(default_factory=Stage)
    accounted: int = 0
    done_at: float = 0.0

    def write(self, line: str) -> int:
        """A line of its log."""
        self.world.monitor.saw_log(line)
        if '"event":"message.dropped"' in line:
            self.accounted += json.loads(line).get("data", {}).get("count", 1)
        return len(line)

    def saw(self, event: str, msg: str, fields: dict[str, Any]) -> None:
        """Something that it logged."""
        world = self.world
        if world.trace is not None:
            shown = {
                k: v for k, v in fields.items() if k in ("round", "group", "phase", "function", "block", "missing")
            }
            world.trace(f"{self.name:<10} {event:<18} {msg} {shown or ''}")
        if event in ("daemon.bug", "krum.disagreement"):
            world.monitor.fail("no bugs", f"{self.name}: {event}: {msg}")
        if event in _COUNTED_LOGS:
            world.counters[f"log: {event}"] += 1

    async def live(self) -> None:
        """Lives, dies and lives again until everything is done."""
        world = self.world
        while not self.done and not world.over:
            self.lives += 1
            self.life = Life(self.name)
            error: BaseException | None = None
            try:
                self.node = self._node()
                self.part = self.make_part(self, self.node)
                self.running = asyncio.create_task(self.node.run(self.part))
                await asyncio.wait([self.running])
                if not self.running.cancelled():
                    error = self.running.exception()
            except (CrashedError, OmniLyticsError) as before_running:
                error = before_running
            if error is not None and not isinstance(error, (CrashedError, OmniLyticsError)):
                told = "".join(traceback.format_exception(error))
                if world.trace is not None:
                    world.trace(told)
                world.monitor.fail("no bugs", f"{self.name}: {type(error).__name__}: {error}")
                return
            self._close()
            if self.life.alive:
                self.life.die()
                if self.part is not None and self.part.finished:
                    self.done, self.done_at = True, world.loop.time()
                    return
                world.counters["daemon gave up and was started again"] += 1
                world.faults.touch(self.name)
                if world.trace is not None:
                    world.trace(f"{self.name:<10} EXIT {error}")
                await asyncio.sleep(5.0)
                continue
            world.faults.touch(self.name)
            if self.stage.gone and self.has_copy:
                shutil.rmtree(self.home)
                self._copy.rename(self.home)
            if self.away is None:
                return
            away, self.away = self.away, 3.0
            await asyncio.sleep(away)
            world.faults.touch(self.name)
            world.counters["restarts after a crash"] += 1

    @property
    def _copy(self) -> Path:
        return self.home.with_name(self.home.name + ".old")

    @property
    def has_copy(self) -> bool:
        """Whether there is an older copy of its folder."""
        return self._copy.exists()

    def copy_folder(self) -> None:
        """A copy of its folder, as a careless backup makes it."""
        if not self.has_copy:
            shutil.copytree(self.home, self._copy)

    def kill(self, away: float | None) -> None:
        """kill -9, from outside."""
        if self.done or not self.life.alive:
            return
        self.away = away
        self.world.faults.touch(self.name)
        if self.world.trace is not None:
            self.world.trace(f"{self.name:<10} KILLED for {away} s")
        self.life.die()
        if self.running is not None:
            self.running.cancel()

    def go_home(self) -> None:
        """Ends for good, as its user would end it."""
        self.done, self.done_at, self.away = True, self.world.loop.time(), None
        self.life.die()
        if self.running is not None:
            self.running.cancel()

    def die_now(self, away: float | None) -> None:
        """kill -9, from within one of its own steps."""
        self.away = away
        self.world.faults.touch(self.name)
        self.life.die()
        raise CrashedError(self.name)

    def _close(self) -> None:
        if self.node is not None:
            self.node.journal.close()

    def _node(self) -> Node:
        world, life = self.world, self.life
        surroundings = Surroundings(
            chain=lambda url, market: ChainView(world.ledger, self.keys.address, life, self.entropy),
            broker=functools.partial(SimulatedBroker, office=world.office, life=life),
            journal=lambda path: world.journal_class(path, life, world.faults, self.entropy),
            log=lambda path, role, peer, terminal: SimulatedLogger(path, role, peer, terminal, self),
            clock=lambda: world.loop.time() * self.drift + 1000.0 * (self.index + 2),
            # A quarter of them are off by more than a daemon takes without a word.
            wall=lambda: GENESIS_TIME + FIRST_BLOCKS + world.loop.time() * self.drift + 20.0 * (self.index % 5),
            entropy=self.entropy.randbytes,
            tick_seconds=TICK_SECONDS,
            signals=False,
        )
        settings = Settings(
            self.home,
            market="0x" + world.ledger.market.hex(),
            finality_depth=world.plan.finality_depth,
            poll_seconds=1.0,
            patience_seconds=world.plan.patience,
        )
        return Node(settings, self.keys, self.role, surroundings)


class World:
    """Everything there is in a scenario."""

    def __init__(
        self,
        plan: Plan,
        evm: Evm,
        counters: Counter[str],
        trace: Callable[[str], None] | None = None,
        journal_class: type[FaultyJournal] = FaultyJournal,
    ) -> None:
        self.plan = plan
        self.counters = counters
        self.journal_class = journal_class
        self.loop = VirtualLoop(plan.entropy("threads"))
        self.trace = (lambda text: trace(f"{self.loop.now:9.3f} {text}")) if trace is not None else None
        self.faults = Faults(plan.rates, counters)
        self.faults.clock = self.loop.time
        if plan.appointed is not None:
            name, kind, nth = plan.appointed
            self.faults.appointed[name, kind] = nth
        # By round: who was in good order when it opened.
        self.ready: dict[int, set[str]] = {}
        self.opened_at: dict[int, float] = {}
        self._reorg_due = plan.appointed_reorg
        self.ledger = Ledger(evm, self.loop, plan.entropy("chain"), self.faults, plan.params.block_seconds)
        self.office = PostOffice(self.loop, plan.entropy("broker"), self.faults)
        self.over = False
        self._finished = asyncio.Event()
        self.monitor = Monitor(self.ledger, self.faults, self._finished.set, self.loop.time)
        self.monitor.params = plan.params
        self.ledger.on_call = self.monitor.saw_call
        self.ledger.on_block = self._saw_block
        self.office.on_sent = self.monitor.saw_message
        shared = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="omnilytics-sim-", dir=shared if shared.is_dir() else None))
        self.entropy = plan.entropy("world")
        self.calm_from: int | None = None
        self.people: list[Participant] = []
        self.model_owner = self._hire(-1)
        self.owners = [self._hire(index) for index in range(plan.owner_count)]

    # ------------------------------------------------------------------ people

    def _hire(self, index: int) -> Participant:
        plan = self.plan
        name = "model" if index < 0 else f"owner-{index:02d}"
        entropy = plan.entropy(f"participant {name}")
        keys = QuickKeys(Account.from_key(entropy.randbytes(32)), BoxIdentity.from_entropy(entropy.randbytes(32)))
        make = self._model_part if index < 0 else self._owner_part
        role = "model" if index < 0 else "owner"
        home = self.folder / name
        person = Participant(self, name, index, keys, home, Life(name), role, entropy, make)
        person.drift = entropy.uniform(0.9, 1.1)
        self.monitor.boxes[keys.address] = keys.box
        self.people.append(person)
        self.ledger.fund(keys.address, 1000 * ETHER)
        monitor = self.monitor
        monitor.accounts.append(keys.address)
        monitor.homes[keys.address] = home
        monitor.names[keys.address] = name
        for secret in keys.secrets():
            monitor.keep_secret(secret, f"long-term key of {name}")
        hostile = plan.model_role is not None if index < 0 else index in plan.roles
        if hostile or index in plan.absences:
            monitor.hostile.add(keys.address)
        return person

    def _dataset(self, purpose: str, rows: int) -> Dataset:
        generator = np.random.default_rng(int.from_bytes(self.plan.bytes(purpose, 8), "big"))
        spec = self.plan.spec
        labels = generator.integers(0, len(spec.classes), rows)
        features = generator.normal(size=(rows, spec.feature_count)) + labels[:, None]
        return Dataset(features, labels.astype(np.int64), spec.classes)

    def _owner_part(self, person: Participant, node: Node) -> OwnerPart:
        statistic = owner_statistic(self.plan, person.index) or honest_statistic
        batches = self.plan.entropy(f"batches {person.name} {person.lives}")
        rows = BATCH_ROWS * self.plan.params.rounds if self.plan.spec.means.fresh_rows else 10
        choices = OwnerChoices(
            self._dataset(person.name, rows),
            lambda number: batches.randbytes(32),
            # A plan's batches are smaller than an owner would agree to.
            policy=Policy(
                minimum_batch_rows=6, minimum_group_samples=18, allow_thin_sums=True, maximum_value_share=100.0
            ),
            statistic=statistic,
        )
        return owner_class(self, person)(node, None, choices)

    def _model_part(self, person: Participant, node: Node) -> ModelPart:
        plan, test = self.plan, self._dataset("test", 12)
        generator = np.random.default_rng(plan.number)

        async def offer(_chain: object) -> TaskOffer:
            return TaskOffer(plan.params, plan.spec)

        scaling = FeatureScaling.fit(test.features)
        side: ModelSide
        if plan.spec.protection == "secret-head":
            shape = MapShape.parse(plan.spec.architecture)
            feature_map = RandomFeatures(plan.spec.feature_count, shape.width, plan.bytes("map", 32))
            side = SecretHeadModel(feature_map, len(plan.spec.classes), scaling, test)
        else:
            weights = generator.normal(size=plan.params.value_count) * 0.01
            side = EnvelopeModel(model_of(plan.spec.side), Momentum(0.1, 0.5), weights, scaling)
        choices = ModelChoices(offer, plan.spec, side, test)
        return model_class(self, person)(node, choices)

    # ------------------------------------------------------------------ running

    def run(self) -> Report:
        """Plays the scenario to its end."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._play())
        finally:
            self._clean_up()
        ended = self.ledger.by_name["RoundEnded"]
        outcomes = Counter(Outcome(log.arguments["outcome"]).name.lower() for log in ended)
        transactions = sum(len(block.transactions) for block in self.ledger.blocks)
        digest = keccak(
            self.ledger.blocks[-1].hash, repr(sorted(outcomes.items())).encode(), f"{self.loop.now:.6f}".encode()
        )
        return Report(
            self.plan,
            len(ended),
            outcomes,
            self.monitor.violations,
            self.monitor.checks,
            self.loop.now,
            len(self.ledger.blocks),
            transactions,
            digest.hex()[:16],
        )

    def _clean_up(self) -> None:
        self.over = True
        for person in self.people:
            person.life.alive = False
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        for task in tasks:
            if not task.cancelled():
                task.exception()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _play(self) -> None:
        background = [asyncio.create_task(self.ledger.run()), asyncio.create_task(self._weather())]
        living = [asyncio.create_task(self._arrive(person)) for person in self.people]
        everybody = asyncio.create_task(_all_of(living))
        stopping = asyncio.create_task(self._finished.wait())
        limit = self._longest()
        await asyncio.wait({everybody, stopping, *background}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in background:
            if task.done():
                task.result()
        late = not everybody.done()
        if everybody.done():
            everybody.result()
        if self.monitor.violations:
            return
        if late:
            unfinished = [person.name for person in self.people if not person.done and person.away is not None]
            self.monitor.fail("nothing is stuck", f"after {limit:.0f} s these still run: {', '.join(unfinished)}")
            return
        for task in background:
            task.cancel()
        self._sweep()
        self._final_checks()

    async def _arrive(self, person: Participant) -> None:
        await asyncio.sleep(0.0 if person.index < 0 else self.entropy.uniform(1.0, 6.0))
        await person.live()

    def _longest(self) -> float:
        p = self.plan.params
        a_round = p.open_seconds + p.commit_seconds + p.post_seconds + p.settle_seconds
        silence = (p.max_empty_rounds + 1) * p.open_seconds
        away = sum(absence.seconds for absences in self.plan.absences.values() for absence in absences)
        stalls = 60 if self.plan.rates.chain_stall else 0
        return p.join_seconds + p.reveal_seconds + p.rounds * (a_round + stalls) + silence + away + GRACE_SECONDS

    # ------------------------------------------------------------------ weather

    async def _weather(self) -> None:
        """What happens to everybody: kills, partitions, a broker that is down."""
        entropy, faults = self.plan.entropy("weather"), self.faults
        while True:
            await asyncio.sleep(1.0)
            self._send_home()
            if faults.strikes("kill", entropy):
                entropy.choice(self.people).kill(entropy.choice((0.2, 1.0, 5.0, 20.0, 60.0)))
            if not self.office.cut_off and faults.strikes("partition", entropy):
                count = entropy.randint(1, max(1, len(self.people) // 2))
                self.office.cut_off = frozenset(p.keys.address for p in entropy.sample(self.people, count))
                self.loop.call_later(entropy.uniform(1, 40), self._heal)
            if not self.office.down and faults.strikes("broker_down", entropy):
                self.office.drop_all()
                self.loop.call_later(entropy.uniform(1, 40), self._heal)

    def _send_home(self) -> None:
        """When all others are done: who came too late for the only task would look for another one for ever."""
        rest = [person for person in self.people if not person.done and person.away is not None]
        state = self.state()
        if state is None or state.status is TaskStatus.JOINING or not rest:
            return
        if any(person.index < 0 or (person.part is not None and person.part.task_id is not None) for person in rest):
            return
        joined = {bytes.fromhex(member[0][2:]) for member in self.ledger.read("getMembers", 1)}
        if joined.isdisjoint(person.keys.address for person in rest):
            for person in rest:
                person.go_home()

    def _heal(self) -> None:
        self.office.cut_off = frozenset()
        self.office.down = False
        self.faults.touch("")

    def _saw_block(self, block: Block) -> None:
        if self.trace is not None:
            events = ", ".join(log.name for log in block.logs)
            self.trace(f"block {block.number} at +{block.time - self.ledger.blocks[0].time} s: {events}")
        self.monitor.saw_block(block)
        opened = self.ledger.by_name["RoundOpened"]
        newest = opened[-1].arguments["round"] if opened else 0
        rounds, calm = self.plan.params.rounds, self.plan.calm_rounds
        if any(log.name == "RoundOpened" for log in block.logs) and self.calm_from is not None:
            self.opened_at[newest] = self.loop.now
            self.ready[newest] = {person.name for person in self.people if self._is_ready(person)}
        if self._reorg_due is not None:
            self._reorg_when_due(*self._reorg_due)
        if self.faults.active and (newest > rounds - calm or self.loop.now > 0.6 * self._longest()):
            self.faults.active = False
            self._heal()
            self.calm_from = newest + 1

    def _is_ready(self, person: Participant) -> bool:
        """Alive, connected, and without any trouble for longer than the longest backoff."""
        connected = person.node is not None and person.life.alive and person.node.broker.connected.is_set()
        rates = self.plan.rates
        patient = rates.rpc_error or rates.rpc_timeout or rates.broker_down or rates.transaction_answer_lost
        pause = READY_SECONDS if patient else QUICKLY_READY_SECONDS
        return connected and not self.faults.touched_since(person.name, self.loop.now - pause)

    def _reorg_when_due(self, where: str, depth: int) -> None:
        state = self.state()
        if state is None or len(self.ledger.blocks) <= FIRST_BLOCKS + depth:
            return
        place = state.phase.name if state.status is TaskStatus.RUNNING else state.status.name
        if place.lower() == where:
            self._reorg_due = None
            self.faults.touch("")
            self.loop.call_later(0.5, self.ledger.reorg, depth)

    # ---------------------------------------------------------------------- end

    def state(self) -> TaskState | None:
        """The task as the newest block has it."""
        if not self.ledger.by_name["TaskCreated"]:
            return None
        values = list(self.ledger.read("getTask", 1))
        names = list(TaskState.__dataclass_fields__)
        named = dict(zip(names, values, strict=True))
        named["status"], named["phase"] = TaskStatus(named["status"]), RoundPhase(named["phase"])
        return TaskState(**named)

    def _sweep(self) -> None:
        """Strangers end the task when nobody else does; then all who are gone collect what is theirs."""
        ledger, evm = self.ledger, self.ledger.evm
        state = self.state()
        if state is None:
            self.monitor.require(self.plan.model_role is not None, "nothing is stuck", "the task was never created")
            return
        market = "0x" + ledger.market.hex()
        for _ in range(4 * self.plan.params.rounds + 20):
            state = self.state()
            assert state is not None
            if state.over:
                break
            ledger.mine(max(ledger.blocks[-1].time, state.phase_end) + 100 * self.plan.params.open_seconds)
            self._as(b"\x57" * 20, market, interface().functions["poke"].call(1))
        self.monitor.require(state.over, "a task always ends", f"it is {state.status.name} {state.phase.name}")
        for person in self.people:
            account = person.keys.address
            due = ledger.read("withdrawable", "0x" + account.hex(), [1])
            # Nobody can know of a reorg deeper than it waits for that comes after it has gone.
            undone = any(
                moment >= person.done_at and depth > self.plan.finality_depth for moment, depth in ledger.reorgs
            )
            if person.done and not undone:
                self.monitor.require(due == 0, "who is done has collected everything", f"{person.name}: {due} wei")
            if due:
                self._as(account, market, interface().functions["withdraw"].call([1], "0x" + account.hex()))
        balance = int(evm.rpc("eth_getBalance", market, "latest"), 16)
        burned = ledger.read("totalBurned")
        self.monitor.require(
            balance == burned, "every wei can be withdrawn", f"{balance} wei stay in the contract, {burned} are burned"
        )

    def _as(self, account: bytes, to: str, data: bytes) -> None:
        evm = self.ledger.evm
        sender = "0x" + account.hex()
        evm.rpc("anvil_setBalance", sender, hex(1000 * ETHER))
        evm.rpc("anvil_impersonateAccount", sender)
        evm.rpc("eth_sendTransaction", {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(12_000_000)})
        self.ledger.mine(self.ledger.blocks[-1].time + 1)
        evm.rpc("anvil_stopImpersonatingAccount", sender)

    def _final_checks(self) -> None:
        monitor = self.monitor
        monitor.search()
        monitor.check_money()
        monitor.paid_once()
        for text in self.loop.unhandled:
            monitor.fail("no bugs", text)
        self._check_decrypted()
        self._check_liveness()

    def _check_decrypted(self) -> None:
        """What the model owner decrypted is what the owners' journals say."""
        monitor = self.monitor
        path = self.model_owner.home / "journal.sqlite"
        if not path.exists():
            return
        journal = Journal(path)
        sums = journal.group_sums(1)
        journal.close()
        for (number, group), found in sums.items():
            # Where a reorg has taken the round, or its posts, for good, what was decrypted is of the fork that lost.
            played = monitor._round_logs("RoundOpened", number) and group in monitor._complete(number)
            contexts = {monitor._ctx(number)} if played else monitor.contexts(number)
            monitor.require(
                any(self._is_sum(found, number, group, ctx) for ctx in contexts),
                "decrypted sums are sums of journalled updates",
                f"round {number}, group {group}",
            )
        ended = [log.arguments["round"] for log in self.ledger.by_name["RoundEnded"]]
        if self.model_owner.done:
            for number in ended:
                for group in monitor._complete(number):
                    monitor.require(
                        (number, group) in sums,
                        "the model owner decrypts every complete group",
                        f"round {number}, group {group}",
                    )

    def _is_sum(self, found: NDArray[np.int64], number: int, group: int, ctx: bytes) -> bool:
        """Whether a decrypted sum is that of a whole group's journalled updates."""
        monitor = self.monitor
        made = [m for many in monitor.masked.values() for m in many if m.ctx == ctx and m.group == group]
        by_owner = {m.owner: m for m in made if monitor.roots.get((m.owner, number)) == m.root}
        true = sum(m.quantised for m in by_owner.values())
        return len(by_owner) == self.plan.params.group_size and np.array_equal(found, true)

    def _check_liveness(self) -> None:
        plan, monitor, ledger = self.plan, self.monitor, self.ledger
        endings = {log.arguments["round"]: log.arguments for log in ledger.by_name["RoundEnded"]}
        state = self.state()
        if state is None:
            return
        enough = plan.owner_count >= plan.params.group_size * plan.params.minimum_groups
        if plan.profile == "calm" and enough:
            every = (1 << state.group_count) - 1
            monitor.require(
                sorted(endings) == list(range(1, plan.params.rounds + 1)), "without faults every round is played", ""
            )
            for number, said in endings.items():
                complete = monitor._complete(number)
                monitor.require(
                    said["outcome"] == Outcome.SELECTED and complete == bits(every),
                    "without faults every round is selected",
                    f"round {number}: {Outcome(said['outcome']).name}, groups {complete}",
                )
        if plan.model_role is not None or self.calm_from is None:
            return
        gone = {monitor.names[a] for a in monitor.hostile}
        groups: dict[int, set[str]] = {}
        for member in ledger.read("getMembers", 1):
            if member[2] != 255 and MemberStatus(member[3]) in (MemberStatus.SEATED, MemberStatus.OUT):
                groups.setdefault(member[2] // plan.params.group_size, set()).add(monitor.name(member[0]))
        for opened in ledger.by_name["RoundOpened"]:
            number, playable = opened.arguments["round"], bits(opened.arguments["playable"])
            ready = self.ready.get(number, set())
            if number not in endings or "model" not in ready:
                continue
            # A fault appointed for later may strike in the calm, too.
            struck = {name for name in ready if self.faults.touched.get(name, -1.0) > self.opened_at[number]}
            fine = [g for g in playable if groups[g] <= ready - gone - struck]
            complete = monitor._complete(number)
            # A model owner that is struck loses the round's keys, and nobody can commit.
            if len(fine) < plan.params.minimum_groups or "model" in struck:
                continue
            self.counters["groups that had to be back, and were"] += len(fine)
            monitor.require(
                set(fine) <= set(complete),
                "who is back joins the next round",
                f"round {number}: groups {fine} were fine, {complete} complete",
            )


async def _all_of(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


def run_scenario(
    plan: Plan,
    evm: Evm,
    counters: Counter[str],
    trace: Callable[[str], None] | None = None,
    journal_class: type[FaultyJournal] = FaultyJournal,
) -> Report:
    """Plays one plan."""
    return World(plan, evm, counters, trace, journal_class).run()
