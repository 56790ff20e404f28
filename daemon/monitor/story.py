"""What a replay prints: the turns of a market, one line each, with the time that the logs themselves give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from omnilytics.daemon.monitor.market import Market, Task
from omnilytics.daemon.monitor.panels import moment
from omnilytics.daemon.monitor.records import Record, text_of, whole
from omnilytics.daemon.monitor.watch import Watch

_WORTH = frozenset(
    {
        "daemon.ready",
        "daemon.exit",
        "daemon.failed",
        "daemon.bug",
        "round.sat-out",
        "safe-mode",
        "group.dead",
        "krum.disagreement",
    }
)


def replayed(watch: Watch, records: Iterable[tuple[str, Record]]) -> Iterator[str]:
    """Folds the records and says what happened. The same records give the same lines."""
    places: dict[int, tuple[str, int]] = {}
    ended: dict[int, int] = {}
    raised = 0
    last = 0.0
    for source, record in records:
        watch.take([(source, record)])
        market, when = watch.market, moment(record.ts)[:23]
        last = max(last, record.ts)
        yield from _alerts(watch, raised)
        raised = watch.raised
        if record.event == "phase.enter" or record.event == "round.done":
            task = market.tasks.get(whole(record, "task") or 0)
            if task is not None and places.get(task.number) != (task.phase, task.round):
                places[task.number] = task.phase, task.round
                round_ = f" round {task.round}" if task.round else ""
                yield f"{when}  task {task.number}{round_}: {task.phase}"
            if task is not None and record.event == "round.done":
                yield from _round_done(task, whole(record, "round") or 0, ended, when)
        elif record.event in _WORTH:
            number = whole(record, "round")
            place = f" in round {number}" if number else ""
            yield f"{when}  {_name(market, record)}{place}: {text_of(record, 'msg') or record.event}"
    watch.look(last)
    yield from _alerts(watch, raised)


def _name(market: Market, record: Record) -> str:
    return market.name(record.peer)


def _alerts(watch: Watch, known: int) -> Iterator[str]:
    fresh = watch.raised - known
    for alert in list(watch.history)[len(watch.history) - fresh :] if fresh > 0 else []:
        yield f"{moment(alert.raised)[:23]}  ALERT {alert.code}: {alert.text}"


def _round_done(task: Task, number: int, ended: dict[int, int], when: str) -> Iterator[str]:
    round_ = task.rounds.get(number)
    if round_ is None or ended.get(task.number, 0) >= number:
        return
    ended[task.number] = number
    rejected = [group for group in round_.complete or () if group not in (round_.selected or ())]
    accuracy = f", accuracy {round_.accuracy:.4f}" if round_.accuracy is not None else ""
    gas = sum(use.gas for use in round_.gas.values())
    yield (
        f"{when}  task {task.number} round {number} ended: {round_.outcome}{accuracy}, selected "
        f"{list(round_.selected or ())}, rejected {rejected}, {gas:,} gas so far"
    )
