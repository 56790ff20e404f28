"""The documents about logs say what the code says: fields, events, alerts, the format file for lnav."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from dataclasses import fields
from typing import Any

from omnilytics.daemon.log import FIELDS, SCHEMA_VERSION
from omnilytics.daemon.monitor import market, records
from omnilytics.daemon.monitor.alerts import HELP, Limits
from omnilytics.daemon.monitor.fold import HANDLED_EVENTS
from omnilytics.daemon.monitor.records import parse_line
from scripts.toolchain import ROOT

SCHEMA = (ROOT / "docs" / "log-schema.md").read_text(encoding="utf-8")
MONITOR = (ROOT / "docs" / "monitor.md").read_text(encoding="utf-8")


def logged_events() -> set[str]:
    """The first argument of every call of a log in the daemon."""
    found = set()
    for path in (ROOT / "daemon").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                first = node.args[0]
                texts = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                if called in ("log", "_log", "_say"):
                    found |= {t.value for t in texts if isinstance(t, ast.Constant) and isinstance(t.value, str)}
    return found


def test_every_event_that_a_daemon_logs_is_documented() -> None:
    events = logged_events()
    assert {"heartbeat", "tx.mined", "tx.reverted", "money", "round.paid", "chain.stalled"} <= events
    assert not {event for event in events if f"`{event}`" not in SCHEMA}


def test_the_monitor_reads_no_event_that_nobody_writes() -> None:
    said = logged_events() | {"seed.hello", "seed.agreed"}
    said |= {f"{event}.over" for event in said} | {"safe-mode.over"}
    assert said >= HANDLED_EVENTS, HANDLED_EVENTS - said


def test_every_field_is_documented_and_the_version_is_one() -> None:
    for name in FIELDS:
        assert f"`{name}`" in SCHEMA, name
    assert SCHEMA_VERSION == records.SCHEMA_VERSION
    assert f"# The log schema, version {SCHEMA_VERSION}" in SCHEMA


def test_every_alert_and_bound_is_documented() -> None:
    for code in HELP:
        assert f"`{code}`" in MONITOR, code
    limits: dict[str, Any] = {entry.name: entry.default for entry in fields(Limits)}
    for text in (f"after {limits['stale_seconds']:.0f} s", f"for {limits['still_seconds']:.0f} s",
                 f"{limits['late_seconds']:.0f} s past its deadline", f"{limits['gas_factor']} times the usual",
                 f"for {limits['silent_seconds']:.0f} s without", f"{limits['skew_seconds']:.0f} s off",
                 f"under {limits['disk_bytes'] // 2**20} MB"):  # fmt: skip
        assert text in MONITOR, text
    for number in (market.MAX_ROUNDS, market.MAX_TASKS, market.MAX_PARTICIPANTS, market.MAX_DURATIONS):
        assert re.search(rf"\b{number}\b", MONITOR), number


def test_the_format_file_for_lnav_knows_every_field() -> None:
    formats = json.loads((ROOT / "docs" / "omnilytics.lnav.json").read_text(encoding="utf-8"))
    assert set(formats) == {"$schema", "omnilytics_log"}
    described = formats["omnilytics_log"]
    assert set(described["value"]) == set(FIELDS) - {"ts"}
    assert described["timestamp-field"] == "ts" and described["level-field"] == "level"
    pattern = re.compile(described["file-pattern"])
    assert all(pattern.search(path) for path in ("log.jsonl", "logs/owner-03.jsonl", "log.jsonl.1"))
    assert not pattern.search("owner-03.out")
    for sample in described["sample"]:
        assert parse_line(sample["line"].encode()) is not None


def test_the_recipe_for_vector_is_toml() -> None:
    (recipe,) = re.findall(r"```toml\n(.*?)```", MONITOR, re.S)
    parsed = tomllib.loads(recipe)
    assert parsed["sinks"]["loki"]["inputs"] == ["omnilytics_json"]
    assert f"parsed.v != {SCHEMA_VERSION}" in parsed["transforms"]["omnilytics_json"]["source"]


def test_the_pictures_are_small() -> None:
    pictures = sorted((ROOT / "docs" / "images").glob("*.png"))
    assert len(pictures) >= 5
    assert max(path.stat().st_size for path in pictures) <= 300_000
