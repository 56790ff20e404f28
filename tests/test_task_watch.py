"""A task as `model watch` shows it: rounds from the chain, once each, and accuracy from the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.task_watch import (
    RoundRow,
    TaskView,
    TaskWatch,
    accuracies,
    logged_accuracies,
    without_countdown,
)
from omnilytics.daemon.waiting import awaited
from omnilytics.peers.market import Outcome, RoundPhase, TaskParams, TaskSnapshot, TaskStatus
from tests.local_market import PARAMS, lasting
from tests.market_views import MODEL_OWNER, snapshot, state


def line(**fields: Any) -> str:
    return json.dumps({"event": "round.done", "task": 1, **fields}, separators=(",", ":")) + "\n"


@dataclass
class ShownChain:
    """A chain at some block, with events by block; it counts what it is asked for."""

    head_block: int = 10
    params_: TaskParams = PARAMS
    shown: TaskSnapshot = field(default_factory=lambda: snapshot(state(), ()))
    events: dict[str, list[tuple[int, Mapping[str, Any]]]] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    async def head(self) -> Head:
        return Head(self.head_block, 500, bytes(32), 0, bytes(32))

    async def created_block(self, task: int, until: int) -> int:
        return 3

    async def params(self, task: int) -> TaskParams:
        return self.params_

    async def snapshot(self, *of: object) -> TaskSnapshot:
        return self.shown

    async def task_events(self, event: str, task: int, first: int, last: int) -> list[Mapping[str, Any]]:
        self.asked.append((event, first, last))
        return [said for block, said in self.events.get(event, []) if first <= block <= last]


def ended(block: int, number: int, outcome: Outcome, paid: int) -> tuple[int, Mapping[str, Any]]:
    return block, {"round": number, "outcome": outcome, "paidWei": paid}


async def test_rounds_are_read_once_and_a_round_shows_when_it_is_over(tmp_path: Path) -> None:
    chain = ShownChain()
    chain.events = {
        "PostClosed": [(5, {"round": 1, "complete": 0b111}), (15, {"round": 2, "complete": 0b101})],
        "KrumSelected": [(6, {"round": 1, "selected": 0b011}), (19, {"round": 2, "selected": 0b100})],
        "RoundEnded": [ended(7, 1, Outcome.SELECTED, 5 * 10**17), ended(20, 2, Outcome.TOO_FEW, 0)],
    }
    log = tmp_path / "log.jsonl"
    watch = TaskWatch(cast(Chain, chain), 1, log)
    first = await watch.look()
    assert first.rows == (RoundRow(1, "selected", (0, 1), (0, 1, 2), 5 * 10**17, None),)
    log.write_text(line(round=1, data={"accuracy": 0.5}))
    assert (await watch.look()).rows[0].accuracy == 0.5
    chain.head_block = 16
    assert len((await watch.look()).rows) == 1, "round 2 has posted, but it is not over"
    chain.head_block = 20
    rows = (await watch.look()).rows
    assert rows[1] == RoundRow(2, "too_few", (2,), (0, 2), 0, None)
    ranges = [(start, end) for event, start, end in chain.asked if event == "RoundEnded"]
    assert ranges == [(3, 10), (11, 16), (17, 20)], "from the task's creation, no block twice"
    assert "GroupsSelected" not in {event for event, _, _ in chain.asked}


async def test_where_the_model_owner_selects_its_selection_is_shown(tmp_path: Path) -> None:
    chain = ShownChain(params_=lasting(model_selection=True))
    chain.events = {
        "GroupsSelected": [(4, {"round": 1, "selected": 1})],
        "RoundEnded": [ended(5, 1, Outcome.SELECTED, 1)],
    }
    (row,) = (await TaskWatch(cast(Chain, chain), 1, tmp_path / "none").look()).rows
    assert row.selected == (0,)


def test_accuracy_is_of_this_task_and_the_log_may_hold_anything(tmp_path: Path) -> None:
    lines = [
        line(round=1, data={"accuracy": 0.25}),
        line(round=1, task=2, data={"accuracy": 0.5}),
        line(round=2, data={"accuracy": 0.75}),
        line(round=3, data={}),
        line(round="x", data={"accuracy": 1}),
        '"round.done" is no JSON\n',
        '{"event":"other","msg":"\\"round.done\\"","task":1,"round":9,"data":{"accuracy":1}}\n',
        '["round.done"]\n',
        '{"event":"round.done"',
    ]
    assert accuracies(lines, 1) == {1: 0.25, 2: 0.75}
    log = tmp_path / "log.jsonl"
    assert logged_accuracies(log, 1) == {}
    # A log that was renamed is read too, and the newer one has the last word.
    (tmp_path / "log.jsonl.1").write_text(line(round=1, data={"accuracy": 0.1}) + line(round=2, data={"accuracy": 0.2}))
    log.write_bytes(b"\xff\n" + line(round=2, data={"accuracy": 0.3}).encode())
    assert logged_accuracies(log, 1) == {1: 0.1, 2: 0.3}


def view(**changes: Any) -> TaskView:
    values: dict[str, Any] = {
        "task": 7, "status": "running", "phase": "commit", "round": 3, "rounds": 20, "over": False,
        "waiting": "2 of 9 owners committed", "late": ("0x" + "ab" * 20,) * 5, "seconds_left": 42,
        "escrow": 10**18, "paid": 10**17, "refunded": 0, "rows": (),
    }  # fmt: skip
    return TaskView(**values | changes)


def test_lines_say_who_is_waited_for_and_how_it_ended() -> None:
    late = ", ".join(["0xabababab.."] * 4)
    assert view().waiting_line() == f"round 3, 2 of 9 owners committed, 42 s left; late: {late}, ..."
    assert view(waiting="", late=()).waiting_line() == "round 3, commit phase, 42 s left"
    assert view(over=True, status="ended").waiting_line() == "task 7 is ended: 0.1 eth paid of 1 eth"
    row = RoundRow(3, "selected", (0, 2), (0, 1, 2), 10**16, 0.91234)
    assert row.line(20).split() == ["3/20", "0.9123", "selected", "0,2", "0,1,2", "0.01", "eth"]
    assert RoundRow(3, "void", (), (), 0).line(20).split() == ["3/20", "-", "void", "-", "-", "0", "wei"]
    assert without_countdown(view()) == without_countdown(view(seconds_left=7)) != without_countdown(view(round=4))
    said = view(rows=(row,)).as_json()
    assert said["rows"][0]["accuracy"] == 0.91234 and json.loads(json.dumps(said)) == said


def test_who_is_awaited_is_the_models_owner_where_it_selects() -> None:
    settling = state(status=TaskStatus.RUNNING, phase=RoundPhase.SETTLE)
    shown = snapshot(settling, (), params=lasting(model_selection=True))
    assert awaited(shown, MODEL_OWNER) == ("the model owner selects groups", [MODEL_OWNER])
    assert awaited(snapshot(state(status=TaskStatus.ENDED), ()), MODEL_OWNER) == ("", [])
