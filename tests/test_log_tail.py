"""The newest lines of a log in memory: cursors that neither lose nor repeat, bounds, levels."""

from __future__ import annotations

import json
from pathlib import Path

from omnilytics.daemon.log import LEVELS, Logger
from omnilytics.daemon.log_tail import MAX_LINE_LETTERS, Reading, RecentLines


def tail_of(count: int, kept: int = 1000) -> RecentLines:
    tail = RecentLines("life", kept)
    for seq in range(1, count + 1):
        tail.add(seq, seq % 2, json.dumps({"seq": seq, "msg": ""}))
    return tail


def seqs(found: Reading) -> list[int]:
    return [line["seq"] for line in found.lines]


def test_without_a_cursor_the_newest_lines_are_read_and_then_what_follows() -> None:
    tail = tail_of(10)
    first = tail.read("", 0, 3)
    assert (seqs(first), first.cursor, first.missed) == ([8, 9, 10], "life:10", 0)
    assert tail.read(first.cursor, 0, 3) == Reading((), "life:10", 0)
    tail.add(11, 0, '{"seq":11}')
    assert seqs(tail.read(first.cursor, 0, 3)) == [11]


def test_a_reader_that_is_behind_gets_every_line_once_in_order() -> None:
    tail, cursor, got = tail_of(10), "life:2", []
    while (found := tail.read(cursor, 0, 3)).lines:
        got += seqs(found)
        cursor = found.cursor
    assert got == list(range(3, 11))


def test_lines_below_the_level_are_passed_over_and_not_looked_at_again() -> None:
    tail = tail_of(9)
    found = tail.read("life:1", 1, 2)
    assert (seqs(found), found.cursor) == ([3, 5], "life:5")
    found = tail.read(found.cursor, 1, 100)
    assert (seqs(found), found.cursor) == ([7, 9], "life:9")
    assert tail.read("life:3", 2, 100) == Reading((), "life:9", 0)


def test_what_fell_out_of_memory_is_counted() -> None:
    found = tail_of(100, kept=10).read("life:50", 0, 3)
    assert (seqs(found), found.missed) == ([91, 92, 93], 40)
    assert tail_of(100, kept=10).read("", 0, 100).missed == 0


def test_a_cursor_of_another_life_or_of_no_sense_begins_anew() -> None:
    tail = tail_of(4)
    for cursor in ("other:3", "life", "life:", "life:x", "life:-1", "life:٣", ":", "::"):
        assert seqs(tail.read(cursor, 0, 2)) == [3, 4], cursor
    assert seqs(tail.read("life:" + "9" * 60, 0, 2)) == [], "from the future: nothing yet"
    assert RecentLines("new").read("life:7", 0, 5) == Reading((), "new:0", 0)


def test_a_line_that_is_too_long_loses_its_data() -> None:
    tail = RecentLines("life")
    tail.add(1, 0, json.dumps({"seq": 1, "msg": "m" * 9000, "data": {"distances": "9" * 9000}}))
    (line,) = tail.read("", 0, 1).lines
    assert set(line) == {"seq", "msg"} and len(json.dumps(line)) < MAX_LINE_LETTERS


def test_the_logger_keeps_what_it_wrote_with_its_secrets_cut_out(tmp_path: Path) -> None:
    log = Logger(tmp_path / "log.jsonl", "owner", "0x00")
    secret = bytes(range(32))
    log.protect(secret)
    log("a", f"key {secret.hex()}", key=secret)
    log("b", secret.hex(), "error")
    found = log.tail.read("", 0, 10)
    assert secret.hex() not in json.dumps(found.lines)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == list(found.lines)
    assert found.cursor == f"{log.boot_id}:2"


def test_lines_that_are_not_written_are_not_kept(tmp_path: Path) -> None:
    log = Logger(tmp_path / "log.jsonl", "owner", "0x00")
    log.set_level("warning")
    for level in LEVELS:
        log(f"event.{level}", "", level)
    assert seqs(log.tail.read("", 0, 10)) == [1, 2, 3]
    assert [line["level"] for line in log.tail.read("", 0, 10).lines] == ["warning", "warning", "error"]
    log("odd", "", "loud")
    assert seqs(log.tail.read("", LEVELS.index("error"), 10)) == [3, 4], "a level that is none is worth a look"
