"""What a scenario is: a task, its people, and what will go wrong, all from (seed, number)."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

from omnilytics.daemon.spec import TaskSpec
from omnilytics.peers.market import TaskParams
from tests.adversaries.poisons import POISONS
from tests.simulator.life import Rates

PROFILES = (
    "calm",
    "network",
    "crashes",
    "disk",
    "reorgs",
    "rpc",
    "owners",
    "model owner",
    "absences",
    "everything",
)
# The scenarios of a campaign take turns. Those in which a fault can come only once, as an owner that is gone for good,
# come oftener: so each named fault fires often enough (see fault_table).
_CYCLE = (
    *("calm", "network", "owners", "model owner", "absences", "crashes", "everything", "owners", "reorgs"),
    *("model owner", "owners", "disk", "absences", "rpc", "owners", "model owner", "everything", "reorgs"),
    *("absences", "owners", "model owner"),
)
STEPS = ("join", "reveal", "draw", "seeding", "masked", "committed", "posting", "settling", "between rounds", "end")
MODEL_STEPS = tuple(step for step in STEPS if step not in ("masked", "committed"))
OWNER_ROLES = (
    *(f"poison {name}" for name in POISONS),
    "hostile group",
    "dies before posting",
    "no post",
    "late post",
    "post after the end",
    "silent settler",
    "sits out",
    "wrong messages",
    "second hello",
    "wrong acknowledgement",
    "never reveals",
    "gone for good",
    "old data folder",
)
MODEL_ROLES = (
    "silent for good",
    "silent for some rounds",
    "vanishes before settling",
    "never delivers",
    "wrong keys to some",
    "wrong pads to some",
    "garbage to some",
    "two hellos",
    "model unlike its commitment",
    "payload unlike its hash",
    "same weights again",
)

# What can happen only once in a task, or only in some groups, is drawn so many times oftener than the rest.
_OFTENER = {
    **{f"poison {name}": 1.6 for name in POISONS},
    "hostile group": 4,
    "dies before posting": 8,
    "gone for good": 6,
    "old data folder": 8,
    # Only its turns count, and they are few.
    "silent settler": 7,
    "sits out": 2,
    "never reveals": 2,
    "silent for good": 13,
    "vanishes before settling": 13,
    "model unlike its commitment": 4,
    "payload unlike its hash": 4,
    "same weights again": 4,
}


# How often a task's model owner selects: every group has pads of its own then, and nobody settles.
SECRET_HEADS = 0.3
# How often vectors go to the model owner over the broker.
OVER_BROKER = 0.3
# One more than there can be classes, so that some class has two rows.
BATCH_ROWS = 6


@dataclass(frozen=True)
class Absence:
    """Someone goes away (kill -9) on coming to a step, at the earliest in this round, for so many seconds."""

    step: str
    round: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """One scenario."""

    seed: int
    number: int
    profile: str
    params: TaskParams
    spec: TaskSpec
    owner_count: int
    finality_depth: int
    patience: float
    rates: Rates
    # By owner's index: its role, and the round in which it comes to bear.
    roles: dict[int, tuple[str, int]]
    model_role: tuple[str, int] | None
    # By participant's index (-1: the model owner); each comes once.
    absences: dict[int, tuple[Absence, ...]]
    calm_rounds: int = 4
    planted: str = ""
    # One fault at one occasion: (participant, kind, at the Nth occasion).
    appointed: tuple[str, str, int] | None = None
    # One reorg: (phase or status at which it comes, depth).
    appointed_reorg: tuple[str, int] | None = None

    def entropy(self, purpose: str) -> random.Random:
        """An independent source for each purpose, so that one more draw here changes nothing there."""
        text = f"{self.seed}/{self.number}/{purpose}".encode()
        return random.Random(int.from_bytes(hashlib.sha256(text).digest(), "big"))

    def bytes(self, purpose: str, count: int = 32) -> bytes:
        """Bytes for a purpose."""
        return self.entropy(purpose).randbytes(count)

    def describe(self) -> str:
        """One line."""
        p = self.params
        roles = [f"owner {index} {role} from round {at}" for index, (role, at) in self.roles.items()]
        roles += [f"model owner {self.model_role[0]} from round {self.model_role[1]}"] if self.model_role else []
        roles += [
            f"{'model owner' if index < 0 else f'owner {index}'} away {away.seconds:.0f} s at {away.step}, "
            f"from round {away.round}"
            for index, absences in self.absences.items()
            for away in absences
        ]
        if self.appointed is not None:
            roles.append(f"{self.appointed[1]} number {self.appointed[2]} at {self.appointed[0]}")
        if self.appointed_reorg is not None:
            roles.append(f"reorg of depth {self.appointed_reorg[1]} while {self.appointed_reorg[0]}")
        return (
            f"scenario {self.number} ({self.profile}): {self.owner_count} owners, groups of {p.group_size}, "
            f"f={p.faulty_groups}, d={p.value_count}, {p.lane_bits} bits, {p.rounds} rounds, depth {p.depth}, "
            f"finality {self.finality_depth}{', over the broker' * p.broker_delivery}"
            + "".join(f"; {role}" for role in roles)
        )


@dataclass
class _Draft:
    entropy: random.Random
    rates: dict[str, float] = field(default_factory=dict)

    def some(self, *names: str, most: float = 0.1) -> None:
        for name in names:
            if self.entropy.random() < 0.7:
                self.rates[name] = self.entropy.uniform(0.05, 1.0) * most


def make_plan(seed: int, number: int, profile: str | None = None) -> Plan:
    """The scenario of this number."""
    text = f"{seed}/{number}/plan".encode()
    entropy = random.Random(int.from_bytes(hashlib.sha256(text).digest(), "big"))
    profile = profile or _CYCLE[number % len(_CYCLE)]
    group_size = entropy.choices((3, 4, 5, 6, 8), (16, 2, 1, 0.6, 0.4))[0]
    # Where people misbehave or stay away a group more than the least, or most tasks would end before they begin.
    least, most = 3 + (group_size < 8 and profile in ("owners", "absences", "everything")), 24 // group_size
    # Small markets oftener than large ones: they have the same troubles, and more of them can be played.
    groups = least + int((most - least + 1) * entropy.random() ** 3)
    faulty = entropy.choice((0, 0, 0, (groups - 3) // 2))
    capacity = groups * group_size
    # A few tasks find too few owners, or a number that the group size does not divide.
    owners = capacity - (entropy.randint(1, capacity - 5) if entropy.random() < 0.08 else 0)
    classes = tuple("abcde"[: entropy.randint(3, 5)])
    if entropy.random() < SECRET_HEADS:
        architecture, columns = f"random:{entropy.randint(4, 10)}", entropy.randint(3, 9)
        spec = TaskSpec(architecture, columns, classes, 1.0, BATCH_ROWS, "secret-head")
    else:
        spec = TaskSpec("softmax", entropy.randint(9, 40), classes, 0.5, BATCH_ROWS)
    count = spec.side.value_count
    bits = entropy.choice((8, 16, 16, 16, 32) if spec.means.least_lane_bits == 8 else (16, 16, 32))
    magnitude = (2 ** (bits - 2) - 1) // group_size
    words = -(-count * bits // 256)
    chunk_words = entropy.choice((words, words, -(-words // 2), -(-words // 3)))
    chunks = -(-words // chunk_words)
    turn = entropy.randint(2, 6)
    block = entropy.choice((1, 1, 2))
    depth = entropy.randint(1, 3)
    rate = 10**15
    # Of its own source: the other choices are the same either way.
    own = hashlib.sha256(f"{seed}/{number}/delivery".encode()).digest()
    over_broker = int.from_bytes(own[:4], "big") < OVER_BROKER * 2**32
    params = TaskParams(
        group_size=group_size,
        max_groups=groups,
        faulty_groups=faulty,
        strict_selection=entropy.random() < 0.2,
        model_selection=spec.means.model_selection,
        broker_delivery=over_broker,
        lane_bits=bits,
        max_magnitude=magnitude,
        value_count=count,
        chunk_words=chunk_words,
        rounds=entropy.randint(5, 14),
        max_empty_rounds=entropy.randint(2, 4),
        max_missed_rounds=entropy.randint(1, 4),
        depth=depth,
        block_seconds=block,
        join_seconds=entropy.randint(20, 60),
        reveal_seconds=entropy.randint(15, 40),
        open_seconds=entropy.randint(12, 30),
        commit_seconds=entropy.randint(22, 45),
        post_seconds=(entropy.randint(15, 35) + block * (2 * depth + 3)) * (1 + over_broker),
        settle_seconds=(chunks + 1) * (turn + block) + entropy.randint(10, 30),
        turn_seconds=turn,
        rate=rate,
        stake=group_size * rate + 10**15,
        deposit=10**15,
        gas_price_cap=50 * 10**9,
        gas_tip=10**9,
    )
    plan = Plan(
        seed,
        number,
        profile,
        params,
        spec,
        owners,
        entropy.choice((0, 0, 1, 2, 3)),
        entropy.uniform(6.0, 20.0),
        Rates(),
        {},
        None,
        {},
    )
    return _with_faults(plan, entropy)


def _with_faults(plan: Plan, entropy: random.Random) -> Plan:
    draft = _Draft(entropy)
    roles: dict[int, tuple[str, int]] = {}
    absences: dict[int, tuple[Absence, ...]] = {}
    model_role: tuple[str, int] | None = None
    # The last rounds are calm: whoever is back must be seen to play.
    troubled, profile, owners = max(1, plan.params.rounds - plan.calm_rounds), plan.profile, plan.owner_count
    everything = profile == "everything"
    if profile == "network" or everything:
        draft.some("message_drop", "message_duplicate", "message_delay", "message_reorder", "message_corrupt", most=0.3)
        draft.some("message_injected", "presence_forged", most=0.05)
        draft.some("partition", "broker_down", most=0.06)
    if profile == "crashes" or everything:
        draft.some("crash_before_write", "crash_after_write", "crash_torn_write", most=0.01)
        draft.some("kill", most=0.15)
    if profile == "disk" or everything:
        draft.some("disk_full", "fsync_error", "crash_torn_write", most=0.012)
    if profile == "reorgs" or everything:
        draft.some("reorg", most=0.16)
        draft.some("chain_stall", most=0.04)
        draft.some("transaction_lost", "transaction_late", most=0.03)
    if profile == "rpc" or everything:
        draft.some("rpc_error", "rpc_timeout", "rpc_stale_head", most=0.01)
        draft.some("transaction_answer_lost", "transaction_lost", "transaction_late", most=0.1)
        draft.some("rpc_missing_logs", most=0.3)
    if profile == "owners" or everything:
        for index in entropy.sample(range(owners), entropy.randint(1, max(2, owners // 4))):
            role = _chosen(entropy, OWNER_ROLES)
            roles[index] = role, _early(entropy, troubled)
    if profile == "model owner" or (everything and entropy.random() < 0.4):
        role = _chosen(entropy, MODEL_ROLES)
        model_role = role, _early(entropy, troubled)
    if profile == "absences" or everything:
        for index in entropy.sample(range(owners), entropy.randint(1, max(1, owners // 4))):
            if index not in roles:
                absences[index] = _some_absences(entropy, STEPS, entropy.randint(2, 6), troubled)
        if model_role is None:
            absences[-1] = _some_absences(entropy, MODEL_STEPS, entropy.randint(3, 7), troubled)
    if everything:
        draft.rates = {name: rate / 3 for name, rate in draft.rates.items()}
    return replace(plan, rates=Rates(**draft.rates), roles=roles, model_role=model_role, absences=absences)


def _chosen(entropy: random.Random, roles: tuple[str, ...]) -> str:
    return entropy.choices(roles, [_OFTENER.get(role, 1) for role in roles])[0]


def _early(entropy: random.Random, troubled: int) -> int:
    """A round, the first ones oftener: not every task gets far."""
    return min(entropy.randint(1, troubled), entropy.randint(1, troubled))


def _some_absences(entropy: random.Random, steps: tuple[str, ...], count: int, troubled: int) -> tuple[Absence, ...]:
    """At different steps."""
    return tuple(
        Absence(
            step,
            _early(entropy, troubled),
            entropy.choice((0.5, 3.0, 8.0) if step in ("join", "reveal", "draw") else (0.5, 5.0, 20.0, 80.0)),
        )
        for step in entropy.sample(steps, count)
    )


def small_plan(seed: int, profile: str) -> Plan:
    """The first scenario of a profile that is quickly played, but played: at most 12 owners and 5 rounds."""
    for number in range(10_000):
        plan = make_plan(seed, number, profile)
        quorum = plan.params.group_size * plan.params.minimum_groups
        if quorum <= plan.owner_count <= 12 and plan.params.rounds <= 5:
            return plan
    raise AssertionError("no small scenario")
