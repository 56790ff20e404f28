"""What the logs say of a task's owners and groups, in words: who looks poisoned, who dropped out, what each was paid.

Everything here is derived from what the daemons logged; a verdict is a reading of it, and says how it was reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from omnilytics.daemon.amounts import ether
from omnilytics.daemon.monitor.krum_scores import median
from omnilytics.daemon.monitor.market import GroupRecord, Market, OwnerRecord, Task

# Krum drops f groups in every round, the honest ones too: only a group that is dropped nearly always, and is far
# from the others, is called poisoned.
SUSPECT_SHARE = 0.8
SUSPECT_ROUNDS = 3
POISON_RATIO = 2.0


@dataclass(frozen=True)
class GroupVerdict:
    """What is thought of a group. ratio: its median Krum score over the selected groups' median, 0 where unknown."""

    group: int
    verdict: str
    text: str
    complete: int
    rejected: int
    paid: int
    ratio: float


@dataclass(frozen=True)
class OwnerAccount:
    """An owner over a task; amounts in wei. earned: rate times the rounds that paid its group."""

    peer: str
    name: str
    group: int | None
    rounds_committed: int
    rounds_posted: int
    rounds_sat_out: int
    blamed: int
    slashed_rounds: tuple[int, ...]
    expelled_in: int | None
    died_in_rounds: tuple[int, ...]
    paid_rounds: int
    earned: int
    withdrawn: int
    fees: int
    verdict: str


def judge_groups(task: Task) -> list[GroupVerdict]:
    """A verdict on every drawn group, in the order of groups."""
    groups = sorted({*task.members, *task.groups})
    return [_judge(group, task.groups.get(group, GroupRecord())) for group in groups]


def _judge(group: int, known: GroupRecord) -> GroupVerdict:
    ratio = round(median(list(known.ratios)), 3)
    often = known.complete >= SUSPECT_ROUNDS and known.rejected >= SUSPECT_SHARE * known.complete
    if often and ratio >= POISON_RATIO:
        verdict = "poisoned"
        text = (
            f"group {group} looks poisoned: Krum rejected it in {known.rejected} of the {known.complete} rounds "
            f"that it completed, with scores {_times(ratio)} those of the groups that were kept"
        )
    elif often:
        verdict = "outlier"
        text = (
            f"group {group} was rejected in {known.rejected} of {known.complete} rounds, but lies close to the others "
            f"(scores {_times(ratio)} theirs): unusual data, or a mild poison"
        )
    else:
        verdict, text = "unsuspicious", f"group {group} was rejected in {known.rejected} of {known.complete} rounds"
    if not known.complete:
        verdict, text = "unknown", f"group {group} completed no round that these logs tell of"
    return GroupVerdict(group, verdict, text, known.complete, known.rejected, known.paid, ratio)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def owner_accounts(market: Market, task: Task) -> list[OwnerAccount]:
    """Every owner of a task, by group and name."""
    rate = task.terms.get("rate", 0)
    group_of = {peer: group for group, members in task.members.items() for peer in members}
    poisoned = {verdict.group for verdict in judge_groups(task) if verdict.verdict == "poisoned"}
    found = []
    for peer in {*task.joined, *group_of, *task.owners} - {task.model_owner}:
        person = market.participants.get(peer)
        group = group_of.get(peer, person.group if person is not None and person.task == task.number else None)
        record = task.owners.get(peer, OwnerRecord())
        paid = task.groups[group].paid if group in task.groups else 0
        deaths = tuple(number for number, _ in person.deaths) if person is not None else ()
        slashed = tuple(record.slashed)
        verdict = ""
        if slashed:
            verdict = "dropped"
        elif group in poisoned:
            verdict = "poisoned group"
        elif deaths:
            verdict = "killed"
        found.append(
            OwnerAccount(
                peer, market.name(peer), group, record.committed, record.posted, record.sat_out, record.blamed,
                slashed, record.expelled, deaths, paid, paid * rate, person.withdrawn if person is not None else 0,
                person.fees if person is not None else 0, verdict,
            )
        )  # fmt: skip
    return sorted(found, key=lambda owner: (owner.group if owner.group is not None else 999, owner.name, owner.peer))


def headlines(market: Market, task: Task) -> list[str]:
    """The story of a task in some sentences: poison, drop-outs, cost, pay."""
    told = []
    accounts = owner_accounts(market, task)
    for verdict in judge_groups(task):
        if verdict.verdict in ("poisoned", "outlier"):
            members = ", ".join(market.name(peer) for peer in task.members.get(verdict.group, []))
            told.append(verdict.text + (f" ({members})" if members else ""))
    for owner in accounts:
        if owner.slashed_rounds:
            expelled = f" and, silent for too long, expelled in round {owner.expelled_in}" if owner.expelled_in else ""
            died = f"; its process died in round {_list(owner.died_in_rounds)}" if owner.died_in_rounds else ""
            told.append(
                f"{owner.name} (group {owner.group}) committed and did not post in round {_list(owner.slashed_rounds)}"
                f"{died}: it was slashed{expelled}, and its group completed {_completed(task, owner.group)} of "
                f"{len(task.rounds) + task.forgotten_rounds} rounds"
            )
    others = [owner for owner in accounts if owner.died_in_rounds and not owner.slashed_rounds]
    if others:
        told.append(
            "restarted without a goodbye: "
            + ", ".join(f"{owner.name} (in round {_list(owner.died_in_rounds)})" for owner in others)
        )
    gas = sum(use.gas for round_ in task.rounds.values() for use in round_.gas.values())
    if gas and task.rounds:
        told.append(f"a round cost {gas // len(task.rounds):,} gas in the mean, all transactions together")
    paid = sum(owner.earned for owner in accounts)
    if paid:
        told.append(f"owners were paid {ether(paid)} for {sum(owner.paid_rounds for owner in accounts)} owner-rounds")
    return told


def _completed(task: Task, group: int | None) -> int:
    return sum(group in (round_.complete or ()) for round_ in task.rounds.values())


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
