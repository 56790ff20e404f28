"""start, stop, restart, health and service install, as a user types them; at the end with a real daemon and chain."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from omnilytics.daemon.background import Start, remember, remembered
from omnilytics.daemon.cli import cli
from omnilytics.daemon.home_lock import holder, lock_home
from omnilytics.peers.errors import ConfigurationError, LockError
from scripts import broker_process, chain_process
from tests.local_market import LocalMarket, open_market

PROGRAM = [sys.executable, "-P", "-m", "omnilytics.daemon.cli"]
MARKET = "0x" + "11" * 20
OWNER = ("owner", "run", "--data", "rows.npz", "--market", MARKET)


def typed(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refused(told: Result, says: str, kind: type[Exception] = ConfigurationError) -> None:
    assert isinstance(told.exception, kind), told.output
    assert says in str(told.exception)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "alice"
    yield home
    pid = holder(home) if home.exists() else None
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------- what is refused


def test_only_daemons_are_started(home: Path) -> None:
    refused(typed("start", "--home", home, "tasks"), "'tasks' is no daemon")
    refused(typed("start", "--home", home, "owner"), "'owner' is no daemon")
    assert not home.exists()


def test_a_slip_among_the_daemons_options_is_told_at_once_and_not_remembered(home: Path) -> None:
    told = typed("start", "--home", home, *OWNER, "--finality-dept", "3")
    assert told.exit_code == 2
    assert "--finality-depth" in told.output
    assert "not a valid integer" in typed("start", "--home", home, "owner", "run", "--task", "one").output
    assert not home.exists()


def test_one_folder_is_meant_and_not_two(home: Path, tmp_path: Path) -> None:
    refused(typed("start", "--home", home, *OWNER, "--home", tmp_path), "two folders")


def test_without_a_command_there_must_have_been_one(home: Path) -> None:
    refused(typed("start", "--home", home), "no daemon was started")
    refused(typed("restart", "--home", home), "no daemon was started")
    refused(typed("service", "install", "--home", home), "no daemon was started")


def test_a_readable_log_is_for_terminals(home: Path) -> None:
    refused(typed("start", "--home", home, *OWNER, "--verbose"), "--verbose is for a terminal")


def test_a_second_one_is_refused_with_the_firsts_pid(home: Path) -> None:
    with lock_home(home):
        refused(typed("start", "--home", home, *OWNER), f"in use by pid {os.getpid()}", LockError)


def test_stopping_what_does_not_run_is_no_error(home: Path) -> None:
    told = typed("stop", "--home", home)
    assert (told.exit_code, told.output) == (0, f"no daemon runs in {home}\n")


def test_a_folder_that_is_gone_is_named(home: Path, tmp_path: Path) -> None:
    remember(home, Start(tmp_path / "gone", OWNER))
    refused(typed("start", "--home", home), "is gone")
    refused(typed("start", "--home", home, "--foreground"), "cannot be entered")


# ---------------------------------------------------------------- health and service


def test_health_is_an_exit_code(home: Path) -> None:
    told = typed("health", "--home", home)
    assert (told.exit_code, told.output) == (1, f"not alive: no daemon runs in {home}\n")
    with lock_home(home):
        told = typed("health", "--home", home, "--live", "--json")
    assert told.exit_code == 0
    assert json.loads(told.output) == {"schema": 1, "live": True, "ready": False, "reasons": ["starting"], "notes": []}


def test_a_unit_is_written_once_and_replaced_only_when_that_is_wanted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "systemd" / "user" / "omnilytics-alice.service"
    printed = typed("service", "install", "--home", home, "--print", *OWNER)
    assert printed.exit_code == 0
    assert not path.exists()
    assert remembered(home).arguments == (*OWNER, "--home", str(home))
    for _ in range(2):
        told = typed("service", "install", "--home", home)
        assert told.exit_code == 0
        assert "systemctl --user enable --now omnilytics-alice" in told.output
    assert path.read_text() == printed.output
    refused(typed("service", "install", "--home", home, "--strict"), "is there already")
    assert typed("service", "install", "--home", home, "--strict", "--force").exit_code == 0
    assert "ProtectSystem=strict" in path.read_text()


# ------------------------------------------------------------------------- a real one


def events(home: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (home / "log.jsonl").read_text().splitlines()]


async def test_a_life_in_the_background(
    anvil: chain_process.Chain,
    broker: broker_process.Broker,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    np.savez(tmp_path / "rows.npz", X=np.eye(4), y=np.arange(4) % 2)
    monkeypatch.chdir(tmp_path)
    assert typed("init", "--home", home, "--light").exit_code == 0

    def live(market: LocalMarket) -> None:
        address = "0x" + market.chain.market.hex()
        words = ("owner", "run", "--data", "rows.npz", "--chain", market.chain.url, "--broker", broker.url)
        # The first try ends before it is ready, in the daemon's own words and with its code.
        told = typed("start", "--home", "alice", *words, "--market", MARKET)
        assert told.exit_code == 7, told.output
        assert "no contract code" in told.output
        told = typed("start", "--home", "alice", *words, "--market", address)
        assert told.exit_code == 0, told.output
        pid = holder(home)
        assert f"started: pid {pid}, ready\n" in told.output
        assert typed("health", "--home", home, "--live").exit_code == 0
        # From another folder, and without being told anything again.
        monkeypatch.chdir("/")
        told = typed("restart", "--home", home)
        assert told.exit_code == 0, told.output
        assert f"stopped: pid {pid}\n" in told.output
        assert f"started: pid {holder(home)}, ready\n" in told.output
        assert holder(home) not in (pid, None)
        pid = holder(home)
        told = typed("restart", "--home", home, "--json")
        again = holder(home)
        assert json.loads(told.stdout)["data"] == {"pid": again, "ready": True, "stopped_pid": pid}
        told = typed("stop", "--home", home, "--json")
        assert (told.exit_code, json.loads(told.stdout)["data"]) == (0, {"pid": again})
        assert holder(home) is None
        assert json.loads(typed("stop", "--home", home, "--json").stdout)["data"] == {"pid": None}
        assert not (home / "health.json").exists()

    async with open_market(anvil) as market:
        await asyncio.to_thread(live, market)
    assert events(home).count("daemon.ready") == 3
    assert events(home)[-1] == "daemon.exit"


def test_in_the_foreground_it_tells_its_manager_and_ends_in_order_also_while_its_chain_is_away(
    home: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", X=np.eye(4), y=np.arange(4) % 2)
    assert typed("init", "--home", home, "--light").exit_code == 0
    remember(home, Start(tmp_path, (*OWNER, "--chain", "http://127.0.0.1:1", "--home", str(home))))
    command = [*PROGRAM, "start", "--foreground", "--home", str(home)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "ear"))
        ear.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "ear")}
        with subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert ear.recv(4096).startswith(b"STATUS=not ready: waiting for the chain")
            process.send_signal(signal.SIGTERM)
            assert ear.recv(4096) == b"STOPPING=1\nSTATUS=stopping"
            _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert events(home)[-1] == "daemon.exit"
