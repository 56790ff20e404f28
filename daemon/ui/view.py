"""What the local page shows, in words, from the daemon's own answers. Pure: data in, data out; the page only draws it.

Texts may hold anything that a stranger wrote into a task; the page shows every one of them as text, never as HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnilytics.daemon.control.report import duration, ether, place_words
from omnilytics.daemon.task_finder import Verdict

Data = dict[str, Any]
_VERDICT_KINDS = {Verdict.ACCEPTED: "good", Verdict.REFUSED: "bad", Verdict.WAITING: "warn"}


def page_view(status: Data, tasks: Data | None, earnings: Data | None, policy: Data) -> Data:
    """Everything but the log. tasks is None for a model owner; tasks and earnings while the chain does not answer."""
    return {
        "title": f"{'Data owner' if status['role'] == 'owner' else 'Model owner'} {short(status['address'])}",
        "address": status["address"],
        "health": health_badge(status),
        "notes": [["bad", text] for text in status["health"]["reasons"]]
        + [["warn", text] for text in status["health"]["notes"]],
        "tiles": tiles(status),
        "playing": [playing(task) for task in status["tasks"]],
        "tasks": offered(tasks) if tasks is not None else None,
        "earnings": earned(earnings) if earnings is not None else None,
        "policy": policy_rows(policy) if policy else None,
    }


def short(address: str) -> str:
    """An address by its ends."""
    return f"{address[:6]}…{address[-4:]}"


def health_badge(status: Data) -> list[str]:
    """Kind and word."""
    if status["health"]["ready"]:
        return ["good", "ready"]
    return ["warn", status["state"]] if status["state"] != "ready" else ["bad", "not ready"]


def tiles(status: Data) -> list[list[str]]:
    """Value and label."""
    chain, pending = status["chain"], status["queue"]["pending"]
    head = "no block yet" if chain["head_block"] is None else f"block {chain['head_block']}"
    age = "" if chain["head_age_s"] is None else f", seen {duration(chain['head_age_s'])} ago"
    return [
        [ether(status["balance_wei"]), "balance"],
        [head, f"chain {chain['chain_id'] or 'not reached'}{age}"],
        ["connected" if status["broker"]["connected"] else "not connected", "broker"],
        [str(pending), f"transaction{'s'[: pending != 1]} under way"],
        [duration(status["uptime_s"]), f"since the start of version {status['version']}"],
    ]


def playing(task: Data) -> Data:
    """A task that this daemon plays."""
    facts = [f"{task['groups']} groups, {task['owners']} owners" if task["groups"] else f"{task['owners']} owners"]
    if task["group"] is not None:
        facts.append(f"we are in group {task['group']}")
    elif task["membership"] is not None:
        facts.append(f"we have {task['membership']}" if task["membership"] != "out" else "we are out of it")
    if task["stage"]:
        facts.append(f"our stage: {task['stage']}")
    if task["stake_wei"]:
        facts.append(f"{ether(task['stake_wei'])} at stake")
    late = task["waiting_for"]
    return {
        "task": task["task"],
        "place": place_words(task),
        "facts": facts,
        "waiting": task["waiting"] or "nothing is waited for",
        "late": ", ".join(short(address) for address in late[:8]) + (" …" if len(late) > 8 else ""),
    }


def offered(tasks: Data) -> Data:
    """The tasks that the user may decide of."""
    if tasks["ask_first"]:
        hint = "No task is joined without your word (ask_first). What the policy does not allow stays refused."
    else:
        hint = "The policy decides by itself, newest task first; a task that you refuse is never joined."
    return {"hint": hint, "items": [offer(task) for task in tasks["tasks"]]}


def offer(task: Data) -> Data:
    """One open task, or one of ours."""
    trains = task["trains"]
    title = "its description cannot be used"
    if trains is not None:
        names = ", ".join(trains["class_names"]) + (" …" if trains["classes"] > len(trains["class_names"]) else "")
        title = (
            f"{trains['architecture']} on {trains['columns']} columns, {trains['classes']} classes ({names}), "
            f"{trains['protection']}"
        )
    left = task["joins_left_s"]
    open_ = task["status"] == "joining" and not task["ours"]
    terms = [
        f"{ether(task['rate_wei'])} a round, {task['rounds']} rounds",
        f"stake {ether(task['stake_wei'])}",
        f"{task['owners']} of {task['most_owners']} owners, in groups of {task['group_size']}",
        f"by {short(task['model_owner'])}",
    ]
    if trains is not None:
        terms.append(f"{trains['values']} values, batches of {trains['batch_rows']} rows")
    if open_ and left is not None:
        terms.append(f"open for {duration(left)} more")
    kind, word = _VERDICT_KINDS.get(task["verdict"], "warn"), task["verdict"]
    if task["ours"]:
        kind, word = "good", "joined"
    elif task["decision"] == "refused":
        kind, word = "bad", "refused by you"
    elif task["decision"] == "accepted" and task["verdict"] == Verdict.ACCEPTED:
        kind, word = "good", "accepted by you"
    return {
        "task": task["task"],
        "title": title,
        "promise": task["promise"] or "",
        "terms": terms,
        "verdict": [kind, word],
        "reason": "" if task["reason"] == task["promise"] else task["reason"],
        "accept": open_ and task["decision"] != "accepted",
        "refuse": open_ and task["decision"] != "refused",
    }


def earned(earnings: Data) -> Data:
    """Sums, and a row a task, newest first."""
    return {
        "tiles": [
            [ether(earnings["paid_wei"]), "paid"],
            [ether(earnings["withdrawn_wei"]), "of it withdrawn"],
            [ether(earnings["withdrawable_wei"]), "to be withdrawn, with stakes"],
            [ether(sum(row["staked_wei"] for row in earnings["tasks"])), "at stake"],
        ],
        "rows": [
            [
                str(row["task"]),
                row["status"],
                str(row["paid_rounds"]),
                ether(row["paid_wei"]),
                ether(row["withdrawn_wei"]),
                ether(row["withdrawable_wei"]),
                ether(row["staked_wei"]),
            ]
            for row in reversed(earnings["tasks"])
        ],
    }


def policy_rows(policy: Data) -> list[list[str]]:
    """Key, value, whether it is the default, meaning; local noise last."""
    rows = [
        [name, _value(entry["value"]), "default" if entry["default"] else "set", entry["meaning"]]
        for name, entry in policy["policy"].items()
    ]
    noise = policy["privacy"]
    multiplier = noise["noise_multiplier"]
    said = _value(multiplier["value"]) if multiplier["value"] else "off"
    rows.append(["local noise", said, "default" if multiplier["default"] else "set", "noise_multiplier of [privacy]"])
    return rows


def _value(value: Any) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def log_lines(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Level, clock, event and place, words: as a terminal shows them."""
    shown = []
    for record in records:
        place = "".join(f" {name} {record[name]}" for name in ("task", "round", "group") if name in record)
        shown.append([record["level"], record["ts"][11:19], record["event"] + place, record["msg"]])
    return shown
