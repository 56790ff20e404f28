"""The unit file: what systemd reads in it, and what it says of our exit codes."""

import configparser
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from omnilytics.daemon.background import PROGRAM
from omnilytics.daemon.health import BUSY_SECONDS
from omnilytics.daemon.service_manager import ServiceManager
from omnilytics.daemon.systemd_unit import NO_RESTART, WATCHDOG_SECONDS, unit_name, unit_text
from omnilytics.daemon.upkeep import REPORT_SECONDS
from omnilytics.peers.errors import ConfigurationError, DataError, JournalError

HOME = Path("/home/alice/.local/share/omnilytics")


def read(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def test_it_tells_systemd_how_the_daemon_lives_and_ends() -> None:
    unit = read(unit_text(HOME, PROGRAM))
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "on-failure"
    assert shlex.split(service["ExecStart"]) == [*PROGRAM, "start", "--foreground", "--home", str(HOME)]
    assert unit["Install"]["WantedBy"] == "default.target"
    # It may wait for its RPC for ever before it is ready.
    assert service["TimeoutStartSec"] == "infinity"


def test_what_a_restart_does_not_mend_is_not_restarted() -> None:
    service = read(unit_text(HOME, PROGRAM))["Service"]
    assert service["RestartPreventExitStatus"] == "2 5 6 7 8"
    # A disk that was full, a folder that was not mounted: well again by themselves.
    assert not {DataError.exit_code, JournalError.exit_code, 0, 1, 3, 4} & set(NO_RESTART)


def test_the_watchdog_is_fed_more_often_than_it_bites() -> None:
    fed = ServiceManager.of({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 10**6)}).watchdog_seconds
    assert min(REPORT_SECONDS, fed / 2) < WATCHDOG_SECONDS / 2
    assert BUSY_SECONDS > REPORT_SECONDS


@pytest.mark.parametrize(
    ("home", "written"),
    [
        ("/srv/my data", '--home "/srv/my data"'),
        ("/srv/100%", '--home "/srv/100%%"'),
        ("/srv/$HOME", '--home "/srv/$$HOME"'),
        ('/srv/a"b\\c', '--home "/srv/a\\"b\\\\c"'),
    ],
)
def test_odd_paths_are_written_so_that_systemd_reads_them_back(home: str, written: str) -> None:
    assert written in unit_text(Path(home), PROGRAM)


def test_a_path_of_two_lines_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unprintable"):
        unit_text(Path("/srv/a\nExecStartPre=/bin/true"), PROGRAM)


@pytest.mark.parametrize(
    ("home", "name", "file"),
    [
        (HOME, None, "omnilytics.service"),
        (Path("/srv/alice"), None, "omnilytics-alice.service"),
        (Path("/srv/alice"), "second", "omnilytics-second.service"),
    ],
)
def test_a_unit_is_named_after_its_folder(home: Path, name: str | None, file: str) -> None:
    assert unit_name(home, name) == file


@pytest.mark.parametrize("name", ["", "../../x", "a b", ".hidden", "a" * 65])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a unit's name"):
        unit_name(HOME, name)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("home", ["/srv/alice", "/srv/my $data 100%"])
def test_systemd_itself_finds_no_fault(tmp_path: Path, strict: bool, home: str) -> None:
    path = tmp_path / "omnilytics-test.service"
    path.write_text(unit_text(Path(home), PROGRAM, strict))
    told = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert told.stderr == ""
    assert told.returncode == 0
