"""The tables that people see at the end of a run."""

from __future__ import annotations

from typing import Any

from omnilytics.daemon.amounts import ether


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def round_table(summary: dict[str, Any]) -> list[str]:
    """Accuracy, selected groups, gas by function and seconds, a row a round."""
    functions = sorted({name for item in summary["rounds"] for name in item["gas"]})
    head = ["round", "accuracy", "selected", "void", "away", *(f"{name} gas" for name in functions), "seconds"]
    rows = []
    for item in summary["rounds"]:
        accuracy = "-" if item["accuracy"] is None else f"{item['accuracy']:.4f}"
        seconds = "-" if item["seconds"] is None else f"{item['seconds']:.1f}"
        rows.append(
            [
                str(item["round"]),
                accuracy,
                ",".join(map(str, item["selected_groups"])) or "-",
                ",".join(map(str, item["void_groups"])) or "-",
                str(len(item["absent_owners"]) or "-"),
                *(f"{item['gas'].get(name, 0):,}" for name in functions),
                seconds,
            ]
        )
    return _table(head, rows)


def money_lines(summary: dict[str, Any]) -> list[str]:
    """Where every wei went; an equation that does not hold is said loudly."""
    escrow = summary["escrow_wei"]
    parts = [summary[name] for name in ("paid_wei", "settlement_wei", "refunded_wei", "locked_wei")]
    stakes_in, stakes_out, slashed = (summary[f"{name}_wei"] for name in ("stakes_in", "stakes_out", "slashed"))
    compensation, burned = summary["compensation_wei"], summary["burned_wei"]
    held = stakes_in - stakes_out - slashed
    return [
        f"escrow {escrow} wei = paid {parts[0]} + settlement {parts[1]} + refunded {parts[2]} + locked {parts[3]}"
        + ("" if escrow == sum(parts) else "   DOES NOT ADD UP"),
        f"stakes in {stakes_in} wei = stakes out {stakes_out} + slashed {slashed}"
        + (f" + held {held}" if held > 0 else "" if held == 0 else "   DOES NOT ADD UP"),
        f"slashed {slashed} wei = compensation {compensation} + burned {burned}"
        + ("" if slashed == compensation + burned else "   DOES NOT ADD UP"),
    ]


def owner_table(summary: dict[str, Any]) -> list[str]:
    """What each owner was paid."""
    rows = [
        [
            owner["name"],
            owner["address"],
            "-" if owner["group"] is None else str(owner["group"]),
            "poisoned" if owner["poisoned"] else "",
            ether(owner["paid_wei"]),
        ]
        for owner in summary["owners"]
    ]
    return _table(["owner", "address", "group", "", "paid"], rows)


def mishap_lines(summary: dict[str, Any]) -> list[str]:
    """What was done to the run on purpose, and who came back."""
    mishaps = summary.get("mishaps", [])
    kills = [item for item in mishaps if item["what"] == "killed"]
    if not mishaps:
        return []
    judged = [item for item in kills if item["back_in_next_round"] is not None]
    back = sum(item["back_in_next_round"] for item in judged)
    lines = [f"round {item['round']}: {item['what']} ({item['phase']})" for item in mishaps if item["what"] != "killed"]
    if kills:
        phases = sorted({item["phase"] for item in kills})
        counted = ", ".join(f"{sum(item['phase'] == phase for item in kills)} in {phase}" for phase in phases)
        lines.append(f"{len(kills)} kills ({counted}); back in the next round: {back} of {len(judged)}")
    return [*lines, ""]


def report(summary: dict[str, Any]) -> list[str]:
    """Everything, as lines."""
    final, plain = summary["accuracy_final"], summary["accuracy_plain"]
    told = "no round was decrypted" if final is None else f"accuracy {final:.4f}, plain training {plain:.4f}"
    verified = "; every group's sum verified" if summary["sums_verified"] else ""
    return [
        "",
        *round_table(summary),
        "",
        *owner_table(summary),
        "",
        *mishap_lines(summary),
        *money_lines(summary),
        f"{told}{verified}; largest transaction {summary['max_gas']:,} gas; {summary['wall_seconds']:.1f} s in all",
    ]
