"""The market as Prometheus's text format (exposition format 0.0.4): a pure function of the view.

Label values are escaped, and only so many of them exist: participants, groups, functions and alert codes are bounded
where they are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Sample = tuple[dict[str, str], float]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("live", "stale", "silent", "done", "stopped", "failed")


def exposition(view: dict[str, Any]) -> str:
    """All metrics; names begin with omnilytics_, money is in wei, times in seconds."""
    head, honesty = view["header"], view["honesty"]
    lines = [
        *_metric("head_block", "gauge", "Newest block that a daemon has seen.", _one(head["head_block"])),
        *_metric("head_age_seconds", "gauge", "How long ago a new block was seen.", _one(head["head_age_s"])),
        *_metric("owners", "gauge", "Data owners by state.", [({"state": s}, head["owners"][s]) for s in _STATES]),
        *_metric("alerts", "gauge", "Alerts that stand, by code.", _alerts(view)),
        *_metric(
            "errors_total",
            "counter",
            "Errors and warnings by code.",
            [({"code": e["code"], "level": e["level"]}, e["count"]) for e in view["errors"]],
        ),
        *_metric("log_bytes_behind", "gauge", "Bytes of logs not read yet.", _one(honesty["bytes_behind"])),
        *_metric("log_records_total", "counter", "Log lines read.", _one(honesty["records"])),
        *_metric("log_bad_lines_total", "counter", "Lines that are no record.", _one(honesty["bad_lines"])),
        *_metric("log_missing_lines", "gauge", "Lines missing by their numbers.", _one(honesty["missing_lines"])),
        *_participants(view["participants"]),
        *_tasks(view["tasks"]),
    ]
    return "\n".join(lines) + "\n"


def _one(value: float | None) -> list[Sample]:
    return [({}, value)] if value is not None else []


def _alerts(view: dict[str, Any]) -> list[Sample]:
    codes = [alert["code"] for alert in view["alerts"]]
    return [({"code": code}, codes.count(code)) for code in sorted(set(codes))] or [({"code": "none"}, 0)]


def _participants(people: Sequence[dict[str, Any]]) -> Iterable[str]:
    def of(field: str) -> list[Sample]:
        return [
            ({"peer": p["peer"], "name": p["name"], "role": p["role"]}, p[field])
            for p in people
            if p[field] is not None
        ]

    yield from _metric(
        "daemon_up",
        "gauge",
        "Whether a daemon is heard of.",
        [
            ({"peer": p["peer"], "name": p["name"], "role": p["role"]}, float(p["state"] in ("live", "stale")))
            for p in people
        ],
    )
    yield from _metric("daemon_lives_total", "counter", "Starts of a daemon.", of("boots"))
    yield from _metric("broker_losses_total", "counter", "Lost broker connections.", of("broker_losses"))
    yield from _metric("rpc_errors_total", "counter", "Failed calls of the chain.", of("rpc_errors"))
    yield from _metric("transactions_pending", "gauge", "Transactions on their way.", of("tx_pending"))
    yield from _metric("transactions_reverted_total", "counter", "Reverted transactions.", of("reverted"))
    yield from _metric("disk_free_bytes", "gauge", "Free space in the data folder.", of("disk_free_bytes"))
    yield from _metric("clock_skew_seconds", "gauge", "Chain clock minus the daemon's.", of("skew_s"))
    yield from _metric("gas_used_total", "counter", "Gas of a daemon's transactions.", of("gas"))
    yield from _metric("gas_fees_wei_total", "counter", "Fees of a daemon's transactions.", of("fees_wei"))


def _tasks(tasks: Sequence[dict[str, Any]]) -> Iterable[str]:
    def label(task: dict[str, Any], **more: object) -> dict[str, str]:
        return {"task": str(task["task"]), **{name: str(value) for name, value in more.items()}}

    yield from _metric("round", "gauge", "The round that a task is in.", [(label(t), t["round"]) for t in tasks])
    yield from _metric(
        "phase",
        "gauge",
        "1 for the phase that a task is in.",
        [(label(t, phase=t["phase"]), 1.0) for t in tasks if t["phase"]],
    )
    yield from _metric(
        "phase_left_seconds",
        "gauge",
        "Until the phase's deadline; negative when late.",
        [(label(t), t["left_s"]) for t in tasks if t["left_s"] is not None],
    )
    yield from _metric(
        "waiting_for",
        "gauge",
        "Owners that the phase waits for.",
        [(label(t), len(t["waiting"]["for"])) for t in tasks],
    )
    yield from _metric(
        "accuracy",
        "gauge",
        "Accuracy after the newest round, a fraction of 1.",
        [(label(t), t["accuracy"][-1]["accuracy"]) for t in tasks if t["accuracy"]],
    )
    kinds = ("escrow", "paid", "settlement_paid", "refunded", "locked", "stakes_in", "stakes_out", "slashed", "burned")
    yield from _metric(
        "money_wei",
        "gauge",
        "A task's money by kind.",
        [
            (label(t, kind=kind), t["money"][f"{kind}_wei"])
            for t in tasks
            for kind in kinds
            if f"{kind}_wei" in t["money"]
        ],
    )
    yield from _metric(
        "money_conserved",
        "gauge",
        "1 where a task's money adds up.",
        [(label(t), float(t["money"]["conserved"])) for t in tasks if t["money"]["conserved"] is not None],
    )
    yield from _metric(
        "task_gas_total",
        "counter",
        "Gas by function.",
        [(label(t, function=name), use["gas"]) for t in tasks for name, use in t["gas"]["functions"].items()],
    )
    yield from _metric(
        "group_rejected_total",
        "counter",
        "Rounds in which Krum rejected a group.",
        [(label(t, group=g["group"]), g["rejected"]) for t in tasks for g in t["krum"]["groups"]],
    )
    yield from _metric(
        "group_suspected",
        "gauge",
        "1 for a group that looks poisoned.",
        [(label(t, group=g["group"]), float(g["verdict"] == "poisoned")) for t in tasks for g in t["krum"]["groups"]],
    )
    yield from _metric(
        "owner_earned_wei",
        "gauge",
        "What an owner earned.",
        [(label(t, name=o["name"], peer=o["peer"]), o["earned_wei"]) for t in tasks for o in t["money"]["owners"]],
    )


def _metric(name: str, kind: str, help: str, samples: Iterable[Sample]) -> list[str]:
    shown = [f"omnilytics_{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    if not shown:
        return []
    return [f"# HELP omnilytics_{name} {help}", f"# TYPE omnilytics_{name} {kind}", *shown]


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    told = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return "{" + told + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.10g}"
