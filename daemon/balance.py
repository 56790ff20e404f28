"""How long an account's money lasts: gas that rounds have cost, and that they may cost, against the balance.

An account that cannot pay for a commitment loses a round, one that cannot pay for a post its stake. Both must be
known before: so the money for some rounds ahead is compared with what is there, each time that it is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from omnilytics.daemon.transactions import HEADROOM_GAS

# What comes once in a task, and not in every round.
_ONCE = frozenset(("join", "createTask", "reveal", "withdraw", "leave", "expel", "restoreStake"))
# What is not measured yet. A call's fixed part: the dearest, openRound with 120 pads, takes 201,568 gas
# (docs/contract-tests.md). A byte of calldata: EIP-7623's floor of 40, and as much again for hashing and logs.
FIRST_CALL_GAS = 250_000
BYTE_GAS = 60
# Rounds ahead whose gas must be there, or those that the task still has.
ROUNDS_AHEAD = 5
# Well again only with this much more, so that nobody is told twice about the same wei.
RECOVERY = 1.25
LEVELS = ("", "low", "empty")


@dataclass(frozen=True)
class Outlook:
    """What a balance is worth; wei."""

    balance: int
    round_cost: int
    # Whole rounds that it pays for at today's price, after the reserve that a queue wants to see.
    rounds: int
    # "", "low" (fewer rounds than should be ahead) or "empty" (not one).
    level: str
    # What the rounds that should be ahead need, reserve included.
    needed: int

    @property
    def missing(self) -> int:
        """Wei to be added for them."""
        return max(0, self.needed - self.balance)


def first_round_gas(value_count: int, lane_bits: int) -> int:
    """An upper estimate of an owner's gas in a round before any is measured: two calls, and its masked vector."""
    return 2 * FIRST_CALL_GAS + BYTE_GAS * (value_count * lane_bits // 8)


def outlook(balance: int, gas_price: int, max_price: int, round_gas: int, largest_gas: int, rounds: int) -> Outlook:
    """Judges a balance.

    gas_price: what a gas costs now; max_price: what the queue offers at most for it, which must be there although
    less is paid, wei each. round_gas: of a round; largest_gas: of its dearest call. rounds: how many should be ahead.
    """
    # As TransactionQueue sets the limit of a call.
    reserve = (largest_gas * 5 // 4 + HEADROOM_GAS[""]) * max_price
    cost = round_gas * gas_price
    needed = reserve + rounds * cost
    affordable = max(0, balance - reserve) // cost if cost else rounds
    level = "" if balance >= needed else "low" if affordable else "empty"
    return Outlook(balance, cost, affordable, level, needed)


@dataclass
class _Task:
    first_gas: int
    rounds: int
    round: int = 0
    over: bool = False


class RunningCosts:
    """What tasks have cost and will cost in gas, learned from what a daemon says in its log."""

    def __init__(self) -> None:
        self._tasks: dict[int, _Task] = {}
        # By task and function: the most gas that it took in a round, and in the round at hand.
        self._most: dict[int, dict[str, int]] = defaultdict(dict)
        self._now: dict[tuple[int, str], tuple[int, int]] = {}
        self.largest_gas = FIRST_CALL_GAS

    def terms(self, task: int, value_count: int, lane_bits: int, rounds: int) -> None:
        """A task that we take part in."""
        self._tasks.setdefault(task, _Task(first_round_gas(value_count, lane_bits), rounds))

    def entered(self, task: int, round_number: int) -> None:
        """A round has begun."""
        if task in self._tasks:
            self._tasks[task].round = round_number

    def over(self, task: int) -> None:
        """Nothing more is to be paid in a task."""
        if task in self._tasks:
            self._tasks[task].over = True

    def spent(self, task: int, round_number: int, function: str, gas: int) -> None:
        """A transaction was mined, or reverted, for so much gas."""
        self.largest_gas = max(self.largest_gas, gas)
        if function in _ONCE:
            return
        seen, sum_ = self._now.get((task, function), (round_number, 0))
        sum_ = sum_ + gas if seen == round_number else gas
        self._now[task, function] = round_number, sum_
        most = self._most[task]
        most[function] = max(most.get(function, 0), sum_)

    @property
    def underway(self) -> Mapping[int, int]:
        """Rounds that each task still has, the one at hand counted."""
        return {
            number: max(1, task.rounds - max(task.round, 1) + 1)
            for number, task in self._tasks.items()
            if not task.over
        }

    @property
    def round_gas(self) -> int:
        """Gas of one round of all tasks underway: the dearest of each function where known, else the estimate."""
        return sum(self._of(number, task) for number, task in self._tasks.items() if not task.over)

    def _of(self, number: int, task: _Task) -> int:
        measured = self._most.get(number, {})
        # A round is known once its vector, or its opening, has been paid for.
        known = "post" in measured or "openRound" in measured
        return sum(measured.values()) if known else max(task.first_gas, sum(measured.values()))

    def judge(self, balance: int, gas_price: int, max_price: int) -> Outlook:
        """The outlook for the rounds ahead; with no task underway, for one call."""
        rounds = min(ROUNDS_AHEAD, max(self.underway.values(), default=0))
        return outlook(balance, gas_price, max_price, self.round_gas, self.largest_gas, rounds)


class BalanceWatch:
    """Says once a level that money runs out, and once that it is well again."""

    def __init__(self) -> None:
        self._level = ""

    def changed(self, seen: Outlook) -> str | None:
        """The level that is to be told now, or None: "" is well again."""
        if LEVELS.index(seen.level) > LEVELS.index(self._level):
            self._level = seen.level
            return seen.level
        if self._level and seen.balance >= RECOVERY * seen.needed:
            self._level = ""
            return ""
        return None
