"""Who is shown which blocks, what that asks of the RPC, and that one task's trouble is not the others'."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from omnilytics.daemon.block_watch import BlockWatch, TaskView
from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.head_watch import HeadWatch
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError
from omnilytics.peers.market import Member, TaskParams, TaskSnapshot
from tests.market_views import PARAMS, seated, state
from tests.part_stubs import LogStub


def head_at(number: int) -> Head:
    return Head(number, 1000 + number, number.to_bytes(32, "big"), 0, (number - 1).to_bytes(32, "big"))


@dataclass
class CountedChain:
    """Counts what it is asked; `away` fails once for every mention."""

    asked: Counter[str] = field(default_factory=Counter)
    round: int = 1
    newest: Head = field(default_factory=lambda: head_at(1))
    heads: int = 0
    away: list[str] = field(default_factory=list)

    def _count(self, name: str) -> None:
        self.asked[name] += 1
        if name in self.away:
            self.away.remove(name)
            raise ChainError("cannot reach RPC")

    async def head(self) -> Head:
        self.heads += 1
        return self.newest

    async def params(self, task: int) -> TaskParams:
        self._count(f"params {task}")
        return PARAMS

    async def snapshot(self, task: int, params: TaskParams, head: Head, depth: int, members: Any) -> TaskSnapshot:
        self._count(f"snapshot {task}")
        return TaskSnapshot(task, params, state(round=self.round), members, head.number, head.time, depth)

    async def members(self, task: int, block: int) -> tuple[Member, ...]:
        self._count(f"members {task}")
        return seated(self.round)


async def test_members_are_read_only_when_they_may_differ() -> None:
    chain = CountedChain()
    view = TaskView(cast(Chain, chain), 2)
    for number in (5, 6, 7):
        snapshot = await view.read(3, head_at(number))
        assert (snapshot.block, snapshot.state_block, len(snapshot.members)) == (number, number - 2, 1)
        assert view.seen == head_at(number).hash
    assert chain.asked == {"params 3": 1, "snapshot 3": 3, "members 3": 1}
    chain.round = 2
    assert len((await view.read(3, head_at(8))).members) == 2
    view.members_changed = True
    await view.read(3, head_at(9))
    await view.read(3, head_at(10))
    assert chain.asked["members 3"] == 3


async def test_what_could_not_be_read_is_not_taken_for_seen() -> None:
    chain = CountedChain()
    view = TaskView(cast(Chain, chain), 0)
    for call in ("params 3", "snapshot 3", "members 3"):
        chain.away = [call]
        with pytest.raises(ChainError):
            await view.read(3, head_at(5))
        assert view.seen == b""
    view.members_changed = True
    assert len((await view.read(3, head_at(5))).members) == 1


class Viewer:
    """Wants every head once."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.tried = 0
        self.reorgs = 0
        self.broken = False

    def behind(self, head: Head) -> bool:
        return self.shown[-1:] != [head.number]

    async def look(self, head: Head) -> int | None:
        self.tried += 1
        if self.broken:
            raise ChainError("no such task")
        self.shown.append(head.number)
        return head.number

    def reorganised(self) -> None:
        self.reorgs += 1


class Heads:
    """Believes every head."""

    def pause(self, least: float) -> float:
        return least

    def observe(self, head: Head) -> None:
        pass

    async def confirmed(self, head: Head) -> bool:
        return True

    async def continues(self, head: Head, earlier: Head) -> bool:
        return head.hash == earlier.hash or head.parent == earlier.hash


class QuickWatch(BlockWatch):
    """Its pauses are turns of the loop."""

    def __init__(self, chain: CountedChain, log: LogStub) -> None:
        super().__init__(cast(Chain, chain), cast(HeadWatch, Heads()), 1e-4, cast(Logger, log))


@asynccontextmanager
async def watching(watch: BlockWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def heads_later(chain: CountedChain, count: int) -> None:
    until = chain.heads + count
    async with asyncio.timeout(20):
        while chain.heads < until:  # noqa: ASYNC110 (no event tells of a look)
            await asyncio.sleep(0)


async def test_one_look_at_the_head_serves_everybody_and_nobody_asks_before_there_is_one() -> None:
    chain, viewers = CountedChain(), [Viewer(), Viewer(), Viewer()]
    watch = QuickWatch(chain, LogStub())
    async with watching(watch):
        for _ in range(20):
            await asyncio.sleep(0)
        assert chain.heads == 0
        for viewer in viewers:
            watch.add(viewer)
        for number in (1, 2, 3):
            chain.newest = head_at(number)
            await heads_later(chain, 3)
        watch.remove(viewers[2])
        chain.newest = head_at(4)
        await heads_later(chain, 3)
    assert [viewer.shown for viewer in viewers] == [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3]]
    assert watch.seen_block == 4


async def test_after_a_reorg_everybody_is_told_also_who_is_passed_over() -> None:
    chain, viewers = CountedChain(), [Viewer(), Viewer()]
    watch = QuickWatch(chain, LogStub())
    for viewer in viewers:
        watch.add(viewer)
    async with watching(watch):
        await heads_later(chain, 3)
        viewers[1].broken = True
        chain.newest = head_at(2)
        await heads_later(chain, 5)
        assert [viewer.reorgs for viewer in viewers] == [0, 0]
        chain.newest = replace(head_at(3), parent=b"another branch")
        await heads_later(chain, 5)
    assert [viewer.reorgs for viewer in viewers] == [1, 1]
    assert viewers[0].shown == [1, 2, 3] and viewers[1].shown == [1]


async def test_a_task_in_trouble_is_passed_over_and_the_others_see_every_block() -> None:
    """It could be of a fork: the RPC is well, and says that there is no such task."""
    chain, log = CountedChain(), LogStub()
    healthy, broken = Viewer(), Viewer()
    broken.broken = True
    watch = QuickWatch(chain, log)
    watch.add(broken)
    watch.add(healthy)
    async with watching(watch):
        for number in range(1, 101):
            chain.newest = head_at(number)
            await heads_later(chain, 2)
        assert set(range(1, 100)) <= set(healthy.shown)
        # Each time after twice as many looks as before, 200 in all.
        assert 6 <= broken.tried <= 9
        assert len([event for event, _ in log.events if event == "rpc.error"]) == broken.tried
        broken.broken = False
        await heads_later(chain, 300)
        assert broken.shown[-1] == 100


async def test_where_nobody_can_look_the_rpc_is_in_trouble_and_the_pause_grows() -> None:
    chain, log = CountedChain(), LogStub()
    viewers = [Viewer(), Viewer()]
    for viewer in viewers:
        viewer.broken = True
    watch = QuickWatch(chain, log)
    for viewer in viewers:
        watch.add(viewer)
    async with watching(watch):
        await heads_later(chain, 5)
        assert viewers[0].tried == viewers[1].tried == len(log.events)
        for viewer in viewers:
            viewer.broken = False
        watch.look_again()
        await heads_later(chain, 2)
    assert viewers[0].shown == viewers[1].shown == [1]
