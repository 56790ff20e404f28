"""The fourteen panels as plain data: what --json prints, and what terminal, page and exporter draw.

Amounts are whole wei, times seconds (moments Unix seconds by the daemons' clocks), accuracies fractions of 1.
docs/monitor.md describes each panel; SCHEMA changes when a field changes its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from omnilytics.daemon.monitor.alerts import Alert, Limits, liveness, money_faults
from omnilytics.daemon.monitor.error_help import HELP_BY_CODE
from omnilytics.daemon.monitor.findings import headlines, judge_groups, owner_accounts
from omnilytics.daemon.monitor.krum_scores import percentile
from omnilytics.daemon.monitor.market import MAX_ROUNDS, GasUse, Market, Participant, Round, Task
from omnilytics.daemon.monitor.sources import LogFile
from omnilytics.daemon.monitor.watch import PastAlert, Watch

SCHEMA = 1
# In the order of a round, and of a task.
CONTRACT_PHASES = ("joining", "revealing", "drawing", "open", "commit", "post", "settle")
OWNER_STAGES = ("training", "seeding", "masking", "committing")
FUNNEL = ("joined", "seeded", "committed", "posted", "complete", "selected", "paid")


def describe(
    watch: Watch,
    now: float,
    alerts: Sequence[Alert],
    files: Sequence[LogFile] = (),
    newest_rounds: int = MAX_ROUNDS,
) -> dict[str, Any]:
    """Everything, as of now (Unix seconds); of each task's rounds the newest. Totals are of all."""
    market = watch.market
    return {
        "schema": SCHEMA,
        "at": moment(now),
        "at_s": round(now, 3),
        "first": moment(market.first_ts) if market.first_ts is not None else None,
        "last": moment(market.last_ts) if market.first_ts is not None else None,
        "header": _header(market, now, alerts, watch.limits),
        "alerts": [alert_entry(alert) for alert in alerts],
        "past_alerts": [_past(entry) for entry in watch.history],
        "tasks": [
            _task(market, market.tasks[number], now, watch.limits, newest_rounds) for number in sorted(market.tasks)
        ],
        "participants": [
            _participant(person, now, watch.limits)
            for person in sorted(market.participants.values(), key=lambda p: (p.role != "model", p.name, p.peer))
        ],
        "errors": _errors(market),
        "honesty": _honesty(market, files),
    }


def moment(ts: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds")


def alert_entry(alert: Alert) -> dict[str, Any]:
    """An alert as data."""
    return {
        "code": alert.code,
        "subject": alert.subject,
        "text": alert.text,
        "help": alert.help,
        "since": moment(alert.since) if alert.since else None,
    }


def _past(entry: PastAlert) -> dict[str, Any]:
    return {
        "code": entry.code,
        "subject": entry.subject,
        "text": entry.text,
        "raised": moment(entry.raised),
        "cleared": moment(entry.cleared) if entry.cleared is not None else None,
    }


# ------------------------------------------------------------------ 1 header, 12 network, 13 errors, 14 honesty


def _header(market: Market, now: float, alerts: Sequence[Alert], limits: Limits) -> dict[str, Any]:
    everybody = list(market.participants.values())
    lives = [liveness(person, now, limits) for person in everybody]
    here = [p for p, life in zip(everybody, lives, strict=True) if life in ("live", "stale")]
    newest = max((p for p in everybody if p.head_block is not None), key=lambda p: p.head_block or 0, default=None)
    age = None
    if newest is not None and here:
        age = min(
            ((p.head_age or 0.0) + max(0.0, now - p.head_ts) for p in here if p.head_age is not None), default=None
        )
    owners = [life for p, life in zip(everybody, lives, strict=True) if p.role != "model"]
    model = [life for p, life in zip(everybody, lives, strict=True) if p.role == "model"]
    return {
        "head_block": newest.head_block if newest is not None else None,
        "head_age_s": round(age, 1) if age is not None else None,
        "chain_time_s": round(market.chain_time(now)),
        "broker_connected": sum(p.connected is True for p in here),
        "broker_lost": sum(p.connected is False for p in here),
        "owners": {state: owners.count(state) for state in ("live", "stale", "silent", "done", "stopped", "failed")},
        "model": model[0] if model else "unseen",
        "alerts": len(alerts),
    }


def _participant(person: Participant, now: float, limits: Limits) -> dict[str, Any]:
    lag = None
    if person.head_block is not None and person.seen_block is not None:
        lag = max(0, person.head_block - person.seen_block)
    return {
        "peer": person.peer,
        "name": person.name,
        "role": person.role,
        "state": liveness(person, now, limits),
        "quiet_s": round(max(0.0, now - person.last_ts), 1),
        "group": person.group,
        "boots": person.boots,
        "deaths": [number for number, _ in person.deaths],
        "broker_losses": person.broker_losses,
        "rpc_errors": person.rpc_errors,
        "resent": person.resent,
        "bumped": person.bumped,
        "refused": person.refused,
        "reverted": person.reverted,
        "tx_pending": 0 if person.gone else max(person.tx_pending or 0, len(person.sent)),
        "lag_blocks": lag,
        "skew_s": person.skew,
        "disk_free_bytes": person.disk_free,
        "dropped_messages": person.dropped,
        "warnings": person.warnings,
        "errors": person.errors,
        "gas": person.gas,
        "fees_wei": person.fees,
    }


def _errors(market: Market) -> list[dict[str, Any]]:
    kinds = sorted(market.errors.values(), key=lambda kind: (kind.level != "error", -kind.count, kind.code))
    return [
        {
            "code": kind.code,
            "level": kind.level,
            "count": kind.count,
            "last": moment(kind.last_ts),
            "who": market.name(kind.last_peer),
            "text": kind.last_text,
            "help": kind.help or HELP_BY_CODE.get(kind.code, ""),
        }
        for kind in kinds
    ]


def _honesty(market: Market, files: Sequence[LogFile]) -> dict[str, Any]:
    honesty = market.honesty
    return {
        "files": len(files),
        "bytes_read": sum(file.position for file in files),
        "bytes_behind": sum(file.behind for file in files),
        "records": honesty.records,
        "bad_lines": sum(file.bad_lines for file in files),
        "bad_files": sorted(file.name for file in files if file.bad_lines)[:32],
        "truncations": sum(file.truncations for file in files),
        "missing_lines": honesty.gaps,
        "late_lines": honesty.late,
        "repeated_lines": honesty.repeated,
        "other_versions": honesty.other_versions,
        "restarts": honesty.restarts,
        "forgotten": honesty.forgotten,
        "unheard": sorted(
            {market.name(peer) for task in market.tasks.values() for peer in task.joined}
            - {p.name for p in market.participants.values()}
        )[:64],
    }


# ------------------------------------------------------------------ one task


def _task(market: Market, task: Task, now: float, limits: Limits, newest_rounds: int) -> dict[str, Any]:
    rounds = [task.rounds[number] for number in sorted(task.rounds)[-newest_rounds:]]
    current = task.rounds.get(task.round)
    terms = task.terms
    left = task.deadline - market.chain_time(now) if task.deadline and not task.over and task.phase else None
    return {
        "task": task.number,
        "description": task.description,
        "model_owner": market.name(task.model_owner) if task.model_owner else None,
        "terms": dict(sorted(terms.items())),
        "status": task.status,
        "phase": task.phase,
        "phase_seconds": round(max(0.0, now - task.phase_ts), 1) if task.phase_ts and not task.over else None,
        "left_s": round(left) if left is not None else None,
        "round": task.round,
        "rounds": terms.get("rounds"),
        "joined": len(task.joined),
        "needed": terms.get("max_groups", 0) * terms.get("group_size", 0) or None,
        "group_count": task.group_count,
        "headlines": headlines(market, task),
        "waiting": _waiting(market, task, current),
        "owners": _owners(market, task, current, now, limits),
        "seeds": _seeds(market, task),
        "timeline": [_timeline(task, round_) for round_ in rounds],
        "durations": _durations(task),
        "funnel": _funnel(task, rounds),
        "krum": _krum(market, task, rounds),
        "quality": [
            {"round": r.number, "clip_rate": _clip_rate(r), "headroom_bits": r.headroom} for r in rounds
        ],
        "money": _money(market, task),
        "gas": _gas(task, rounds),
        "accuracy": _accuracy(task, rounds),
        "gantt": _gantt(market, task, rounds),
        "forgotten_rounds": task.forgotten_rounds,
    }  # fmt: skip


def _waiting(market: Market, task: Task, current: Round | None) -> dict[str, Any]:
    """For whom: as the model owner says; where it says nothing, by the owners' own stages."""
    names = [market.name(peer) for peer in task.waiting_for] if task.waiting_phase == task.phase else []
    if not names and current is not None and task.phase in ("commit", "post") and not task.over:
        done = ["posted", "sat-out", "slashed", "expelled", "out"] + ["committed"] * (task.phase == "commit")
        late = [
            peer
            for group, members in sorted(task.members.items())
            for peer in members
            if _stage(task, current, group, peer) not in done
        ]
        names = [market.name(peer) for peer in late]
    return {"text": task.waiting_text, "for": names}


def _stage(task: Task, round_: Round, group: int, peer: str) -> str:
    """An owner's stage in a round: from its own log, else from what others say of it and of its group."""
    owner = round_.owners.get(peer)
    stage = owner.stage if owner is not None else "waiting"
    if stage in ("posted", "slashed", "expelled"):
        return stage
    if round_.complete is not None and group in round_.complete:
        return "posted"
    if stage in ("waiting", "seeding") and round_.sat_out is not None and group in round_.sat_out:
        return "sat-out"
    if stage == "waiting" and group in task.idle_groups:
        return "out"
    if stage == "waiting" and round_.committed is not None and group in round_.committed:
        return "committed"
    if stage == "waiting" and task.waiting_phase == "commit" and task.round == round_.number == task.round:
        return "waiting" if peer in task.waiting_for or not task.waiting_text else "committed"
    return stage


def _owners(market: Market, task: Task, current: Round | None, now: float, limits: Limits) -> list[dict[str, Any]]:
    """Panel 3: by group, the stage of every owner in the newest round."""
    drawn = task.members or ({0: sorted(task.joined)} if task.joined else {})
    here = market.participants
    rows = []
    for group, members in sorted(drawn.items()):
        rows.append(
            {
                "group": group if task.members else None,
                "owners": [
                    {
                        "name": market.name(peer),
                        "stage": _stage(task, current, group, peer) if current is not None else "joined",
                        "reason": current.owners[peer].reason if current is not None and peer in current.owners else "",
                        "state": liveness(here[peer], now, limits) if peer in here else "unheard",
                        "quiet_s": round(max(0.0, now - here[peer].last_ts), 1) if peer in here else None,
                    }
                    for peer in members
                ],
            }
        )
    return rows


def _seeds(market: Market, task: Task) -> dict[str, Any]:
    """Panel 4: who agreed with whom in the newest round that has an exchange; ms after the opening."""
    newest = next((task.rounds[n] for n in sorted(task.rounds, reverse=True) if task.rounds[n].seeds), None)
    if newest is None:
        return {"round": None, "groups": []}
    groups = []
    for group, members in sorted(task.members.items()):
        rows = []
        for peer in members:
            cells: list[dict[str, Any]] = []
            for mate in members:
                if mate == peer:
                    cells.append({"state": "self", "ms": None})
                    continue
                known, took = (peer, mate) in newest.seeds, newest.seeds.get((peer, mate))
                missing = "out" if group in task.idle_groups else "none"
                cells.append({"state": "agreed" if took is not None else "hello" if known else missing, "ms": took})
            rows.append(
                {"name": market.name(peer), "cells": cells, "model_key": peer in newest.delivered}
            )  # fmt: skip
        groups.append({"group": group, "rows": rows})
    return {"round": newest.number, "groups": groups, "slowest_ms": newest.slowest_seed_ms}


def _timeline(task: Task, round_: Round) -> dict[str, Any]:
    """Panel 5: when each phase began; the outcome."""
    return {
        "round": round_.number,
        "entered": {phase: round(ts, 3) for phase, ts in sorted(round_.entered.items(), key=lambda item: item[1])},
        "outcome": round_.outcome or ("running" if round_.number == task.round and not task.over else "unknown"),
        "seconds": round_.dur_ms / 1000 if round_.dur_ms is not None else None,
    }


def _durations(task: Task) -> list[dict[str, Any]]:
    wanted = [*CONTRACT_PHASES, "round", *OWNER_STAGES]
    wanted += sorted(name for name in task.durations if name.startswith("tx "))
    return [
        {
            "what": name,
            "count": len(task.durations[name]),
            "p50_s": round(percentile(task.durations[name], 0.5), 3),
            "p95_s": round(percentile(task.durations[name], 0.95), 3),
        }
        for name in wanted
        if task.durations.get(name)
    ]


def _funnel(task: Task, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Panel 6: of the owners in the task, how many came how far in each round."""
    size = task.terms.get("group_size", 0)
    rows = []
    for round_ in rounds:
        owners = round_.owners.values()
        complete, selected = len(round_.complete or ()) * size, len(round_.selected or ()) * size
        posted = max(complete, sum(owner.posted is not None for owner in owners))
        committed = max(
            posted,
            len(round_.committed or ()) * size,
            sum(owner.commit_mined is not None or owner.committed is not None for owner in owners),
        )
        seeded = max(committed, sum(owner.masking is not None for owner in owners))
        counts = (len(task.joined), seeded, committed, posted, complete, selected, len(round_.paid) * size)
        rows.append({"round": round_.number, **dict(zip(FUNNEL, counts, strict=True))})
    return rows


def _krum(market: Market, task: Task, rounds: Sequence[Round]) -> dict[str, Any]:
    """Panel 7."""
    return {
        "rounds": [
            {
                "round": r.number,
                "complete": list(r.complete or ()),
                "scores": list(r.scores),
                "selected": list(r.selected or ()),
                "distances": r.distances,
            }
            for r in rounds
        ],
        "groups": [
            {
                "group": v.group,
                "verdict": v.verdict,
                "text": v.text,
                "complete": v.complete,
                "rejected": v.rejected,
                "paid": v.paid,
                "ratio": v.ratio,
                "owners": [market.name(peer) for peer in task.members.get(v.group, [])],
            }
            for v in judge_groups(task)
        ],
    }


def _clip_rate(round_: Round) -> float | None:
    """Panel 8: the mean share of values that owners clipped."""
    rates = [owner.clip_rate for owner in round_.owners.values() if owner.clip_rate is not None]
    return round(sum(rates) / len(rates), 6) if rates else None


def _money(market: Market, task: Task) -> dict[str, Any]:
    """Panel 9."""
    faults = money_faults(task)
    return {
        **{f"{name}_wei": amount for name, amount in task.money.items()},
        "block": task.money_block if task.money else None,
        "rate_wei": task.terms.get("rate"),
        "conserved": not faults if task.money else None,
        "faults": faults,
        "owners": [
            {
                "peer": owner.peer,
                "name": owner.name,
                "group": owner.group,
                "verdict": owner.verdict,
                "rounds_posted": owner.rounds_posted,
                "rounds_committed": owner.rounds_committed,
                "sat_out": owner.rounds_sat_out,
                "blamed": owner.blamed,
                "paid_rounds": owner.paid_rounds,
                "earned_wei": owner.earned,
                "withdrawn_wei": owner.withdrawn,
                "fees_wei": owner.fees,
                "slashed_rounds": list(owner.slashed_rounds),
                "expelled_in": owner.expelled_in,
                "died_in_rounds": list(owner.died_in_rounds),
            }
            for owner in owner_accounts(market, task)
        ],
    }


def _uses(uses: dict[str, GasUse]) -> dict[str, dict[str, int]]:
    return {
        function: {
            "count": use.count,
            "gas": use.gas,
            "largest": use.largest,
            "fees_wei": use.fees,
            "reverted": use.reverted,
        }
        for function, use in sorted(uses.items())
    }


def _gas(task: Task, rounds: Sequence[Round]) -> dict[str, Any]:
    """Panel 10."""
    return {
        "functions": _uses(task.gas),
        "rounds": [
            {
                "round": r.number,
                "gas": sum(use.gas for use in r.gas.values()),
                "fees_wei": sum(use.fees for use in r.gas.values()),
                "paid_wei": r.paid_wei,
                "functions": _uses(r.gas),
            }
            for r in rounds
        ],
    }


def _accuracy(task: Task, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Panel 11."""
    first = [{"round": 0, "accuracy": task.first_accuracy}] if task.first_accuracy is not None else []
    return first + [{"round": r.number, "accuracy": r.accuracy} for r in rounds if r.accuracy is not None]


def _gantt(market: Market, task: Task, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """When the owners of each round were in which stage: moments in Unix seconds, None where it never came to it."""
    rows = []
    for round_ in rounds[-MAX_GANTT_ROUNDS:]:
        for group, members in sorted(task.members.items()):
            for peer in members:
                owner = round_.owners.get(peer)
                if owner is None or (owner.began is None and not owner.slashed):
                    continue
                rows.append(
                    {
                        "round": round_.number,
                        "group": group,
                        "name": market.name(peer),
                        "stage": owner.stage,
                        "began": _rounded(owner.began),
                        "masking": _rounded(owner.masking),
                        "committed": _rounded(owner.commit_mined or owner.committed),
                        "posted": _rounded(owner.posted),
                        "sat_out": _rounded(owner.sat_out),
                    }
                )
    return rows


MAX_GANTT_ROUNDS = 40


def _rounded(ts: float | None) -> float | None:
    return round(ts, 3) if ts is not None else None
