"""The report: one self-contained HTML page of a market, without scripts and without the network. A pure function.

Log texts are strangers': each is escaped, and the page's own policy forbids whatever might slip through to run or
to load anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from omnilytics.daemon.monitor.charts import (
    Span,
    colour,
    compact,
    gantt,
    heat_map,
    legend,
    level_bars,
    line_chart,
    range_bars,
    seconds,
    stacked_bars,
)
from omnilytics.daemon.monitor.findings import amount_in_ether, ether
from omnilytics.daemon.monitor.page_style import STYLE

Data = dict[str, Any]
# Nothing is loaded, nothing is run; only the style sheet in the page itself counts.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
GAS_FUNCTIONS = ("openRound", "commit", "post", "settle")
_STAGES = (("seeding", colour(3)), ("training to commitment", colour(0)), ("committed to posted", colour(2)))
_DROPPED = colour(7)
_VERDICTS = {"poisoned group": "bad", "dropped": "bad", "killed": "warn"}


def report_page(view: Data) -> str:
    """The page of a view (panels.describe)."""
    header, alerts = view["header"], view["alerts"]
    badge = _badge(f"{len(alerts)} alerts", "bad") if alerts else _badge("no alert stands", "good")
    when = f"{_time(view['first'])} to {_time(view['last'])} UTC" if view["first"] else "no records"
    owners = header["owners"]
    body = [
        f"<h1>OmniLytics market report</h1><p class='quiet'>from the daemons' logs, {escape(when)} · "
        f"{sum(owners.values())} data owners heard · {badge}</p>",
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


# ------------------------------------------------------------------ pieces


def _badge(text: str, kind: str) -> str:
    return f"<span class='badge {kind}'>{escape(text)}</span>"


def _card(title: str, inside: str, hint: str = "") -> str:
    said = f"<p class='quiet'>{escape(hint)}</p>" if hint else ""
    return f"<section class='card'><h3>{escape(title)}</h3>{said}{inside}</section>" if inside else ""


def _scroll(inside: str, label: str) -> str:
    """A wide thing in a frame of its own, which the keyboard reaches; the page itself never scrolls sideways."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label, True)}">{inside}</div>' if inside else ""


def _table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Cells are HTML already; columns in `left` are text, the others numbers."""
    heads = "".join(f"<th{' class=left' if n in left else ''}>{escape(name)}</th>" for n, name in enumerate(head))
    lines = [
        "<tr>" + "".join(f"<td{' class=left' if n in left else ''}>{cell}</td>" for n, cell in enumerate(row)) + "</tr>"
        for row in rows
    ]
    if not lines:
        return ""
    return _scroll(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>", label)


def _more(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>" if inside else ""


def _time(stamp: str | None) -> str:
    return stamp[:19].replace("T", " ") if stamp else "-"


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "-"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _wei(amount: int | None) -> str:
    return "-" if amount is None else f"<span title='{amount} wei'>{escape(amount_in_ether(amount))}</span>"


# ------------------------------------------------------------------ sections


def _alerts(alerts: Sequence[Data]) -> str:
    rows = [
        [_badge(a["code"], "bad"), escape(a["text"]), escape(a["help"]), escape(_time(a["since"]))] for a in alerts
    ]
    table = _table("alerts", ["alert", "what", "what to do", "since"], rows, (0, 1, 2, 3))
    return _card("Alerts that stand", table)


def _task(task: Data) -> str:
    rounds = task["rounds"] or "?"
    story = "".join(f"<li>{escape(line)}</li>" for line in task["headlines"])
    body = [
        f"<h2>Task {task['task']}</h2><p class='quiet'>{escape(task['description'])}</p>",
        _tiles(task, rounds),
        _card("In short", f"<ul class='story'>{story}</ul>" if story else ""),
        _card("Accuracy by round", _scroll(_accuracy(task), "accuracy by round"), "On the model owner's own rows."),
        _card("Rounds: how each ended and what it cost", _rounds(task)),
        _card("Owners: who took part, who dropped out, who was paid what", _owners(task), _OWNERS_HINT),
        _card("Payments by owner", _scroll(_payments(task), "payments by owner"), "The task's rate for every round that paid its group."),
        _card("Money", _money(task)),
        _card("Gas by function and round", _scroll(_gas(task), "gas by function and round") + _gas_table(task)),
        _card("Krum", _krum(task), _KRUM_HINT),
        _card("How long things take", _scroll(_durations(task), "durations"), "p50 (dot) and p95 (end of the bar) of phases (over rounds) and of owners' stages (over owners and rounds); logarithmic scale."),
        _card("Timeline", _scroll(_gantt(task), "timeline"), "A row an owner, by group; rounds are marked above. What an owner did from the opening of a round to its post."),
        _card("Funnel", _funnel(task), "Owners that came so far, by round."),
        _card("Seed exchange", _seeds(task), "Of the newest round: milliseconds from its opening until an owner (row) agreed on a seed with a mate."),
        _card("Quality", _quality(task)),
    ]  # fmt: skip
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
        (f"{_share(accuracy)}" if accuracy is not None else "-", "accuracy in the end" if task["status"] == "ended" else "accuracy now"),
        (f"{task['round']} of {rounds}", f"rounds, task {task['status'] or 'unknown'}"),
        (f"{task['joined']}", f"owners in {task['group_count']} groups"),
        (ether(money["paid_wei"]) if "paid_wei" in money else "-", "paid to owners"),
        (f"{sum(gas) / len(gas) / 1e6:.2f} M" if gas else "-", "gas a round, in the mean"),
    ]  # fmt: skip
    return (
        "<div class='tiles'>"
        + "".join(f"<div class='tile'><b>{escape(v)}</b><span>{escape(n)}</span></div>" for v, n in tiles)
        + "</div>"
    )


def _accuracy(task: Data) -> str:
    points = [(float(entry["round"]), entry["accuracy"]) for entry in task["accuracy"]]
    return line_chart(points, "Accuracy by round", lambda value: f"{100 * value:.1f} %")


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
                _badge(outcome, "good" if outcome == "selected" else "warn"),
                _share(accuracy[number]) if number in accuracy else "-",
                _list(chosen["selected"]),
                _list(rejected),
                _list(outside) if chosen["complete"] or outcome == "void" else "-",
                escape(", ".join(slashed.get(number, []))) or "-",
                f"{cost['gas']:,}",
                _wei(cost["fees_wei"]),
                _wei(cost["paid_wei"]),
                seconds(entry["seconds"]) if entry["seconds"] is not None else "-",
            ]
        )
    head = ["round", "outcome", "accuracy", "selected groups", "rejected", "not complete", "slashed", "gas", "fees, ETH", "paid, ETH", "took"]  # fmt: skip
    return _table("rounds", head, rows, (1, 3, 4, 5, 6))


def _owners(task: Data) -> str:
    rows = []
    for owner in task["money"]["owners"]:
        verdict = _badge(owner["verdict"], _VERDICTS.get(owner["verdict"], "warn")) if owner["verdict"] else ""
        story = []
        if owner["slashed_rounds"]:
            story.append(f"slashed in {_list(owner['slashed_rounds'])}")
        if owner["died_in_rounds"]:
            story.append(f"died in {_list(owner['died_in_rounds'])}")
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
                _wei(owner["earned_wei"]),
                _wei(owner["withdrawn_wei"]),
                _wei(owner["fees_wei"]),
            ]
        )
    head = ["owner", "group", "", "posted", "sat out", "paid rounds", "earned, ETH", "withdrawn, ETH", "fees, ETH"]
    return _table("owners", head, rows, (0, 2))


def _payments(task: Data) -> str:
    owners = task["money"]["owners"]
    rows = [
        (
            f"{owner['name']} · {'-' if owner['group'] is None else owner['group']}",
            float(owner["earned_wei"]),
            f"{ether(owner['earned_wei'])}",
            _DROPPED if owner["verdict"] in ("dropped", "poisoned group") else colour(0),
        )
        for owner in owners
    ]
    if not any(row[1] for row in rows):
        return ""
    keys = [(colour(0), "paid"), (_DROPPED, "dropped out, or in a group that looks poisoned")]
    return level_bars(rows, "Payments by owner") + legend(keys)


def _money(task: Data) -> str:
    money = task["money"]
    if money["block"] is None:
        return "<p class='quiet'>no money was logged</p>"
    parts = [money[f"{name}_wei"] for name in ("escrow", "paid", "settlement_paid", "refunded", "locked")]
    stakes = [money[f"{name}_wei"] for name in ("stakes_in", "stakes_out", "slashed", "compensation", "burned")]
    sums = [
        f"escrow {parts[0]:,} wei = paid to owners {parts[1]:,} + settlement {parts[2]:,} + refunded {parts[3]:,} + locked {parts[4]:,}",
        f"stakes in {stakes[0]:,} wei = out {stakes[1]:,} + slashed {stakes[2]:,} + held {stakes[0] - stakes[1] - stakes[2]:,}",
        f"slashed {stakes[2]:,} wei = compensation {stakes[3]:,} + burned {stakes[4]:,}",
    ]  # fmt: skip
    verdict = _badge("every wei accounted for", "good") if money["conserved"] else _badge("DOES NOT ADD UP", "bad")
    faults = "".join(f"<p class='bad'>{escape(fault)}</p>" for fault in money["faults"])
    return f"<p>{verdict} <span class='quiet'>as of block {money['block']}</span></p>{faults}" + "".join(
        f"<p class='sum'>{escape(line)}</p>" for line in sums
    )


def _gas(task: Data) -> str:
    names = [*GAS_FUNCTIONS, "other"]
    rows = []
    for entry in task["gas"]["rounds"]:
        by = {name: use["gas"] for name, use in entry["functions"].items()}
        values = [by.get(name, 0) for name in GAS_FUNCTIONS]
        rows.append((str(entry["round"]), [*values, entry["gas"] - sum(values)]))
    return stacked_bars(rows, names, "Gas by function and round", lambda value: f"{value:,.0f} gas")


def _gas_table(task: Data) -> str:
    rows = [
        [
            escape(name),
            f"{use['count']:,}",
            f"{use['gas']:,}",
            f"{use['gas'] // max(1, use['count']):,}",
            f"{use['largest']:,}",
            _wei(use["fees_wei"]),
            f"{use['reverted']:,}",
        ]
        for name, use in task["gas"]["functions"].items()
    ]
    head = ["function", "calls", "gas", "mean", "largest", "fees, ETH", "reverted"]
    return _more("the whole task, by function", _table("gas by function", head, rows))


def _krum(task: Data) -> str:
    rounds = [entry for entry in task["krum"]["rounds"] if entry["scores"]]
    if not rounds:
        return ""
    groups = sorted({group for entry in rounds for group in entry["complete"]})
    rows = []
    for group in groups:
        cells: list[tuple[float | None, str, str]] = []
        for entry in rounds:
            if group not in entry["complete"]:
                cells.append((None, f"round {entry['round']}, group {group}: not complete", ""))
                continue
            usual = _usual(entry)
            score = entry["scores"][entry["complete"].index(group)]
            ratio = score / usual if usual else 0.0
            # Twice the usual is half full; ten times and more is full.
            share = min(1.0, max(0.0, (ratio - 0.5) / 4))
            title = f"round {entry['round']}, group {group}: score {compact(score)}, {ratio:,.2f} times the kept groups'"
            cells.append((share, title, "" if group in entry["selected"] else "rejected"))
        rows.append((f"group {group}", cells))
    scores = heat_map(rows, [str(entry["round"]) for entry in rounds], "Krum scores by group and round")
    keys = legend(
        [("heat", "score over the kept groups' median (full: 4.5 times and more)"), ("rejected", "rejected"), ("void", "not complete")]
    )  # fmt: skip
    newest = next((entry for entry in reversed(rounds) if entry["distances"]), None)
    distances = _distances(newest) if newest is not None else ""
    verdicts = [
        [
            str(v["group"]),
            _badge(v["verdict"], {"poisoned": "bad", "outlier": "warn", "unsuspicious": "good"}.get(v["verdict"], "warn")),
            escape(", ".join(v["owners"])),
            str(v["complete"]),
            str(v["rejected"]),
            str(v["paid"]),
            f"{v['ratio']:,.2f}",
        ]
        for v in task["krum"]["groups"]
    ]
    head = ["group", "reading", "owners", "complete", "rejected", "paid", "median score ratio"]
    return (
        "<p class='quiet'>Scores by group and round</p>"
        + _scroll(scores, "Krum scores")
        + keys
        + distances
        + _table("groups", head, verdicts, (0, 1, 2))
    )


def _usual(entry: Data) -> float:
    kept = sorted(s for g, s in zip(entry["complete"], entry["scores"], strict=True) if g in entry["selected"])
    return float(kept[(len(kept) - 1) // 2]) if kept else 0.0


def _distances(entry: Data) -> str:
    """The distances between the groups' sums in one round, on a logarithmic scale between the nearest and farthest."""
    values = [math.sqrt(cell) for row in entry["distances"] for cell in row if cell > 0]
    if not values:
        return ""
    low, high = math.log(min(values)), math.log(max(values))
    rows = []
    for a, row in zip(entry["complete"], entry["distances"], strict=True):
        cells: list[tuple[float | None, str, str]] = []
        for b, cell in zip(entry["complete"], row, strict=True):
            if cell <= 0:
                cells.append((None, f"group {a} and itself" if a == b else f"groups {a} and {b} are the same", ""))
                continue
            share = (math.log(math.sqrt(cell)) - low) / ((high - low) or 1)
            cells.append((share, f"groups {a} and {b}: distance {compact(math.sqrt(cell))}", ""))
        rows.append((f"group {a}", cells))
    picture = heat_map(rows, [str(group) for group in entry["complete"]], "Distances between groups")
    return f"<p class='quiet'>Distances between the groups' sums in round {entry['round']} (logarithmic: the fullest is the farthest)</p>" + _scroll(picture, "Krum distances")  # fmt: skip


def _durations(task: Data) -> str:
    rows = [
        (entry["what"], entry["p50_s"], entry["p95_s"], entry["count"])
        for entry in task["durations"]
        if not entry["what"].startswith("tx ")
    ]
    return range_bars(rows, "Durations, p50 and p95")


def _gantt(task: Data) -> str:
    begun = [entry["entered"]["commit"] for entry in task["timeline"] if "commit" in entry["entered"]]
    if not begun or not task["gantt"]:
        return ""
    zero = min([*begun, *(row["began"] for row in task["gantt"] if row["began"] is not None)])
    ends = _round_ends(task)
    rows: dict[str, list[Span]] = {}
    for entry in task["gantt"]:
        name = f"{entry['group']} · {entry['name']}"
        spans = rows.setdefault(name, [])
        start = entry["began"]
        if start is None:
            continue
        place = f"round {entry['round']}"
        steps = [entry["masking"], entry["committed"], entry["posted"]]
        stops = [stop for stop in [*steps, entry["sat_out"]] if stop is not None]
        last = start
        for (stage, kind), stop in zip(_STAGES, steps, strict=True):
            if stop is None or stop < last:
                continue
            spans.append(Span(last - zero, stop - zero, kind, f"{place}, {stage}, {seconds(stop - last)}"))
            last = stop
        if entry["stage"] in ("slashed", "sat-out"):
            end = max(ends.get(entry["round"], last), *stops, last)
            what = "did not post" if entry["stage"] == "slashed" else "sat the round out"
            spans.append(Span(last - zero, end - zero, _DROPPED if entry["stage"] == "slashed" else colour(3), f"{place}, {what}"))
    marks = [
        (entry["entered"]["commit"] - zero, str(entry["round"])) for entry in task["timeline"] if "commit" in entry["entered"]
    ]
    keys = legend(
        [(_STAGES[0][1], "seeds and training"), (_STAGES[1][1], "masking and committing"), (_STAGES[2][1], "waiting and posting"), (_DROPPED, "committed, did not post")]
    )  # fmt: skip
    return gantt(list(rows.items()), marks, "Timeline by owner") + keys


def _round_ends(task: Data) -> dict[int, float]:
    ends = {}
    for entry in task["timeline"]:
        after = [ts for phase, ts in entry["entered"].items() if phase in ("settle", "idle", "ended")]
        if after:
            ends[entry["round"]] = min(after)
    return ends


def _funnel(task: Data) -> str:
    rows = [
        [str(row["round"]), *(str(row[n]) for n in ("joined", "seeded", "committed", "posted", "complete", "selected", "paid"))]
        for row in task["funnel"]
    ]  # fmt: skip
    if not rows:
        return ""
    totals = [(name, sum(row[name] for row in task["funnel"])) for name in ("joined", "seeded", "committed", "posted", "complete", "selected", "paid")]  # fmt: skip
    most = totals[0][1] or 1
    bars = level_bars(
        [(name, float(value), f"{value:,} ({100 * value / most:.0f} %)", colour(0)) for name, value in totals], "Funnel"
    )
    head = ["round", "joined", "seeded", "committed", "posted", "complete", "selected", "paid"]
    return _scroll(bars, "funnel, all rounds") + _more("by round", _table("funnel by round", head, rows))


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
    table = _table("seed exchange", ["group", "owner", "agreed with", "has the model key"], rows, (1, 2))
    return _more(f"round {exchange['round']}, slowest {exchange.get('slowest_ms', 0)} ms", table) if rows else ""


def _quality(task: Data) -> str:
    rows = [
        [
            str(entry["round"]),
            _share(entry["clip_rate"]) if entry["clip_rate"] is not None else "-",
            f"{entry['headroom_bits']:g}" if entry["headroom_bits"] is not None else "-",
        ]
        for entry in task["quality"]
    ]
    head = ["round", "clipped values", "headroom of sums, bits"]
    return _more("clipping and headroom by round", _table("quality", head, rows))


# ------------------------------------------------------------------ the daemons


def _network(view: Data) -> str:
    rows = []
    for person in view["participants"]:
        state = person["state"]
        kind = "good" if state in ("live", "done") else "bad" if state in ("silent", "failed") else "warn"
        rows.append(
            [
                escape(person["name"]),
                _badge(state, kind),
                str(person["boots"]),
                _list(person["deaths"]),
                str(person["broker_losses"]),
                str(person["rpc_errors"]),
                str(person["refused"]),
                str(person["reverted"]),
                str(person["resent"] + person["bumped"]),
                str(person["warnings"]),
                str(person["errors"]),
                _wei(person["fees_wei"]),
            ]
        )
    head = ["daemon", "state", "lives", "died in round", "broker lost", "RPC errors", "refused", "reverted", "resent or bumped", "warnings", "errors", "fees, ETH"]  # fmt: skip
    table = _table("daemons", head, rows, (0, 1))
    past = [
        [escape(a["code"]), escape(a["text"]), escape(_time(a["raised"])), escape(_time(a["cleared"]))]
        for a in view["past_alerts"]
    ]
    history = _table("past alerts", ["alert", "what", "raised", "cleared"], past, (0, 1, 2, 3))
    return (
        "<h2>Daemons</h2>"
        + _card("Reconnects, retries, restarts", table)
        + _card("Alerts that were raised while the logs were written", history)
    )


def _errors(errors: Sequence[Data]) -> str:
    rows = [
        [
            escape(entry["code"]),
            _badge(entry["level"], "bad" if entry["level"] == "error" else "warn"),
            f"{entry['count']:,}",
            escape(entry["who"]),
            escape(entry["text"]),
            escape(entry["help"]),
        ]
        for entry in errors
    ]
    table = _table("errors", ["code", "level", "count", "last of", "last words", "what to do"], rows, (0, 1, 3, 4, 5))
    return _card("Errors and warnings by code", table)


def _honesty(view: Data) -> str:
    honesty = view["honesty"]
    unheard = ", ".join(honesty["unheard"])
    lines = [
        f"{honesty['files']} files, {honesty['bytes_read']:,} bytes read, {honesty['bytes_behind']:,} behind; {honesty['records']:,} records",
        f"{honesty['bad_lines']} lines that are no record, {honesty['missing_lines']} missing by their numbers, "
        f"{honesty['repeated_lines']} seen before, {honesty['other_versions']} of another schema, {honesty['truncations']} files cut short",
        f"{honesty['forgotten']} old rounds, tasks or participants let go to bound memory",
        f"in the task, but without a log here: {unheard}" if unheard else "everybody in the tasks has a log here",
    ]  # fmt: skip
    return _card("What this report rests on", "".join(f"<p>{escape(line)}</p>" for line in lines))
