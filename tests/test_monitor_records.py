"""Lines of logs as records: what is none is refused, and a stranger's text cannot steer a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnilytics.daemon.monitor.records import (
    Record,
    clean,
    flag,
    groups_of,
    matrix_of,
    names_of,
    parse_line,
    real,
    text_of,
    wei,
    whole,
)

GOOD: dict[str, Any] = {
    "v": 1, "ts": "2026-01-01T00:00:10.500+00:00", "mono": 1.0, "seq": 7, "boot_id": "b", "peer": "0xab",
    "role": "owner", "event": "heartbeat", "level": "info", "msg": "alive",
}  # fmt: skip


def parsed(**changes: Any) -> Record | None:
    return parse_line(json.dumps(GOOD | changes).encode())


def record(**fields: Any) -> Record:
    found = parsed(**fields)
    assert found is not None
    return found


def test_a_daemons_line_is_a_record() -> None:
    found = record(round=3, data={"head_block": 12, "round": 4})
    assert (found.ts, found.seq, found.peer, found.event, found.version) == (1_767_225_610.5, 7, "0xab", "heartbeat", 1)
    assert whole(found, "head_block") == 12
    # What only one event has may not stand for a field of all.
    assert whole(found, "round") == 4


def test_another_zone_is_the_same_moment() -> None:
    assert record(ts="2026-01-01T01:00:10.5+01:00").ts == record().ts


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b"{}" * 2, b'{"v":1}', b"[" * 100_000,
        b'{"a":' * 50_000, b"NaN", json.dumps(GOOD).encode() + b" x", b"1" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_record_is_none(line: bytes) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"ts": "yesterday"}, {"ts": "2026-01-01T00:00:00"}, {"ts": 5}, {"ts": "9999-12-31T23:59:59-14:00"},
        {"seq": 0}, {"seq": -1}, {"seq": "1"}, {"seq": True}, {"seq": 1.5}, {"seq": 2**63}, {"v": "1"}, {"v": -1},
        {"peer": 5}, {"peer": "x" * 100}, {"event": None}, {"event": ["a"]}, {"boot_id": {}}, {"role": 1},
    ],
)  # fmt: skip
def test_fields_of_another_kind_make_no_record(changes: dict[str, Any]) -> None:
    assert parsed(**changes) is None


@pytest.mark.parametrize("missing", ["v", "ts", "seq", "boot_id", "peer", "role", "event"])
def test_a_line_without_what_every_line_has_is_none(missing: str) -> None:
    assert parse_line(json.dumps({k: v for k, v in GOOD.items() if k != missing}).encode()) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "?[2J?]0;owned?"),
        ("one\ntwo\rthree\ttab", "one?two?three?tab"),
        ("\u202egnp.exe\u200b", "?gnp.exe?"),
        ("\x9b31m", "?31m"),
        ("plain äöü ✓", "plain äöü ✓"),
        ("\ud800", "?"),
    ],
)
def test_no_text_steers_a_terminal(text: str, shown: str) -> None:
    assert clean(text) == shown
    found = record(peer=text, event=text, msg=text)
    assert found.peer == found.event == text_of(found, "msg") == shown


def test_texts_are_cut() -> None:
    assert clean("x" * 1000) == "x" * 399 + "…"
    assert clean(7) == clean(None) == clean(["x"]) == ""


@pytest.mark.parametrize(
    "value", [None, "7", True, -1, 1.5, [1], {}, 2**62 + 1, float("nan"), float("inf")], ids=str
)  # fmt: skip
def test_numbers_of_another_kind_are_missing(value: Any) -> None:
    found = record(data={"n": value})
    assert whole(found, "n") is None
    assert groups_of(found, "n") is None or value == [1]
    if not isinstance(value, int) or isinstance(value, bool):
        assert wei(found, "n") is None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value in (float("inf"),) or value != value:
        assert real(found, "n") is None
    assert flag(found, "n") is (True if value is True else None)


def test_money_is_whole_and_not_beyond_reason() -> None:
    found = record(data={"a": 10**27, "b": -5, "c": 2**200})
    assert (wei(found, "a"), wei(found, "b"), wei(found, "c")) == (10**27, -5, None)


@pytest.mark.parametrize("value", [[256], [-1], ["1"], [True], list(range(300)), "01", 3])
def test_groups_are_small_numbers(value: Any) -> None:
    assert groups_of(record(data={"g": value}), "g") is None


def test_groups_come_sorted_and_once() -> None:
    assert groups_of(record(data={"g": [3, 1, 3]}), "g") == (1, 3)


def test_names_are_texts() -> None:
    assert names_of(record(data={"n": ["a", 7, None, "b\n"]}), "n") == ["a", "b?"]
    assert names_of(record(data={"n": "abc"}), "n") == []


@pytest.mark.parametrize(
    "value",
    [None, [], "x", [["1", "2"]], [["1"], ["2"]], [["x"]], [["nan"]], [["-1"]], [[None]], [["1"] * 70] * 70, [7]],
)
def test_what_is_no_matrix_is_empty(value: Any) -> None:
    assert matrix_of(record(data={"m": value}), "m") == []


def test_distances_beyond_53_bits_are_read() -> None:
    assert matrix_of(record(data={"m": [["0", str(2**80)], [str(2**80), "0"]]}), "m")[0][1] == 2.0**80
