"""Folds log records into the market, one by one: who is there, where each task stands, what was paid.

Pure: the market after some records is a function of those records in their order. Most of it does not depend on
the order of different daemons' lines, so a live view and a replay end in the same place.
"""

from __future__ import annotations

from collections.abc import Callable

from omnilytics.daemon.monitor import fold_task
from omnilytics.daemon.monitor.fold_task import Scene
from omnilytics.daemon.monitor.market import (
    MAX_CODES,
    MAX_DISTANCE_ROUNDS,
    MAX_FUNCTIONS,
    MAX_MISSING,
    MAX_PARTICIPANTS,
    MAX_PENDING,
    MAX_ROUNDS,
    MAX_SEED_ROUNDS,
    MAX_TASKS,
    ErrorKind,
    GasUse,
    Life,
    Market,
    Participant,
    Round,
    Task,
    short,
)
from omnilytics.daemon.monitor.records import (
    MAX_NAME,
    SCHEMA_VERSION,
    Record,
    flag,
    real,
    text_of,
    wei,
    whole,
)

# What belongs to a round; joining, revealing and collecting are of the task.
ROUND_FUNCTIONS = frozenset(
    {"publishPart", "openRound", "commit", "sitOut", "post", "settle", "selectGroups", "poke", "expel"}
)
# What a daemon says once when it begins, and once more with ".over" when it ends.
_STANDING = (
    "chain.stalled", "clock.skew", "rpc.unconfirmed", "rpc.disagreement", "safe-mode", "balance.low", "fee.high",
)  # fmt: skip


def fold(market: Market, record: Record, source: str) -> None:
    """Takes one record of a source (a file's name, or - for a pipe) into account."""
    honesty = market.honesty
    honesty.records += 1
    if record.version != SCHEMA_VERSION:
        # Another schema's fields may mean other things.
        honesty.other_versions += 1
        return
    person = _participant(market, record, source)
    if not _is_new(market, person, record):
        return
    market.first_ts = record.ts if market.first_ts is None else min(market.first_ts, record.ts)
    market.last_ts = max(market.last_ts, record.ts)
    person.last_ts = max(person.last_ts, record.ts)
    person.exit_reason = None
    if len(market.events) < 4096 or record.event in market.events:
        market.events[record.event] += 1
    task = _task(market, record)
    round_ = None
    if task is not None:
        person.task = task.number
        number = whole(record, "round")
        if number:
            person.round = max(person.round, number)
            round_ = _round(market, task, number)
    handler = _HANDLERS.get(record.event)
    if handler is not None:
        handler(Scene(market, person, task, round_), record)
    if record.level in ("warning", "error"):
        _count_trouble(market, person, record)


# ------------------------------------------------------------------ who and what a line is of


def _participant(market: Market, record: Record, source: str) -> Participant:
    found = market.participants.get(record.peer)
    if found is None:
        if len(market.participants) >= MAX_PARTICIPANTS:
            oldest = min(market.participants.values(), key=lambda person: (person.last_ts, person.peer))
            del market.participants[oldest.peer]
            market.honesty.forgotten += 1
        name = "model" if record.role == "model" else short(record.peer)
        found = Participant(record.peer, record.role, name, record.ts, record.ts)
        market.participants[record.peer] = found
        _name(market, found, source)
    return found


def _name(market: Market, person: Participant, source: str) -> None:
    """A file that speaks of one daemon gives it its name."""
    if source == "-":
        return
    if source not in market.sources:
        if len(market.sources) < MAX_PARTICIPANTS:
            market.sources[source] = person.peer
            person.name = source
    elif market.sources[source] is not None:
        first = market.participants.get(market.sources[source] or "")
        if first is not None:
            first.name = "model" if first.role == "model" else short(first.peer)
        market.sources[source] = None


def _is_new(market: Market, person: Participant, record: Record) -> bool:
    """Whether this line was not seen before; gaps in the numbers of a life are counted, and filled by late lines."""
    honesty = market.honesty
    life = person.lives.get(record.boot)
    if life is None:
        life = person.lives[record.boot] = Life()
        person.boots += 1
        if person.boots > 1:
            honesty.restarts += 1
            if not person.gone:
                person.deaths.append((person.round, person.last_ts))
        while len(person.lives) > 4:
            del person.lives[next(iter(person.lives))]
    if record.seq == life.last + 1:
        life.last = record.seq
        return True
    if record.seq > life.last:
        skipped = record.seq - life.last - 1
        honesty.gaps += skipped
        room = MAX_MISSING - len(life.missing)
        life.missing.update(range(record.seq - min(skipped, room), record.seq))
        life.last = record.seq
        return True
    if record.seq in life.missing:
        life.missing.discard(record.seq)
        honesty.gaps -= 1
        honesty.late += 1
        return True
    honesty.repeated += 1
    return False


def _task(market: Market, record: Record) -> Task | None:
    number = whole(record, "task")
    if not number:
        return None
    found = market.tasks.get(number)
    if found is None:
        if len(market.tasks) >= MAX_TASKS:
            del market.tasks[min(market.tasks)]
            market.honesty.forgotten += 1
        found = market.tasks[number] = Task(number)
    return found


def _round(market: Market, task: Task, number: int) -> Round | None:
    found = task.rounds.get(number)
    if found is None:
        if len(task.rounds) >= MAX_ROUNDS:
            oldest = min(task.rounds)
            if number < oldest:
                return None
            del task.rounds[oldest]
            task.forgotten_rounds += 1
            market.honesty.forgotten += 1
        found = task.rounds[number] = Round(number)
        for earlier in (number - MAX_SEED_ROUNDS, number - MAX_DISTANCE_ROUNDS):
            old = task.rounds.get(earlier)
            if old is not None:
                old.seeds.clear()
                if number - earlier >= MAX_DISTANCE_ROUNDS:
                    old.distances.clear()
    return found


def _count_trouble(market: Market, person: Participant, record: Record) -> None:
    if record.level == "error":
        person.errors += 1
    else:
        person.warnings += 1
    code = text_of(record, "code", MAX_NAME) or record.event
    kind = market.errors.get(code)
    if kind is None:
        if len(market.errors) >= MAX_CODES:
            market.honesty.forgotten += 1
            return
        kind = market.errors[code] = ErrorKind(code, record.level)
    kind.count += 1
    if record.level == "error":
        kind.level = "error"
    if record.ts >= kind.last_ts:
        kind.last_ts, kind.last_peer, kind.last_text = record.ts, record.peer, text_of(record, "msg")
    kind.help = text_of(record, "help") or kind.help


# ------------------------------------------------------------------ the daemon itself


def _ready(scene: Scene, record: Record) -> None:
    scene.person.failure = None
    scene.person.standing.clear()
    scene.person.failed_tasks.clear()
    scene.person.sent.clear()


def _exit(scene: Scene, record: Record) -> None:
    scene.person.exit_reason = text_of(record, "reason", MAX_NAME) or "unknown"


def _failed(scene: Scene, record: Record) -> None:
    scene.person.failure = text_of(record, "msg")


def _task_failed(scene: Scene, record: Record) -> None:
    if scene.task is None:
        return
    failed, number = scene.person.failed_tasks, scene.task.number
    # Tried again and again: since the first time.
    since = failed.pop(number, (record.ts, ""))[0]
    failed[number] = since, text_of(record, "msg")
    while len(failed) > MAX_TASKS:
        del failed[next(iter(failed))]


def _task_accepted(scene: Scene, record: Record) -> None:
    if scene.task is not None:
        scene.person.failed_tasks.pop(scene.task.number, None)


def _heartbeat(scene: Scene, record: Record) -> None:
    person = scene.person
    block = whole(record, "head_block")
    if block is not None:
        person.head_block, person.head_ts = block, record.ts
        person.head_time = whole(record, "head_time")
        person.head_age = real(record, "head_age_s")
        person.skew = real(record, "skew_s")
        person.seen_block = whole(record, "seen_block")
    person.tx_pending = whole(record, "tx_pending")
    person.connected = flag(record, "broker_connected")
    person.disk_free = whole(record, "disk_free_bytes")
    person.dropped = (whole(record, "dropped_topics") or 0) + (whole(record, "dropped_in_flood") or 0)


def _standing(scene: Scene, record: Record) -> None:
    scene.person.standing[record.event] = record.ts, text_of(record, "msg")


def _well_again(scene: Scene, record: Record) -> None:
    scene.person.standing.pop(record.event.removesuffix(".over"), None)


def _connected(scene: Scene, record: Record) -> None:
    scene.person.connected = True


def _broker_lost(scene: Scene, record: Record) -> None:
    scene.person.connected = False
    scene.person.broker_losses += 1


def _rpc_error(scene: Scene, record: Record) -> None:
    scene.person.rpc_errors += 1


# ------------------------------------------------------------------ transactions


def _sent(scene: Scene, record: Record) -> None:
    sent = scene.person.sent
    while len(sent) >= MAX_PENDING:
        del sent[next(iter(sent))]
    sent[text_of(record, "tx", MAX_NAME)] = text_of(record, "function", MAX_NAME), record.ts


def _mined(scene: Scene, record: Record) -> None:
    person, task, round_ = scene.person, scene.task, scene.round
    gas, fee = whole(record, "gas") or 0, max(0, wei(record) or 0)
    function = text_of(record, "function", MAX_NAME)
    reverted = record.event == "tx.reverted"
    person.sent.pop(text_of(record, "tx", MAX_NAME), None)
    person.gas += gas
    person.fees += fee
    person.reverted += reverted
    if task is None:
        # createTask is mined before its task has a number.
        if function in person.unassigned or len(person.unassigned) < MAX_FUNCTIONS:
            person.unassigned.setdefault(function, GasUse()).add(gas, fee, reverted)
        return
    for uses in (task.gas, *((round_.gas,) if round_ is not None and function in ROUND_FUNCTIONS else ())):
        if function in uses or len(uses) < MAX_FUNCTIONS:
            uses.setdefault(function, GasUse()).add(gas, fee, reverted)
    duration = whole(record, "dur_ms")
    if duration is not None:
        task.took(f"tx {function}" if len(task.durations) < MAX_FUNCTIONS else "tx other", duration / 1000)
    if reverted:
        return
    if round_ is not None and function in ("commit", "post"):
        owner = round_.owner(person.peer)
        total = task.owner(person.peer)
        if function == "commit" and owner.commit_mined is None:
            owner.commit_mined = record.ts
            total.committed += 1
        elif function == "post":
            # A large vector is posted in several parts: the last one counts.
            total.posted += owner.posted is None
            owner.posted = record.ts
    elif function == "join":
        task.joined.add(person.peer)
    elif function == "settle":
        person.settled_chunks += 1
    elif function == "withdraw":
        received = wei(record, "wei_received")
        person.withdrawn += max(0, (wei(record, "wei_expected") or 0) if received is None else received)
        person.withdrawn_ts = record.ts


def _bumped(scene: Scene, record: Record) -> None:
    scene.person.bumped += 1


def _resent(scene: Scene, record: Record) -> None:
    scene.person.resent += 1


def _refused(scene: Scene, record: Record) -> None:
    scene.person.refused += 1


_HANDLERS: dict[str, Callable[[Scene, Record], None]] = {
    "daemon.ready": _ready,
    "daemon.exit": _exit,
    "daemon.failed": _failed,
    "daemon.bug": _failed,
    "heartbeat": _heartbeat,
    "broker.connected": _connected,
    "broker.lost": _broker_lost,
    "rpc.error": _rpc_error,
    "tx.sent": _sent,
    "tx.mined": _mined,
    "tx.reverted": _mined,
    "tx.bumped": _bumped,
    "tx.resent": _resent,
    "tx.refused": _refused,
    "task.created": fold_task.created,
    "task.terms": fold_task.terms,
    "task.ready": fold_task.task_ready,
    "task.accepted": _task_accepted,
    "task.failed": _task_failed,
    "task.done": fold_task.task_done,
    "task.missed": fold_task.task_done,
    "group.drawn": fold_task.drawn,
    "phase.enter": fold_task.phase,
    "waiting": fold_task.waiting,
    "money": fold_task.money,
    "round.paid": fold_task.paid,
    "round.groups": fold_task.groups,
    "round.begin": fold_task.begin,
    "round.sat-out": fold_task.sat_out,
    "round.done": fold_task.round_done,
    "stage.enter": fold_task.stage,
    "seed.hello": fold_task.seed,
    "seed.agreed": fold_task.seed,
    "key.delivered": fold_task.delivered,
    "delivery.closed": fold_task.delivery_closed,
    "krum.disagreement": fold_task.disputed,
    "train.done": fold_task.trained,
    **{event: _standing for event in _STANDING},
    **{f"{event}.over": _well_again for event in _STANDING},
}
HANDLED_EVENTS = frozenset(_HANDLERS)
