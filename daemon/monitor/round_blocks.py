"""The panels of a task's rounds as lines of text: timeline, funnel, Krum, money, gas, accuracy. Pure, as blocks.py."""

from __future__ import annotations

from itertools import pairwise

from omnilytics.daemon.amounts import ether
from omnilytics.daemon.monitor.charts import compact, seconds
from omnilytics.daemon.monitor.lines import SPARKS, Data, Line, bar, flow, plain, spark, wrap

_PHASES = (("open", "dim"), ("commit", "cyan"), ("post", "green"), ("settle", "magenta"))


def timeline(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 5: newest rounds first, a bar a phase; then p50 and p95 of every phase."""
    if task is None:
        return []
    lines: list[Line] = []
    known = {entry["what"]: entry for entry in task["durations"]}
    told: Line = []
    for name in ("open", "commit", "post", "settle", "round"):
        if name in known:
            told += [(f"{name} ", "dim"), (f"{seconds(known[name]['p50_s'])}/{seconds(known[name]['p95_s'])}  ", "")]
    if told:
        lines.append([("p50/p95: ", "dim"), *told])
    pieces = [_phase_pieces(entry) for entry in task["timeline"]]
    longest = max((sum(length for _, length in piece) for piece in pieces), default=0.0) or 1.0
    room = max(8, width - 34)
    for entry, piece in reversed(list(zip(task["timeline"], pieces, strict=True))):
        total = sum(length for _, length in piece)
        line: Line = [
            (f"{entry['round']:>4} ", "bold"),
            (f"{entry['outcome']:<9}", "green" if entry["outcome"] == "selected" else "yellow"),
            (f"{seconds(total) if total else '-':>7} ", ""),
        ]
        for name, length in piece:
            line.append((bar(length / longest, room), dict(_PHASES)[name]))
        lines.append(line)
    return lines


def _phase_pieces(entry: Data) -> list[tuple[str, float]]:
    entered = entry["entered"]
    order = [name for name in ("commit", "post", "settle", "idle", "ended") if name in entered]
    found = []
    for name, following in pairwise(order):
        if name in ("commit", "post", "settle"):
            found.append((name, max(0.0, entered[following] - entered[name])))
    return found


def funnel(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 6: how far the owners came, in the newest round and over all."""
    if task is None or not task["funnel"]:
        return []
    newest = task["funnel"][-1]
    lines: list[Line] = [
        [(f"{'':<10}{'round ' + str(newest['round']):>9} {'newest ' + str(len(task['funnel'])):>11}", "dim")]
    ]
    most = sum(row["joined"] for row in task["funnel"]) or 1
    for name in ("joined", "seeded", "committed", "posted", "complete", "selected", "paid"):
        total = sum(row[name] for row in task["funnel"])
        lines.append(
            [
                (f"{name:<10}{newest[name]:>9} {total:>11,} ", ""),
                (bar(total / most, max(4, width - 39)), "cyan"),
                (f" {100 * total / most:.0f} %", ""),
            ]
        )
    return lines


def krum(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panels 7 and 8: scores, who was kept and dropped, who is suspected; clipping and headroom."""
    if task is None:
        return []
    room = max(13, min(30, width - 50))
    lines: list[Line] = [[(f"group score/kept {'· kept x out':<{room + 2}}rejected  reading", "dim")]]
    history = task["krum"]["rounds"][-room:]
    for verdict in task["krum"]["groups"]:
        marks: Line = []
        for entry in history:
            inside = verdict["group"] in entry["complete"]
            kept = verdict["group"] in entry["selected"]
            marks.append(("·", "green") if kept else ("x", "red") if inside else (" ", ""))
        style = {"poisoned": "bold red", "outlier": "yellow"}.get(verdict["verdict"], "dim")
        lines.append(
            [
                (f"{verdict['group']:>5} {compact(verdict['ratio']):>9}x ", ""),
                *marks,
                (" " * (room + 2 - len(marks)), ""),
                (f"{verdict['rejected']:>3} of {verdict['complete']:<3} ", ""),
                (verdict["verdict"], style),
            ]
        )
    newest = next((q for q in reversed(task["quality"]) if q["clip_rate"] is not None), None)
    headroom = next((q for q in reversed(task["quality"]) if q["headroom_bits"] is not None), None)
    if newest is not None:
        bits = f", headroom {headroom['headroom_bits']:g} bits" if headroom is not None else ""
        lines.append([(f"round {newest['round']}: {100 * newest['clip_rate']:.2f} % of values clipped{bits}", "")])
    return lines


_SUMS = (
    ("escrow", ("paid", "settlement_paid", "refunded", "locked")),
    ("slashed", ("compensation", "burned")),
)


def money(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 9: where every wei of the escrow is."""
    if task is None:
        return []
    held = task["money"]
    if held["block"] is None:
        return [[("no money was logged", "dim")]]
    lines: list[Line] = [
        [
            (
                "adds up" if held["conserved"] else "DOES NOT ADD UP",
                "green" if held["conserved"] else "bold white on red",
            )
        ],
    ]
    for title, parts in _SUMS:
        cell: Line = [(f"{title} ", "dim"), (ether(held[f"{title}_wei"]), "bold")]
        for number, part in enumerate(parts):
            piece = f" {'+' if number else '='} {part.replace('_paid', '')} {ether(held[f'{part}_wei'])}"
            if len(plain(cell)) + len(piece) > width:
                lines.append(cell)
                cell = [(" ", "")]
            cell.append((piece, ""))
        lines.append(cell)
    for fault in held["faults"]:
        lines += wrap(fault, width, "bold red")
    return lines


def pay(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 9 too: what each owner earned."""
    if task is None:
        return []
    held = task["money"]
    cells: list[Line] = []
    for owner in held["owners"]:
        style = "red" if owner["verdict"] in ("dropped", "poisoned group") else ""
        group = "-" if owner["group"] is None else owner["group"]
        cells.append(
            [
                (
                    f"{group:>2} {owner['name'][:12]:<12} {ether(owner['earned_wei']):>13} "
                    f"{owner['paid_rounds']:>3} rounds ",
                    style,
                ),
                (f"{owner['verdict'][:14]:<14}", style),
            ]
        )
    return flow(cells, width)


def gas(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 10: gas by function, of the newest round, and what is pending or went wrong."""
    if task is None:
        return []
    pending = sum(person["tx_pending"] for person in view["participants"])
    reverted = sum(person["reverted"] for person in view["participants"])
    refused = sum(person["refused"] for person in view["participants"])
    rounds = task["gas"]["rounds"]
    lines: list[Line] = [[(f"{pending} pending, {reverted} reverted, {refused} refused before sending", "")]]
    if rounds:
        values = [float(entry["gas"]) for entry in rounds][-max(8, width - 40) :]
        lines.append([("by round ", "dim"), (spark(values, 0), "cyan"), (f" last {rounds[-1]['gas']:,}", "")])
    newest = rounds[-1]["functions"] if rounds else {}
    lines.append([(f"{'function':<12}{'calls':>6}{'mean':>11}{'largest':>11}{'last round':>12}", "dim")])
    for name, use in task["gas"]["functions"].items():
        last = newest.get(name, {}).get("gas", 0)
        mean = use["gas"] // max(1, use["count"])
        lines.append([(f"{name[:12]:<12}{use['count']:>6,}{mean:>11,}{use['largest']:>11,}{last:>12,}", "")])
    return lines


def _points(task: Data, width: int) -> list[Data]:
    """As many of the newest as there is room for; the untrained model only flattens the others."""
    points: list[Data] = task["accuracy"]
    return (points[1:] if len(points) > 3 and points[0]["round"] == 0 else points)[-max(8, width - 10) :]


def accuracy_line(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 11 in one line."""
    if task is None or not task["accuracy"]:
        return []
    values = [entry["accuracy"] for entry in _points(task, width - 30)]
    return [[(spark(values), "cyan"), (f" now {100 * values[-1]:.2f} %, best {100 * max(values):.2f} %", "")]]


def accuracy(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 11: accuracy by round, as columns of eight rows at most."""
    if task is None or not task["accuracy"]:
        return []
    points = _points(task, width)
    values = [entry["accuracy"] for entry in points]
    low, high = min(values), max(values)
    rows = 5
    lines: list[Line] = []
    wide = max(1, min(4, (width - 8) // len(values)))
    for row in range(rows, 0, -1):
        base = low + (high - low) * (row - 1) / rows
        step = (high - low) / rows or 1.0
        drawn = ""
        for value in values:
            part = (value - base) / step
            mark = "█" if part >= 1 else " " if part <= 0 and row > 1 else SPARKS[min(7, max(0, int(part * 8)))]
            drawn += mark * max(1, wide - 1) + (" " if wide > 1 else "")
        label = f"{100 * (base + step):5.1f} % " if row in (rows, 1) else " " * 8
        lines.append([(label, "dim"), (drawn, "cyan")])
    lines.append(
        [
            (
                f"        round {points[0]['round']} to {points[-1]['round']}: "
                f"now {100 * values[-1]:.2f} %, best {100 * high:.2f} %",
                "",
            )
        ]
    )
    return lines
