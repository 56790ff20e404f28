"""Many scenarios, one after the other, until enough rounds are played or something does not hold."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tests.simulator.evm import Evm
from tests.simulator.plan import Plan, make_plan, small_plan
from tests.simulator.scenario import Report, run_scenario

# anvil starts in a tenth of a second; with one for each scenario no scenario depends on those before it.
SCENARIOS_PER_EVM = 1


@dataclass
class Tally:
    """What a campaign has seen so far."""

    scenarios: int = 0
    rounds: int = 0
    checks: int = 0
    blocks: int = 0
    transactions: int = 0
    virtual_seconds: float = 0.0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    failures: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """One more scenario."""
        self.scenarios += 1
        self.rounds += report.rounds
        self.checks += report.checks
        self.blocks += report.blocks
        self.transactions += report.transactions
        self.virtual_seconds += report.seconds
        self.outcomes += report.outcomes
        if report.violations:
            self.failures.append(report)


def campaign(
    seed: int,
    rounds: int,
    first: int = 0,
    step: int = 1,
    keep_going: bool = False,
    seconds: float | None = None,
) -> Iterator[tuple[Report, Tally]]:
    """Plays scenarios first, first + step .. until so many rounds are played, or a violation, or time is up."""
    tally, started, number = Tally(), time.monotonic(), first
    evm: Evm | None = None
    try:
        while tally.rounds < rounds and (seconds is None or time.monotonic() - started < seconds):
            if evm is None or tally.scenarios % SCENARIOS_PER_EVM == 0:
                if evm is not None:
                    evm.close()
                evm = Evm()
            report = run_scenario(make_plan(seed, number), evm, tally.counters)
            tally.add(report)
            tally.seconds = time.monotonic() - started
            yield report, tally
            if report.violations and not keep_going:
                return
            number += step
    finally:
        if evm is not None:
            evm.close()


WRITE_FAULTS = ("crash_before_write", "crash_after_write", "crash_torn_write", "disk_full", "fsync_error")
RPC_FAULTS = ("rpc_error", "rpc_timeout", "transaction_lost", "transaction_late", "transaction_answer_lost")
REORG_PLACES = ("joining", "revealing", "drawing", "idle", "commit", "post", "settle", "ended")


def one_fault_each(seed: int, kinds: Sequence[str], stride: int = 1) -> Iterator[tuple[Report, Tally]]:
    """The same small task again and again: each kind of fault at the first, second, .. Nth occasion of an owner, then
    of the model owner, until there are no more occasions."""
    plan, tally, started = small_plan(seed, "calm"), Tally(), time.monotonic()
    for name in ("owner-00", "model"):
        for kind in kinds:
            nth = 1
            while True:
                counters: Counter[str] = Counter()
                appointed = replace(plan, profile="one fault", appointed=(name, kind, nth))
                report = play(appointed, counters=counters)
                if not counters[kind.replace("_", " ")]:
                    break
                tally.counters += counters
                tally.add(report)
                tally.seconds = time.monotonic() - started
                yield report, tally
                nth += stride


def one_reorg_each(seed: int, depths: Sequence[int]) -> Iterator[tuple[Report, Tally]]:
    """The same small task again and again: one reorg of each depth in each phase."""
    plan, tally, started = small_plan(seed, "calm"), Tally(), time.monotonic()
    for place in REORG_PLACES:
        for depth in depths:
            finality = (0, 1, 3)[depth % 3]
            appointed = replace(plan, profile="one reorg", appointed_reorg=(place, depth), finality_depth=finality)
            report = play(appointed, counters=tally.counters)
            tally.add(report)
            tally.seconds = time.monotonic() - started
            yield report, tally


def play(plan: Plan, trace: Callable[[str], None] | None = None, counters: Counter[str] | None = None) -> Report:
    """One scenario on an EVM of its own."""
    evm = Evm()
    try:
        return run_scenario(plan, evm, Counter() if counters is None else counters, trace)
    finally:
        evm.close()


def replay(seed: int, number: int, trace: Callable[[str], None] | None, profile: str | None = None) -> Report:
    """One scenario again."""
    return play(make_plan(seed, number, profile), trace)
