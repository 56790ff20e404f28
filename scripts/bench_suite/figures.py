"""docs/performance.json: the figures behind docs/performance.md, as they were measured, so that the summary and the
plots are made of them and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.bench_suite.gas import BaselineGas, RoundGas
from scripts.bench_suite.masks import Compared
from scripts.toolchain import ROOT

FIGURES = ROOT / "docs" / "performance.json"
SCHEMA = 1


def read_figures(path: Path = FIGURES) -> dict[str, Any]:
    """By section, what was measured last; empty where nothing was."""
    if not path.exists():
        return {}
    sections: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["sections"]
    return sections


def remember(section: str, figures: Mapping[str, Any], command: str, day: str, path: Path = FIGURES) -> None:
    """Puts a section's figures in the place of its last ones."""
    sections = read_figures(path)
    sections[section] = {"command": command, "day": day, **figures}
    text = json.dumps({"schema": SCHEMA, "sections": dict(sorted(sections.items()))}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def gas_figures(rows: Sequence[RoundGas], baseline: BaselineGas) -> dict[str, Any]:
    """Gas a value and owner."""
    return {
        "baseline": baseline.store + baseline.add,
        "cells": [
            {
                "values": row.cell.value_count,
                "groups": row.cell.groups,
                "group_size": row.cell.group_size,
                "lane_bits": row.cell.lane_bits,
                "poisoned": getattr(row.cell, "poisoned", 0),
                "round": round(row.a_value(), 2),
                "post": round(row.a_value("post"), 2),
                "settle": round(row.a_value("settle"), 2),
                "floor": round(
                    sum(spent.floor for spent in row.spent.values()) / (row.cell.value_count * row.cell.owners), 2
                ),
            }
            for row in rows
        ],
    }


def mask_figures(rows: Sequence[Compared]) -> dict[str, Any]:
    """Milliseconds by stage, and bytes."""
    return {
        "cells": [
            {
                "values": row.values,
                "neighbours": row.neighbours,
                "ms": {name: round(1000 * seconds, 4) for name, seconds in row.seconds.items()},
                "bytes": dict(row.sent),
            }
            for row in rows
        ]
    }
