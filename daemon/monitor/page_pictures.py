"""The report page's pictures of one task, each from its panel (panels.describe). Pure."""

from __future__ import annotations

import math
from html import escape

from omnilytics.daemon.amounts import ether
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
from omnilytics.daemon.monitor.page_pieces import Data, badge, more, scroll, table

GAS_FUNCTIONS = ("openRound", "commit", "post", "settle")
_STAGES = (("seeding", colour(3)), ("training to commitment", colour(0)), ("committed to posted", colour(2)))
_DROPPED = colour(7)


def accuracy(task: Data) -> str:
    points = [(float(entry["round"]), entry["accuracy"]) for entry in task["accuracy"]]
    return line_chart(points, "Accuracy by round", lambda value: f"{100 * value:.1f} %")


def payments(task: Data) -> str:
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


def gas(task: Data) -> str:
    names = [*GAS_FUNCTIONS, "other"]
    rows = []
    for entry in task["gas"]["rounds"]:
        by = {name: use["gas"] for name, use in entry["functions"].items()}
        values = [by.get(name, 0) for name in GAS_FUNCTIONS]
        rows.append((str(entry["round"]), [*values, entry["gas"] - sum(values)]))
    return stacked_bars(rows, names, "Gas by function and round", lambda value: f"{value:,.0f} gas")


def krum(task: Data) -> str:
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
            title = (
                f"round {entry['round']}, group {group}: score {compact(score)}, {ratio:,.2f} times the kept groups'"
            )
            cells.append((share, title, "" if group in entry["selected"] else "rejected"))
        rows.append((f"group {group}", cells))
    scores = heat_map(rows, [str(entry["round"]) for entry in rounds], "Krum scores by group and round")
    keys = legend(
        [
            ("heat", "score over the kept groups' median (full: 4.5 times and more)"),
            ("rejected", "rejected"),
            ("void", "not complete"),
        ]
    )
    newest = next((entry for entry in reversed(rounds) if entry["distances"]), None)
    distances = _distances(newest) if newest is not None else ""
    verdicts = [
        [
            str(v["group"]),
            badge(
                v["verdict"], {"poisoned": "bad", "outlier": "warn", "unsuspicious": "good"}.get(v["verdict"], "warn")
            ),
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
        + scroll(scores, "Krum scores")
        + keys
        + distances
        + table("groups", head, verdicts, (0, 1, 2))
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
    return (
        f"<p class='quiet'>Distances between the groups' sums in round {entry['round']} (logarithmic: the fullest "
        "is the farthest)</p>" + scroll(picture, "Krum distances")
    )


def durations(task: Data) -> str:
    rows = [
        (entry["what"], entry["p50_s"], entry["p95_s"], entry["count"])
        for entry in task["durations"]
        if not entry["what"].startswith("tx ")
    ]
    return range_bars(rows, "Durations, p50 and p95")


def timeline(task: Data) -> str:
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
            spans.append(
                Span(
                    last - zero, end - zero, _DROPPED if entry["stage"] == "slashed" else colour(3), f"{place}, {what}"
                )
            )
    marks = [
        (entry["entered"]["commit"] - zero, str(entry["round"]))
        for entry in task["timeline"]
        if "commit" in entry["entered"]
    ]
    keys = legend(
        [
            (_STAGES[0][1], "seeds and training"),
            (_STAGES[1][1], "masking and committing"),
            (_STAGES[2][1], "waiting and posting"),
            (_DROPPED, "committed, did not post"),
        ]
    )
    return gantt(list(rows.items()), marks, "Timeline by owner") + keys


def _round_ends(task: Data) -> dict[int, float]:
    ends = {}
    for entry in task["timeline"]:
        after = [ts for phase, ts in entry["entered"].items() if phase in ("settle", "idle", "ended")]
        if after:
            ends[entry["round"]] = min(after)
    return ends


def funnel(task: Data) -> str:
    rows = [
        [
            str(row["round"]),
            *(str(row[n]) for n in ("joined", "seeded", "committed", "posted", "complete", "selected", "paid")),
        ]
        for row in task["funnel"]
    ]
    if not rows:
        return ""
    totals = [
        (name, sum(row[name] for row in task["funnel"]))
        for name in ("joined", "seeded", "committed", "posted", "complete", "selected", "paid")
    ]
    most = totals[0][1] or 1
    bars = level_bars(
        [(name, float(value), f"{value:,} ({100 * value / most:.0f} %)", colour(0)) for name, value in totals], "Funnel"
    )
    head = ["round", "joined", "seeded", "committed", "posted", "complete", "selected", "paid"]
    return scroll(bars, "funnel, all rounds") + more("by round", table("funnel by round", head, rows))
