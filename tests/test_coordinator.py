"""scripts/coordinator as people and launchers use it: its ready line, its errors, and that it leaves nothing."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.chain_process import rpc_call
from scripts.toolchain import ROOT, MissingProgramError, find_mosquitto

ARGV = [sys.executable, "-P", "-m", "scripts.coordinator_main"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


class Coordinator:
    """A running one, its ready line read."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"no ready line; stderr: {process.stderr.read() if process.stderr else ''}"
        self.ready: dict[str, Any] = json.loads(line)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=15)
        return self.process.returncode, told


@contextlib.contextmanager
def running(state: Path, *options: str) -> Iterator[Coordinator]:
    process = subprocess.Popen(
        [*ARGV, "--json", "--state", str(state), *options],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Coordinator(process)
        finally:
            process.terminate()


def refused(*options: str, **environment: str) -> tuple[int, str]:
    """What it says when it does not start."""
    done = subprocess.run(
        [*ARGV, "--json", *options], env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_ends(*pids: int) -> None:
    deadline = time.monotonic() + 5
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


def test_it_serves_a_chain_with_the_market_and_a_broker(tmp_path: Path) -> None:
    funded = "0x" + "ab" * 20
    with running(tmp_path, "--fund", funded, "--accounts", "3") as coordinator:
        ready = coordinator.ready
        assert ready["event"] == "ready"
        url = ready["rpc_url"]
        assert int(rpc_call(url, "eth_chainId"), 16) == ready["chain_id"] == 31337
        assert len(rpc_call(url, "eth_getCode", ready["market"], "latest")) > 1000
        assert rpc_call(url, "eth_getBlockByNumber", "0x0", False)["hash"] == ready["genesis_hash"]
        assert len(rpc_call(url, "eth_accounts")) == 3
        assert int(rpc_call(url, "eth_getBalance", funded, "latest"), 16) == 1000 * 10**18
        host, port = re.fullmatch(r"mqtt://([\d.]+):(\d+)", ready["broker_url"]).groups()  # type: ignore[union-attr]
        socket.create_connection((host, int(port)), timeout=5).close()

        file = tmp_path / "market.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {"event": "ready", **json.loads(file.read_text())} == ready

        code, told = coordinator.stop()
        assert code == 0
        assert ready["market"] in told
        assert told.endswith("stopped\n")
    assert_ends(ready["pids"]["anvil"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_stop_it_too(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as coordinator:
        assert coordinator.stop(number)[0] == 0
    assert_ends(coordinator.ready["pids"]["anvil"])


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    with running(tmp_path / "1") as first, running(tmp_path / "2") as second:
        assert first.ready["rpc_url"] != second.ready["rpc_url"]
        assert first.ready["broker_url"] != second.ready["broker_url"]
        assert first.stop()[0] == 0
        assert int(rpc_call(second.ready["rpc_url"], "eth_blockNumber"), 16) >= 1


@ON_LINUX
def test_killed_it_takes_its_chain_along(tmp_path: Path) -> None:
    with running(tmp_path) as coordinator:
        coordinator.process.kill()
        assert_ends(coordinator.ready["pids"]["anvil"])


def test_it_ends_when_its_parent_closes_the_pipe(tmp_path: Path) -> None:
    with running(tmp_path, "--exit-with-parent") as coordinator:
        assert coordinator.process.stdin is not None
        coordinator.process.stdin.close()
        assert coordinator.process.wait(10) == 0
    assert_ends(coordinator.ready["pids"]["anvil"])


@ON_LINUX
def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """Here stdin is /dev/null, which says nothing about the parent."""
    log = tmp_path / "ready"
    parent = subprocess.Popen(
        [
            "bash",
            "-c",
            '"$@" >"$0" 2>/dev/null </dev/null & wait',
            str(log),
            *ARGV,
            "--json",
            "--exit-with-parent",
            "--state",
            str(tmp_path),
        ],
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ready = json.loads(log.read_text())
    parent.kill()
    parent.wait()
    assert_ends(ready["pid"], ready["pids"]["anvil"])


def test_a_dead_chain_is_told(tmp_path: Path) -> None:
    with running(tmp_path) as coordinator:
        os.kill(coordinator.ready["pids"]["anvil"], signal.SIGKILL)
        _, told = coordinator.process.communicate(timeout=15)
        assert coordinator.process.returncode == 1
        assert "anvil ended by itself with code -9; its log: " in told.splitlines()[-1]


def test_a_chain_and_market_of_others_are_used(tmp_path: Path) -> None:
    with running(tmp_path / "1", "--block-time", "0") as first:
        url, key = first.ready["rpc_url"], first.ready["funding_key"]
        key_file = tmp_path / "key"
        key_file.write_text(key + "\n")
        key_file.chmod(0o600)
        with running(tmp_path / "2", "--chain", url, "--key-file", str(key_file)) as second:
            assert second.ready["market"] != first.ready["market"]
            assert second.ready["genesis_hash"] == first.ready["genesis_hash"]
            assert second.ready["funding_key"] is None
            assert second.ready["pids"]["anvil"] is None
        assert key not in (tmp_path / "2" / "market.json").read_text()

        market, broker = first.ready["market"], first.ready["broker_url"]
        with running(tmp_path / "3", "--chain", url, "--market", market, "--broker", broker) as third:
            assert (third.ready["market"], third.ready["deploy_block"]) == (market, None)
            assert third.ready["broker_url"] == broker

        state = ("--state", str(tmp_path / "4"))
        code, told = refused("--chain", url, "--market", "0x" + "00" * 19 + "99", *state)
        assert (code, told.splitlines()[-1]) == (
            1,
            f"scripts/coordinator: no contract code at 0x{'00' * 19}99 on chain 31337",
        )
        key_file.chmod(0o644)
        code, told = refused("--chain", url, "--key-file", str(key_file), *state)
        assert (code, told) == (
            1,
            f"scripts/coordinator: key file {key_file} has mode 0644; run: chmod 600 {key_file}\n",
        )


def test_what_is_missing_is_told_in_a_line(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    code, told = refused(*state, ANVIL="/nowhere/anvil")
    assert (code, told) == (
        1,
        "scripts/coordinator: ANVIL=/nowhere/anvil is not a program; unset ANVIL or give the path of anvil\n",
    )
    code, told = refused(*state, "--artifact", str(tmp_path / "Market.json"))
    assert (code, told) == (
        1,
        f"scripts/coordinator: {tmp_path}/Market.json is missing; run: scripts/build-contracts\n",
    )
    code, told = refused(*state, "--broker", "mqtt://127.0.0.1:9")
    assert code == 1
    assert told.startswith("scripts/coordinator: cannot reach the broker mqtt://127.0.0.1:9: ")
    assert told.count("\n") == 1
    code, told = refused(*state, "--chain", "http://127.0.0.1:9", "--market", "0x" + "11" * 20)
    assert code == 1
    assert told.startswith("scripts/coordinator: cannot reach RPC http://127.0.0.1:9: ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--chain", "http://127.0.0.1:9"], "--chain needs --key-file FILE"),
        (["--market", "0x" + "11" * 20], "--market needs --chain"),
        (["--fund", "0x12"], "0x12 is no address"),
        (["--fund", "0x" + "11" * 20, "--chain", "http://x", "--market", "0x" + "11" * 20], "--fund works on"),
    ],
)
def test_wrong_options_are_told(options: list[str], told: str) -> None:
    code, said = refused(*options)
    assert code == 2
    assert told in said


def test_mosquitto_serves_as_broker(tmp_path: Path) -> None:
    try:
        find_mosquitto()
    except MissingProgramError:
        pytest.skip("mosquitto is not installed")
    with running(tmp_path, "--broker", "mosquitto") as coordinator:
        pids = coordinator.ready["pids"]
        assert is_running(pids["mosquitto"])
        coordinator.process.kill()
        assert_ends(pids["anvil"], pids["mosquitto"])
