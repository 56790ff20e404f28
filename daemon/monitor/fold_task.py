"""How records change a task and its rounds: terms, groups, phases, seeds, commitments, outcomes, money. Pure.

Each function takes what a record is about, and the record; what it lacks or says wrongly is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from omnilytics.daemon.monitor.krum_scores import krum_scores, median
from omnilytics.daemon.monitor.market import (
    MAX_PARTICIPANTS,
    MAX_TASKS,
    GasUse,
    GroupRecord,
    Market,
    Participant,
    Round,
    Task,
)
from omnilytics.daemon.monitor.records import (
    MAX_NAME,
    Record,
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


class Scene:
    """What a record is about: task and round are None where it names none."""

    __slots__ = ("market", "person", "round", "task")

    def __init__(self, market: Market, person: Participant, task: Task | None, round_: Round | None) -> None:
        self.market = market
        self.person = person
        self.task = task
        self.round = round_


# ------------------------------------------------------------------ the task


def created(scene: Scene, record: Record) -> None:
    if scene.task is not None:
        scene.task.description = text_of(record, "msg")
        scene.task.escrow_sent = wei(record)
        scene.task.model_owner = record.peer
        for function, use in scene.person.unassigned.items():
            scene.task.gas.setdefault(function, GasUse()).add_all(use)
        scene.person.unassigned.clear()


def terms(scene: Scene, record: Record) -> None:
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


def task_ready(scene: Scene, record: Record) -> None:
    if scene.task is not None:
        scene.task.model_owner = record.peer
        if whole(record, "before_round") == 1:
            scene.task.first_accuracy = real(record, "accuracy")


def drawn(scene: Scene, record: Record) -> None:
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


def phase(scene: Scene, record: Record) -> None:
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
    if phase in ("ended", "cancelled") and task.over_ts is None:
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


def waiting(scene: Scene, record: Record) -> None:
    task = scene.task
    if task is None or record.ts < task.waiting_ts:
        return
    task.waiting_ts = record.ts
    task.waiting_phase = text_of(record, "phase", MAX_NAME)
    task.waiting_text = text_of(record, "msg")
    task.waiting_for = names_of(record, "waiting_for")


def money(scene: Scene, record: Record) -> None:
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


def paid(scene: Scene, record: Record) -> None:
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


def _disagree(scene: Scene, what: str, first: str, second: str) -> None:
    if scene.task is not None and first != second:
        entry = (scene.round.number if scene.round is not None else 0, what, first, second)
        if entry not in scene.task.disagreements:
            scene.task.disagreements.append(entry)


def _same_view(scene: Scene, what: str, value: str) -> bool:
    """Notes what a daemon saw of something that must be the same for all; False where others saw another."""
    assert scene.round is not None
    views = scene.round.views.setdefault(what, {})
    if value not in views and len(views) < 4:
        views[value] = scene.person.peer
    if len(views) > 1:
        values = list(views.values())
        _disagree(scene, what, values[0], scene.person.peer if scene.person.peer != values[0] else values[1])
    return next(iter(views)) == value


def groups(scene: Scene, record: Record) -> None:
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


def begin(scene: Scene, record: Record) -> None:
    if scene.round is not None and scene.task is not None:
        owner = scene.round.owner(scene.person.peer)
        if owner.began is None:
            owner.began = record.ts
            scene.task.owner(scene.person.peer).began += 1
        group = whole(record, "group")
        if group is not None and group < 256:
            scene.person.group = group


def stage(scene: Scene, record: Record) -> None:
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


def seed(scene: Scene, record: Record) -> None:
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


def delivered(scene: Scene, record: Record) -> None:
    if scene.round is not None and len(scene.round.delivered) < MAX_PARTICIPANTS:
        scene.round.delivered.add(text_of(record, "peer_to", MAX_NAME))


def delivery_closed(scene: Scene, record: Record) -> None:
    if scene.round is not None:
        scene.round.silent = names_of(record, "silent")[:MAX_PARTICIPANTS]


def trained(scene: Scene, record: Record) -> None:
    if scene.round is not None and scene.task is not None:
        scene.round.owner(scene.person.peer).clip_rate = real(record, "clip_rate")
        took = whole(record, "dur_ms")
        if took is not None:
            scene.task.took("training", took / 1000)


def sat_out(scene: Scene, record: Record) -> None:
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


def round_done(scene: Scene, record: Record) -> None:
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


def disputed(scene: Scene, record: Record) -> None:
    """The model owner computes another selection than the contract did."""
    if scene.task is not None and scene.round is not None:
        scene.task.disagreements.append((scene.round.number, "selection", scene.person.peer, "the contract"))


def task_done(scene: Scene, record: Record) -> None:
    if scene.task is not None:
        scene.person.done[scene.task.number] = record.ts
        while len(scene.person.done) > MAX_TASKS:
            del scene.person.done[next(iter(scene.person.done))]
