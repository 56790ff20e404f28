"""How a task goes, round by round: money and groups from the chain, accuracy from the model owner's own log.

The chain alone does for anybody's task; only the model owner knows how good the model is, and its log says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omnilytics.daemon.amounts import format_amount
from omnilytics.daemon.chain import Chain
from omnilytics.daemon.log import show
from omnilytics.daemon.waiting import awaited, place_name
from omnilytics.peers.market import Outcome, TaskParams, bits

# What is read of a log: its newest part is enough for the rounds of a task.
_MOST_LOG_BYTES = 64 << 20


@dataclass(frozen=True)
class RoundRow:
    """A round that is over; money in wei, accuracy a fraction of 1 where it is known."""

    round: int
    outcome: str
    selected: tuple[int, ...]
    complete: tuple[int, ...]
    paid: int
    accuracy: float | None = None

    def line(self, rounds: int) -> str:
        """For a terminal, under HEADER."""
        accuracy = "-" if self.accuracy is None else f"{self.accuracy:.4f}"
        named = [",".join(map(str, groups)) or "-" for groups in (self.selected, self.complete)]
        return (
            f"{f'{self.round}/{rounds}':>9}  {accuracy:>8}  {self.outcome:<12}  {named[0]:<14}  {named[1]:<14}  "
            f"{format_amount(self.paid)}"
        )


HEADER = f"{'round':>9}  {'accuracy':>8}  {'outcome':<12}  {'selected':<14}  {'complete':<14}  paid"


@dataclass(frozen=True)
class TaskView:
    """A task at one block. waiting: for what, in words; late: for whom, as far as it is known."""

    task: int
    status: str
    phase: str
    round: int
    rounds: int
    over: bool
    waiting: str
    late: tuple[str, ...]
    seconds_left: int
    escrow: int
    paid: int
    refunded: int
    rows: tuple[RoundRow, ...]

    def waiting_line(self) -> str:
        """For a terminal; empty where nothing is waited for."""
        if self.over:
            return f"task {self.task} is {self.status}: {format_amount(self.paid)} paid of {format_amount(self.escrow)}"
        what = self.waiting or f"{self.phase} phase"
        whom = ", ".join(f"{address[:10]}.." for address in self.late[:4]) + (", ..." if len(self.late) > 4 else "")
        return f"round {self.round}, {what}, {self.seconds_left} s left{f'; late: {whom}' if whom else ''}"

    def as_json(self) -> dict[str, Any]:
        """For programs; wei as whole numbers."""
        return {
            "task": self.task,
            "status": self.status,
            "phase": self.phase,
            "round": self.round,
            "rounds": self.rounds,
            "waiting": {"for": self.waiting, "late": list(self.late), "seconds_left": self.seconds_left},
            "escrow_wei": self.escrow,
            "paid_wei": self.paid,
            "refunded_wei": self.refunded,
            "rows": [
                {
                    "round": row.round,
                    "accuracy": row.accuracy,
                    "outcome": row.outcome,
                    "selected": list(row.selected),
                    "complete": list(row.complete),
                    "paid_wei": row.paid,
                }
                for row in self.rows
            ],
        }


def without_countdown(view: TaskView) -> TaskView:
    """The same view, so that two of them differ only where there is news."""
    return replace(view, seconds_left=0)


def accuracies(lines: Iterable[str], task: int) -> dict[int, float]:
    """Accuracy by round, of the `round.done` lines of a model owner's log; what is no such line is passed over."""
    found: dict[int, float] = {}
    for line in lines:
        if '"round.done"' not in line:
            continue
        try:
            said = json.loads(line)
            if said["event"] == "round.done" and said["task"] == task:
                found[int(said["round"])] = float(said["data"]["accuracy"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def logged_accuracies(path: Path, task: int) -> dict[int, float]:
    """The same of a log and of the older ones that were renamed (log.jsonl.1, ..); nothing where there is none."""
    found: dict[int, float] = {}
    for log in sorted(path.parent.glob(f"{path.name}*"), reverse=True):
        try:
            with log.open(encoding="utf-8", errors="replace") as file:
                file.seek(max(0, log.stat().st_size - _MOST_LOG_BYTES))
                found |= accuracies(file, task)
        except OSError:
            continue
    return found


class TaskWatch:
    """Looks at a task again and again; rounds that are over are read from the chain once."""

    def __init__(self, chain: Chain, task: int, log_path: Path) -> None:
        self._chain, self._task, self._log_path = chain, task, log_path
        self._params: TaskParams | None = None
        self._next_block = -1
        self._rows: dict[int, RoundRow] = {}

    async def look(self) -> TaskView:
        """The task at the newest block. Raises ChainError."""
        chain, task = self._chain, self._task
        head = await chain.head()
        if self._next_block < 0:
            self._next_block = await chain.created_block(task, head.number)
        params = self._params = self._params or await chain.params(task)
        snapshot = await chain.snapshot(task, params, head, 0, None)
        if self._next_block <= head.number:
            await self._read_rounds(params, head.number)
            self._next_block = head.number + 1
        known = logged_accuracies(self._log_path, task)
        # A round that is not over has no outcome yet.
        over = [(number, row) for number, row in sorted(self._rows.items()) if row.outcome]
        rows = [replace(row, accuracy=known.get(number)) for number, row in over]
        state = snapshot.state
        waiting, late = ("", []) if state.over else awaited(snapshot, state.model_owner)
        return TaskView(
            task,
            state.status.name.lower(),
            place_name(snapshot),
            state.round,
            params.rounds,
            state.over,
            waiting,
            tuple(show(address) for address in late),
            max(0, state.phase_end - snapshot.time),
            state.escrow,
            state.paid,
            state.refunded,
            tuple(rows),
        )

    async def _read_rounds(self, params: TaskParams, last: int) -> None:
        first, chain, task = self._next_block, self._chain, self._task
        posts = await chain.task_events("PostClosed", task, first, last)
        if params.model_selection:
            selections = await chain.task_events("GroupsSelected", task, first, last)
        else:
            selections = await chain.task_events("KrumSelected", task, first, last)
        for said in posts:
            self._change(said["round"], complete=tuple(bits(said["complete"])))
        for said in selections:
            self._change(said["round"], selected=tuple(bits(said["selected"])))
        for said in await chain.task_events("RoundEnded", task, first, last):
            outcome = Outcome(said["outcome"]).name.lower()
            self._change(said["round"], outcome=outcome, paid=said["paidWei"])

    def _change(self, number: int, **changes: Any) -> None:
        row = self._rows.get(number) or RoundRow(number, "", (), (), 0)
        self._rows[number] = replace(row, **changes)
