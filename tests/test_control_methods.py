"""The questions that a daemon answers, and the orders that it takes, on a node that is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omnilytics.daemon.chain import Head
from omnilytics.daemon.control.methods import MOST_LINES, DaemonControl
from omnilytics.daemon.control.server import ControlServer
from omnilytics.daemon.control.task_list import TaskList
from omnilytics.daemon.health import Health
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.log import Logger
from omnilytics.daemon.node import Node
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_finder import Candidate, Verdict
from omnilytics.peers.errors import ChainError, ParameterError
from omnilytics.peers.market import Member, RoundPhase, TaskSnapshot, TaskState, TaskStatus
from tests.market_views import MODEL_OWNER, PARAMS, address, member, seated, snapshot, state

ME = address(4)
SPEC = TaskSpec("softmax", 3, ("0", "1"), 1.0, 16)


class ChainOfFacts:
    """A chain that counts how often it is asked."""

    chain_id = 31337
    market = bytes([0x11]) * 20

    def __init__(self) -> None:
        self.fails = False
        self.asked: list[str] = []
        self.now: tuple[Member, ...] = tuple(member(number, flags=1, round_number=1) for number in range(9))
        self.states = {1: state(status=TaskStatus.ENDED), 2: state(status=TaskStatus.JOINING, member_count=2)}

    def _count(self, name: str) -> None:
        self.asked.append(name)
        if self.fails:
            raise ChainError("cannot reach RPC")

    async def head(self) -> Head:
        return Head(100, 500, bytes(32), 0, bytes(32))

    async def members(self, task: int, block: int | None = None) -> tuple[Member, ...]:
        self._count("members")
        return self.now

    async def balance(self, account: bytes) -> int:
        self._count("balance")
        return 7

    async def task_count(self) -> int:
        return len(self.states)

    async def state(self, task: int, block: int | None = None) -> TaskState:
        return self.states[task]


@dataclass
class Player:
    """Who plays one task."""

    task_id: int | None = None
    snapshot: TaskSnapshot | None = None
    stage: str | None = None


class World:
    """A control, its node, and what they are made of."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal.sqlite")
        self.log = Logger(folder / "log.jsonl", "owner", "0x" + ME.hex())
        self.chain = ChainOfFacts()
        self.stopped = asyncio.Event()
        self.well = Health(live=True, ready=True, notes=("add 5 wei",), waiting="no task underway")
        self.heads = SimpleNamespace(number=100, time=500, skew=0.1, age=lambda: 2.0)
        self.node = SimpleNamespace(
            me=ME,
            state="ready",
            started_at=10.0,
            blocks=SimpleNamespace(seen_block=100),
            parts=(),
            clock=lambda: 52.0,
            log=self.log,
            journal=self.journal,
            chain=self.chain,
            heads=self.heads,
            broker=SimpleNamespace(connected=asyncio.Event()),
            transactions=SimpleNamespace(pending_count=3),
            upkeep=SimpleNamespace(health=lambda: self.well),
            stop=self.stopped.set,
        )
        self.node.broker.connected.set()
        self.decisions = 0
        tasks = TaskList(cast(Any, self.chain), self.journal, self.judge, ask_first=True, decided=self.decided)
        self.control = DaemonControl(cast(Node, self.node), "owner", tasks, {"policy": {}})

    def plays(self, *players: Player) -> None:
        self.node.parts = players

    def decided(self) -> None:
        self.decisions += 1

    async def judge(self, task: int, seen: TaskState) -> Candidate:
        spec = SPEC if task != 3 else None
        return Candidate(task, MODEL_OWNER, spec, PARAMS, Verdict.WAITING, "data and policy allow it (ask_first)")

    async def asked(self, method: str, **params: Any) -> dict[str, Any]:
        """As over the socket."""
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        said: dict[str, Any] = json.loads(await ControlServer(self.control.methods(), self.log).answer(line))
        return said


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with closing(made.journal), closing(made.log):
        yield made


async def test_the_status_has_what_is_waited_for_by_the_members_of_its_very_block(world: World) -> None:
    seen = snapshot(state(phase=RoundPhase.COMMIT, round=1, phase_end=544), seated(9))
    world.plays(Player(1, seen, "committed"))
    told = (await world.asked("status"))["result"]
    (task,) = told["tasks"]
    # The clock is the chain's, and goes on between blocks; the snapshot's own members had not committed yet.
    assert task["waiting"] == "waiting: 9 of 9 owners committed, 42 s left"
    assert (told["uptime_s"], told["queue"], told["balance_wei"]) == (42.0, {"pending": 3}, 7)
    assert told["health"] == {"live": True, "ready": True, "reasons": [], "notes": ["add 5 wei"]}
    assert told["health"] == (await world.asked("health"))["result"]
    assert told["broker"] == {"connected": True}
    await world.asked("status")
    assert world.chain.asked == ["members", "balance"], "asked once a block"
    world.heads.number = 101
    await world.asked("status")
    assert world.chain.asked == ["members", "balance", "balance"]


async def test_a_chain_that_is_gone_leaves_the_rest_of_the_status(world: World) -> None:
    world.plays(Player(1, snapshot(state(phase=RoundPhase.COMMIT, round=1), seated(9))))
    world.chain.fails = True
    told = (await world.asked("status"))["result"]
    assert told["balance_wei"] is None and told["tasks"][0]["waiting"].startswith("waiting: 0 of 9")


async def test_before_the_chain_answers_it_says_why_it_waits(world: World) -> None:
    world.node.state = "starting"
    del world.node.broker
    world.heads.number = world.heads.time = None
    world.heads.age = lambda: None
    world.well = Health(live=True, ready=False, reasons=("waiting for the chain",))
    told = (await world.asked("status"))["result"]
    assert told["health"] == {"live": True, "ready": False, "reasons": ["waiting for the chain"], "notes": []}
    assert (told["chain"]["head_block"], told["balance_wei"], told["tasks"]) == (None, None, [])
    for method, params in (("tasks", {}), ("earnings", {}), ("accept", {"task": 2})):
        assert "does not answer yet" in (await world.asked(method, **params))["error"]["message"], method
    assert world.chain.asked == []


async def test_open_tasks_and_our_own_are_listed_newest_first(world: World) -> None:
    told = (await world.asked("tasks"))["result"]
    assert told["ask_first"] is True
    (task,) = told["tasks"]
    assert (task["task"], task["verdict"], task["decision"], task["ours"]) == (2, "waiting for your word", None, False)
    assert task["trains"]["class_names"] == ["0", "1"] and task["promise"] == SPEC.means.promise
    assert (task["joins_left_s"], task["rate_wei"], task["most_owners"]) == (500, PARAMS.rate, 9)
    world.plays(Player(1))
    assert [(task["task"], task["ours"]) for task in (await world.asked("tasks"))["result"]["tasks"]] == [
        (2, False),
        (1, True),
    ]


async def test_a_task_whose_time_is_up_or_that_nobody_can_read(world: World) -> None:
    world.chain.states[2] = state(status=TaskStatus.JOINING, phase_end=500)
    world.chain.states[3] = state(status=TaskStatus.JOINING)
    (task,) = (await world.asked("tasks"))["result"]["tasks"]
    assert task["task"] == 3 and task["trains"] is None and task["promise"] is None


async def test_the_users_word_is_kept_and_logged(world: World) -> None:
    assert (await world.asked("accept", task=2))["result"] == {"task": 2, "decision": "accepted"}
    assert world.journal.decision(2) is True
    assert (await world.asked("refuse", task=2))["result"] == {"task": 2, "decision": "refused"}
    assert world.journal.decision(2) is False
    assert (await world.asked("tasks"))["result"]["tasks"][0]["decision"] == "refused"
    assert world.decisions == 2, "whoever waits for a word is told at once"
    said = [line["msg"] for line in world.log.tail.read("", 0, 9).lines if line["event"] == "task.decided"]
    assert said == ["the user accepted task 2", "the user refused task 2"]


async def test_what_cannot_be_decided_is_refused_in_words(world: World) -> None:
    for task, words in ((9, "there is no task 9"), (1, "takes no more owners")):
        error = (await world.asked("accept", task=task))["error"]
        assert words in error["message"] and error["data"]["code"] == ParameterError.code and error["data"]["help"]
    world.journal.nonce(2, bytes(32))
    assert "joined already" in (await world.asked("refuse", task=2))["error"]["message"]
    world.plays(Player(2))
    assert "joined already" in (await world.asked("accept", task=2))["error"]["message"]
    assert world.journal.decision(2) is None
    for params in ({}, {"task": 0}, {"task": "2"}, {"task": 2, "accepted": True}):
        assert "error" in await world.asked("accept", **params)


async def test_a_model_owner_decides_of_no_tasks(world: World) -> None:
    control = DaemonControl(cast(Node, world.node), "model", None, {})
    assert not {"tasks", "accept", "refuse"} & set(control.methods())
    assert {"status", "health", "earnings", "policy", "logs", "log_level", "stop"} == set(control.methods())


async def test_the_log_is_read_on_from_its_cursor(world: World) -> None:
    world.log("a", "one")
    world.log("b", "two", "debug")
    first = (await world.asked("logs", limit=5))["result"]
    assert [line["msg"] for line in first["lines"]] == ["one", "two"]
    world.log("c", "three")
    told = (await world.asked("logs", cursor=first["cursor"], level="info"))["result"]
    assert [line["msg"] for line in told["lines"]] == ["three"] and told["missed"] == 0
    for params in ({"limit": 0}, {"limit": MOST_LINES + 1}, {"level": "loud"}, {"cursor": "x" * 65}, {"cursor": 5}):
        assert "error" in await world.asked("logs", **params), params


async def test_the_level_is_read_and_changed(world: World) -> None:
    assert (await world.asked("log_level"))["result"] == {"level": "debug"}
    assert (await world.asked("log_level", level="warning"))["result"] == {"level": "warning"}
    assert (await world.asked("status"))["result"]["log_level"] == "warning"
    assert "error" in await world.asked("log_level", level="none")


async def test_it_stops_once_it_has_said_so(world: World) -> None:
    assert (await world.asked("stop"))["result"]["stopping"] is True
    async with asyncio.timeout(20):
        await world.stopped.wait()


async def test_without_a_socket_the_daemon_lives_on_and_says_so(world: World, tmp_path: Path) -> None:
    world.node.settings = SimpleNamespace(home=tmp_path)
    (tmp_path / "control.sock").write_text("mine")
    await world.control.run()
    (line,) = world.log.tail.read("", 0, 9).lines
    assert (line["event"], line["level"], line["code"]) == ("control.unavailable", "warning", "control")
