"""The market as its logs tell it: what is remembered of participants, tasks and rounds. Plain values, all bounded.

Whatever can grow is either a total or keeps the newest N, so that a gigabyte of logs needs no more memory than a
day's. What was let go is counted in Honesty.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

MAX_PARTICIPANTS = 2048
MAX_TASKS = 64
# Of each task; an evicted round lives on in the task's totals.
MAX_ROUNDS = 512
# Distances are G x G for each round; scores are kept for all rounds, these for the newest.
MAX_DISTANCE_ROUNDS = 64
# Seeds agreed pair by pair are of interest while a round runs.
MAX_SEED_ROUNDS = 2
MAX_OWNERS_OF_ROUND = 1024
MAX_FUNCTIONS = 64
MAX_CODES = 128
MAX_DURATIONS = 2048
MAX_MISSING = 1024
MAX_PENDING = 64
MAX_DISAGREEMENTS = 64


@dataclass(slots=True)
class GasUse:
    """Transactions of one function: how many, gas in all and at most, fees in wei."""

    count: int = 0
    gas: int = 0
    largest: int = 0
    fees: int = 0
    reverted: int = 0

    def add(self, gas: int, fee: int, reverted: bool) -> None:
        """One mined transaction."""
        self.count += 1
        self.gas += gas
        self.largest = max(self.largest, gas)
        self.fees += fee
        self.reverted += reverted

    def add_all(self, other: GasUse) -> None:
        """The transactions of another total."""
        self.count += other.count
        self.gas += other.gas
        self.largest = max(self.largest, other.largest)
        self.fees += other.fees
        self.reverted += other.reverted


@dataclass(slots=True)
class Life:
    """One life of a daemon (boot_id): which of its lines have been seen."""

    last: int = 0
    # Numbers that were skipped; they may still come.
    missing: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Participant:
    """A daemon, by its address. Times are Unix seconds by its own clock, amounts wei."""

    peer: str
    role: str
    name: str
    first_ts: float
    last_ts: float
    lives: dict[str, Life] = field(default_factory=dict)
    boots: int = 0
    # Lives that ended without a goodbye: the newest round of each, and when it was last heard of.
    deaths: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=32))
    round: int = 0
    # Whether the newest life has said goodbye, and how.
    exit_reason: str | None = None
    failure: str | None = None
    task: int | None = None
    group: int | None = None
    head_block: int | None = None
    head_time: int | None = None
    head_age: float | None = None
    head_ts: float = 0.0
    skew: float | None = None
    seen_block: int | None = None
    tx_pending: int | None = None
    connected: bool | None = None
    disk_free: int | None = None
    # What is wrong with its surroundings until it says otherwise: event -> (since, words).
    standing: dict[str, tuple[float, str]] = field(default_factory=dict)
    # Tasks that it cannot play until somebody has mended what is wrong: task -> (since, words).
    failed_tasks: dict[int, tuple[float, str]] = field(default_factory=dict)
    sent: dict[str, tuple[str, float]] = field(default_factory=dict)
    warnings: int = 0
    errors: int = 0
    broker_losses: int = 0
    rpc_errors: int = 0
    resent: int = 0
    bumped: int = 0
    refused: int = 0
    reverted: int = 0
    dropped: int = 0
    fees: int = 0
    gas: int = 0
    # Transactions that name no task: createTask, until its task has a number.
    unassigned: dict[str, GasUse] = field(default_factory=dict)
    settled_chunks: int = 0
    withdrawn: int = 0
    withdrawn_ts: float | None = None
    # Tasks of which it said that everything is collected, and when; the newest.
    done: dict[int, float] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """Whether its newest life has ended in words."""
        return self.exit_reason is not None


@dataclass(slots=True)
class OwnerRound:
    """How far an owner came in a round: when it entered each stage, Unix seconds."""

    began: float | None = None
    masking: float | None = None
    committing: float | None = None
    committed: float | None = None
    commit_mined: float | None = None
    posted: float | None = None
    sat_out: float | None = None
    reason: str = ""
    clip_rate: float | None = None
    slashed: bool = False
    expelled: bool = False

    @property
    def stage(self) -> str:
        """The furthest stage."""
        if self.slashed:
            return "slashed"
        if self.expelled:
            return "expelled"
        if self.posted is not None:
            return "posted"
        if self.commit_mined is not None or self.committed is not None:
            return "committed"
        if self.sat_out is not None:
            return "sat-out"
        if self.committing is not None:
            return "committing"
        if self.masking is not None:
            return "masking"
        return "seeding" if self.began is not None else "waiting"


@dataclass(slots=True)
class Round:
    """A round of a task."""

    number: int
    # Phase -> when the first daemon saw it entered, Unix seconds; and until when it may last, chain seconds.
    entered: dict[str, float] = field(default_factory=dict)
    deadlines: dict[str, int] = field(default_factory=dict)
    owners: dict[str, OwnerRound] = field(default_factory=dict)
    # (owner, mate) -> ms from the opening of the round to the agreed seed; None: a hello only.
    seeds: dict[tuple[str, str], int | None] = field(default_factory=dict)
    delivered: set[str] = field(default_factory=set)
    seeds_agreed: int = 0
    slowest_seed_ms: int = 0
    gas: dict[str, GasUse] = field(default_factory=dict)
    outcome: str | None = None
    accuracy: float | None = None
    dur_ms: int | None = None
    headroom: float | None = None
    committed: tuple[int, ...] | None = None
    sat_out: tuple[int, ...] | None = None
    complete: tuple[int, ...] | None = None
    selected: tuple[int, ...] | None = None
    void: tuple[int, ...] = ()
    paid: tuple[int, ...] = ()
    paid_wei: int = 0
    scores: tuple[float, ...] = ()
    distances: list[list[float]] = field(default_factory=list)
    slashed: list[str] = field(default_factory=list)
    # Who was waited for in vain, and by how many.
    blamed: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    # What the logs say that must be one: field -> value -> who said it first.
    views: dict[str, dict[str, str]] = field(default_factory=dict)

    def owner(self, peer: str) -> OwnerRound:
        """An owner's progress; beyond the bound a value that nobody keeps."""
        found = self.owners.get(peer)
        if found is None:
            found = OwnerRound()
            if len(self.owners) < MAX_OWNERS_OF_ROUND:
                self.owners[peer] = found
        return found


@dataclass(slots=True)
class OwnerRecord:
    """What an owner did over a whole task."""

    began: int = 0
    committed: int = 0
    posted: int = 0
    sat_out: int = 0
    blamed: int = 0
    slashed: deque[int] = field(default_factory=lambda: deque(maxlen=32))
    expelled: int | None = None
    last_reason: str = ""


@dataclass(slots=True)
class GroupRecord:
    """How often a group was complete, rejected by Krum and paid, and how far off its scores were."""

    complete: int = 0
    rejected: int = 0
    paid: int = 0
    # Its score over the median score of the selected groups of the same round.
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=256))


@dataclass(slots=True)
class Task:
    """A task of the market."""

    number: int
    description: str = ""
    terms: dict[str, int] = field(default_factory=dict)
    model_owner: str = ""
    escrow_sent: int | None = None
    status: str = ""
    phase: str = ""
    round: int = 0
    phase_ts: float = 0.0
    deadline: int | None = None
    group_count: int = 0
    # Groups that do not play: short of a stake, or dissolved; as of the newest round.
    idle_groups: frozenset[int] = frozenset()
    idle_as_of: int = 0
    members: dict[int, list[str]] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)
    first_accuracy: float | None = None
    waiting_text: str = ""
    waiting_for: list[str] = field(default_factory=list)
    waiting_phase: str = ""
    waiting_ts: float = 0.0
    rounds: dict[int, Round] = field(default_factory=dict)
    forgotten_rounds: int = 0
    owners: dict[str, OwnerRecord] = field(default_factory=dict)
    groups: dict[int, GroupRecord] = field(default_factory=dict)
    gas: dict[str, GasUse] = field(default_factory=dict)
    money: dict[str, int] = field(default_factory=dict)
    money_block: int = -1
    money_total: int = 0
    paid_rounds_wei: int = 0
    # The first round whose payment we saw; before it the sum of payments is not known.
    paid_from_start: bool = True
    durations: dict[str, deque[float]] = field(default_factory=dict)
    disagreements: deque[tuple[int, str, str, str]] = field(default_factory=lambda: deque(maxlen=MAX_DISAGREEMENTS))
    over_ts: float | None = None

    def group_of(self, peer: str) -> int | None:
        """The group in which an owner was drawn."""
        return next((group for group, members in self.members.items() if peer in members), None)

    def owner(self, peer: str) -> OwnerRecord:
        """An owner's record; beyond the bound a value that nobody keeps."""
        found = self.owners.get(peer)
        if found is None:
            found = OwnerRecord()
            if len(self.owners) < MAX_PARTICIPANTS:
                self.owners[peer] = found
        return found

    def took(self, what: str, seconds: float) -> None:
        """Remembers how long something took; the newest are enough for percentiles."""
        durations = self.durations.setdefault(what, deque(maxlen=MAX_DURATIONS))
        durations.append(seconds)

    @property
    def over(self) -> bool:
        """Whether only withdrawals are left."""
        return self.status in ("ended", "cancelled")


@dataclass(slots=True)
class ErrorKind:
    """Errors and warnings of one code."""

    code: str
    level: str
    count: int = 0
    last_ts: float = 0.0
    last_peer: str = ""
    last_text: str = ""
    help: str = ""


@dataclass(slots=True)
class Honesty:
    """What the monitor did not see, or could not use."""

    records: int = 0
    bad_lines: int = 0
    other_versions: int = 0
    repeated: int = 0
    gaps: int = 0
    late: int = 0
    restarts: int = 0
    forgotten: int = 0


@dataclass(slots=True)
class Market:
    """Everything that is remembered."""

    participants: dict[str, Participant] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    errors: dict[str, ErrorKind] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    honesty: Honesty = field(default_factory=Honesty)
    first_ts: float | None = None
    last_ts: float = 0.0
    # Source -> the one peer that it speaks of; None: several.
    sources: dict[str, str | None] = field(default_factory=dict)

    def name(self, peer: str) -> str:
        """How people call a participant."""
        found = self.participants.get(peer)
        if found is not None:
            return found.name
        return short(peer)

    def chain_time(self, now: float) -> float:
        """The chain's clock: the newest head's time plus what has passed since, where no new head was seen."""
        newest = max(
            (p for p in self.participants.values() if p.head_time is not None), key=lambda p: p.head_ts, default=None
        )
        if newest is None or newest.skew is None:
            return now
        return now + newest.skew


def short(peer: str) -> str:
    """An address as people compare it: its ends."""
    return f"{peer[:6]}…{peer[-4:]}" if len(peer) > 14 else peer
