"""Floods in the log: the first lines of each kind, then counts; lines and counts add up, and the file stays small."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from omnilytics.daemon.log import Logger
from omnilytics.daemon.log_flood import (
    FIRST_LINES,
    FORGET_SECONDS,
    MAX_KINDS,
    MAX_SUMMARY_SECONDS,
    OTHERS,
    SUMMARY_SECONDS,
    Flood,
    Kind,
    Summary,
)

ALICE, BOB = b"\xaa" * 20, b"\xbb" * 20


class Told:
    """A log on a clock of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.log = Logger(path, "owner", "0xabc", clock=lambda: self.now)

    def drop(self, count: int, reason: str = "too large", sender: bytes = ALICE) -> None:
        for _ in range(count):
            self.log("message.dropped", reason, "warning", code="message", peer_to=sender)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def accounted(self) -> int:
        return sum(line.get("data", {}).get("count", 1) for line in self.lines())


def test_the_first_lines_of_a_kind_are_written_and_then_a_count(tmp_path: Path) -> None:
    told = Told(tmp_path / "log.jsonl")
    told.drop(100)
    assert len(told.lines()) == FIRST_LINES
    told.now = SUMMARY_SECONDS
    told.log.summarise()
    last = told.lines()[-1]
    assert len(told.lines()) == FIRST_LINES + 1
    assert last["data"]["count"] == 100 - FIRST_LINES
    assert (last["event"], last["level"], last["code"]) == ("message.dropped", "warning", "message")
    assert last["peer_to"] == "0x" + ALICE.hex()
    assert last["msg"] == f"too large: {100 - FIRST_LINES} more times"
    assert [line["seq"] for line in told.lines()] == list(range(1, FIRST_LINES + 2))


def test_a_flood_that_goes_on_tells_its_count_without_a_heartbeat(tmp_path: Path) -> None:
    told = Told(tmp_path / "log.jsonl")
    told.drop(FIRST_LINES + 1)
    told.now = SUMMARY_SECONDS
    told.drop(1)
    assert told.lines()[-1]["data"]["count"] == 2


def test_reasons_and_senders_are_told_apart_and_numbers_are_not(tmp_path: Path) -> None:
    told = Told(tmp_path / "log.jsonl")
    told.drop(10, "one")
    told.drop(10, "two")
    told.drop(10, "one", BOB)
    assert len(told.lines()) == 3 * FIRST_LINES
    for size in range(10):
        told.drop(1, f"message has {size} bytes, limit is 512")
    assert len(told.lines()) == 4 * FIRST_LINES


def test_lines_and_counts_add_up_when_the_log_is_closed(tmp_path: Path) -> None:
    told = Told(tmp_path / "log.jsonl")
    dropped = 0
    for number in range(500):
        told.now += number % 7
        told.drop(number % 11, f"reason {'abcdefgh'[number % 8]}", bytes([number % 40]) * 20)
        dropped += number % 11
    told.log.close()
    assert told.accounted() == dropped
    assert len(told.lines()) < dropped


def test_hours_of_flood_from_invented_senders_are_a_small_file(tmp_path: Path) -> None:
    """Each ten seconds eight messages under a new name: an hour's lines are those of MAX_KINDS kinds, not of all."""
    told, hours = Told(tmp_path / "log.jsonl"), 6
    for number in range(hours * 360):
        told.now += 10.0
        told.drop(8, "box does not open", number.to_bytes(20, "big"))
        told.log.summarise()
    told.log.close()
    assert told.accounted() == 8 * 360 * hours
    assert len(told.lines()) <= (hours + 1) * (MAX_KINDS + 1) * (FIRST_LINES + 1)


def test_other_events_are_never_withheld(tmp_path: Path) -> None:
    told = Told(tmp_path / "log.jsonl")
    for _ in range(50):
        told.log("tx.refused", "too large")
    assert len(told.lines()) == 50


def test_summaries_come_less_and_less_often() -> None:
    flood, now, told_at = Flood(), 0.0, []
    while now < 6 * MAX_SUMMARY_SECONDS:
        flood.admits("a", ALICE, "warning", now)
        told_at += [now for _ in flood.summaries(now)]
        now += 1.0
    gaps = [late - early for early, late in itertools.pairwise(told_at)]
    assert gaps == sorted(gaps)
    assert gaps[0] == 2 * SUMMARY_SECONDS
    assert gaps[-1] == MAX_SUMMARY_SECONDS


def test_beyond_so_many_kinds_all_are_counted_together_until_some_are_forgotten() -> None:
    flood = Flood()
    for number in range(MAX_KINDS):
        assert flood.admits("a", number.to_bytes(20, "big"), "warning", 0.0)
    assert not flood.admits("a", ALICE, "warning", 1.0)
    assert not flood.admits("b", BOB, "warning", 2.0)
    assert list(flood.summaries(2.0)) == []
    assert list(flood.summaries(2.0, at_once=True)) == [Summary(OTHERS, "warning", 2)]
    assert flood.admits("a", ALICE, "warning", FORGET_SECONDS)
    assert list(flood.summaries(2 * FORGET_SECONDS, at_once=True)) == []


def test_a_kind_is_forgotten_only_when_nothing_of_it_is_untold() -> None:
    flood = Flood()
    for number in range(MAX_KINDS):
        for _ in range(FIRST_LINES + 1):
            flood.admits("a", number.to_bytes(20, "big"), "debug", 0.0)
    assert not flood.admits("a", ALICE, "debug", 2 * FORGET_SECONDS)
    told = list(flood.summaries(2 * FORGET_SECONDS, at_once=True))
    assert len(told) == MAX_KINDS + 1
    assert told[0] == Summary(Kind("a", bytes(20)), "debug", 1)
