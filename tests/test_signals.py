"""SIGTERM and SIGINT end a daemon with exit code 0 in every time of its life."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from omnilytics.daemon.signals import ENDING, leaving_at_once, told_to

ROOT = Path(__file__).resolve().parent.parent
# Says where it is and stays there, until a signal or the end of its standard input.
PHASES = {
    "loading": "with leaving_at_once(): here()",
    "in a loop": "with leaving_at_once(): asyncio.run(play())",
    "before the loop's handlers": "with leaving_at_once(): asyncio.run(early())",
    "done": "pass_over_endings(); here(); sys.exit(6)",
}
PROGRAM = """
import asyncio, signal, sys, time
from omnilytics.daemon.signals import ENDING, leaving_at_once, pass_over_endings, told_to
def here():
    print("here", flush=True)
    sys.stdin.read()
async def early():
    here()
async def play():
    stop = asyncio.Event()
    with told_to(asyncio.get_running_loop(), dict.fromkeys(ENDING, stop.set)):
        print("here", flush=True)
        await stop.wait()
        print("in order", flush=True)
"""


@contextmanager
def life(phase: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM + PHASES[phase]],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("phase", list(PHASES))
def test_signals_to_end_are_code_zero_or_change_nothing_at_the_end(phase: str, number: signal.Signals) -> None:
    with life(phase) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == (6 if phase == "done" else 0), err
    assert err == ""
    assert out == ("in order\n" if phase == "in a loop" else "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_other_signals_do_not_end_a_daemon_that_is_still_loading(number: signal.Signals) -> None:
    with life("loading") as process:
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == 0


async def test_a_loop_is_told_and_handlers_are_as_before_afterwards() -> None:
    before, told = signal.getsignal(signal.SIGUSR1), asyncio.Event()
    with told_to(asyncio.get_running_loop(), {signal.SIGUSR1: told.set}):
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(told.wait(), 20)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_beside_the_main_thread_nothing_is_handled() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def beside() -> None:
        with leaving_at_once():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()
    assert seen == [before]
