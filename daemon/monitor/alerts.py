"""What somebody should look at now: a pure function of the market and the time.

A market that ended well raises none: everybody who was to be paid has collected and said goodbye.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omnilytics.daemon.monitor.krum_scores import median
from omnilytics.daemon.monitor.lines import age
from omnilytics.daemon.monitor.market import Market, Participant, Task

# Every kind of alert, and what to do about it.
HELP = {
    "chain.still": "look at the chain's node; deadlines are the chain's, so none passes while it stands",
    "rpc.disagreement": "the daemon's two RPCs show different chains; it does nothing until they agree",
    "phase.late": "any daemon can poke the task on; see who is waited for, and whether the daemons are alive",
    "unclaimed": "start the daemon again, it collects by itself; nobody else can take the money",
    "disagreement": "the logs show different chains or selections; compare the daemons' RPCs, then their versions",
    "silent": "see whether the machine and the process live; start the daemon again, it rejoins by itself",
    "failed": "read the words and the help in its log, mend it, start the daemon again",
    "task-failed": "mend what the words name (its log has the cure); the daemon takes the task up again by itself",
    "stopped": "start it again if that was not wanted; its group sits out meanwhile",
    "gas": "compare the calls of that round with earlier ones; a contract or a peer behaves unlike before",
    "escrow": "money in the logs does not add up: compare with the contract before anybody pays anything",
    "clock.skew": "set the machine's clock (NTP); deadlines are the chain's, but logs and patience are not",
    "disk": "free disk space before the journal cannot be written; the daemon stops rather than guess",
    "balance": "send what is missing to the daemon's account before a round is missed; it goes on by itself",
    "fee": "the chain is dear now: wait, or raise gas_price_cap in the daemon's config.toml",
    "safe-mode": "an old or copied data folder: stop every other daemon with this key, use the newest folder",
}


# What a daemon says itself, and the alert that it is.
_SAID = {"safe-mode": "safe-mode", "balance.low": "balance", "fee.high": "fee"}


@dataclass(frozen=True)
class Limits:
    """When something is worth an alert; seconds, bytes, and factors."""

    # Three signs of life that did not come.
    stale_seconds: float = 25.0
    silent_seconds: float = 45.0
    still_seconds: float = 60.0
    # Chain seconds after a deadline: somebody has to notice and to poke.
    late_seconds: float = 20.0
    unclaimed_seconds: float = 60.0
    skew_seconds: float = 30.0
    disk_bytes: int = 256 * 1024 * 1024
    gas_factor: float = 1.5
    gas_rounds: int = 3


@dataclass(frozen=True, order=True)
class Alert:
    """One thing to look at. since: Unix seconds; subject: whom or what it is about, part of its identity."""

    code: str
    subject: str
    text: str
    since: float

    @property
    def help(self) -> str:
        """What to do."""
        return HELP[self.code]

    @property
    def key(self) -> tuple[str, str]:
        """Its identity over time: the words may change."""
        return self.code, self.subject


def standing_alerts(market: Market, now: float, limits: Limits = Limits()) -> list[Alert]:
    """All alerts that stand now (Unix seconds), in a fixed order."""
    found: list[Alert] = []
    for peer in sorted(market.participants):
        found += _of_participant(market, market.participants[peer], now, limits)
    found += _chain_still(market, now, limits)
    found += _skewed(market, now, limits)
    for number in sorted(market.tasks):
        found += _of_task(market, market.tasks[number], now, limits)
    return sorted(found)


def liveness(person: Participant, now: float, limits: Limits = Limits()) -> str:
    """live, stale, silent; or done, stopped, failed where it has said goodbye."""
    if person.gone:
        if person.exit_reason == "finished":
            return "done"
        return "stopped" if person.exit_reason == "signal" else "failed"
    quiet = now - person.last_ts
    if quiet > limits.silent_seconds:
        return "silent"
    return "stale" if quiet > limits.stale_seconds else "live"


def _of_participant(market: Market, person: Participant, now: float, limits: Limits) -> Iterator[Alert]:
    name, life = person.name, liveness(person, now, limits)
    task = market.tasks.get(person.task) if person.task is not None else None
    if life == "silent" and person.task not in person.done:
        yield Alert("silent", name, f"{name} has not been heard of for {age(now - person.last_ts)}", person.last_ts)
    elif life == "failed":
        yield Alert("failed", name, f"{name} failed: {person.failure or 'see its log'}", person.last_ts)
    elif life == "stopped" and task is not None and not task.over and task.number not in person.done:
        yield Alert("stopped", name, f"{name} was stopped before its task was over", person.last_ts)
    if life not in ("live", "stale"):
        return
    if person.disk_free is not None and person.disk_free < limits.disk_bytes:
        yield Alert("disk", name, f"{name} has only {person.disk_free // 2**20} MB of disk left", person.last_ts)
    for number, (since, text) in sorted(person.failed_tasks.items()):
        if number not in person.done:
            yield Alert("task-failed", f"task {number} {name}", f"{name} cannot play task {number}: {text}", since)
    for event, (since, text) in sorted(person.standing.items()):
        if event in ("rpc.disagreement", "rpc.unconfirmed"):
            yield Alert("rpc.disagreement", name, f"{name}: {text}", since)
        elif event in _SAID:
            yield Alert(_SAID[event], name, f"{name}: {text}", since)


def _here(market: Market, now: float, limits: Limits) -> list[Participant]:
    return [p for p in market.participants.values() if liveness(p, now, limits) in ("live", "stale")]


def _chain_still(market: Market, now: float, limits: Limits) -> Iterator[Alert]:
    """The head stands still for everybody that is alive and says so: one RPC that stands is its owner's trouble."""
    ages = []
    for person in _here(market, now, limits):
        if "chain.stalled" in person.standing:
            ages.append(max(person.head_age or 0.0, now - person.standing["chain.stalled"][0]))
        elif person.head_age is not None:
            ages.append(person.head_age)
    if ages and min(ages) > limits.still_seconds and not all(task.over for task in market.tasks.values()):
        oldest = min(ages)
        yield Alert("chain.still", "chain", f"no daemon has seen a new block for {age(oldest)}", round(now - oldest, 3))
    elif ages:
        for person in _here(market, now, limits):
            if "chain.stalled" in person.standing and len(ages) > 1:
                since, text = person.standing["chain.stalled"]
                yield Alert("chain.still", person.name, f"{person.name}: {text}", since)


def _skewed(market: Market, now: float, limits: Limits) -> Iterator[Alert]:
    """Clocks are compared through the chain's: who differs from the others by more than the limit is named."""
    known = [p for p in _here(market, now, limits) if p.skew is not None]
    usual = median([p.skew for p in known if p.skew is not None])
    for person in known:
        off = usual - (person.skew or 0.0)
        if len(known) > 2 and abs(off) > limits.skew_seconds:
            words = "ahead of" if off > 0 else "behind"
            yield Alert(
                "clock.skew",
                person.name,
                f"{person.name}'s clock is {abs(off):.0f} s {words} the others",
                person.last_ts,
            )
        elif "clock.skew" in person.standing:
            since, text = person.standing["clock.skew"]
            yield Alert("clock.skew", person.name, f"{person.name}: {text}", since)


def _of_task(market: Market, task: Task, now: float, limits: Limits) -> Iterator[Alert]:
    place = f"task {task.number}"
    late = market.chain_time(now) - task.deadline if task.deadline else 0.0
    if not task.over and task.phase and late > limits.late_seconds and _here(market, now, limits):
        round_ = f" of round {task.round}" if task.round else ""
        yield Alert("phase.late", place, f"{place}: {task.phase}{round_} is {age(late)} past its deadline", now - late)
    yield from _unclaimed(market, task, now, limits)
    for number, what, first, second in task.disagreements:
        subject = f"{place} round {number} {what}"
        names = sorted((market.name(first), market.name(second)))
        yield Alert(
            "disagreement", subject, f"{place}, round {number}: {names[0]} and {names[1]} saw another {what}", 0.0
        )
    yield from _odd_gas(task, limits)
    for text in money_faults(task):
        yield Alert("escrow", f"{place}: {text.split(':')[0]}", f"{place}: {text}", 0.0)


def _unclaimed(market: Market, task: Task, now: float, limits: Limits) -> Iterator[Alert]:
    """The task is over, and somebody who is owed something, or has a stake in it, did not collect."""
    if task.over_ts is None or now - task.over_ts <= limits.unclaimed_seconds:
        return
    for peer in sorted({*task.joined, task.model_owner} - {""}):
        person = market.participants.get(peer)
        if person is None:
            # Its log is not here: nobody can say from these logs.
            continue
        collected = task.number in person.done or (
            person.withdrawn_ts is not None and person.withdrawn_ts >= task.over_ts - limits.unclaimed_seconds
        )
        if not collected:
            yield Alert(
                "unclaimed", f"task {task.number} {person.name}",
                f"task {task.number} is over, and {person.name} has not collected", task.over_ts,
            )  # fmt: skip


def _odd_gas(task: Task, limits: Limits) -> Iterator[Alert]:
    """The newest round whose dearest call of a function is far above what is usual for it."""
    numbers = sorted(task.rounds)[-64:]
    if len(numbers) < 2 or task.over:
        return
    for newest in numbers[-2:]:
        for function, use in sorted(task.rounds[newest].gas.items()):
            if function not in ("openRound", "commit", "post", "settle"):
                # Others differ by nature: who closes a phase, and what is collected.
                continue
            earlier = [
                task.rounds[n].gas[function].largest for n in numbers if n < newest and function in task.rounds[n].gas
            ]
            usual = median(earlier)
            if len(earlier) >= limits.gas_rounds and use.largest > limits.gas_factor * usual:
                yield Alert(
                    "gas", f"task {task.number} {function}",
                    f"round {newest}: {function} took {use.largest:,} gas, usually {usual:,.0f}",
                    task.rounds[newest].entered.get("commit", 0.0),
                )  # fmt: skip


def money_faults(task: Task) -> list[str]:
    """What does not add up in a task's money, in words; each begins with its own few words and a colon."""
    money = task.money
    if not money:
        return []
    faults = []
    parts = money["paid"] + money["settlement_paid"] + money["refunded"] + money["locked"]
    if money["escrow"] != parts:
        faults.append(f"escrow: {money['escrow']} wei, but its parts make {parts} wei")
    if min(money.values()) < 0:
        names = ", ".join(name for name, value in money.items() if value < 0)
        faults.append(f"negative: {names}")
    if money["slashed"] != money["compensation"] + money["burned"]:
        faults.append(
            f"slashed: {money['slashed']} wei, but compensation and burned make "
            f"{money['compensation'] + money['burned']} wei"
        )
    if money["stakes_in"] < money["stakes_out"] + money["slashed"]:
        faults.append("stakes: more went out and was slashed than came in")
    if task.escrow_sent is not None and task.escrow_sent != money["escrow"]:
        faults.append(
            f"sent: {task.escrow_sent} wei were escrowed at creation, the contract says {money['escrow']} wei"
        )
    rate, size = task.terms.get("rate"), task.terms.get("group_size")
    if rate and size:
        for number in sorted(task.rounds):
            round_ = task.rounds[number]
            if round_.paid and round_.paid_wei != rate * size * len(round_.paid):
                faults.append(f"round {number}: {round_.paid_wei} wei for {len(round_.paid)} groups is not the rate")
    if task.paid_from_start and task.paid_rounds_wei > money["paid"]:
        faults.append(
            f"rounds: payments of {task.paid_rounds_wei} wei were seen, the contract says {money['paid']} wei"
        )
    return faults
