"""Ether on the local chain: whose coordinator is asked, and what an account has then."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts import chain_process
from scripts.chain_process import rpc_call
from scripts.fund_main import give, main, running_coordinator

ADDRESS = "0x" + "ab" * 20


def coordinator(folder: Path, pid: int, when: int, url: str = "http://127.0.0.1:1") -> Path:
    folder.mkdir()
    file = folder / "market.json"
    file.write_text(json.dumps({"pid": pid, "rpc_url": url}))
    os.utime(file, (when, when))
    return folder


def test_the_newest_that_runs_is_asked(tmp_path: Path) -> None:
    old = coordinator(tmp_path / "old", os.getpid(), 1)
    new = coordinator(tmp_path / "new", os.getpid(), 2, "http://new")
    # Above any pid that Linux gives.
    dead = coordinator(tmp_path / "dead", 2**22 + 1, 3)
    (tmp_path / "empty").mkdir()
    broken = coordinator(tmp_path / "broken", 0, 4)
    (broken / "market.json").write_text("[")
    found = running_coordinator([old, new, dead, broken, tmp_path / "empty"])
    assert found is not None
    assert found["rpc_url"] == "http://new"
    assert running_coordinator([dead, tmp_path / "none"]) is None


async def test_ether_is_added_to_what_is_there(anvil: chain_process.Chain, tmp_path: Path) -> None:
    url = anvil.rpc_url
    assert await asyncio.to_thread(give, url, ADDRESS, 1.5) == 15 * 10**17
    state = coordinator(tmp_path / "state", os.getpid(), 1, url)
    done = await asyncio.to_thread(CliRunner().invoke, main, ["--state", str(state), "--ether", "2", ADDRESS])
    assert (done.exit_code, done.output) == (0, f"{ADDRESS} has 3.5 ether\n")
    assert int(await asyncio.to_thread(rpc_call, url, "eth_getBalance", ADDRESS, "latest"), 16) == 35 * 10**17


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["0x12"], 2, "0x12 is no address"),
        ([], 2, "Missing argument"),
        ([ADDRESS], 1, "no coordinator runs; start one: scripts/coordinator"),
    ],
)
def test_mistakes_are_told(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--state", str(tmp_path), *arguments])
    assert (done.exit_code, says in done.output) == (code, True), done.output


def test_a_chain_that_does_not_answer_is_told(tmp_path: Path) -> None:
    state = coordinator(tmp_path / "state", os.getpid(), 1)
    done = CliRunner().invoke(main, ["--state", str(state), ADDRESS])
    assert (done.exit_code, done.output.startswith("scripts/fund: cannot reach RPC")) == (1, True)
