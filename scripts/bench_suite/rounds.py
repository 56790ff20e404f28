"""How long a round takes, and of what: real processes on one machine, a block at every transaction.

A run of the testbed for each cell. Where a round stands is read from the daemons' logs: each phase ends when the last
owner has ended it, so the phases of a round add up to the round. Processor time is what the kernel has counted for the
daemons, the chain and the broker in the same window. What the market adds is the round without the slowest owner's
training.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench_suite.process_figures import MACHINE, CpuSampler, children
from scripts.launcher.follow import LogReader, Record
from scripts.launcher.options import TestbedOptions
from scripts.launcher.run import run_testbed
from scripts.pages import table
from scripts.processes import ManagedProcess

CLASSES = 10
# Rows of each owner, and of its batch: training is to be small beside what is measured.
ROWS, BATCH_ROWS = 24, 16
# In their order; each ends with the last owner's.
PHASES = ("open", "seeds", "train", "mask", "commit", "post", "settle", "learn")
# Nobody is given up on a machine that has fewer processors than owners.
PATIENCE = {"OMNILYTICS_PATIENCE_SECONDS": "300", "OMNILYTICS_AWAY_GRACE_SECONDS": "60"}
_LONG_SECONDS = 1800
GOAL = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class RoundsCell:
    """A task to be run. values: a multiple of ten, for a softmax over ten classes."""

    owners: int
    group_size: int
    values: int
    broker: str
    rounds: int = 4

    def __str__(self) -> str:
        return f"{self.owners} owners, {self.values:,} values, {self.broker} broker"


@dataclass(frozen=True)
class RoundTimes:
    """A round as its logs tell it: seconds of each phase, and of the slowest owner's training."""

    round: int
    began: float
    ended: float
    phases: Mapping[str, float]
    training: float
    outcome: str

    @property
    def seconds(self) -> float:
        """From the end of the round before to its own."""
        return self.ended - self.began


@dataclass(frozen=True)
class RoundsResult:
    """Medians over a cell's rounds after the first; processor seconds are a round's."""

    cell: RoundsCell
    rounds: int
    complete: int
    seconds: float
    training: float
    phases: Mapping[str, float]
    cpu: Mapping[str, float]
    # Share of the machine's processors that other programs took meanwhile, 0 to 1.
    other_load: float
    # Bytes a round that a log and a journal grow by: "owner log", "owner journal", "model log", "model journal".
    disk: Mapping[str, float]

    @property
    def added(self) -> float:
        """What the market adds to the slowest owner's training, seconds a round."""
        return self.seconds - self.training

    def as_json(self) -> dict[str, Any]:
        """For docs/performance.json."""
        return {
            "owners": self.cell.owners, "group_size": self.cell.group_size, "values": self.cell.values,
            "broker": self.cell.broker, "rounds": self.rounds, "complete": self.complete,
            "seconds": round(self.seconds, 3), "added": round(self.added, 3), "training": round(self.training, 3),
            "phases": {name: round(value, 3) for name, value in self.phases.items()},
            "cpu": {name: round(value, 3) for name, value in self.cpu.items()},
            "other_load": round(self.other_load, 3), "disk": {name: round(value) for name, value in self.disk.items()},
        }  # fmt: skip


# ---------------------------------------------------------------------- reading logs


def round_times(records: Sequence[tuple[str, Record]]) -> list[RoundTimes]:
    """The rounds that are told from beginning to end, that is, all after the first; records are (who, line)."""
    marks: dict[tuple[str, int], float] = {}
    training: dict[int, float] = {}
    outcomes: dict[int, str] = {}

    def mark(name: str, number: int, when: float) -> None:
        marks[name, number] = max(when, marks.get((name, number), 0.0))

    for who, record in records:
        number, event = record.get("round"), record["event"]
        if not number:
            continue
        when = datetime.fromisoformat(record["ts"]).timestamp()
        if event == "tx.mined":
            function = record.get("data", {}).get("function")
            mark({"openRound": "open", "selectGroups": "settle"}.get(function, function), number, when)
        elif event == "seed.agreed":
            mark("seeds", number, when)
        elif event == "train.done":
            seconds = record["dur_ms"] / 1000
            # It begins when the model's key is there.
            mark("seeds", number, when - seconds)
            mark("train", number, when)
            training[number] = max(seconds, training.get(number, 0.0))
        elif event == "stage.enter" and record.get("phase") == "committing":
            mark("mask", number, when)
        elif event == "round.done" and who == "model":
            mark("learn", number, when)
            outcomes[number] = record["data"]["outcome"]
    return [
        _times(number, marks, training.get(number, 0.0), outcomes[number])
        for number in sorted(outcomes)
        if number - 1 in outcomes
    ]


def _times(number: int, marks: Mapping[tuple[str, int], float], training: float, outcome: str) -> RoundTimes:
    began = at = marks["learn", number - 1]
    ended = marks["learn", number]
    phases = {}
    for name in PHASES:
        # Owners are not in step: some train while others still agree on seeds. A phase is what the last one adds.
        until = min(ended, max(at, marks.get((name, number), at)))
        phases[name], at = until - at, until
    return RoundTimes(number, began, ended, phases, training, outcome)


def read_logs(folder: Path) -> list[tuple[str, Record]]:
    """All participants' lines of a run."""
    paths = sorted((folder / "logs").glob("*.jsonl"))
    return [(path.stem, record) for path in paths for record in LogReader(path.stem, path).new_records()]


# ------------------------------------------------------------------------- measuring


def write_rows(cell: RoundsCell, path: Path) -> None:
    """Rows of ten classes for everybody: random, because what is learnt does not matter here."""
    rng = np.random.default_rng(1)
    features = cell.values // CLASSES - 1
    # A fifth is the model owner's; each owner gets an equal share of the rest, as near as a draw comes.
    count = CLASSES * (-(-cell.owners * ROWS * 5 // (4 * CLASSES)))
    labels = np.arange(count) % CLASSES
    rows = rng.normal(size=(count, features)).astype(np.float32) + labels[:, None].astype(np.float32) / 10
    np.savez(path, X=rows, y=labels)


def testbed_options(cell: RoundsCell, data: Path, profile: bool = False, program: Path | None = None) -> TestbedOptions:
    """The run that a cell is."""
    return TestbedOptions(
        owners=cell.owners,
        group_size=cell.group_size,
        faulty=1 if cell.owners // cell.group_size >= 5 else 0,
        rounds=cell.rounds,
        protection="envelope",
        data=data,
        # All owners have about as many rows.
        skew=1000.0,
        batch_size=BATCH_ROWS,
        broker=cell.broker,
        phase_seconds=_LONG_SECONDS,
        join_seconds=_LONG_SECONDS,
        profile=profile,
        program=program,
    )


def process_groups(processes: Sequence[ManagedProcess]) -> dict[str, list[int]]:
    """Who is who, of the coordinator, the model owner and the owners; chain and broker are the coordinator's."""
    coordinator, model, *owners = processes
    started = children(coordinator.pid)
    chain = [pid for pid, program in started.items() if program == "anvil"]
    return {
        "owners": [owner.pid for owner in owners],
        "model owner": [model.pid],
        "chain": chain,
        # An embedded broker runs in the coordinator.
        "broker": [coordinator.pid, *(pid for pid in started if pid not in chain)],
        "launcher": [os.getpid()],
    }


async def measure(cell: RoundsCell, folder: Path, profile: bool = False, program: Path | None = None) -> RoundsResult:
    """One cell, in `folder`. Raises OmniLyticsError or ProcessError where the run fails."""
    folder.mkdir(parents=True)
    data = folder / "rows.npz"
    write_rows(cell, data)
    sampling: list[tuple[CpuSampler, asyncio.Task[None]]] = []

    def started(processes: list[ManagedProcess]) -> None:
        sampler = CpuSampler(process_groups(processes))
        sampling.append((sampler, asyncio.create_task(sampler.run())))

    try:
        with set_environment(PATIENCE), contextlib.redirect_stderr(_log(folder)):
            await run_testbed(testbed_options(cell, data, profile, program), folder / "run", started=started)
    finally:
        for _, task in sampling:
            task.cancel()
        data.unlink()
    disk = disk_growth(folder / "run", cell.rounds)
    return summarise(cell, round_times(read_logs(folder / "run")), sampling[0][0], disk)


def disk_growth(run: Path, rounds: int) -> dict[str, float]:
    """Bytes that the first owner's and the model owner's files grow by in a round."""
    found = {}
    for who, name in (("owner", "owner-00"), ("model", "model")):
        home = run / "participants" / name
        lines = (home / "log.jsonl").read_bytes().splitlines(keepends=True)
        # What is said of a round; signs of life come by the clock.
        told = [len(line) for line in lines if json.loads(line).get("round")]
        found[f"{who} log"] = sum(told) / rounds
        found[f"{who} journal"] = journal_bytes(home / "journal.sqlite") / rounds
    return found


def journal_bytes(path: Path) -> int:
    """Bytes of all values in a journal, without what SQLite needs around them."""
    with contextlib.closing(sqlite3.connect(path)) as journal:
        tables = [row[0] for row in journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        total = 0
        for table_name in tables:
            columns = [row[1] for row in journal.execute(f"PRAGMA table_info({table_name})")]
            lengths = " + ".join(f"IFNULL(LENGTH({column}), 0)" for column in columns)
            total += journal.execute(f"SELECT IFNULL(SUM({lengths}), 0) FROM {table_name}").fetchone()[0]
    return total


def _log(folder: Path) -> Any:
    return (folder / "testbed.txt").open("w", encoding="utf-8", buffering=1)


@contextlib.contextmanager
def set_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Daemons that are started inside find these variables."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def summarise(
    cell: RoundsCell, times: Sequence[RoundTimes], sampler: CpuSampler, disk: Mapping[str, float]
) -> RoundsResult:
    """Medians of its rounds. Raises ValueError where there are none."""
    if not times:
        raise ValueError("no round after the first has ended")
    began, ended = times[0].began, times[-1].ended
    taken = sampler.between(began, ended)
    machine = taken.pop(MACHINE)
    capacity = (ended - began) * (os.cpu_count() or 1)
    return RoundsResult(
        cell,
        len(times),
        sum(each.outcome == "selected" for each in times),
        statistics.median(each.seconds for each in times),
        statistics.median(each.training for each in times),
        {name: statistics.median(each.phases[name] for each in times) for name in PHASES},
        {name: seconds / len(times) for name, seconds in taken.items()},
        max(0.0, machine - sum(taken.values())) / capacity,
        disk,
    )


@dataclass(frozen=True)
class Failed:
    """A cell that could not be measured, and why."""

    cell: RoundsCell
    reason: str


async def run_rounds(
    cells: Sequence[RoundsCell], folder: Path, say: Say, profile: bool = False, program: Path | None = None
) -> tuple[list[RoundsResult], list[Failed]]:
    """All cells, one after the other; one that fails is said, and the next is begun."""
    results, failed = [], []
    for number, cell in enumerate(cells, 1):
        say(f"{number} of {len(cells)}: {cell}, {cell.rounds} rounds, about {estimate(cell):.0f} s")
        started = time.monotonic()
        try:
            result = await measure(cell, folder / f"cell-{number}", profile, program)
        except Exception as error:  # noqa: BLE001 (whatever it was: the others are worth measuring)
            failed.append(Failed(cell, f"{type(error).__name__}: {error}"))
            say(f"  failed: {failed[-1].reason}")
            continue
        results.append(result)
        say(
            f"  {time.monotonic() - started:.0f} s: a round takes {result.seconds:.2f} s, of it "
            f"{result.training:.2f} s training; owners {result.cpu['owners']:.1f} s of processor time; "
            f"others took {100 * result.other_load:.0f} % of the machine"
        )
    return results, failed


def estimate(cell: RoundsCell) -> float:
    """Seconds that a cell takes on two processors, roughly: starting, joining, rounds, reading."""
    return 15 + 0.8 * cell.owners + cell.rounds * (1 + cell.owners / 10 + cell.owners * cell.values / 600_000)


def default_cells(brokers: Sequence[str], quick: bool) -> list[RoundsCell]:
    """What the page shows: owners at a small model with each broker, and sizes of the model at 30 owners."""
    if quick:
        return [RoundsCell(9, 3, 650, "embedded", 2)]
    first, *others = brokers
    cells = [RoundsCell(n, size, 650, first) for n, size in ((18, 3), (30, 3), (63, 3))]
    cells.append(RoundsCell(99, 9, 650, first, 3))
    cells += [RoundsCell(30, 3, values, first) for values in (10_000, 100_000)]
    cells += [RoundsCell(n, 3, values, other) for other in others for n, values in ((30, 650), (63, 650), (30, 10_000))]
    return cells


# ---------------------------------------------------------------------------- tables


def rounds_table(results: Sequence[RoundsResult], failed: Sequence[Failed] = ()) -> str:
    """Seconds by phase, and processor time by who took it, in Markdown."""
    where = ["owners", "groups of", "values", "broker"]
    rows, taken = [], []
    for result in results:
        cell = result.cell
        place = [str(cell.owners), str(cell.group_size), f"{cell.values:,}", cell.broker]
        rows.append(
            [
                *place,
                f"{result.complete} of {result.rounds}",
                f"{result.seconds:.2f}",
                f"{result.training:.2f}",
                f"{result.added:.2f}",
                *(f"{result.phases[name]:.2f}" for name in PHASES),
            ]
        )
        cpu = result.cpu
        taken.append(
            [
                *place,
                f"{cpu['owners']:.2f}",
                f"{1000 * cpu['owners'] / cell.owners:.0f}",
                *(f"{cpu[name]:.2f}" for name in ("model owner", "chain", "broker", "launcher")),
                f"{100 * sum(cpu.values()) / (result.seconds * (os.cpu_count() or 1)):.0f} %",
                f"{100 * result.other_load:.0f} %",
            ]
        )
    head = [*where, "rounds selected", "a round, s", "slowest training", "added by the market", *PHASES]
    cpu_head = [
        *where, "all owners, s a round", "one owner, ms", "model owner, s", "chain", "broker", "launcher",
        "of the machine", "others",
    ]  # fmt: skip
    said = "".join(f"\n\nNot measured: {each.cell}: {each.reason.splitlines()[0]}." for each in failed)
    return f"{table(head, rows)}\n\nProcessor time, seconds a round:\n\n{table(cpu_head, taken)}{said}"


def goal_line(results: Sequence[RoundsResult]) -> str:
    """Whether the goal is met: 30 owners, 10,000 values."""
    told = [
        f"{result.added:.2f} s with the {result.cell.broker} broker"
        for result in results
        if (result.cell.owners, result.cell.values) == (30, 10_000)
    ]
    return f"The goal, {GOAL:g} s added to a round of 30 owners and 10,000 values: {', '.join(told)}." if told else ""
