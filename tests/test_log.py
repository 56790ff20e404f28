"""The log: its lines are an interface, and no secret leaves by any of them."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.log import FIELDS, LEVELS, Logger, Rotation
from omnilytics.peers.errors import ParameterError
from tests.round_network import secret

PLANTED = secret("planted")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "log.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[Logger]:
    logger = Logger(path, "owner", "0xabc")
    with contextlib.closing(logger):
        yield logger


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_has_the_fields_that_monitoring_lives_on(log: Logger, path: Path) -> None:
    log("heartbeat")
    log("tx.mined", "done", "warning", task=1, round=2, tx=b"\x01\x02", gas=21000, function="post")
    first, second = lines(path)
    assert first.keys() == {"v", "ts", "mono", "seq", "boot_id", "peer", "role", "event", "level", "msg"}
    assert (first["v"], first["peer"], first["role"], first["level"]) == (1, "0xabc", "owner", "info")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["ts"])
    assert second["level"] == "warning"
    assert second["tx"] == "0x0102"
    assert second["data"] == {"function": "post"}
    assert set(second) <= set(FIELDS)
    assert second["level"] in LEVELS


def test_gaps_and_restarts_show(log: Logger, path: Path) -> None:
    for _ in range(3):
        log("a")
    with contextlib.closing(Logger(path, "owner", "0xabc")) as second_life:
        second_life("b")
    told = lines(path)
    assert [line["seq"] for line in told] == [1, 2, 3, 1]
    assert len({line["boot_id"] for line in told[:3]}) == 1
    assert told[3]["boot_id"] != told[0]["boot_id"]
    assert [line["mono"] for line in told] == sorted(line["mono"] for line in told)


def test_fields_that_have_no_value_are_left_out(log: Logger, path: Path) -> None:
    log("a", group=None, something=None, round=0)
    (line,) = lines(path)
    assert "group" not in line
    assert "data" not in line
    assert line["round"] == 0


def test_values_of_many_kinds_become_json(log: Logger, path: Path) -> None:
    log("a", sums=np.int64(7), share=np.float64(0.5), names={"x"}, pair=(1, b"\xff"), where=Path("/tmp"))
    assert lines(path)[0]["data"] == {
        "sums": 7, "share": 0.5, "names": ["x"], "pair": [1, "0xff"], "where": "/tmp",
    }  # fmt: skip


def test_a_message_of_several_lines_is_one_line(log: Logger, path: Path) -> None:
    log("a", "one\ntwo\r\x00\u2028three")
    assert len(path.read_text(encoding="utf-8").split("\n")) == 2
    assert lines(path)[0]["msg"] == "one\ntwo\r\x00\u2028three"


def test_a_line_is_there_when_the_call_returns(log: Logger, path: Path) -> None:
    log("a")
    assert lines(path)[0]["event"] == "a"


# ---------------------------------------------------------------------- redaction


@dataclass
class Thing:
    value: bytes


HIDEOUTS: list[dict[str, Any]] = [
    {"msg": PLANTED.hex()},
    {"msg": f"the seed is 0x{PLANTED.hex()}!"},
    {"msg": PLANTED.hex().upper()},
    {"msg": repr(PLANTED)},
    {"event": PLANTED.hex()},
    {"level": PLANTED.hex()},
    {"tx": PLANTED},
    {"code": PLANTED.hex()},
    {"peer_to": PLANTED},
    {"phase": "0x" + PLANTED.hex()},
    {"seed": PLANTED},
    {"seeds": [PLANTED, PLANTED]},
    {"nested": {"deep": [{"er": PLANTED}]}},
    {"nested": {PLANTED.hex(): 1}},
    {"thing": Thing(PLANTED)},
    {"error": ValueError(PLANTED)},
    {"joined": secret("harmless") + PLANTED + secret("harmless too")},
]


@pytest.mark.parametrize("hideout", HIDEOUTS, ids=lambda hideout: str(next(iter(hideout))))
def test_a_planted_secret_leaves_by_no_field(path: Path, hideout: dict[str, Any]) -> None:
    terminal = io.StringIO()
    with contextlib.closing(Logger(path, "owner", "0xabc", terminal)) as log:
        log.protect(PLANTED)
        log(**({"event": "a"} | hideout))
    for text in (path.read_text(encoding="utf-8"), terminal.getvalue()):
        assert PLANTED.hex() not in text.lower()
        escaped = repr(PLANTED)[2:-1]
        assert escaped not in text
        assert escaped not in text.replace("\\\\", "\\")
    (line,) = lines(path)
    assert "[redacted]" in json.dumps(line)


@pytest.mark.parametrize("marks", [b'"', b"'", b"'\"", b"\\'\"", b"\\'", b"\\\\"], ids=repr)
@pytest.mark.parametrize("around", [b"", b"'", b'"', b"'\""], ids=repr)
def test_quotes_in_a_secret_or_around_it_do_not_hide_it(path: Path, marks: bytes, around: bytes) -> None:
    """A repr writes them in other ways, and JSON writes the repr in others again."""
    planted = PLANTED[:12] + marks + PLANTED[12:]
    terminal = io.StringIO()
    with contextlib.closing(Logger(path, "owner", "0xabc", terminal)) as log:
        log.protect(planted)
        log("a", repr(around + planted + around), thing=[planted], error=ValueError(around + planted))
    (line,) = lines(path)
    assert json.dumps(line).count("[redacted]") == 3
    head, tail = repr(PLANTED[:12])[2:-1], repr(PLANTED[12:])[2:-1]
    for text in (json.dumps(line), terminal.getvalue()):
        assert head not in text.replace("\\\\", "\\") and tail not in text.replace("\\\\", "\\")


def test_what_is_no_secret_stays(log: Logger, path: Path) -> None:
    log.protect(PLANTED)
    log("a", tx=secret("a hash"))
    assert lines(path)[0]["tx"] == "0x" + secret("a hash").hex()


def test_short_values_are_not_protected_or_every_line_would_be_cut(log: Logger, path: Path) -> None:
    log.protect(b"", b"a", bytes(15))
    log("a", "aaaaaa 00000000000000000000000000000000")
    assert lines(path)[0]["msg"].startswith("aaaaaa 0000")


def test_memory_of_secrets_is_bounded_and_keeps_the_newest(log: Logger, path: Path) -> None:
    log.protect(*(number.to_bytes(32, "big") for number in range(6000)))
    log.protect(PLANTED)
    assert len(log._secrets) <= 4200
    log("a", PLANTED.hex())
    assert PLANTED.hex() not in path.read_text(encoding="utf-8")


def test_the_keys_of_the_process_are_never_forgotten(log: Logger, path: Path) -> None:
    """Protected first, for ever: thousands of round seeds must not push them out."""
    log.protect(PLANTED, keep=True)
    log.protect(*(number.to_bytes(32, "big") for number in range(6000)))
    log("a", PLANTED.hex())
    assert PLANTED.hex() not in path.read_text(encoding="utf-8")


# ----------------------------------------------------------------------- rotation


def test_after_a_rotation_by_rename_lines_go_to_the_new_file(log: Logger, path: Path) -> None:
    log("before")
    rotated = path.with_suffix(".1")
    path.rename(rotated)
    log("still the old one")
    log.reopen()
    log("after")
    assert [line["event"] for line in lines(rotated)] == ["before", "still the old one"]
    assert [line["event"] for line in lines(path)] == ["after"]
    assert lines(path)[0]["seq"] == 3


def test_it_rotates_itself_by_size_and_keeps_so_many(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("x" * 900 + "\n")
    log = Logger(path, "owner", "0x1")
    log.rotation = Rotation(bytes=1000, files=3)
    for number in range(40):
        log("a", f"{number}")
    log.close()
    kept = sorted(path.parent.glob("*"))
    assert [file.name for file in kept] == ["log.jsonl", "log.jsonl.1", "log.jsonl.2", "log.jsonl.3"]
    assert all(file.stat().st_size < 1400 for file in kept)
    texts = "".join(file.read_text() for file in reversed(kept[1:])) + kept[0].read_text()
    numbers = [json.loads(line)["seq"] for line in texts.splitlines()]
    assert numbers == list(range(numbers[0], 41))


def test_without_a_limit_it_is_not_rotated(log: Logger, path: Path) -> None:
    for _ in range(100):
        log("a", "x" * 200)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_rotation_that_fails_costs_no_line(log: Logger, path: Path) -> None:
    log.rotation = Rotation(bytes=300, files=2)
    (path.parent / "log.jsonl.new").mkdir()
    for _ in range(10):
        log("a", "x")
    assert [line["seq"] for line in lines(path)] == list(range(1, 11))
    (path.parent / "log.jsonl.new").rmdir()
    for _ in range(3):
        log("a", "x")
    assert (path.parent / "log.jsonl.1").exists()


# -------------------------------------------------------------------------- levels


def test_what_is_below_the_level_is_not_written_and_leaves_no_gap(log: Logger, path: Path) -> None:
    log("a", level="debug")
    log.set_level("warning")
    log("b", level="info")
    log("c", level="error")
    log.set_level("debug")
    log("d", level="debug")
    assert [(line["event"], line["seq"]) for line in lines(path)] == [
        ("a", 1), ("log.level", 2), ("c", 3), ("log.level", 4), ("d", 5),
    ]  # fmt: skip
    with pytest.raises(ParameterError, match="no log level 'loud'"):
        log.set_level("loud")


def test_levels_are_stepped_as_far_as_they_go(log: Logger) -> None:
    for steps, level in ((-1, "debug"), (1, "info"), (5, "error"), (-1, "warning"), (-9, "debug")):
        log.step_level(steps)
        assert log.level == level


def test_listeners_hear_everything_and_never_a_secret(log: Logger, path: Path) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    log.protect(PLANTED)
    log.subscribe(["a"], lambda event, line: heard.append((event, line)))
    log.set_level("error")
    log("a", PLANTED.hex(), "info", task=3, seed=PLANTED)
    log("b", "not asked for")
    ((event, told),) = heard
    assert event == "a"
    assert told["task"] == 3
    assert PLANTED.hex() not in json.dumps(told)
    assert all(line["event"] != "a" for line in lines(path))


def test_a_log_is_added_to(path: Path) -> None:
    for _ in range(2):
        with contextlib.closing(Logger(path, "model", "0x1")) as log:
            log("a")
    assert len(lines(path)) == 2


# ----------------------------------------------------------------------- terminal


def test_people_see_a_line_and_no_debug() -> None:
    terminal = io.StringIO()
    log = Logger(None, "owner", "0xabc", terminal)
    log("round.begin", "exchanging seeds", task=1, round=3, group=2)
    log("tx.sent", "post sent", "debug")
    (line,) = terminal.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d info +round\.begin +task 1 round 3 group 2 exchanging seeds", line)
