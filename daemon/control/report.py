"""What a daemon says of itself when it is asked, as plain data for JSON; and the same as lines for a terminal. Pure.

Amounts are whole wei. Nothing here is secret: addresses, public facts of the chain, words of the log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from omnilytics.daemon.amounts import ether_words
from omnilytics.daemon.earnings import Earnings
from omnilytics.daemon.policy import Policy, meanings
from omnilytics.daemon.training.private import PrivacyOptions
from omnilytics.daemon.waiting import awaited, place_name
from omnilytics.peers.market import MemberStatus, RoundPhase, TaskSnapshot, TaskStatus


def waiting_for(snapshot: TaskSnapshot) -> tuple[str, list[bytes]]:
    """What a task waits for, in words ("" when it is over), and who is late; with the members of its very block.

    Besides what everybody is told: between rounds for the model owner, and for the block that draws the groups.
    """
    state = snapshot.state
    what, late = awaited(snapshot, state.model_owner)
    if state.status is TaskStatus.DRAWING:
        what = "the groups are drawn"
    elif state.status is TaskStatus.RUNNING and state.phase is RoundPhase.IDLE:
        what, late = f"the model owner opens round {state.round + 1} of {snapshot.params.rounds}", [state.model_owner]
    return what, late


def task_report(snapshot: TaskSnapshot, me: bytes, chain_now: int, stage: str | None) -> dict[str, Any]:
    """Where a task stands for the participant `me`, at a moment of the chain's clock (seconds).

    stage is an owner's stage of the round at hand (peers.phases), None outside of a round and for a model owner.
    """
    state = snapshot.state
    member = snapshot.member(me)
    seated = member is not None and member.status is MemberStatus.SEATED
    what, late = waiting_for(snapshot)
    left = max(0, state.phase_end - chain_now)
    return {
        "task": snapshot.task_id,
        "model_owner": "0x" + state.model_owner.hex(),
        "status": state.status.name.lower(),
        "phase": place_name(snapshot),
        "round": state.round,
        "rounds": snapshot.params.rounds,
        "groups": state.group_count,
        "owners": state.member_count,
        "membership": member.status.name.lower() if member is not None else None,
        "group": snapshot.group_of(member) if member is not None and seated else None,
        "stage": stage,
        "rate_wei": snapshot.params.rate,
        "stake_wei": member.stake if member is not None else 0,
        "block": snapshot.state_block,
        "deadline": state.phase_end if what else None,
        "left_s": left if what else None,
        "waiting": f"waiting: {what}, {left} s left" if what else None,
        "waiting_for": ["0x" + account.hex() for account in late],
    }


def policy_report(policy: Policy, privacy: PrivacyOptions, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The policy and the local noise in force, which of it is default, and what each key of the policy limits.

    tables: those of config.toml. An infinite limit is None: JSON has none.
    """
    told = meanings()
    said: dict[str, Any] = {}
    for name, values in (("policy", vars(policy)), ("privacy", vars(privacy))):
        table = tables.get(name, {})
        said[name] = {
            key: {
                "value": None if value == math.inf else list(value) if isinstance(value, tuple) else value,
                "default": key not in table,
                "meaning": told.get(key, "") if name == "policy" else "",
            }
            for key, value in values.items()
        }
    return said


def earnings_report(found: Earnings) -> dict[str, Any]:
    """What an account has earned, as omnilytics earnings has it."""
    return {
        "block": found.block,
        "paid_wei": found.paid,
        "withdrawn_wei": found.withdrawn,
        "withdrawable_wei": found.withdrawable,
        "credits_wei": found.credits,
        "tasks": [
            {
                "task": entry.task,
                "role": entry.role,
                "status": entry.status,
                "paid_rounds": entry.paid_rounds,
                "paid_wei": entry.paid,
                "withdrawn_wei": entry.withdrawn,
                "withdrawable_wei": entry.withdrawable,
                "staked_wei": entry.staked,
            }
            for entry in found.tasks
        ],
    }


def ether(wei: int | None) -> str:
    """An amount for people, where it is known."""
    return "unknown" if wei is None else ether_words(wei)


def duration(seconds: float | None) -> str:
    """Seconds for people: 42 s, 3 min, 5 h, 2 d."""
    if seconds is None:
        return "unknown"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def plain(text: str) -> str:
    """Text of a stranger for a terminal: no escape sequences, no end of lines."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def place_words(task: Mapping[str, Any]) -> str:
    """Where a task stands, in a few words: "round 2 of 20, commit"."""
    if task["status"] != "running":
        return str(task["status"])
    return f"round {task['round']} of {task['rounds']}, {task['phase']}"


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """The status for people, a line each."""
    healthy, chain = status["health"], status["chain"]
    lines = [
        f"{status['role']} {status['address']}, {status['state']} for {duration(status['uptime_s'])}, "
        f"version {status['version']}, pid {status['pid']}",
        "health   " + ("ready" if healthy["ready"] else "not ready: " + "; ".join(healthy["reasons"])),
    ]
    lines += [f"note     {text}" for text in healthy["notes"]]
    if chain["head_block"] is not None:
        lines.append(
            f"chain    block {chain['head_block']}, {duration(chain['head_age_s'])} old, id {chain['chain_id']}"
        )
    lines.append("broker   " + ("connected" if status["broker"]["connected"] else "not connected"))
    pending = status["queue"]["pending"]
    lines.append(f"queue    {pending} transaction{'s'[: pending != 1]} under way")
    lines.append(f"balance  {ether(status['balance_wei'])}")
    for task in status["tasks"]:
        mine = "" if task["group"] is None else f", our group is {task['group']}"
        stage = f", our stage is {task['stage']}" if task["stage"] else ""
        lines.append(f"task {task['task']:<4}{place_words(task)}{mine}{stage}")
        if task["waiting"]:
            lines.append(f"         {task['waiting']}")
    if not status["tasks"]:
        lines.append("task     none yet")
    return [plain(line) for line in lines]
