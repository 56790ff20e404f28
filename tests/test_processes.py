"""The supervisor: readiness, failures, and that nothing is left behind however the launcher ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.processes import ProcessError, Supervisor, cancelled_by_signals
from scripts.toolchain import ROOT

PYTHON = sys.executable


def is_running(pid: int) -> bool:
    """False for a zombie too: it has ended, though nobody asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


async def test_waits_for_the_event_that_tells_readiness(tmp_path: Path) -> None:
    code = 'import time; print("noise"); print(\'{"event": "ready", "port": 7}\', flush=True); time.sleep(60)'
    async with Supervisor() as supervisor:
        process = await supervisor.start("child", [PYTHON, "-c", code], log=tmp_path / "child.log")
        ready = await process.wait_event("ready", timeout=10)
        assert ready["port"] == 7
        assert is_running(process.pid)
    assert not is_running(process.pid)
    assert process.returncode == -signal.SIGTERM


async def test_events_of_an_earlier_run_in_the_same_file_do_not_count(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"event": "ready", "run": 1}\n')
    code = f'import time; time.sleep(0.1); open({str(events)!r}, \'a\').write(\'{{"event": "ready", "run": 2}}\\n\')'
    async with Supervisor() as supervisor:
        process = await supervisor.start("child", [PYTHON, "-c", code], log=tmp_path / "child.log", events=events)
        assert (await process.wait_event("ready", timeout=10))["run"] == 2


async def test_stdout_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    async with Supervisor() as supervisor:
        process = await supervisor.start("child", [PYTHON, "-c", code], log=tmp_path / "err", stdout=tmp_path / "out")
        assert await process.wait() == 0
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("out\n", "err\n")


async def test_an_early_end_is_told_with_the_last_log_lines(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        process = await supervisor.start(
            "child", [PYTHON, "-c", "raise SystemExit('no funds')"], log=tmp_path / "child.log"
        )
        with pytest.raises(ProcessError, match=r"child: ended with code 1 before event \"ready\"\n  \| no funds"):
            await process.wait_event("ready", timeout=10)


async def test_a_late_one_is_told_too(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        process = await supervisor.start("child", ["sleep", "60"], log=tmp_path / "child.log")
        with pytest.raises(ProcessError, match=r'child: no event "ready" within 0\.1 s'):
            await process.wait_event("ready", timeout=0.1)


async def test_a_missing_program_is_told(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(ProcessError, match="cannot start /nowhere/anvil: No such file"):
            await supervisor.start("anvil", ["/nowhere/anvil"], log=tmp_path / "log")


async def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 60 & echo '{\"event\": \"ready\", \"child\": '$!'}'; while :; do wait; done"
    async with Supervisor(grace=0.2) as supervisor:
        process = await supervisor.start("stubborn", ["bash", "-c", script], log=tmp_path / "log")
        child = int((await process.wait_event("ready", timeout=10))["child"])
        assert is_running(child)
    assert process.returncode == -signal.SIGKILL
    wait_until_gone([child])


async def test_all_are_stopped_at_once(tmp_path: Path) -> None:
    async with Supervisor(grace=0.5) as supervisor:
        for index in range(6):
            process = await supervisor.start(
                str(index),
                ["bash", "-c", "trap '' TERM; echo '{\"event\": \"ready\"}'; while :; do sleep 9; done"],
                log=tmp_path / f"{index}.log",
            )
            await process.wait_event("ready", timeout=10)
        began = time.monotonic()
    assert time.monotonic() - began < 2


async def test_the_first_unexpected_end_is_noticed(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        stopped = await supervisor.start("stopped", ["sleep", "60"], log=tmp_path / "1")
        await supervisor.start("steady", ["sleep", "60"], log=tmp_path / "2")
        await stopped.stop()
        crash = await supervisor.start("crash", ["bash", "-c", "exit 3"], log=tmp_path / "3")
        async with asyncio.timeout(5):
            assert await supervisor.wait_failure() is crash
        assert crash.returncode == 3


async def test_python_settings_of_the_launcher_do_not_reach_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    async with Supervisor() as supervisor:
        process = await supervisor.start("child", ["env"], log=tmp_path / "log")
        await process.wait()
    assert "/nowhere" not in (tmp_path / "log").read_text()


async def test_signals_close_the_blocks_in_order() -> None:
    async def main() -> list[signal.Signals]:
        with cancelled_by_signals() as received:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                return list(received)
        return []

    assert await asyncio.create_task(main()) == [signal.SIGTERM]


LAUNCHER = """
import asyncio, sys
from pathlib import Path
from scripts.processes import Supervisor, cancelled_by_signals

async def main():
    with cancelled_by_signals():
        async with Supervisor() as supervisor:
            folder = Path(sys.argv[1])
            for index in range(4):
                await supervisor.start(str(index), ["sleep", "300"], log=folder / f"{index}.log")
            print(*(process.pid for process in supervisor.processes), flush=True)
            if sys.argv[2] == "crash":
                raise RuntimeError("crash")
            await asyncio.sleep(300)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "crash"])
def test_no_process_survives_the_launcher(tmp_path: Path, end: str) -> None:
    launcher = subprocess.Popen(
        [PYTHON, "-c", LAUNCHER, str(tmp_path), end],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with launcher:
        assert launcher.stdout is not None
        pids = [int(pid) for pid in launcher.stdout.readline().split()]
        assert len(pids) == 4
        if end != "crash":
            assert all(is_running(pid) for pid in pids)
            launcher.send_signal(signal.Signals[end])
        launcher.wait(10)
    wait_until_gone(pids)
