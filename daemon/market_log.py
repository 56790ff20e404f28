"""What a snapshot of the task, and the exchange of a round, tell a reader of the logs: terms, groups, money, seeds.

Monitoring reads nothing but logs, so whatever it shows must have been logged by somebody. These lines carry
public facts of the chain, and who has agreed with whom: never a seed, a key or a value of a vector.
docs/log-schema.md describes every field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.log import show
from omnilytics.peers.market import MemberStatus, RoundPhase, TaskSnapshot, TaskStatus, bits
from omnilytics.peers.model_round import ModelRound
from omnilytics.peers.owner_round import OwnerRound

Log = Callable[..., None]
# What is said of the money of a task; the names are TaskState's, in wei.
MONEY = (
    "escrow", "paid", "settlement_paid", "refunded", "locked",
    "stakes_in", "stakes_out", "slashed", "compensation", "burned",
)  # fmt: skip
_TERMS = (
    "rounds", "group_size", "max_groups", "faulty_groups", "minimum_groups", "strict_selection", "lane_bits",
    "max_magnitude", "value_count", "chunk_count", "max_empty_rounds", "max_missed_rounds", "depth",
    "open_seconds", "commit_seconds", "post_seconds", "settle_seconds",
)  # fmt: skip


class MarketLog:
    """Says what changed from one snapshot to the next; one for each life of a daemon."""

    def __init__(self, log: Log, me: bytes, every_group: bool) -> None:
        """every_group: all drawn groups are said (a model owner), or only our own (a data owner)."""
        self._log = log
        self._me = me
        self._every_group = every_group
        self._told_terms = False
        self._told_groups = False
        self._place: tuple[object, ...] = ()
        self._money: tuple[int, ...] = ()

    def see(self, snapshot: TaskSnapshot) -> None:
        """One snapshot, new or not."""
        if not self._told_terms:
            self._told_terms = True
            self._say_terms(snapshot)
        if not self._told_groups and snapshot.state.status is TaskStatus.RUNNING and snapshot.members:
            self._told_groups = True
            self._say_groups(snapshot)
        self._say_round(snapshot)
        self._say_money(snapshot)

    def _say_terms(self, snapshot: TaskSnapshot) -> None:
        params = snapshot.params
        said = {name: getattr(params, name) for name in _TERMS}
        self._log(
            "task.terms",
            f"{params.rounds} rounds, up to {params.max_groups} groups of {params.group_size}",
            task=snapshot.task_id,
            block=snapshot.block,
            model_owner=show(snapshot.state.model_owner),
            rate_wei=params.rate,
            stake_wei=params.stake,
            deposit_wei=params.deposit,
            **said,
        )

    def _say_groups(self, snapshot: TaskSnapshot) -> None:
        seats, size = snapshot.seated(), snapshot.params.group_size
        me = snapshot.member(self._me)
        own = snapshot.group_of(me) if me is not None and me.status is MemberStatus.SEATED else None
        for group in range(snapshot.state.group_count):
            members = [seats[seat].account for seat in range(group * size, (group + 1) * size) if seat in seats]
            if self._every_group or group == own:
                self._log(
                    "group.drawn",
                    f"group {group} has {len(members)} owners",
                    task=snapshot.task_id,
                    round=snapshot.state.round,
                    group=group,
                    members=[show(account) for account in members],
                )

    def _say_round(self, snapshot: TaskSnapshot) -> None:
        """Which groups are in, when a phase of a round has closed: two logs that differ here saw two chains."""
        state = snapshot.state
        place = (state.status, state.round, state.phase)
        if place == self._place:
            return
        self._place = place
        if state.round == 0 or state.phase is RoundPhase.COMMIT:
            return
        name = (state.phase if state.status is TaskStatus.RUNNING else state.status).name.lower()
        self._log(
            "round.groups",
            f"{name}: {state.committed.bit_count()} groups committed, {state.complete.bit_count()} complete",
            task=snapshot.task_id,
            round=state.round,
            phase=name,
            block=snapshot.block,
            ctx=show(state.ctx),
            committed=bits(state.committed),
            sat_out=bits(state.sat_out),
            complete=bits(state.complete),
            short=bits(state.short),
            dissolved=bits(state.dissolved),
        )

    def _say_money(self, snapshot: TaskSnapshot) -> None:
        state, params = snapshot.state, snapshot.params
        money = tuple(getattr(state, name) for name in MONEY)
        if money == self._money:
            return
        before, self._money = self._money, money
        self._log(
            "money",
            f"paid {state.paid} of {state.escrow} wei",
            task=snapshot.task_id,
            round=state.round,
            block=snapshot.state_block,
            **{f"{name}_wei": value for name, value in zip(MONEY, money, strict=True)},
        )
        paid = state.paid - before[MONEY.index("paid")] if before else 0
        groups = paid_groups(paid // (params.rate * params.group_size), bits(state.complete), bits(state.selected))
        if paid > 0 and groups:
            self._log(
                "round.paid",
                f"groups {groups} are paid",
                task=snapshot.task_id,
                round=state.round,
                block=snapshot.state_block,
                wei=paid,
                groups=groups,
            )


def paid_groups(count: int, complete: Sequence[int], selected: Sequence[int]) -> list[int]:
    """Which groups a round paid, by how many it paid: all complete ones (late, too few), or those that Krum
    selected. Empty where the next round has been opened already and these are not the paid round's any more."""
    if count == len(complete):
        return list(complete)
    return list(selected) if count == len(selected) and set(selected) <= set(complete) else []


def log_exchange(log: Log, before: OwnerRound, after: OwnerRound, task: int, now: float) -> None:
    """Who said hello and who agreed on a seed in this step, and how long after the round was opened."""
    for event, earlier, later in (
        ("seed.hello", before.hellos, after.hellos),
        ("seed.agreed", before.agreed, after.agreed),
    ):
        for address in later:
            if address not in earlier:
                log(
                    event,
                    "",
                    "debug",
                    task=task,
                    round=after.opening.round,
                    group=after.group,
                    peer_to=show(address),
                    dur_ms=int(1000 * (now - after.opened_at)),
                )


def log_delivery(log: Log, before: ModelRound, after: ModelRound, task: int, round_number: int) -> None:
    """Which owners acknowledged the model key and their pad in this step."""
    for address in after.delivered - before.delivered:
        log("key.delivered", "", "debug", task=task, round=round_number, peer_to=show(address))


def headroom_bits(sums: Mapping[int, NDArray[np.int64]], selected: Sequence[int], limit: int) -> float | None:
    """Bits between the largest value of the selected groups' sums and the largest that a sum may have (limit).

    Rounded to a tenth, so that nobody learns a value from it. None where nothing was selected or all is zero.
    """
    largest = max((int(np.abs(sums[group]).max()) for group in selected if group in sums), default=0)
    return round(math.log2(limit / largest), 1) if largest > 0 else None


def heartbeat_facts(head: Any, seen_block: int, pending: int, connected: bool, disk_free: int | None) -> dict[str, Any]:
    """What a sign of life says of the daemon's surroundings; head is a HeadWatch."""
    return {
        "head_block": head.number,
        "head_time": head.time,
        "head_age_s": head.age(),
        "skew_s": head.skew,
        "seen_block": seen_block,
        "tx_pending": pending,
        "broker_connected": connected,
        "disk_free_bytes": disk_free,
    }
