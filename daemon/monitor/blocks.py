"""The panels of who is there and what is wrong, as lines of text for a terminal of any width: pure functions of the
view (panels.describe). Texts of strangers were cleaned when they were read.
"""

from __future__ import annotations

from omnilytics.daemon.amounts import ether
from omnilytics.daemon.monitor.lines import Data, Line, age, flow, wrap

# An owner in one letter, and how it looks.
STAGES = {
    "waiting": (".", "dim"),
    "joined": ("j", ""),
    "seeding": ("s", "yellow"),
    "masking": ("m", "yellow"),
    "committing": ("c", "cyan"),
    "committed": ("C", "cyan"),
    "posted": ("P", "green"),
    "sat-out": ("o", "magenta"),
    "out": ("-", "dim"),
    "slashed": ("X", "bold red"),
    "expelled": ("x", "red"),
}
_STATE_STYLES = {
    "live": "green",
    "done": "green",
    "stale": "yellow",
    "stopped": "yellow",
    "silent": "bold red",
    "failed": "bold red",
}


def header(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panels 1 and 2: the chain, the broker, who is there; the task, its phase and countdown."""
    head = view["header"]
    count = head["alerts"]
    told = f" {count} ALERT{'S' if count > 1 else ''} " if count else "no alert"
    first: Line = [("OmniLytics ", "bold"), (told, "bold white on red" if count else "green"), (" · owners", "")]
    for state, number in head["owners"].items():
        if number:
            first += [(f" {number} {state}", _STATE_STYLES[state])]
    first += [(f" · model {head['model']}", _STATE_STYLES.get(head["model"], ""))]
    if head["broker_connected"] or head["broker_lost"]:
        there = head["broker_connected"] + head["broker_lost"]
        first += [(f" · broker {head['broker_connected']}/{there}", "bold red" if head["broker_lost"] else "")]
    if head["head_block"] is not None:
        old = f", {age(head['head_age_s'])} old" if head["head_age_s"] is not None else ""
        first += [(f" · block {head['head_block']}{old}", "")]
    if task is None:
        return [first, [("no task yet", "dim")]]
    second: Line = [(f"task {task['task']} ", "bold"), (task["status"] or "?", "")]
    second += [(f" · round {task['round']} of {task['rounds'] or '?'}", "bold")]
    if task["phase"] and task["status"] == "running":
        second += [(f" · {task['phase']} for {age(task['phase_seconds'])}", "cyan")]
        if task["left_s"] is not None:
            late = task["left_s"] < 0
            second += [(f", {age(abs(task['left_s']))} {'late' if late else 'left'}", "bold red" if late else "")]
    second += [(f" · {task['joined']}/{task['needed'] or '?'} joined", "")]
    if "escrow_wei" in task["money"]:
        second += [(f" · escrow {ether(task['money']['escrow_wei'])}", "")]
    return [first, second]


def alerts(view: Data, task: Data | None, width: int) -> list[Line]:
    """What to look at, and what to do about it."""
    lines: list[Line] = []
    for alert in view["alerts"]:
        lines.append([(f"{alert['code']:<12}", "bold red"), (f" {alert['text']}", "")])
        lines += [[("             ", ""), *line] for line in wrap(alert["help"], width - 13, "dim")]
    return lines or [[("none", "green")]]


def owners(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 3: the groups as letters, a letter an owner, and for whom everybody waits."""
    if task is None:
        return []
    cells: list[Line] = []
    for row in task["owners"]:
        cell: Line = [(f"{row['group'] if row['group'] is not None else '':>2} ", "dim")]
        for owner in row["owners"]:
            letter, style = STAGES.get(owner["stage"], ("?", "dim"))
            if owner["state"] in ("silent", "failed"):
                letter, style = "!", "bold red"
            cell.append((letter, style))
        cells.append(cell)
    lines = flow(cells, width)
    waiting = task["waiting"]
    if waiting["for"]:
        names = waiting["for"]
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        lines += wrap(f"waiting for {len(names)}: {shown}", width, "bold yellow")
    elif waiting["text"]:
        lines += wrap(waiting["text"], width, "yellow")
    key = "s seeding · m masking · c committing · C committed · P posted · o sat out · - out · X slashed · ! silent"
    return lines + wrap(key, width, "dim")


def owner_names(view: Data, task: Data | None, width: int) -> list[Line]:
    """Every owner by name, its stage, and how long it has been quiet."""
    if task is None:
        return []
    cells: list[Line] = []
    for row in task["owners"]:
        for owner in row["owners"]:
            style = STAGES.get(owner["stage"], ("?", "dim"))[1]
            group = "-" if row["group"] is None else row["group"]
            quiet = f" quiet {age(owner['quiet_s'])}" if owner["state"] in ("stale", "silent") else ""
            cells.append(
                [
                    (f"{group:>2} {owner['name'][:14]:<14} ", ""),
                    (f"{owner['stage']:<11}", style),
                    (f"{owner['state']}{quiet}"[:22].ljust(8), _STATE_STYLES.get(owner["state"], "dim")),
                ]
            )
    return flow(cells, width)


def seeds(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 4: a group's owners against their mates: agreed, only greeted, nothing; and the model key."""
    if task is None or not task["seeds"]["groups"]:
        return []
    exchange = task["seeds"]
    lines: list[Line] = [
        [(f"round {exchange['round']}, slowest agreement {exchange['slowest_ms']} ms after opening", "")]
    ]
    marks = {
        "self": ("·", "dim"),
        "agreed": ("✓", "green"),
        "hello": ("h", "yellow"),
        "none": ("✗", "red"),
        "out": ("-", "dim"),
    }
    cells: list[Line] = []
    for group in exchange["groups"]:
        cell: Line = [(f"{group['group']:>2} ", "dim")]
        for number, row in enumerate(group["rows"]):
            cell += [(" ", "")] * (number > 0)
            cell += [marks[item["state"]] for item in row["cells"]]
            cell.append(("k", "green") if row["model_key"] else ("·", "dim"))
        cells.append(cell)
    lines += flow(cells, width)
    key = "a block an owner, a mark a mate: ✓ seed agreed · h only a hello · ✗ nothing yet · k has the model key"
    return lines + wrap(key, width, "dim")


def network(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 12: reconnects, retries, restarts, lag; only daemons that have something to tell."""
    lines: list[Line] = [
        [
            (
                f"{'daemon':<10}{'state':<7}{'lives':>5}{'broker':>7}{'rpc':>4}{'resent':>7}{'lag':>4}{'skew':>6}{'disk':>6}",
                "dim",
            )
        ]
    ]
    quiet = 0
    for person in view["participants"]:
        trouble = (
            person["boots"] > 1
            or person["broker_losses"]
            or person["rpc_errors"]
            or person["resent"]
            or person["bumped"]
            or person["state"] not in ("live", "done")
            or (person["state"] == "live" and (person["lag_blocks"] or 0) > 20)
        )
        if not trouble and person["role"] != "model":
            quiet += 1
            continue
        skew = "-" if person["skew_s"] is None else f"{person['skew_s']:.0f} s"
        disk = "-" if person["disk_free_bytes"] is None else f"{person['disk_free_bytes'] / 2**30:.0f}G"
        lag = "-" if person["lag_blocks"] is None else person["lag_blocks"]
        style = _STATE_STYLES.get(person["state"], "")
        lines.append(
            [
                (f"{person['name'][:9]:<10}", ""),
                (f"{person['state']:<7}", style),
                (
                    f"{person['boots']:>5}{person['broker_losses']:>7}{person['rpc_errors']:>4}"
                    f"{person['resent'] + person['bumped']:>7}{lag:>4}{skew:>6}{disk:>6}",
                    "",
                ),
            ]
        )
    lines.append([(f"{quiet} more without trouble", "dim")])
    return lines


def errors(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 13: by code, with the last words and what to do."""
    lines: list[Line] = []
    for entry in view["errors"]:
        style = "bold red" if entry["level"] == "error" else "yellow"
        lines.append(
            [(f"{entry['code'][:16]:<16} {entry['count']:>5,} ", style), (f"{entry['who']}: {entry['text']}", "")]
        )
        if entry["help"]:
            lines.append([("    ", ""), (entry["help"], "dim")])
    return lines or [[("no errors, no warnings", "green")]]


def honesty(view: Data, task: Data | None, width: int) -> list[Line]:
    """Panel 14: what the monitor itself did not see."""
    seen = view["honesty"]
    lines: list[Line] = [
        [
            (
                f"{seen['files']} files, {seen['bytes_read'] / 1e6:,.1f} MB read, "
                f"{seen['bytes_behind']:,} bytes behind",
                "",
            )
        ],
        [(f"{seen['records']:,} records; {seen['bad_lines']} bad lines, {seen['missing_lines']} missing", "")],
        [
            (
                f"{seen['repeated_lines']} repeated, {seen['late_lines']} late, "
                f"{seen['other_versions']} of another schema",
                "",
            )
        ],
        [(f"{seen['restarts']} restarts seen, {seen['forgotten']} old things let go", "")],
    ]
    if seen["unheard"]:
        lines += wrap(f"no log of: {', '.join(seen['unheard'])}", width, "yellow")
    return lines


def past_alerts(view: Data, task: Data | None, width: int) -> list[Line]:
    """Alerts that were raised while the logs were written."""
    lines: list[Line] = []
    for alert in reversed(view["past_alerts"]):
        over = f"to {alert['cleared'][11:19]}" if alert["cleared"] else "still"
        lines.append(
            [(f"{alert['raised'][11:19]} {over:<11} ", "dim"), (alert["code"], "yellow"), (f" {alert['text']}", "")]
        )
    return lines or [[("none", "dim")]]


def story(view: Data, task: Data | None, width: int) -> list[Line]:
    """What happened, in sentences."""
    if task is None:
        return []
    return [line for text in task["headlines"] for line in wrap(f"- {text}", width)] or [[("nothing yet", "dim")]]
