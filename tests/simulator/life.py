"""One life of a participant, from its start to its end or its kill -9; and what the simulator counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from omnilytics.peers.errors import OmniLyticsError


class CrashedError(BaseException):
    """kill -9: not an Exception, so that no handler of the product can survive it."""


@dataclass
class Life:
    """A process: whatever it does after its death is not done."""

    name: str
    alive: bool = True
    on_death: list[Callable[[], None]] = field(default_factory=list)

    def check(self) -> None:
        """Raises CrashedError in a dead process."""
        if not self.alive:
            raise CrashedError(self.name)

    def die(self) -> None:
        """From now on nothing that this process does has any effect."""
        if self.alive:
            self.alive = False
            for action in self.on_death:
                action()


@dataclass(frozen=True)
class Rates:
    """How likely what is, each time; 0 is never."""

    message_drop: float = 0.0
    message_duplicate: float = 0.0
    message_delay: float = 0.0
    message_reorder: float = 0.0
    message_corrupt: float = 0.0
    message_injected: float = 0.0
    presence_forged: float = 0.0
    crash_before_write: float = 0.0
    crash_after_write: float = 0.0
    crash_torn_write: float = 0.0
    disk_full: float = 0.0
    fsync_error: float = 0.0
    rpc_error: float = 0.0
    rpc_timeout: float = 0.0
    rpc_stale_head: float = 0.0
    rpc_missing_logs: float = 0.0
    transaction_lost: float = 0.0
    transaction_late: float = 0.0
    transaction_answer_lost: float = 0.0
    # Events a second of virtual time.
    kill: float = 0.0
    partition: float = 0.0
    broker_down: float = 0.0
    reorg: float = 0.0
    chain_stall: float = 0.0


class Faults:
    """Whether something goes wrong now, and how often each kind did."""

    def __init__(self, rates: Rates, counters: Counter[str]) -> None:
        self.rates = rates
        self.counters = counters
        self.active = True
        # Faults that come at the Nth occasion of one participant: (name, kind) to N.
        self.appointed: dict[tuple[str, str], int] = {}
        self._occasions: Counter[tuple[str, str]] = Counter()
        # The last moment, of the virtual clock, at which each participant was touched by a fault.
        self.touched: dict[str, float] = {}
        self.clock: Callable[[], float] = lambda: 0.0

    def strikes(self, kind: str, entropy: random.Random, whom: str = "") -> bool:
        """Rolls the dice for a fault of this kind, and counts it."""
        if (whom, kind) in self.appointed:
            self._occasions[whom, kind] += 1
            if self._occasions[whom, kind] == self.appointed[whom, kind]:
                self.count(kind, whom)
                return True
        if not self.active:
            return False
        rate: float = getattr(self.rates, kind)
        if rate <= 0.0 or entropy.random() >= rate:
            return False
        self.count(kind, whom)
        return True

    def count(self, kind: str, whom: str = "") -> None:
        """Counts a fault that has fired."""
        self.counters[kind.replace("_", " ")] += 1
        self.touch(whom)

    def touch(self, whom: str) -> None:
        """Remembers that a participant, or everybody (""), was in trouble just now."""
        self.touched[whom] = self.clock()

    def touched_since(self, whom: str, moment: float) -> bool:
        """Whether a participant had any trouble since then."""
        return max(self.touched.get(whom, -1.0), self.touched.get("", -1.0)) >= moment


class ViolationError(OmniLyticsError):
    """An invariant does not hold."""

    code = "violation"
