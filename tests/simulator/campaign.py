"""Many scenarios, one after the other, until enough rounds are played or something does not hold."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.simulator.evm import Evm
from tests.simulator.plan import Plan, make_plan, small_plan
from tests.simulator.results import Results
from tests.simulator.scenario import Report, run_scenario


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

    def add(self, report: Report, counters: Counter[str]) -> None:
        """One more scenario."""
        self.scenarios += 1
        self.rounds += report.rounds
        self.checks += report.checks
        self.blocks += report.blocks
        self.transactions += report.transactions
        self.virtual_seconds += report.seconds
        self.outcomes += report.outcomes
        self.counters.update(counters)
        if report.violations:
            self.failures.append(report)


def campaign(
    seed: int,
    rounds: int | None,
    scenarios: range | None = None,
    jobs: int = 1,
    keep_going: bool = False,
    seconds: float | None = None,
    results: Path | None = None,
) -> Iterator[tuple[Report, Tally]]:
    """Plays scenarios 0, 1, 2 .., or the given ones, until so many rounds are played, or a violation, or time is up.

    They are counted in the order of their numbers, so that the same seed is the same campaign whatever `jobs`,
    the number of processes. `results` keeps one line for each; what it holds already is not played again.
    """
    tally, started = Tally(), time.monotonic()
    numbers: Iterator[int] = iter(scenarios) if scenarios is not None else itertools.count()
    for report, counters in _played(seed, numbers, jobs, results):
        tally.add(report, counters)
        tally.seconds = time.monotonic() - started
        yield report, tally
        if report.violations and not keep_going:
            return
        if rounds is not None and tally.rounds >= rounds:
            return
        if seconds is not None and tally.seconds >= seconds:
            return


def _played(
    seed: int, numbers: Iterator[int], jobs: int, results: Path | None
) -> Iterator[tuple[Report, Counter[str]]]:
    """Scenarios in the order of their numbers, played in so many processes."""
    known = Results(results, seed)
    if jobs == 1:
        _quieten_collector()
        for number in numbers:
            yield known.get(number) or known.keep(*_play_number(seed, number))
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=_quieten_collector) as pool:
        waiting: deque[tuple[int, concurrent.futures.Future[tuple[Report, Counter[str]]] | None]] = deque()
        try:
            while True:
                # A few ahead, so that a long scenario does not keep the others waiting.
                while len(waiting) < 4 * jobs and (ahead := next(numbers, None)) is not None:
                    found = known.get(ahead)
                    waiting.append((ahead, None if found else pool.submit(_play_number, seed, ahead)))
                if not waiting:
                    return
                first, playing = waiting.popleft()
                kept = known.get(first) if playing is None else known.keep(*playing.result())
                assert kept is not None
                yield kept
        finally:
            pool.shutdown(cancel_futures=True)


def _quieten_collector() -> None:
    """Python looks for garbage less often: a scenario makes little, and is over soon."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _play_number(seed: int, number: int) -> tuple[Report, Counter[str]]:
    counters: Counter[str] = Counter()
    report = play(make_plan(seed, number), counters=counters)
    return report, counters


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
                tally.add(report, counters)
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
            counters: Counter[str] = Counter()
            report = play(appointed, counters=counters)
            tally.add(report, counters)
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
