"""The report: one self-contained HTML page of a market, without scripts and without the network. A pure function.

Log texts are strangers': each is escaped, and the page's own policy forbids whatever might slip through to run or
to load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from omnilytics.daemon.amounts import ether_digits
from omnilytics.daemon.monitor import page_pictures as pictures
from omnilytics.daemon.monitor.charts import seconds
from omnilytics.daemon.monitor.page_pieces import (
    Data,
    amount,
    badge,
    card,
    clock,
    more,
    numbers,
    percent,
    scroll,
    table,
)
from omnilytics.daemon.monitor.page_style import STYLE

# Nothing is loaded, nothing is run; only the style sheet in the page itself counts.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_VERDICTS = {"poisoned group": "bad", "dropped": "bad", "killed": "warn"}


def report_page(view: Data) -> str:
    """The page of a view (panels.describe)."""
    header, alerts = view["header"], view["alerts"]
    told = badge(f"{len(alerts)} alerts", "bad") if alerts else badge("no alert stands", "good")
    when = f"{clock(view['first'])} to {clock(view['last'])} UTC" if view["first"] else "no records"
    owners = header["owners"]
    body = [
        f"<h1>OmniLytics market report</h1><p class='quiet'>from the daemons' logs, {escape(when)} · "
        f"{sum(owners.values())} data owners heard · {told}</p>",
        _alerts(alerts),
        *(_task(task) for task in view["tasks"]),
        _network(view),
        _errors(view["errors"]),
        _honesty(view),
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>OmniLytics market report</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


# ------------------------------------------------------------------ sections


def _alerts(alerts: Sequence[Data]) -> str:
    rows = [[badge(a["code"], "bad"), escape(a["text"]), escape(a["help"]), escape(clock(a["since"]))] for a in alerts]
    inside = table("alerts", ["alert", "what", "what to do", "since"], rows, (0, 3), (1, 2))
    return card("Alerts that stand", inside)


def _task(task: Data) -> str:
    rounds = task["rounds"] or "?"
    story = "".join(f"<li>{escape(line)}</li>" for line in task["headlines"])
    body = [
        f"<h2>Task {task['task']}</h2><p class='quiet'>{escape(task['description'])}</p>",
        _tiles(task, rounds),
        card("In short", f"<ul class='story'>{story}</ul>" if story else ""),
        card(
            "Accuracy by round", scroll(pictures.accuracy(task), "accuracy by round"), "On the model owner's own rows."
        ),
        card("Rounds: how each ended and what it cost", _rounds(task)),
        card(
            "Owners: who took part, who dropped out, who was paid what",
            _owners(task),
            _OWNERS_HINT,
            f"owners-{task['task']}",
        ),
        card(
            "Payments by owner",
            scroll(pictures.payments(task), "payments by owner"),
            "The task's rate for every round that paid its group.",
        ),
        card("Money", _money(task)),
        card("Gas by function and round", scroll(pictures.gas(task), "gas by function and round") + _gas_table(task)),
        card("Krum", pictures.krum(task), _KRUM_HINT, f"krum-{task['task']}"),
        card(
            "How long things take",
            scroll(pictures.durations(task), "durations"),
            "p50 (dot) and p95 (end of the bar) of phases (over rounds) and of owners' stages (over owners and "
            "rounds); logarithmic scale.",
        ),
        card(
            "Timeline",
            scroll(pictures.timeline(task), "timeline"),
            "A row an owner, by group; rounds are marked above. What an owner did from the opening of a round to "
            "its post.",
            f"timeline-{task['task']}",
        ),
        card("Funnel", pictures.funnel(task), "Owners that came so far, by round."),
        card(
            "Seed exchange",
            _seeds(task),
            "Of the newest round: milliseconds from its opening until an owner (row) agreed on a seed with a mate.",
        ),
        card("Quality", _quality(task)),
    ]
    return "\n".join(part for part in body if part)


_OWNERS_HINT = (
    "Dropped: committed and did not post, and was slashed. Poisoned group: Krum rejected its group nearly always, from "
    "far off; masks hide which of its owners it was. Withdrawn holds stake, pay, compensation and reimbursed settling."
)
_KRUM_HINT = (
    "A group's score is the sum of its squared distances to its nearest others; the highest are rejected (framed). "
    "Krum always rejects f groups, honest ones too."
)


def _tiles(task: Data, rounds: object) -> str:
    accuracy = task["accuracy"][-1]["accuracy"] if task["accuracy"] else None
    gas = [entry["gas"] for entry in task["gas"]["rounds"]]
    money = task["money"]
    tiles = [
        (
            f"{percent(accuracy)}" if accuracy is not None else "-",
            "accuracy in the end" if task["status"] == "ended" else "accuracy now",
        ),
        (f"{task['round']} of {rounds}", f"rounds, task {task['status'] or 'unknown'}"),
        (f"{task['joined']}", f"owners in {task['group_count']} groups"),
        (_short_ether(money["paid_wei"]) if "paid_wei" in money else "-", "paid to owners"),
        (f"{sum(gas) / len(gas) / 1e6:.2f} M" if gas else "-", "gas a round, in the mean"),
    ]
    return (
        "<div class='tiles'>"
        + "".join(f"<div class='tile'><b>{escape(v)}</b><span>{escape(n)}</span></div>" for v, n in tiles)
        + "</div>"
    )


def _short_ether(wei: int) -> str:
    text = ether_digits(wei)
    return f"{text if text.endswith('…') else text.rstrip('0').rstrip('.')} ETH"


def _rounds(task: Data) -> str:
    krum = {entry["round"]: entry for entry in task["krum"]["rounds"]}
    gas = {entry["round"]: entry for entry in task["gas"]["rounds"]}
    accuracy = {entry["round"]: entry["accuracy"] for entry in task["accuracy"]}
    slashed: dict[int, list[str]] = {}
    for owner in task["money"]["owners"]:
        for number in owner["slashed_rounds"]:
            slashed.setdefault(number, []).append(owner["name"])
    rows = []
    for entry in task["timeline"]:
        number = entry["round"]
        chosen, cost = krum[number], gas[number]
        rejected = [group for group in chosen["complete"] if group not in chosen["selected"]]
        outside = [group for group in range(task["group_count"]) if group not in chosen["complete"]]
        outcome = entry["outcome"]
        rows.append(
            [
                str(number),
                badge(outcome, "good" if outcome == "selected" else "warn"),
                percent(accuracy[number]) if number in accuracy else "-",
                numbers(chosen["selected"]),
                numbers(rejected),
                numbers(outside) if chosen["complete"] or outcome == "void" else "-",
                escape(", ".join(slashed.get(number, []))) or "-",
                f"{cost['gas']:,}",
                amount(cost["fees_wei"]),
                amount(cost["paid_wei"]),
                seconds(entry["seconds"]) if entry["seconds"] is not None else "-",
            ]
        )
    head = [
        "round",
        "outcome",
        "accuracy",
        "selected groups",
        "rejected",
        "not complete",
        "slashed",
        "gas",
        "fees, ETH",
        "paid, ETH",
        "took",
    ]
    return table("rounds", head, rows, (1, 3, 4, 5, 6))


def _owners(task: Data) -> str:
    rows = []
    for owner in task["money"]["owners"]:
        verdict = badge(owner["verdict"], _VERDICTS.get(owner["verdict"], "warn")) if owner["verdict"] else ""
        story = []
        if owner["slashed_rounds"]:
            story.append(f"slashed in {numbers(owner['slashed_rounds'])}")
        if owner["died_in_rounds"]:
            story.append(f"died in {numbers(owner['died_in_rounds'])}")
        if owner["expelled_in"]:
            story.append(f"expelled in {owner['expelled_in']}")
        rows.append(
            [
                f"<span title='{escape(owner['peer'], True)}'>{escape(owner['name'])}</span>",
                "-" if owner["group"] is None else str(owner["group"]),
                f"{verdict} {escape('; '.join(story))}",
                str(owner["rounds_posted"]),
                str(owner["sat_out"]),
                str(owner["paid_rounds"]),
                amount(owner["earned_wei"]),
                amount(owner["withdrawn_wei"]),
                amount(owner["fees_wei"]),
            ]
        )
    head = ["owner", "group", "", "posted", "sat out", "paid rounds", "earned, ETH", "withdrawn, ETH", "fees, ETH"]
    return table("owners", head, rows, (0, 2))


def _money(task: Data) -> str:
    money = task["money"]
    if money["block"] is None:
        return "<p class='quiet'>no money was logged</p>"
    parts = [money[f"{name}_wei"] for name in ("escrow", "paid", "settlement_paid", "refunded", "locked")]
    stakes = [money[f"{name}_wei"] for name in ("stakes_in", "stakes_out", "slashed", "compensation", "burned")]
    sums = [
        f"escrow {parts[0]:,} wei = paid to owners {parts[1]:,} + settlement {parts[2]:,} "
        f"+ refunded {parts[3]:,} + locked {parts[4]:,}",
        f"stakes in {stakes[0]:,} wei = out {stakes[1]:,} + slashed {stakes[2]:,} "
        f"+ held {stakes[0] - stakes[1] - stakes[2]:,}",
        f"slashed {stakes[2]:,} wei = compensation {stakes[3]:,} + burned {stakes[4]:,}",
    ]
    verdict = badge("every wei accounted for", "good") if money["conserved"] else badge("DOES NOT ADD UP", "bad")
    faults = "".join(f"<p class='bad'>{escape(fault)}</p>" for fault in money["faults"])
    return f"<p>{verdict} <span class='quiet'>as of block {money['block']}</span></p>{faults}" + "".join(
        f"<p class='sum'>{escape(line)}</p>" for line in sums
    )


def _gas_table(task: Data) -> str:
    rows = [
        [
            escape(name),
            f"{use['count']:,}",
            f"{use['gas']:,}",
            f"{use['gas'] // max(1, use['count']):,}",
            f"{use['largest']:,}",
            amount(use["fees_wei"]),
            f"{use['reverted']:,}",
        ]
        for name, use in task["gas"]["functions"].items()
    ]
    head = ["function", "calls", "gas", "mean", "largest", "fees, ETH", "reverted"]
    return more("the whole task, by function", table("gas by function", head, rows))


def _seeds(task: Data) -> str:
    exchange = task["seeds"]
    rows = []
    for group in exchange["groups"]:
        for row in group["rows"]:
            cells = []
            for cell, mate in zip(row["cells"], group["rows"], strict=True):
                if cell["state"] != "self":
                    shown = f"{cell['ms']} ms" if cell["state"] == "agreed" else cell["state"]
                    cells.append(f"{escape(mate['name'])}: {shown}")
            key = "yes" if row["model_key"] else "no"
            rows.append([str(group["group"]), escape(row["name"]), "; ".join(cells), key])
    inside = table("seed exchange", ["group", "owner", "agreed with", "has the model key"], rows, (1, 2))
    return more(f"round {exchange['round']}, slowest {exchange.get('slowest_ms', 0)} ms", inside) if rows else ""


def _quality(task: Data) -> str:
    rows = [
        [
            str(entry["round"]),
            percent(entry["clip_rate"]) if entry["clip_rate"] is not None else "-",
            f"{entry['headroom_bits']:g}" if entry["headroom_bits"] is not None else "-",
        ]
        for entry in task["quality"]
    ]
    head = ["round", "clipped values", "headroom of sums, bits"]
    return more("clipping and headroom by round", table("quality", head, rows))


# ------------------------------------------------------------------ the daemons


def _network(view: Data) -> str:
    rows = []
    for person in view["participants"]:
        state = person["state"]
        kind = "good" if state in ("live", "done") else "bad" if state in ("silent", "failed") else "warn"
        rows.append(
            [
                escape(person["name"]),
                badge(state, kind),
                str(person["boots"]),
                numbers(person["deaths"]),
                str(person["broker_losses"]),
                str(person["rpc_errors"]),
                str(person["refused"]),
                str(person["reverted"]),
                str(person["resent"] + person["bumped"]),
                str(person["warnings"]),
                str(person["errors"]),
                amount(person["fees_wei"]),
            ]
        )
    head = [
        "daemon",
        "state",
        "lives",
        "died in round",
        "broker lost",
        "RPC errors",
        "refused",
        "reverted",
        "resent or bumped",
        "warnings",
        "errors",
        "fees, ETH",
    ]
    inside = table("daemons", head, rows, (0, 1))
    past = [
        [escape(a["code"]), escape(a["text"]), escape(clock(a["raised"])), escape(clock(a["cleared"]))]
        for a in view["past_alerts"]
    ]
    history = table("past alerts", ["alert", "what", "raised", "cleared"], past, (0, 2, 3), (1,))
    return (
        "<h2>Daemons</h2>"
        + card("Reconnects, retries, restarts", inside)
        + card("Alerts that were raised while the logs were written", history)
    )


def _errors(errors: Sequence[Data]) -> str:
    rows = [
        [
            escape(entry["code"]),
            badge(entry["level"], "bad" if entry["level"] == "error" else "warn"),
            f"{entry['count']:,}",
            escape(entry["who"]),
            escape(entry["text"]),
            escape(entry["help"]),
        ]
        for entry in errors
    ]
    inside = table("errors", ["code", "level", "count", "last of", "last words", "what to do"], rows, (0, 1, 3), (4, 5))
    return card("Errors and warnings by code", inside)


def _honesty(view: Data) -> str:
    honesty = view["honesty"]
    unheard = ", ".join(honesty["unheard"])
    lines = [
        f"{honesty['files']} files, {honesty['bytes_read']:,} bytes read, {honesty['bytes_behind']:,} behind; "
        f"{honesty['records']:,} records",
        f"{honesty['bad_lines']} lines that are no record, {honesty['missing_lines']} missing by their numbers, "
        f"{honesty['repeated_lines']} seen before, {honesty['other_versions']} of another schema, "
        f"{honesty['truncations']} files cut short",
        f"{honesty['forgotten']} old rounds, tasks or participants let go to bound memory",
        f"in the task, but without a log here: {unheard}" if unheard else "everybody in the tasks has a log here",
    ]
    return card("What this report rests on", "".join(f"<p>{escape(line)}</p>" for line in lines))
