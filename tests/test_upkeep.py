"""What a daemon looks after beside its part, from what its log says and a chain that a test sets."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omnilytics.daemon import upkeep as module
from omnilytics.daemon.chain import Head
from omnilytics.daemon.config import Settings
from omnilytics.daemon.log import Logger
from omnilytics.daemon.upkeep import Upkeep
from omnilytics.peers.errors import ChainError

ME = bytes(20)
TERMS: dict[str, Any] = {"value_count": 1000, "lane_bits": 16, "rounds": 20}


class World:
    """A chain, a queue, a broker and a disk, as a test wants them."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.now, self.balance_wei, self.answers = 0.0, 10**19, True
        self.asked = 0
        self.pending_count = 0
        self.broker, self.age = True, 1.0
        self.observed: list[Head] = []
        self.path = folder / "log.jsonl"
        self.log = Logger(self.path, "owner", "0x1")
        self.upkeep = Upkeep(
            Settings(folder), ME, cast(Any, self), cast(Any, self),
            cast(Any, SimpleNamespace(age=lambda: self.age, observe=self.observed.append)),
            self.log, lambda: self.now, lambda: self.broker, lambda: None, environment or {},
        )  # fmt: skip

    async def head(self) -> Head:
        if not self.answers:
            raise ChainError("down")
        return Head(5, 100, bytes(32), 10**9, bytes(32))

    async def balance(self, account: bytes) -> int:
        self.asked += 1
        return self.balance_wei

    async def look(self) -> None:
        await self.upkeep._look_at_balance()

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line for line in found if line["event"] == event]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.log.close()


# ---------------------------------------------------------------------------- health


def test_what_stands_in_the_log_is_a_reason_until_it_is_over(world: World) -> None:
    assert not world.upkeep.health().ready
    world.upkeep.ready()
    assert world.upkeep.health().status == "ready: no task underway"
    world.log("safe-mode", "chain holds my commitment", "error")
    world.log("clock.skew", "clocks differ by 90 s", "warning")
    assert world.upkeep.health().status.startswith("not ready: chain holds my commitment; clocks differ")
    world.log("clock.skew.over", "well again")
    assert "clocks" not in world.upkeep.health().status
    world.broker = False
    assert "waiting for the broker: not connected" in world.upkeep.health().reasons
    world.upkeep.stopping()
    assert world.upkeep.health().reasons[0] == "stopping"


def test_it_says_where_its_tasks_are_and_for_whom_they_wait(world: World) -> None:
    world.upkeep.ready()
    world.log("phase.enter", "commit", task=3, round=2, phase="commit")
    assert world.upkeep.health().status == "ready: task 3 round 2: commit"
    world.log("waiting", "3 of 5 owners committed, 42 s left", task=3, round=2)
    assert world.upkeep.health().status == "ready: task 3: 3 of 5 owners committed, 42 s left"
    for task in (4, 5, 6, 7):
        world.log("phase.enter", "joining", task=task, phase="joining")
    assert world.upkeep.health().status.endswith("task 5: joining; 2 more tasks")
    for task in (3, 4, 5, 6, 7):
        world.log("task.done", task=task)
    assert world.upkeep.health().status == "ready: no task underway"


def test_a_step_that_never_ends_is_not_alive(world: World) -> None:
    with world.upkeep.step():
        world.now += 1000
        assert not world.upkeep.health().live
    assert world.upkeep.health().live
    # Of several tasks' steps the oldest counts.
    with world.upkeep.step():
        world.now += 1000
        with world.upkeep.step():
            pass
        assert not world.upkeep.health().live
    with pytest.raises(ValueError, match="x"), world.upkeep.step():
        raise ValueError("x")
    world.now += 1000
    assert world.upkeep.health().live


def test_a_queue_that_does_not_move_is_told(world: World) -> None:
    world.upkeep.ready()
    world.pending_count = 2
    assert "wait" not in world.upkeep.health().status
    world.now += 200
    assert "2 transactions wait, none mined for 200 s" in world.upkeep.health().status
    world.log("tx.mined", task=1, gas=5, function="commit")
    assert "wait" not in world.upkeep.health().status
    world.pending_count = 0
    world.now += 500
    assert "wait" not in world.upkeep.health().status


async def test_a_service_manager_hears_of_it_and_its_watchdog_is_fed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "ear"))
        ear.setblocking(False)
        world = World(tmp_path, {"NOTIFY_SOCKET": str(tmp_path / "ear"), "WATCHDOG_USEC": "20000"})
        loop, running = asyncio.get_running_loop(), asyncio.create_task(world.upkeep.run())

        async def heard() -> list[str]:
            return (await asyncio.wait_for(loop.sock_recv(ear, 4096), 20)).decode().split("\n")

        assert await heard() == [
            "STATUS=not ready: waiting for the chain: the RPC has not answered yet; no task underway", "WATCHDOG=1",
        ]  # fmt: skip
        world.upkeep.ready()
        while "READY=1" not in (said := await heard()):
            pass
        assert said == ["READY=1", "STATUS=ready: no task underway"]
        assert await heard() == ["WATCHDOG=1"]
        with world.upkeep.step():
            world.now += 1000
            # A loop that turns around a step that never ends is killed all the same.
            while not (said := await heard())[0].startswith("STATUS=not alive"):
                pass
            assert said[1:] == []
        running.cancel()
        world.log.close()


# ----------------------------------------------------------------------------- money


async def test_money_is_looked_at_once_a_minute_and_the_head_with_it(world: World) -> None:
    await world.look()
    await world.look()
    assert (world.asked, len(world.observed), world.upkeep.balance) == (1, 1, 10**19)
    world.now += module.BALANCE_SECONDS
    await world.look()
    assert world.asked == 2


async def test_an_rpc_that_is_down_changes_nothing(world: World) -> None:
    world.answers = False
    await world.look()
    assert world.upkeep.balance is None
    assert world.lines("balance.low") == []


async def test_money_that_runs_out_is_told_once_with_how_much_to_add(world: World) -> None:
    world.log("task.terms", task=1, **TERMS)
    world.log("phase.enter", task=1, round=2, phase="commit")
    world.log("tx.mined", task=1, round=1, gas=60_000, function="commit")
    world.log("tx.mined", task=1, round=1, gas=240_000, function="post")
    # 300,000 gas a round at 2 gwei; the reserve is what the queue asks for, at 3 gwei.
    cost, reserve = 300_000 * 2 * 10**9, (250_000 * 5 // 4 + 300_000) * 3 * 10**9
    world.balance_wei = reserve + 3 * cost
    for _ in range(3):
        await world.look()
        world.now += module.BALANCE_SECONDS
    (line,) = world.lines("balance.low")
    assert (line["level"], line["code"], line["wei"]) == ("warning", "funds", 2 * cost)
    assert line["data"]["rounds_left"] == 3 and line["data"]["round_cost_wei"] == cost
    assert f"pays for 3 more rounds; add {2 * cost} wei" in line["msg"]
    assert line["msg"] in world.upkeep.health().notes
    world.balance_wei = 0
    await world.look()
    assert [line["level"] for line in world.lines("balance.low")] == ["warning", "error"]
    world.now += module.BALANCE_SECONDS
    world.balance_wei = 10**19
    await world.look()
    assert len(world.lines("balance.low.over")) == 1
    assert not any("add" in note for note in world.upkeep.health().notes)


async def test_a_task_that_is_over_asks_for_no_more_money(world: World) -> None:
    world.log("task.terms", task=1, **TERMS)
    world.log("phase.enter", task=1, round=20, phase="ended")
    world.balance_wei = (250_000 * 5 // 4 + 300_000) * 3 * 10**9
    await world.look()
    assert world.lines("balance.low") == []


async def test_an_empty_account_is_told_before_there_is_a_task(world: World) -> None:
    world.balance_wei = 0
    await world.look()
    (line,) = world.lines("balance.low")
    assert "pays for no transaction" in line["msg"]
