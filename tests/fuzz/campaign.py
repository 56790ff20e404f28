"""The campaign: rounds played to their end while messages of every hostile kind arrive at every stage."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omnilytics.daemon.model import ModelPart
from omnilytics.daemon.model_play import _EARLY_MESSAGES as MODEL_EARLY
from omnilytics.daemon.node import MAX_PRESENCES
from omnilytics.daemon.owner_play import _EARLY_MESSAGES as OWNER_EARLY
from omnilytics.peers.market import RoundPhase
from omnilytics.peers.masking import PairMask
from omnilytics.peers.model_round import ModelRound
from omnilytics.peers.owner_round import OwnerRound
from omnilytics.peers.phases import MODEL_MOVES, OWNER_MOVES, ModelStage, OwnerStage
from tests.fuzz.cast import Round, make_round
from tests.fuzz.mutations import Mutator, Shot
from tests.fuzz.oracle import Oracle, Verdict
from tests.fuzz.world import RUN, Attacked, Finding

MESSAGES_A_ROUND = 250
# A hello and what followed it; nothing makes anybody say more at once.
MOST_ANSWERS = 3
_ALLOWED = {(start, end) for (start, _), end in [*OWNER_MOVES.items(), *MODEL_MOVES.items()]}


@dataclass
class Tally:
    """What happened so far."""

    messages: int = 0
    rounds: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    heard_of: Counter[str] = field(default_factory=Counter)
    # Sealed with somebody's real keys; and those of all messages whose box the receiver could open.
    boxed: int = 0
    opened: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """A finding: the message to replay it with, and what was wrong."""

    index: int
    shot: Shot | None
    error: str


class Episode:
    """One round of one participant, with its share of messages."""

    def __init__(self, seed: int, number: int, tally: Tally) -> None:
        self.number = number
        self.tally = tally
        self.random = random.Random(f"{seed}/{number}")
        self.entropy = random.Random(f"{seed}/{number}/entropy")
        size = self.random.choice((3, 3, 3, 4, 5))
        before = make_round(str(seed), number + 1, size)
        self.round: Round = make_round(str(seed), number + 2, size)
        self.seat = None if self.random.random() < 0.3 else self.random.randrange(3 * size)
        self.attacked = Attacked(self.round, self.seat, self.entropy.randbytes)
        limit = MODEL_EARLY if self.seat is None else OWNER_EARLY
        self.oracle = Oracle(self.round, self.attacked.person, self.seat, limit)
        self.mutator = Mutator(self.random, self.round, before, self.oracle)
        self.masked = 0
        self.committed = 0
        self.trained = False
        self.sat_out = False
        self.shot: Shot | None = None
        self.stage_before: object = None
        if not isinstance(self.attacked.part, ModelPart):
            self.attacked.part.on_mask = self._on_mask
            self.attacked.part.on_commit = self._on_commit

    # ---------------------------------------------------------------- the round

    def steps(self) -> list[Callable[[], None]]:
        """How the round goes on; hostile messages come between the steps."""
        steps: list[Callable[[], None]] = [self._idle, self._commit_phase]
        who = list(self.oracle.peers.values())
        self.random.shuffle(who)
        for person, _ in who:
            steps.append(lambda p=person: self._say(p, 1))  # type: ignore[misc]
        self.random.shuffle(who)
        later: list[Callable[[], None]] = [
            lambda p=person: self._say(p, self.mutator.kinds(p)[1])  # type: ignore[misc]
            for person, _ in who
        ]
        later.insert(self.random.randrange(len(later) + 1), self._work)
        later.insert(self.random.randrange(len(later) + 1), lambda: self._wait(1.5))
        steps += later
        # What came before its hello, or before the work, once more.
        steps += [self._all_again, self._work, self._work, self._committed, self._close]
        chance = self.random.random()
        if chance < 0.1:
            del steps[self.random.randrange(3, len(steps)) : -1]
        elif chance < 0.15:
            steps.insert(self.random.randrange(3, len(steps) - 1), self._gone)
        elif chance < 0.2:
            steps.insert(self.random.randrange(3, len(steps) - 1), lambda: self._wait(30.0))
        return steps

    def play(self, trace: Callable[[int, Shot, Verdict], None] | None = None) -> None:
        """The whole round with its messages; raises Finding, or whatever the product let out."""
        steps = self.steps()
        weights = [self.random.expovariate(1.0) for _ in range(len(steps) + 1)]
        places = self.random.choices(range(len(steps) + 1), weights, k=MESSAGES_A_ROUND)
        for place in range(len(steps) + 1):
            for _ in range(places.count(place)):
                self.tally.stages[self._where()] += 1
                shot = self.mutator.shoot()
                opened = self.oracle.boxes_opened
                verdict = self._deliver(shot)
                self.tally.opened += self.oracle.boxes_opened - opened
                self._count(shot, verdict)
                if trace is not None:
                    trace(self.number * MESSAGES_A_ROUND + self._done - 1, shot, verdict)
            if place < len(steps):
                self.shot = None
                steps[place]()
                self._check(None)
        self._check_end()

    _done = 0

    def _count(self, shot: Shot, verdict: Verdict) -> None:
        self._done += 1
        tally = self.tally
        tally.messages += 1
        tally.kinds[shot.kind] += 1
        tally.boxed += shot.boxed
        tally.verdicts[verdict.value] += 1
        if verdict is Verdict.HEARD:
            tally.heard_of[shot.kind] += 1

    def _where(self) -> str:
        round_ = self.attacked.part._round
        who = "model owner" if self.seat is None else "owner"
        if round_ is not None:
            return f"{who}: {round_.stage.value}"
        if self.oracle.known_round == 0:
            return f"{who}: before the first block"
        return f"{who}: before the round" if self.oracle.known_round < self.round.number else f"{who}: after the round"

    # -------------------------------------------------------------------- steps

    def _idle(self) -> None:
        self.oracle.known_round = self.round.number - 1
        self.attacked.see(RoundPhase.IDLE, self.round.number - 1)

    def _commit_phase(self) -> None:
        # The machine draws its ephemeral key, then nonces: the oracle must know the key first.
        self.oracle.known_round = self.round.number
        self.attacked.see(RoundPhase.COMMIT, self.round.number)
        round_ = self.attacked.part._round
        if round_ is None:
            raise Finding("the round did not begin")
        # The first that it told about: what was heard early was heard under this key.
        self.oracle.opened(round_.keys.ephemeral)
        if not isinstance(round_, ModelRound) and (round_.opening.ctx != self.round.opening.ctx):
            raise Finding("another round began")

    def _say(self, who: object, kind: int) -> None:
        person = next(p for p, _ in self.oracle.peers.values() if p == who)
        self._deliver(self.mutator.genuine(person, kind))

    def _all_again(self) -> None:
        for person, _ in self.oracle.peers.values():
            for kind in self.mutator.kinds(person):
                self._deliver(self.mutator.genuine(person, kind))
                self._work()
        self._work()

    def _work(self) -> None:
        self.trained = self.trained or bool(self.oracle.has_key and self.attacked.node.waiting_work)
        self.attacked.work()

    def _wait(self, seconds: float) -> None:
        if self.attacked.part._round is not None and seconds > 20:
            self.sat_out = True
        self.attacked.wait(seconds)

    def _gone(self) -> None:
        """The broker says that a peer is away."""
        who = self.random.choice(list(self.oracle.peers))
        self.attacked.hand_over(f"omnilytics/{RUN}/presence/{who.hex()}", b"0")
        self._wait(8.0)
        self.sat_out = True

    def _committed(self) -> None:
        committed = frozenset({self.attacked.person.address} if self.committed else ())
        self.attacked.see(RoundPhase.COMMIT, self.round.number, committed)

    def _close(self) -> None:
        round_ = self.attacked.part._round
        if round_ is not None:
            who = "model owner" if self.seat is None else "owner"
            self.tally.ends[f"{who} ended {round_.stage.value}"] += 1
        self.oracle.open = False
        self.attacked.see(RoundPhase.POST, self.round.number)

    # ----------------------------------------------------------------- messages

    def _deliver(self, shot: Shot) -> Verdict:
        self.shot = shot
        verdict = self.oracle.judge(shot.topic, shot.payload)
        self.attacked.hand_over(shot.topic, shot.payload)
        self._check(verdict)
        if isinstance(shot.payload, bytes) and len(shot.payload) <= 4096:
            parts = shot.topic.split("/")
            if verdict is Verdict.HEARD:
                remembered = self.mutator.delivered
                remembered.append((bytes.fromhex(parts[6]), shot.payload))
                del remembered[:-32]
        return verdict

    def _on_mask(self, round_: OwnerRound, pairs: tuple[PairMask, ...], pad_seed: bytes) -> None:
        self.masked += 1
        oracle = self.oracle
        mates = [address for address, (_, place) in oracle.peers.items() if place >= 0]
        if not oracle.all_agreed() or not self.trained:
            raise Finding("a vector is ordered before everybody agreed")
        if sorted(pair.mate_address for pair in pairs) != sorted(mates):
            raise Finding("a vector is ordered with other masks than its mates'")
        for pair in pairs:
            if pair.seed != oracle.seed(pair.mate_address):
                raise Finding("a vector is ordered under a seed that the mate does not have")
        if pad_seed != self.round.pad_seeds[oracle.position]:
            raise Finding("a vector is ordered under another pad")
        if self.masked > 1:
            raise Finding("a second vector is ordered")

    def _on_commit(self, round_: OwnerRound) -> None:
        self.committed += 1
        if self.committed > 1 or not self.masked:
            raise Finding("a vector is committed twice, or was never masked")

    # ------------------------------------------------------------------- checks

    def _check(self, verdict: Verdict | None) -> None:
        """Everything that must hold after every message and every step."""
        attacked = self.attacked
        round_ = attacked.part._round
        sent = attacked.sent()
        self.tally.answers += len(sent)
        if verdict is not None:
            if sent and verdict is not Verdict.HEARD:
                raise Finding("a message that was not heard is answered")
            if len(sent) > MOST_ANSWERS:
                raise Finding(f"one message has {len(sent)} answers")
        self.mutator.overheard += [payload for _, payload in sent]
        del self.mutator.overheard[:-32]
        for where, payload in sent:
            if len(payload) > 512 or not where.startswith(f"omnilytics/{RUN}/"):
                raise Finding("something odd was sent")
        self._check_books()
        if round_ is not None:
            self._check_round(round_, verdict)
        else:
            self.stage_before = None
        node = attacked.node
        if len(node.online) > MAX_PRESENCES or len(attacked.log._secrets) > 6000:
            raise Finding("a memory without bounds")

    def _check_books(self) -> None:
        """Each message is in exactly one account, and in the right one."""
        attacked, oracle, part = self.attacked, self.oracle, self.attacked.part
        round_ = part._round
        if attacked.node.broker.dropped != oracle.broker_dropped:
            raise Finding(f"broker adapter dropped {attacked.node.broker.dropped}, should {oracle.broker_dropped}")
        # One of another task never reaches the part.
        dropped = part.dropped + attacked.node.unclaimed
        if dropped != oracle.part_dropped:
            raise Finding(f"part dropped {dropped}, should {oracle.part_dropped}")
        if len(part._early) != len(oracle.early):
            raise Finding(f"{len(part._early)} messages kept for the round, should be {len(oracle.early)}")
        if round_ is not None and round_.dropped != oracle.machine_dropped:
            raise Finding(f"round dropped {round_.dropped}, should {oracle.machine_dropped}")
        if attacked.log.dropped > oracle.broker_dropped + oracle.part_dropped + oracle.machine_dropped:
            raise Finding("more notes than dropped messages")
        if oracle.early.maxlen != len(oracle.early):
            wanted = oracle.broker_dropped + oracle.part_dropped + oracle.machine_dropped
            if attacked.log.dropped != wanted:
                raise Finding(f"{wanted} messages dropped, {attacked.log.dropped} noted")

    def _check_round(self, round_: OwnerRound | ModelRound, verdict: Verdict | None) -> None:
        oracle = self.oracle
        if dict(round_.hellos) != oracle.hellos:
            raise Finding("the ephemeral keys are not those that were told")
        before, self.stage_before = self.stage_before, round_.stage
        if before is not None and before is not round_.stage and (before, round_.stage) not in _ALLOWED:
            raise Finding(f"moved from {before} to {round_.stage}")
        if isinstance(round_, ModelRound):
            if round_.delivered != oracle.agreed:
                raise Finding("delivery is not what was acknowledged")
            if (round_.stage is ModelStage.WATCHING) != (oracle.agreed == oracle.peers.keys()):
                raise Finding("watching before everybody has the key, or not then")
            return
        if round_.stage is OwnerStage.SAT_OUT and not self.sat_out and verdict is not None:
            raise Finding("a message made an owner sit out")
        # What comes after the owner sat out is heard, so that mates get their answers, and changes nothing.
        if round_.agreed != oracle.agreed or set(round_.away) - set(oracle.peers):
            raise Finding("agreements are not those that were acknowledged")
        if round_.seeds.keys() != oracle.hellos.keys() - {self.round.model_owner.address}:
            raise Finding("seeds of others than the mates that said hello")
        if round_.stage is OwnerStage.SEEDING and round_.model_key is not None and not oracle.has_key:
            raise Finding("a model key that was never rightly given")
        if round_.stage is OwnerStage.SEEDING and oracle.all_agreed() and round_.quantised is not None:
            raise Finding("everybody agreed, and no vector is ordered")

    def _check_end(self) -> None:
        self.tally.rounds += 1
        self.tally.reasons += self.attacked.log.reasons
        self.tally.ends["vectors ordered"] += self.masked
        self.tally.ends["vectors committed"] += self.committed
        log = self.attacked.log
        log.summarise(at_once=True)
        if log.accounted != log.dropped:
            raise Finding(f"{log.dropped} messages dropped, the log accounts for {log.accounted}")
        if self.attacked.part._round is not None:
            raise Finding("the round is over, and its secrets are still there")
        secrets = (self.round.model_key, *self.round.pad_seeds, self.attacked.person.box.secret)
        said = " ".join(self.attacked.log.reasons)
        if any(value.hex() in said for value in secrets):
            raise Finding("a note shows a secret")


@dataclass(frozen=True)
class Memory:
    """What the process holds after its garbage is collected: resident bytes, and Python's allocated blocks.

    The blocks count every object that is still reachable; the resident bytes also what the allocators keep in reserve.
    """

    resident: int
    blocks: int


def memory() -> Memory:
    """Of this process, now; resident is 0 where the system does not say."""
    gc.collect()
    # What is free goes back to the system, where the C library can do that.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        status = ""
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return Memory(int(found[1]) * 1024 if found else 0, sys.getallocatedblocks())


def attack(seed: int, messages: int) -> Iterator[tuple[Tally, Failure | None]]:
    """Plays whole rounds until so many messages have arrived; yields after each."""
    tally = Tally()
    started = time.perf_counter()
    for number in range(-(-messages // MESSAGES_A_ROUND)):
        failure = play_one(seed, number, tally)
        tally.seconds = time.perf_counter() - started
        yield tally, failure


def play_one(
    seed: int, number: int, tally: Tally, trace: Callable[[int, Shot, Verdict], None] | None = None
) -> Failure | None:
    """One round; what went wrong, if anything did."""
    done = tally.messages
    episode: Episode | None = None
    try:
        episode = Episode(seed, number, tally)
        episode.play(trace)
    except Exception as error:  # noqa: BLE001  (whatever comes out here is what the fuzzer looks for)
        index = number * MESSAGES_A_ROUND + min(tally.messages - done, MESSAGES_A_ROUND - 1)
        return Failure(index, episode.shot if episode else None, f"{type(error).__name__}: {error}")
    return None
