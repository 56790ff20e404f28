"""What a desktop is told, by a notify-send that a test has written."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon import desktop as module
from omnilytics.daemon.desktop import EVENTS, MOST_AN_HOUR, Desktop, notice_of, notifier

JOINED: dict[str, Any] = {"event": "tx.mined", "task": 7, "data": {"function": "join"}}
FAILED: dict[str, Any] = {"event": "daemon.failed", "msg": "secret words", "data": {"help": "more of them"}}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "notify-send"
    words = 'for word in "$@"; do printf "%s|" "$word"; done; env | sort | tr "\\n" " "; echo'
    path.write_text(f"#!/bin/sh\n({words}) >> {tmp_path}/told\n")
    path.chmod(0o755)
    return path


class Shown:
    """A desktop whose clock a test sets."""

    def __init__(self, program: Path, **environment: str) -> None:
        self.now = 0.0
        self.told_path = program.parent / "told"
        self.desktop = Desktop(str(program), {"PATH": "/usr/bin:/bin", **environment}, lambda: self.now)

    def say(self, line: dict[str, Any]) -> None:
        self.desktop.hear(line["event"], line)

    def told(self) -> list[str]:
        for _, process in self.desktop._running:
            process.wait(10)
        return self.told_path.read_text().splitlines() if self.told_path.exists() else []


def test_joins_payments_and_troubles_are_told_in_words_of_our_own() -> None:
    assert (found := notice_of("tx.mined", JOINED)) is not None and found.title == "Task 7 joined"
    paid = {"task": 7, "data": {"function": "withdraw", "wei_received": 15 * 10**14}}
    assert (found := notice_of("tx.mined", paid)) is not None and found.text == "0.001500 ether was collected."
    low = notice_of("balance.low", {"wei": 2 * 10**16})
    assert low is not None and low.urgent and low.text == "Add 0.020000 ether for the next rounds."
    for event in ("safe-mode", "stake.short", "rpc.disagreement", "task.failed", "daemon.failed", "daemon.bug"):
        found = notice_of(event, {"event": event, "task": 3, "msg": "a stranger's words", "data": {"help": "x"}})
        assert found is not None and found.urgent and "stranger" not in found.title + found.text
    assert {"tx.mined", "balance.low", "safe-mode", "stake.short", "daemon.failed"} <= EVENTS


@pytest.mark.parametrize(
    "line",
    [
        {"data": {"function": "commit"}},
        {"data": {"function": "withdraw", "wei_received": 0}},
        {"data": {"function": "withdraw"}},
        {},
    ],
)
def test_what_happens_in_every_round_is_not(line: dict[str, Any]) -> None:
    assert notice_of("tx.mined", line) is None
    assert notice_of("heartbeat", line) is None


def test_a_desktop_is_told_and_learns_nothing_of_ours(program: Path) -> None:
    shown = Shown(program, DISPLAY=":0", NOTIFY_SOCKET="/run/x", OMNILYTICS_HOME="/home/alice", WATCHDOG_USEC="1")
    shown.say(JOINED)
    (line,) = shown.told()
    assert line.startswith(
        "--app-name=OmniLytics|--urgency=normal|--|Task 7 joined|Its rounds are played from now on.|"
    )
    assert "DISPLAY=:0" in line
    assert not any(name in line for name in ("NOTIFY_SOCKET", "OMNILYTICS_", "WATCHDOG_"))


def test_there_are_not_too_many_and_the_rest_is_counted(program: Path) -> None:
    shown = Shown(program)
    for _ in range(4):
        shown.say(JOINED)
    assert len(shown.told()) == 1
    # What asks for somebody does not wait for the pause.
    shown.say(FAILED)
    assert len(shown.told()) == 2
    assert "(3 more in the log)" in shown.told()[-1]
    assert "secret words" not in shown.told()[-1]
    for _ in range(2 * MOST_AN_HOUR):
        shown.now += 10
        shown.say(FAILED)
        shown.told()
    assert len(shown.told()) == MOST_AN_HOUR
    shown.now += 3600
    shown.say(FAILED)
    assert len(shown.told()) == MOST_AN_HOUR + 1


def test_a_notifier_that_hangs_is_ended_and_one_that_fails_is_passed_over(tmp_path: Path) -> None:
    program = tmp_path / "notify-send"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    shown = Shown(program)
    shown.say(JOINED)
    ((_, hanging),) = shown.desktop._running
    shown.now += module.PATIENCE_SECONDS + 1
    program.write_text("#!/bin/sh\nexit 3\n")
    shown.say(JOINED)
    assert hanging.returncode == -9
    program.unlink()
    shown.now += 10
    shown.say(JOINED)
    for _, process in shown.desktop._running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("mode", "environment", "there"),
    [
        ("auto", {}, False),
        ("auto", {"DISPLAY": ":0"}, True),
        ("auto", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("auto", {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1/bus"}, False),
        ("on", {}, True),
        ("off", {"DISPLAY": ":0"}, False),
    ],
)
def test_only_a_desktop_is_told(program: Path, mode: str, environment: dict[str, str], there: bool) -> None:
    """A server's user has a session bus too, and nobody who looks."""
    assert (notifier(mode, {"PATH": str(program.parent), **environment}) is not None) == there


def test_without_the_program_nobody_is_told(tmp_path: Path) -> None:
    assert notifier("on", {"PATH": str(tmp_path)}) is None
