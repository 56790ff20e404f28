"""Folds log records into the market, one by one: who is there, where each task stands, what was paid.

Pure: the market after some records is a function of those records in their order. Most of it does not depend on
the order of different daemons' lines, so a live view and a replay end in the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from omnilytics.daemon.monitor.krum_scores import krum_scores, median
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
    GroupRecord,
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
    groups_of,
    matrix_of,
    names_of,
    real,
    text_of,
    wei,
    whole,
)

_PHASES = ("joining", "revealing", "drawing", "idle", "commit", "post", "settle", "ended", "cancelled")
_TERMS = (
    "rounds", "group_size", "max_groups", "faulty_groups", "minimum_groups", "lane_bits", "max_magnitude",
    "value_count", "chunk_count", "max_empty_rounds", "max_missed_rounds", "depth", "open_seconds",
    "commit_seconds", "post_seconds", "settle_seconds",
)  # fmt: skip
MONEY = (
    "escrow", "paid", "settlement_paid", "refunded", "locked",
    "stakes_in", "stakes_out", "slashed", "compensation", "burned",
)  # fmt: skip
# What belongs to a round; joining, revealing and collecting are of the task.
ROUND_FUNCTIONS = frozenset({"publishPart", "openRound", "commit", "sitOut", "post", "settle", "poke", "expel"})
# What a daemon says once when it begins, and once more with ".over" when it ends.
_STANDING = ("chain.stalled", "clock.skew", "rpc.unconfirmed", "rpc.disagreement", "safe-mode")


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
        handler(_Scene(market, person, task, round_), record)
    if record.level in ("warning", "error"):
        _count_trouble(market, person, record)


# ------------------------------------------------------------------ who and what a line is of


class _Scene:
    """What a record is about."""

    __slots__ = ("market", "person", "round", "task")

    def __init__(self, market: Market, person: Participant, task: Task | None, round_: Round | None) -> None:
        self.market = market
        self.person = person
        self.task = task
        self.round = round_


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


def _ready(scene: _Scene, record: Record) -> None:
    scene.person.failure = None
    scene.person.standing.clear()
    scene.person.sent.clear()


def _exit(scene: _Scene, record: Record) -> None:
    scene.person.exit_reason = text_of(record, "reason", MAX_NAME) or "unknown"


def _failed(scene: _Scene, record: Record) -> None:
    scene.person.failure = text_of(record, "msg")


def _heartbeat(scene: _Scene, record: Record) -> None:
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


def _standing(scene: _Scene, record: Record) -> None:
    scene.person.standing[record.event] = record.ts, text_of(record, "msg")


def _well_again(scene: _Scene, record: Record) -> None:
    scene.person.standing.pop(record.event.removesuffix(".over"), None)


def _connected(scene: _Scene, record: Record) -> None:
    scene.person.connected = True


def _broker_lost(scene: _Scene, record: Record) -> None:
    scene.person.connected = False
    scene.person.broker_losses += 1


def _rpc_error(scene: _Scene, record: Record) -> None:
    scene.person.rpc_errors += 1


# ------------------------------------------------------------------ transactions


def _sent(scene: _Scene, record: Record) -> None:
    sent = scene.person.sent
    while len(sent) >= MAX_PENDING:
        del sent[next(iter(sent))]
    sent[text_of(record, "tx", MAX_NAME)] = text_of(record, "function", MAX_NAME), record.ts


def _mined(scene: _Scene, record: Record) -> None:
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
        person.joined = True
        task.joined.add(person.peer)
    elif function == "settle":
        person.settled_chunks += 1
    elif function == "withdraw":
        person.withdrawn += max(0, wei(record, "wei_expected") or 0)
        person.withdrawn_ts = record.ts


def _bumped(scene: _Scene, record: Record) -> None:
    scene.person.bumped += 1


def _resent(scene: _Scene, record: Record) -> None:
    scene.person.resent += 1


def _refused(scene: _Scene, record: Record) -> None:
    scene.person.refused += 1


# ------------------------------------------------------------------ the task


def _created(scene: _Scene, record: Record) -> None:
    if scene.task is not None:
        scene.task.description = text_of(record, "msg")
        scene.task.escrow_sent = wei(record)
        scene.task.model_owner = record.peer
        for function, use in scene.person.unassigned.items():
            scene.task.gas.setdefault(function, GasUse()).add_all(use)
        scene.person.unassigned.clear()


def _terms(scene: _Scene, record: Record) -> None:
    task = scene.task
    if task is None:
        return
    for name in _TERMS:
        value = whole(record, name)
        if value is not None:
            task.terms[name] = value
    for name in ("rate", "stake", "deposit"):
        amount = wei(record, f"{name}_wei")
        if amount is not None and amount >= 0:
            task.terms[name] = amount
    task.model_owner = text_of(record, "model_owner", MAX_NAME) or task.model_owner
    task.description = task.description or text_of(record, "msg")


def _task_ready(scene: _Scene, record: Record) -> None:
    if scene.task is not None:
        scene.task.model_owner = record.peer
        if scene.task.first_accuracy is None and not scene.task.rounds:
            scene.task.first_accuracy = real(record, "accuracy")


def _drawn(scene: _Scene, record: Record) -> None:
    group = groups_of(record, "group") or ((whole(record, "group") or 0),)
    if scene.task is not None and group[0] < 256:
        members = names_of(record, "members")[:256]
        scene.task.members[group[0]] = members
        scene.task.joined.update(members)
        scene.task.group_count = max(scene.task.group_count, group[0] + 1)
        for peer in members:
            person = scene.market.participants.get(peer)
            if person is not None:
                person.group = group[0]


def _phase(scene: _Scene, record: Record) -> None:
    task, round_ = scene.task, scene.round
    phase = text_of(record, "phase", MAX_NAME)
    if task is None or phase not in _PHASES:
        return
    number = whole(record, "round") or 0
    deadline = whole(record, "deadline")
    groups = whole(record, "groups")
    if groups is not None and groups <= 256:
        task.group_count = max(task.group_count, groups)
    group = whole(record, "group")
    if group is not None and group < 256:
        scene.person.group = group
    if phase in ("ended", "cancelled"):
        scene.person.over_ts = record.ts
        if task.over_ts is None:
            task.over_ts = record.ts
    # The place in the life of the task; another daemon may only see it later.
    later = (number, _PHASES.index(phase)) if phase != "idle" else (number, 7 if number else 3)
    if phase in ("ended", "cancelled"):
        later = (1 << 62, 0)
    if later > _place(task):
        _close_phase(task, record.ts)
        task.status = phase if phase in ("joining", "revealing", "drawing", "ended", "cancelled") else "running"
        task.phase, task.round, task.phase_ts, task.deadline = phase, number, record.ts, deadline
        task.waiting_for, task.waiting_text = [], ""
    elif (task.phase, task.round) == (phase, number):
        task.deadline = deadline if deadline is not None else task.deadline
        task.phase_ts = min(task.phase_ts, record.ts)
    if round_ is not None:
        seen = round_.entered.get(phase)
        round_.entered[phase] = record.ts if seen is None else min(seen, record.ts)
        if deadline is not None:
            round_.deadlines[phase] = deadline


def _place(task: Task) -> tuple[int, int]:
    if not task.phase:
        return -1, -1
    if task.over:
        return 1 << 62, 0
    return task.round, _PHASES.index(task.phase) if task.phase != "idle" else (7 if task.round else 3)


def _close_phase(task: Task, now: float) -> None:
    """Says how long the phase took that is over now."""
    if task.phase and task.phase_ts and now >= task.phase_ts:
        task.took("open" if task.phase == "idle" and task.round else task.phase, now - task.phase_ts)


def _waiting(scene: _Scene, record: Record) -> None:
    task = scene.task
    if task is None or record.ts < task.waiting_ts:
        return
    task.waiting_ts = record.ts
    task.waiting_phase = text_of(record, "phase", MAX_NAME)
    task.waiting_text = text_of(record, "msg")
    task.waiting_for = names_of(record, "waiting_for")


def _money(scene: _Scene, record: Record) -> None:
    task, block = scene.task, whole(record, "block")
    if task is None or block is None:
        return
    amounts = tuple(wei(record, f"{name}_wei") for name in MONEY)
    if any(amount is None for amount in amounts):
        return
    money = tuple(amount or 0 for amount in amounts)
    # Nothing but locked ever falls. Some RPCs show a block with the state of its neighbour, so of two that
    # differ about one block the later state is taken.
    if (block, sum(money) - money[MONEY.index("locked")]) >= (task.money_block, task.money_total):
        if task.money_block < 0 and money[MONEY.index("paid")]:
            task.paid_from_start = False
        task.money_block, task.money_total = block, sum(money) - money[MONEY.index("locked")]
        task.money = dict(zip(MONEY, money, strict=True))


def _paid(scene: _Scene, record: Record) -> None:
    task, round_, groups = scene.task, scene.round, groups_of(record, "groups")
    amount = wei(record)
    if task is None or round_ is None or not groups or amount is None or amount <= 0:
        return
    if not _same_view(scene, "paid", str(list(groups))) or round_.paid:
        return
    round_.paid, round_.paid_wei = groups, amount
    task.paid_rounds_wei += amount
    for group in groups:
        task.groups.setdefault(group, GroupRecord()).paid += 1
    if round_.selected is None and round_.complete is not None and round_.outcome is None:
        round_.selected = groups


# ------------------------------------------------------------------ a round


def _disagree(scene: _Scene, what: str, first: str, second: str) -> None:
    if scene.task is not None and first != second:
        entry = (scene.round.number if scene.round is not None else 0, what, first, second)
        if entry not in scene.task.disagreements:
            scene.task.disagreements.append(entry)


def _same_view(scene: _Scene, what: str, value: str) -> bool:
    """Notes what a daemon saw of something that must be the same for all; False where others saw another."""
    assert scene.round is not None
    views = scene.round.views.setdefault(what, {})
    if value not in views and len(views) < 4:
        views[value] = scene.person.peer
    if len(views) > 1:
        values = list(views.values())
        _disagree(scene, what, values[0], scene.person.peer if scene.person.peer != values[0] else values[1])
    return next(iter(views)) == value


def _groups(scene: _Scene, record: Record) -> None:
    round_ = scene.round
    if round_ is None:
        return
    ctx = text_of(record, "ctx", MAX_NAME)
    if ctx and _same_view(scene, "ctx", ctx):
        phase = text_of(record, "phase", MAX_NAME)
        assert scene.task is not None
        if round_.number >= scene.task.idle_as_of:
            idle = (*(groups_of(record, "short") or ()), *(groups_of(record, "dissolved") or ()))
            scene.task.idle_groups, scene.task.idle_as_of = frozenset(idle), round_.number
        for name in ("committed", "sat_out") + (("complete",) if phase not in ("post",) else ()):
            value = groups_of(record, name)
            if value is not None and _same_view(scene, name, str(list(value))):
                setattr(round_, name, value)


def _begin(scene: _Scene, record: Record) -> None:
    if scene.round is not None and scene.task is not None:
        owner = scene.round.owner(scene.person.peer)
        if owner.began is None:
            owner.began = record.ts
            scene.task.owner(scene.person.peer).began += 1
        group = whole(record, "group")
        if group is not None and group < 256:
            scene.person.group = group


def _stage(scene: _Scene, record: Record) -> None:
    if scene.round is None or scene.task is None:
        return
    owner = scene.round.owner(scene.person.peer)
    stage = text_of(record, "phase", MAX_NAME)
    took = whole(record, "dur_ms")
    if stage == "masking" and owner.masking is None:
        owner.masking = record.ts
        if took is not None:
            scene.task.took("seeding", took / 1000)
    elif stage == "committing" and owner.committing is None:
        owner.committing = record.ts
        if owner.masking is not None:
            scene.task.took("masking", record.ts - owner.masking)
    elif stage == "committed" and owner.committed is None:
        owner.committed = record.ts
        if owner.committing is not None:
            scene.task.took("committing", record.ts - owner.committing)


def _seed(scene: _Scene, record: Record) -> None:
    round_ = scene.round
    mate = text_of(record, "peer_to", MAX_NAME)
    if round_ is None or not mate or len(round_.seeds) >= 65536:
        return
    pair = scene.person.peer, mate
    if record.event == "seed.hello":
        round_.seeds.setdefault(pair, None)
        return
    took = whole(record, "dur_ms") or 0
    round_.seeds[pair] = took
    round_.seeds_agreed += 1
    round_.slowest_seed_ms = max(round_.slowest_seed_ms, took)


def _delivered(scene: _Scene, record: Record) -> None:
    if scene.round is not None and len(scene.round.delivered) < MAX_PARTICIPANTS:
        scene.round.delivered.add(text_of(record, "peer_to", MAX_NAME))


def _delivery_closed(scene: _Scene, record: Record) -> None:
    if scene.round is not None:
        scene.round.silent = names_of(record, "silent")[:MAX_PARTICIPANTS]


def _trained(scene: _Scene, record: Record) -> None:
    if scene.round is not None and scene.task is not None:
        scene.round.owner(scene.person.peer).clip_rate = real(record, "clip_rate")
        took = whole(record, "dur_ms")
        if took is not None:
            scene.task.took("training", took / 1000)


def _sat_out(scene: _Scene, record: Record) -> None:
    if scene.round is None or scene.task is None:
        return
    owner, total = scene.round.owner(scene.person.peer), scene.task.owner(scene.person.peer)
    if owner.sat_out is None:
        total.sat_out += 1
        owner.sat_out, owner.reason = record.ts, text_of(record, "msg")
        total.last_reason = owner.reason
        for mate in names_of(record, "missing")[:256]:
            if mate != scene.task.model_owner:
                scene.round.blamed[mate] += 1
                scene.task.owner(mate).blamed += 1


def _round_done(scene: _Scene, record: Record) -> None:
    task, round_ = scene.task, scene.round
    if task is None or round_ is None or round_.outcome is not None:
        return
    round_.outcome = text_of(record, "outcome", MAX_NAME) or "unknown"
    round_.accuracy = real(record, "accuracy")
    round_.dur_ms = whole(record, "dur_ms")
    round_.headroom = real(record, "headroom_bits")
    round_.selected = groups_of(record, "selected_groups") or ()
    round_.complete = groups_of(record, "complete_groups") or ()
    round_.void = groups_of(record, "void_groups") or ()
    round_.slashed = names_of(record, "slashed")[:256]
    for peer in round_.slashed:
        # A deposit is taken from whom its mates expel, too: that group had not committed in this round.
        if round_.committed is None or task.group_of(peer) in (None, *round_.committed):
            round_.owner(peer).slashed = True
            task.owner(peer).slashed.append(round_.number)
        else:
            round_.owner(peer).expelled = True
            task.owner(peer).expelled = round_.number
    distances = matrix_of(record, "distances")
    if distances and len(distances) == len(round_.complete):
        faulty = task.terms.get("faulty_groups", len(round_.complete) - len(round_.selected))
        round_.distances = distances
        round_.scores = krum_scores(distances, faulty)
        _judge_groups(task, round_)
    if round_.dur_ms is not None:
        task.took("round", round_.dur_ms / 1000)


def _judge_groups(task: Task, round_: Round) -> None:
    assert round_.complete is not None and round_.selected is not None
    scores: Mapping[int, float] = dict(zip(round_.complete, round_.scores, strict=True))
    usual = median([scores[group] for group in round_.selected if group in scores])
    for group, score in scores.items():
        known = task.groups.setdefault(group, GroupRecord())
        known.complete += 1
        known.rejected += group not in round_.selected
        if usual > 0:
            known.ratios.append(score / usual)


def _task_done(scene: _Scene, record: Record) -> None:
    scene.person.done_ts = record.ts


_HANDLERS: dict[str, Callable[[_Scene, Record], None]] = {
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
    "task.created": _created,
    "task.terms": _terms,
    "task.ready": _task_ready,
    "task.done": _task_done,
    "task.missed": _task_done,
    "group.drawn": _drawn,
    "phase.enter": _phase,
    "waiting": _waiting,
    "money": _money,
    "round.paid": _paid,
    "round.groups": _groups,
    "round.begin": _begin,
    "round.sat-out": _sat_out,
    "round.done": _round_done,
    "stage.enter": _stage,
    "seed.hello": _seed,
    "seed.agreed": _seed,
    "key.delivered": _delivered,
    "delivery.closed": _delivery_closed,
    "train.done": _trained,
    **{event: _standing for event in _STANDING},
    **{f"{event}.over": _well_again for event in _STANDING},
}
HANDLED_EVENTS = frozenset(_HANDLERS)
