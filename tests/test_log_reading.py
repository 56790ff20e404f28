"""One log for people: its end, what comes, and rotations in between."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon.log import Logger
from omnilytics.daemon.log_reading import LogTail, at_least, rendered


def everything(_line: bytes) -> bool:
    return True


class Writer:
    """Performs one step at each pause of the reader, and ends the test when there is none left."""

    def __init__(self, *steps: Callable[[], Any]) -> None:
        self.steps = list(steps)

    def __call__(self) -> None:
        assert self.steps, "the reader waits for what never comes"
        self.steps.pop(0)()


def append(path: Path, text: str) -> Callable[[], None]:
    def write() -> None:
        with path.open("a") as file:
            file.write(text)

    return write


def last(path: Path, count: int, wanted: Callable[[bytes], bool] = everything) -> list[bytes]:
    with LogTail(path) as tail:
        return tail.last(count, wanted)


def followed(path: Path, count: int, *steps: Callable[[], Any]) -> list[bytes]:
    """The next lines after the end of the log."""
    with LogTail(path) as tail:
        tail.last(0, everything)
        return list(islice(tail.follow(Writer(*steps)), count))


def test_the_last_whole_lines_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("one\ntwo\nthree\nhal")
    assert last(log, 2) == [b"two", b"three"]
    assert last(log, 9, lambda line: b"o" in line) == [b"one", b"two"]
    assert last(log, 0) == []
    assert last(tmp_path / "none", 2) == []


def test_lines_that_were_rotated_away_come_before(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for number, text in ((2, "one\ntwo\n"), (1, "three\nfour\n"), (4, "unseen\n")):
        (tmp_path / f"log.jsonl.{number}").write_text(text)
    assert last(log, 9) == [b"one", b"two", b"three", b"four"]
    log.write_text("five\n")
    assert last(log, 4) == [b"two", b"three", b"four", b"five"]
    assert last(log, 1) == [b"five"]


def test_lines_are_followed_as_they_are_finished(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("old\nhal")
    assert followed(log, 2, append(log, "f\n"), lambda: None, append(log, "last\n")) == [b"half", b"last"]


def test_a_rotation_by_rename_loses_nothing(tmp_path: Path) -> None:
    log, moved = tmp_path / "log.jsonl", tmp_path / "log.jsonl.1"
    log.write_text("old\n")
    # Between the rename and SIGHUP the daemon still writes to the file that it has open.
    steps = (lambda: log.rename(moved), append(moved, "late\n"), append(log, "new\n"), append(log, "newer\n"))
    assert followed(log, 3, *steps) == [b"late", b"new", b"newer"]


def test_a_rotation_before_following_begins_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("old\n")
    with LogTail(log) as tail:
        assert tail.last(9, everything) == [b"old"]
        append(log, "late\n")()
        log.rename(tmp_path / "log.jsonl.1")
        log.write_text("new\n")
        assert list(islice(tail.follow(Writer()), 2)) == [b"late", b"new"]


def test_a_log_that_begins_later_or_again_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert followed(log, 2, append(log, "first\n"), lambda: log.write_text("x\n")) == [b"first", b"x"]


def test_levels_are_a_ladder_and_strange_lines_are_not_hidden() -> None:
    def line(level: str) -> bytes:
        return json.dumps({"ts": "2026-01-01T00:00:00", "event": "e", "level": level}).encode()

    passes = at_least("warning")
    assert [passes(line(level)) for level in ("debug", "info", "warning", "error")] == [False, False, True, True]
    assert passes(b"Traceback") and passes(b"[]") and passes(b'{"level": "debug"}')


def test_a_line_of_the_logger_is_rendered_with_place_and_code(tmp_path: Path) -> None:
    log = Logger(tmp_path / "log.jsonl", "owner", "0x01")
    log("rpc.error", "no\x1banswer", "warning", task=3, round=1, code="chain")
    log.close()
    (line,) = (tmp_path / "log.jsonl").read_bytes().splitlines()
    text = rendered(line)
    assert text.endswith(" warning rpc.error          task 3 round 1 no?answer [chain]")


@pytest.mark.parametrize("line", [b"no json \x1b[2J", b"\xff\xfe", b"5", b"{}", b"[" * 100_000])
def test_what_is_no_line_of_ours_is_shown_harmless(line: bytes) -> None:
    text = rendered(line)
    assert text.isprintable()
    assert len(text) >= len(line.decode(errors="ignore"))
