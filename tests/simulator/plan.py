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
STEPS = ("join", "reveal", "draw", "seeding", "masked", "committed", "posting", "settling", "between rounds", "end")
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
    # By participant's index (-1: the model owner): the step, the round and for how many seconds it is away.
    absences: dict[int, tuple[str, int, float]]
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
            f"{'model owner' if index < 0 else f'owner {index}'} away {away:.0f} s at {step} of round {at}"
            for index, (step, at, away) in self.absences.items()
        ]
        if self.appointed is not None:
            roles.append(f"{self.appointed[1]} number {self.appointed[2]} at {self.appointed[0]}")
        if self.appointed_reorg is not None:
            roles.append(f"reorg of depth {self.appointed_reorg[1]} while {self.appointed_reorg[0]}")
        return (
            f"scenario {self.number} ({self.profile}): {self.owner_count} owners, groups of {p.group_size}, "
            f"f={p.faulty_groups}, d={p.value_count}, {p.lane_bits} bits, {p.rounds} rounds, depth {p.depth}, "
            f"finality {self.finality_depth}" + "".join(f"; {role}" for role in roles)
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
    profile = profile or PROFILES[number % len(PROFILES)]
    group_size = entropy.choice((3, 3, 3, 4, 4, 5, 6, 8))
    groups = entropy.randint(3, max(3, 24 // group_size)) if group_size < 8 else 3
    faulty = entropy.choice((0, 0, 0, (groups - 3) // 2))
    capacity = groups * group_size
    # A few tasks find too few owners, or a number that the group size does not divide.
    owners = capacity - (entropy.randint(1, capacity - 5) if entropy.random() < 0.12 else 0)
    spec = TaskSpec("softmax", entropy.randint(9, 40), tuple("abcde"[: entropy.randint(3, 5)]), 0.5, 6)
    count = spec.side.value_count
    bits = entropy.choice((8, 16, 16, 16, 32))
    magnitude = (2 ** (bits - 2) - 1) // group_size
    words = -(-count * bits // 256)
    chunk_words = entropy.choice((words, words, -(-words // 2), -(-words // 3)))
    chunks = -(-words // chunk_words)
    turn = entropy.randint(2, 6)
    block = entropy.choice((1, 1, 2))
    depth = entropy.randint(1, 3)
    rate = 10**15
    params = TaskParams(
        group_size=group_size,
        max_groups=groups,
        faulty_groups=faulty,
        strict_selection=entropy.random() < 0.2,
        model_selection=spec.means.model_selection,
        lane_bits=bits,
        max_magnitude=magnitude,
        value_count=count,
        chunk_words=chunk_words,
        rounds=entropy.randint(5, 8),
        max_empty_rounds=entropy.randint(2, 4),
        max_missed_rounds=entropy.randint(1, 4),
        depth=depth,
        block_seconds=block,
        join_seconds=entropy.randint(20, 60),
        reveal_seconds=entropy.randint(15, 40),
        open_seconds=entropy.randint(15, 40),
        commit_seconds=entropy.randint(25, 60),
        post_seconds=entropy.randint(20, 50) + block * (2 * depth + 3),
        settle_seconds=(chunks + 1) * (turn + block) + entropy.randint(10, 40),
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
    absences: dict[int, tuple[str, int, float]] = {}
    model_role: tuple[str, int] | None = None
    rounds, profile = plan.params.rounds, plan.profile
    everything = profile == "everything"
    if profile == "network" or everything:
        draft.some("message_drop", "message_duplicate", "message_delay", "message_reorder", "message_corrupt", most=0.3)
        draft.some("message_injected", "presence_forged", most=0.05)
        draft.some("partition", "broker_down", most=0.02)
    if profile == "crashes" or everything:
        draft.some("crash_before_write", "crash_after_write", "crash_torn_write", most=0.006)
        draft.some("kill", most=0.04)
    if profile == "disk" or everything:
        draft.some("disk_full", "fsync_error", "crash_torn_write", most=0.006)
    if profile == "reorgs" or everything:
        draft.some("reorg", most=0.08)
        draft.some("chain_stall", most=0.01)
        draft.some("transaction_lost", "transaction_late", most=0.03)
    if profile == "rpc" or everything:
        draft.some("rpc_error", "rpc_timeout", "rpc_stale_head", most=0.01)
        draft.some("rpc_missing_logs", "transaction_answer_lost", "transaction_lost", "transaction_late", most=0.1)
    if profile == "owners" or everything:
        for index in entropy.sample(range(plan.owner_count), min(plan.owner_count, entropy.randint(1, 3))):
            roles[index] = entropy.choice(OWNER_ROLES), entropy.randint(1, max(1, rounds - 2))
    if profile == "model owner" or (everything and entropy.random() < 0.3):
        model_role = entropy.choice(MODEL_ROLES), entropy.randint(1, rounds)
    if profile == "absences" or everything:
        for index in entropy.sample(range(-1, plan.owner_count), min(plan.owner_count, entropy.randint(1, 4))):
            if index not in roles:
                step = entropy.choice(STEPS)
                absences[index] = step, entropy.randint(1, max(1, rounds - 2)), entropy.choice((0.5, 5.0, 30.0, 120.0))
    if everything:
        draft.rates = {name: rate / 3 for name, rate in draft.rates.items()}
    return replace(plan, rates=Rates(**draft.rates), roles=roles, model_role=model_role, absences=absences)


def small_plan(seed: int, profile: str) -> Plan:
    """The first scenario of a profile that is quickly played, but played: at most 12 owners and 5 rounds."""
    for number in range(10_000):
        plan = make_plan(seed, number, profile)
        quorum = plan.params.group_size * plan.params.minimum_groups
        if quorum <= plan.owner_count <= 12 and plan.params.rounds <= 5:
            return plan
    raise AssertionError("no small scenario")
