"""The local page on real parts: chain, broker, an owner's daemon that asks first, and a real Chromium that clicks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.keystore import create_keys
from omnilytics.daemon.spec import TaskSpec
from scripts import broker_process, chain_process
from scripts.browser import find_browser
from tests.chromium import Tab, open_tab
from tests.local_market import PARAMS, LocalMarket, open_market
from tests.test_cli import run_here

BROWSER = find_browser()
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt install chromium)")
PROGRAM = [sys.executable, "-P", "-m", "omnilytics.daemon.cli"]
PATIENCE = 60.0
# Where a picture of the page goes, for the documents: UI_PICTURE=docs/images/ui.png scripts/test ...
PICTURE = os.environ.get("UI_PICTURE")
# A name that a stranger could give to a class of labels.
HOSTILE = "2" if PICTURE else "<img src=x onerror=document.title='taken'>"


@dataclass
class Scene:
    """A market with two open tasks, and an owner's daemon that has not been told what to join."""

    market: LocalMarket
    home: Path
    owner: bytes
    daemon: asyncio.subprocess.Process

    async def run(self, *arguments: object) -> tuple[int, str, str]:
        """One command, beside the daemon."""
        return await asyncio.to_thread(run_here, *arguments, "--home", self.home)

    async def begun(self) -> None:
        """Returns when the daemon answers; a daemon that has ended is not waited for."""
        while not (self.home / "control.sock").exists():
            assert self.daemon.returncode is None, "the daemon has ended"
            await asyncio.sleep(0.05)

    async def joined(self, task: int) -> bool:
        return any(member.account == self.owner for member in await self.market.chain.members(task))

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = (self.home / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]


async def create_task(market: LocalMarket, *classes: str) -> int:
    spec = TaskSpec("softmax", 3, classes, 1.0, 16)
    params = replace(PARAMS, value_count=spec.side.value_count, chunk_words=1)
    await market.create(params, spec.encode())
    return market.task


@pytest.fixture
async def scene(anvil: chain_process.Chain, broker: broker_process.Broker, tmp_path: Path) -> AsyncIterator[Scene]:
    home = tmp_path / "alice"
    home.mkdir(mode=0o700)
    (home / "password").write_text("a password of no importance\n")
    (home / "password").chmod(0o400)
    owner = create_keys(home / "keys", "a password of no importance", light=True).address
    # Nothing is mined but transactions: a chain that stands still is no trouble here.
    (home / "config.toml").write_text("stall_seconds = 3600\n[policy]\nask_first = true\n")
    rows = np.random.default_rng(1)
    np.savez(home / "rows.npz", X=rows.normal(size=(64, 3)), y=np.arange(64) % 2)
    async with open_market(anvil) as market:
        await asyncio.to_thread(
            chain_process.rpc_call, anvil.rpc_url, "anvil_setBalance", "0x" + owner.hex(), hex(100 * 10**18)
        )
        assert await create_task(market, "0", "1") == 1
        assert await create_task(market, "0", "1", HOSTILE) == 2
        where = ["--chain", anvil.rpc_url, "--market", "0x" + market.chain.market.hex(), "--broker", broker.url]
        command = [*PROGRAM, "owner", "run", "--home", str(home), "--data", str(home / "rows.npz"), *where]
        command += ["--stay", "--max-tasks", "3"]
        daemon = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        try:
            yield Scene(market, home, owner, daemon)
        finally:
            if daemon.returncode is None:
                daemon.kill()
            await daemon.communicate()


@contextlib.asynccontextmanager
async def page_of(scene: Scene) -> AsyncIterator[str]:
    """omnilytics ui, and the address that it prints."""
    command = [*PROGRAM, "ui", "--no-open", "--home", str(scene.home)]
    serving = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert serving.stdout is not None
        async with asyncio.timeout(PATIENCE):
            address = (await serving.stdout.readline()).decode().strip()
        yield address
    finally:
        serving.terminate()
        _, err = await serving.communicate()
        assert serving.returncode == 0 and b"Traceback" not in err, err


def badge(task: int, word: str) -> str:
    return f"document.querySelector('#task-{task} .badge')?.textContent === {json.dumps(word)}"


@in_a_browser
async def test_a_task_is_accepted_and_another_refused_on_the_page(scene: Scene) -> None:
    assert BROWSER is not None
    async with page_of(scene) as address, open_tab(BROWSER) as tab:
        await tab.go(address)
        await scene.begun()
        await tab.until(badge(1, "waiting for your word"))
        assert not await scene.joined(1) and not await scene.joined(2)
        await look_around(tab, scene)

        await tab.click("#task-2 button.no")
        await tab.until(badge(2, "refused by you"))
        # The daemon has looked at it since, and says so in the log that the page shows.
        await tab.until("document.getElementById('lines').textContent.includes('you have refused task 2')")

        await tab.click("#task-1 button.yes")
        await tab.until(badge(1, "joined"))
        await tab.until("document.querySelector('#playing-1 .waiting')?.textContent.includes('1 of 9 owners joined')")
        assert await scene.joined(1)
        assert await tab.evaluate("document.querySelector('#task-1 button')") is None, "there is no way back"

        # Live: what happens on the chain shows without a click.
        scene.market.task = 1
        await scene.market.join(scene.market.owners[0])
        await tab.until("document.querySelector('#playing-1 .waiting')?.textContent.includes('2 of 9 owners joined')")
        # So does a task that comes later; it is played beside the first.
        assert await create_task(scene.market, "0", "1") == 3
        await tab.until(badge(3, "waiting for your word"))
        await tab.click("#task-3 button.yes")
        await tab.until("document.querySelector('#playing-3 .waiting')?.textContent.includes('1 of 9 owners joined')")
        await tab.until("document.querySelector('#playing-1 .waiting')?.textContent.includes('2 of 9 owners joined')")
        assert await scene.joined(3) and not await scene.joined(2)
        if PICTURE:
            await tab.picture(Path(PICTURE))
        told = await tab.evaluate("[...document.querySelectorAll('#lines li')].map(line => line.textContent)")
        assert sum("the user accepted task 3" in line for line in told) == 1, "every line is shown once"
        decided = [(line["task"], line["data"]["accepted"]) for line in scene.logged("task.decided")]
        assert decided == [(2, False), (1, True), (3, True)]

        await closed_to_others(tab, address)
        await tab.go(address)
        await tab.until(badge(1, "joined"))
        await told_and_stopped(scene)
        await tab.until("document.body?.textContent.includes('no daemon is running')")
        # Of refused requests (401, and 503 without a daemon) Chromium speaks by itself; of scripts and policy nothing.
        assert [line for line in tab.console if "responded with a status of" not in line] == []


async def look_around(tab: Tab, scene: Scene) -> None:
    """The token is gone from the address, no script sees the cookie, nothing of a stranger's runs, it fits a phone."""
    assert await tab.evaluate("[location.hash, document.cookie]") == ["", ""]
    assert HOSTILE in await tab.text("#task-2 .title")
    assert await tab.evaluate("[document.images.length, document.title.includes('taken')]") == [0, False]
    shown = await tab.text("#view")
    for words in ("0x" + scene.owner.hex(), "ready", "100.000000 ether", "stake 0.004000 ether", "Policy", "Earnings"):
        assert words in shown, words
    for dark in (False, True):
        await tab.size(360, 800, dark)
        assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
        wide = (
            "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && "
            "e.getBoundingClientRect().right > 360.5).map(e => e.tagName + '.' + e.className)"
        )
        assert await tab.evaluate(wide) == []
        ground = str(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert (int(ground[4:].split(",")[0]) < 60) == dark
    await tab.size(1100, 900)


async def closed_to_others(tab: Tab, address: str) -> None:
    """A page without the key of its origin is told nothing, though the browser has the cookie."""
    await tab.evaluate("sessionStorage.clear()")
    await tab.go(address.split("#")[0])
    await tab.until("document.body?.textContent.includes('does not have its token')")
    assert "0x" not in await tab.text()


async def told_and_stopped(scene: Scene) -> None:
    """The same from the command line, and the end."""
    code, out, err = await scene.run("status", "--json")
    told = json.loads(out)
    assert (code, err, told["version"], told["command"]) == (0, "", 1, "status")
    tasks = {task["task"]: task for task in told["data"]["tasks"]}
    assert [(number, task["membership"], task["owners"]) for number, task in tasks.items()] == [
        (1, "joined", 2),
        (3, "joined", 1),
    ]
    assert tasks[1]["waiting"].startswith("waiting: 2 of 9 owners joined, ")
    assert told["data"]["health"] == {"live": True, "ready": True, "reasons": [], "notes": []}
    assert told["data"]["pid"] == scene.daemon.pid
    code, out, _ = await scene.run("status")
    assert code == 0 and "health   ready" in out and "waiting: 2 of 9 owners joined" in out
    assert await scene.run("stop") == (0, f"stopped: pid {scene.daemon.pid}\n", "")
    # It has ended by then: nobody has to wait once more.
    async with asyncio.timeout(5):
        assert await scene.daemon.wait() == 0
    assert scene.logged("daemon.exit")[-1]["data"] == {"reason": "signal"}
    assert (await scene.run("status"))[0] == 3
    assert (await scene.run("stop"))[0] == 0
    assert not (scene.home / "control.sock").exists()
