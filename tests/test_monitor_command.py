"""omnilytics monitor as people and scripts run it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from omnilytics.daemon.commands.monitor import ALERT_EXIT_CODE
from omnilytics.daemon.monitor import fold
from tests.monitor_logs import MadeUpMarket
from tests.monitor_views import STORY
from tests.test_cli import PROGRAM, refused, run_here


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a market that ended well."""
    return MadeUpMarket().files(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One owner died and never came back, a group was poisoned."""
    return STORY.files(tmp_path_factory.mktemp("bad"))


# ------------------------------------------------------------------ once


def test_once_ends_with_0_where_all_is_well_and_10_where_an_alert_stands(good: Path, bad: Path) -> None:
    code, out, err = run_here("monitor", "--once", "--json", good)
    view = json.loads(out)["data"]
    assert (code, err, view["schema"], view["alerts"]) == (0, "", 1, [])
    code, out, err = run_here("monitor", "--once", "--json", bad)
    view = json.loads(out)["data"]
    assert (code, err) == (ALERT_EXIT_CODE, "")
    assert {alert["code"] for alert in view["alerts"]} == {"silent", "unclaimed"}
    assert view["alerts"][0]["help"]


def test_once_prints_every_panel_as_text(bad: Path) -> None:
    code, out, _ = run_here("monitor", "--once", bad)
    assert code == ALERT_EXIT_CODE
    assert "2 ALERTS" in out and "group 1 looks poisoned" in out and "\x1b" not in out


def test_logs_come_through_a_pipe(good: Path) -> None:
    lines = b"".join(path.read_bytes() for path in sorted((good / "logs").iterdir()))
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines))):
        code, out, _ = run_here("monitor", "--once", "--json", "-")
    view = json.loads(out)["data"]
    assert code == 0 and view["honesty"]["records"] == lines.count(b"\n")
    assert view["tasks"][0]["money"]["paid_wei"] == 27 * 10**15


def test_logs_of_several_machines_are_one_market(good: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((good / "logs").iterdir())):
        folder = tmp_path / f"machine-{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    code, out, _ = run_here("monitor", "--replay", "--json", *sorted(tmp_path.iterdir()))
    assert code == 0
    parted = json.loads(out)["data"]
    whole = json.loads(run_here("monitor", "--replay", "--json", good)[1])["data"]
    assert parted["tasks"] == whole["tasks"]


# ------------------------------------------------------------------ replay


def test_a_replay_is_the_same_every_time(bad: Path) -> None:
    first, second = run_here("monitor", "--replay", bad), run_here("monitor", "--replay", bad)
    assert first == second and first[0] == 0
    lines = first[1].splitlines()
    told = [line for line in lines if re.match(r"2026-01-01T", line)]
    assert told == sorted(told)
    assert any("round 2 ended: selected, accuracy 0.6333, selected [0, 2, 3, 4], rejected [1]" in line for line in told)
    assert any("ALERT silent: owner-17" in line for line in told)
    assert run_here("monitor", "--replay", "--json", bad) == run_here("monitor", "--replay", "--json", bad)


def test_a_replay_does_not_depend_on_how_files_came_about(bad: Path, tmp_path: Path) -> None:
    """Another order in the folder, other inodes, other times of the files."""
    (tmp_path / "logs").mkdir()
    for path in sorted((bad / "logs").iterdir(), reverse=True):
        (tmp_path / "logs" / path.name).write_bytes(path.read_bytes())
    assert run_here("monitor", "--replay", bad) == run_here("monitor", "--replay", tmp_path)


# ------------------------------------------------------------------ report and metrics


def test_a_report_is_written_and_the_same_every_time(bad: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        code, out, err = run_here("monitor", "--html", tmp_path / name, bad)
        assert (code, out) == (0, "") and "is written" in err
    first = (tmp_path / "a.html").read_text()
    assert first == (tmp_path / "b.html").read_text()
    assert "group 1 looks poisoned" in first


def test_metrics_go_into_a_file(good: Path, tmp_path: Path) -> None:
    code, _, _ = run_here("monitor", "--once", "--prometheus-file", tmp_path / "m.prom", good)
    assert code == 0
    assert 'omnilytics_round{task="1"} 3' in (tmp_path / "m.prom").read_text()


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "says", "cure"),
    [
        ([], "no logs are named", "monitor PATH"),
        (["nowhere/at/all"], "no file or folder nowhere/at/all", "run's folder"),
        (["--json", "."], "--json goes with --once", "--once --json"),
        (["--once", "--replay", "."], "do not go together", "use one"),
        (["--once", "--prometheus", "0", "GOOD"], "serves a live monitor", "--prometheus-file"),
        (["GOOD"], "standard output is no terminal", "--once"),
        (["--prometheus", "99999", "GOOD"], "99999 is not in the range", ""),
    ],
)
def test_mistakes_are_a_line_and_a_cure(arguments: list[str], says: str, cure: str, good: Path) -> None:
    refused(2, "monitor", *[good if a == "GOOD" else a for a in arguments], says=says, cure=cure)


def test_a_page_that_cannot_be_written_is_said(good: Path) -> None:
    code, _, err = run_here("monitor", "--html", "/nowhere/at/all.html", good)
    assert code == 1 and "check the paths" in err and "Traceback" not in err


# ------------------------------------------------------------------ live


def in_a_terminal(path: Path, keys: list[tuple[str, bytes]], columns: int = 80, rows: int = 24) -> tuple[int, str]:
    """Runs the live monitor in a terminal of its own; waits for each text, then types: (exit code, all output)."""
    pid, handle = pty.fork()
    if pid == 0:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
        os.execve(PROGRAM[0], [*PROGRAM, "monitor", str(path)], environment)
    seen, output, waiting = "", "", list(keys)
    until = time.monotonic() + 60
    try:
        while time.monotonic() < until:
            ready, _, _ = select.select([handle], [], [], 1)
            try:
                fresh = os.read(handle, 65536).decode(errors="replace") if ready else ""
            except OSError:
                break
            output += fresh
            seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", fresh)
            if waiting and waiting[0][0] in seen:
                os.write(handle, waiting.pop(0)[1])
                seen = ""
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output


def test_the_live_view_draws_obeys_keys_and_restores_the_terminal(bad: Path) -> None:
    code, output = in_a_terminal(bad, [("2 ALERTS", b"4"), ("unsuspicious", b"5"), ("paid to owners", b"q")])
    assert code == 0
    assert "poisoned" in output
    # An own screen, left again; the cursor is there again.
    assert "\x1b[?1049h" in output and output.rfind("\x1b[?1049l") > output.rfind("\x1b[?1049h")
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")


def test_a_live_monitor_without_a_terminal_serves_metrics_follows_and_stops_at_a_signal(tmp_path: Path) -> None:
    import urllib.request

    market = MadeUpMarket(rounds=2, ends=False)
    lines = list(market.lines())
    path = tmp_path / "all.jsonl"
    half = len(lines) // 2
    path.write_text("".join(f"{line}\n" for _, line in lines[:half]))
    argv = [*PROGRAM, "monitor", "--prometheus", "0", str(path)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = re.search(r"http://\S+", process.stderr.readline())
        assert address is not None

        def metrics() -> str:
            with urllib.request.urlopen(address[0], timeout=10) as answer:
                return str(answer.read().decode())

        def until(text: str) -> None:
            deadline = time.monotonic() + 60
            while text not in metrics():
                assert time.monotonic() < deadline, text
                select.select([], [], [], 0.05)

        until(f"omnilytics_log_records_total {half}")
        with path.open("a") as file:
            file.write("".join(f"{line}\n" for _, line in lines[half:]))
        until(f"omnilytics_log_records_total {len(lines)}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_monitor_starts_without_heavy_libraries(good: Path) -> None:
    """Somebody who only reads logs waits for no web3, no scikit-learn."""
    code = (
        "import sys; from omnilytics.daemon.cli import cli\n"
        f"cli(['monitor', '--once', '--json', {str(good)!r}], standalone_mode=False)\n"
        "print(sorted({'web3', 'sklearn', 'numpy', 'matplotlib', 'aiomqtt'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert isinstance(json.loads(done.stdout), dict)


def test_old_rounds_live_on_in_the_totals_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON, text and page hold the newest rounds; the totals hold all."""
    monkeypatch.setattr(fold, "MAX_ROUNDS", 10)
    MadeUpMarket(rounds=30, ends=False).files(tmp_path)
    view = json.loads(run_here("monitor", "--replay", "--json", tmp_path)[1])["data"]
    (task,) = view["tasks"]
    assert len(task["timeline"]) == 10 and task["forgotten_rounds"] == 20
    assert task["gas"]["functions"]["commit"]["count"] == 270
    assert view["alerts"] == [] and task["money"]["conserved"]
    assert {owner["paid_rounds"] for owner in task["money"]["owners"]} == {30}
