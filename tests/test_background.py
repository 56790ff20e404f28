"""Daemons without a terminal: started until ready, found by their lock, stopped; what their own words are worth."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from omnilytics.daemon.background import (
    FailedStart,
    Start,
    Started,
    remember,
    remembered,
    start,
    stop,
)
from omnilytics.daemon.home_lock import holder, holds, lock_home
from omnilytics.peers.errors import ConfigurationError, LockError

# Stands in for a daemon: takes the lock, says what a test wants, and waits for signals.
DAEMON = """
import os, signal, socket, sys
from pathlib import Path
from omnilytics.daemon.home_lock import lock_home
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
home, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with lock_home(home):
    tell("STATUS=not ready: waiting for the chain")
    if kind == "broken":
        print("error: no contract code at 0x11", file=sys.stderr)
        sys.exit(7)
    if kind != "slow":
        tell("READY=1\\nSTATUS=ready")
    print(os.getcwd(), os.getsid(0) == os.getpid(), flush=True)
    sys.stdout.close()
    while True:
        signal.pause()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    pid = holder(home) if home.exists() else None
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def run(home: Path, kind: str, seconds: float = 60.0) -> tuple[Started, list[str]]:
    said: list[str] = []
    command = (sys.executable, "-P", "-c", DAEMON, str(home), kind)
    return start(home, command, home.parent, seconds, said.append), said


def test_it_is_started_waited_for_found_and_stopped(home: Path) -> None:
    started, said = run(home, "good")
    assert started == Started(started.pid, True, "ready")
    assert said == ["not ready: waiting for the chain", "ready"]
    assert holder(home) == started.pid
    assert holds(started.pid, home)
    assert not holds(os.getpid(), home)
    with pytest.raises(LockError, match=f"in use by pid {started.pid}"):
        run(home, "good")
    assert (home / "daemon.out").read_text().split() == [str(home.parent), "True"]
    assert (home / "daemon.out").stat().st_mode & 0o777 == 0o600
    assert stop(home, 60.0) == started.pid
    assert holder(home) is None
    assert stop(home, 60.0) is None


def test_one_that_is_not_ready_in_time_goes_on(home: Path) -> None:
    command = (sys.executable, "-P", "-c", DAEMON, str(home), "slow")
    started = start(home, command, home.parent, 0.0, lambda _: None)
    assert not started.ready
    os.kill(started.pid, signal.SIGKILL)


def test_one_that_ends_instead_is_told_with_its_words_and_code(home: Path) -> None:
    with pytest.raises(FailedStart, match="exit code 7") as caught:
        run(home, "broken")
    assert caught.value.help == "error: no contract code at 0x11"
    assert caught.value.leave_with == 7
    assert FailedStart(-9, "").leave_with == FailedStart(0, "").leave_with == 1


def test_one_that_does_not_listen_is_named_and_killed_only_when_that_is_wanted(home: Path) -> None:
    started, _ = run(home, "deaf")
    with pytest.raises(LockError, match=f"pid {started.pid} has not ended within 0.2 s") as caught:
        stop(home, 0.2)
    assert "--kill" in caught.value.help
    assert holder(home) == started.pid
    assert stop(home, 0.2, kill=True) == started.pid
    assert holder(home) is None


def test_a_pid_of_another_container_is_left_alone(home: Path) -> None:
    """The lock is held on a shared volume, the pid in it is somebody else's here."""
    started, _ = run(home, "good")
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (home / "lock").write_text(str(bystander.pid))
    with pytest.raises(LockError, match="of another machine or container"):
        stop(home, 1.0)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert bystander.stdin is not None
    bystander.stdin.close()
    (home / "lock").write_text(str(started.pid))


def test_a_lock_without_a_holder_is_nobodys(home: Path) -> None:
    home.mkdir()
    (home / "lock").write_text("1")
    assert holder(home) is None
    assert holder(home / "nowhere") is None


def test_who_asks_for_the_holder_does_not_keep_a_daemon_from_starting(home: Path) -> None:
    home.mkdir()
    asking = (home / "lock").open("w")
    fcntl.flock(asking, fcntl.LOCK_SH)
    with mock.patch("time.sleep", lambda _: asking.close()), lock_home(home):
        assert (home / "lock").read_text() == str(os.getpid())


# ------------------------------------------------------------------- how it was started


def test_how_it_was_started_is_remembered_for_its_owner_only(home: Path) -> None:
    how = Start(Path("/srv/data"), ("owner", "run", "--broker", "mqtt://alice:secret@host"))
    remember(home, Start(Path("/"), ("model", "run")))
    remember(home, how)
    assert remembered(home) == how
    assert (home / "start.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.iterdir()] == ["start.json"]


def test_what_was_never_started_says_how(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="no daemon was started") as caught:
        remembered(home)
    assert "omnilytics start" in caught.value.help


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "nonsense", '{"v":"1","folder":"/","arguments":[]}', '{"v":1,"folder":"/","arguments":[1]}',
     '{"v":1,"folder":[],"arguments":[]}', '{"v":1,"folder":"/","arguments":"owner"}', "[" * 60_000, " " * 70_000],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(home: Path, text: str) -> None:
    home.mkdir()
    (home / "start.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"start\.json cannot be used"):
        remembered(home)


def test_one_of_a_newer_version_is_refused(home: Path) -> None:
    home.mkdir()
    (home / "start.json").write_text(json.dumps({"v": 2, "folder": "/", "arguments": []}))
    with pytest.raises(ConfigurationError, match="of version 2; this program knows 1"):
        remembered(home)
