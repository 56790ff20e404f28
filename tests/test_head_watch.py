"""A chain that stands still, a clock that is off, two RPCs that disagree: what is said, and what is not done."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.head_watch import HeadWatch
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError


@dataclass
class Rpc:
    """An RPC that shows these blocks, or fails."""

    hashes: dict[int, bytes] = field(default_factory=dict)
    down: bool = False

    async def block_hash(self, number: int) -> bytes:
        if self.down or number not in self.hashes:
            raise ChainError("no such block")
        return self.hashes[number]


@dataclass
class World:
    folder: Path
    second: Rpc | None = None
    depth: int = 0
    now: float = 0.0
    wall: float = 1000.0
    first: Rpc = field(default_factory=Rpc)

    def __post_init__(self) -> None:
        self.path = self.folder / "log.jsonl"
        self.watch = HeadWatch(
            cast(Chain, self.first),
            cast(Chain, self.second) if self.second else None,
            self.depth,
            60.0,
            30.0,
            Logger(self.path, "owner", "0x00"),
            lambda: self.now,
            lambda: self.wall,
        )

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.path.read_text().splitlines()]


def head(number: int, time: int = 1000, mark: bytes = b"a", parent: bytes = b"?") -> Head:
    return Head(number, time, mark * 32, 0, parent * 32)


def test_a_chain_that_stands_still_is_said_once_and_its_return_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.watch.observe(head(1))
    for now in (30.0, 60.0):
        world.now = now
        world.watch.observe(head(1))
    assert world.events() == []
    for now in (61.0, 100.0):
        world.now = now
        world.watch.observe(head(1))
    assert world.events() == ["chain.stalled"]
    world.watch.observe(head(2, mark=b"b"))
    assert world.events() == ["chain.stalled", "chain.stalled.over"]


@pytest.mark.parametrize("time", [969, 1031])
def test_a_clock_that_is_off_is_said(tmp_path: Path, time: int) -> None:
    world = World(tmp_path)
    world.watch.observe(head(1, time=1030))
    assert world.events() == []
    world.watch.observe(head(2, time=time, mark=b"b"))
    assert world.events() == ["clock.skew"]


async def test_one_rpc_alone_is_believed(tmp_path: Path) -> None:
    assert await World(tmp_path).watch.confirmed(head(1))


@pytest.mark.parametrize("depth", [0, 2])
async def test_nothing_is_done_while_two_rpcs_disagree(tmp_path: Path, depth: int) -> None:
    second = Rpc({5 - depth: b"x" * 32})
    world = World(tmp_path, second, depth)
    world.first.hashes = {5 - depth: b"a" * 32}
    assert not await world.watch.confirmed(head(5))
    assert not await world.watch.confirmed(head(5))
    assert world.events() == ["rpc.disagreement"]
    second.hashes[5 - depth] = b"a" * 32
    assert await world.watch.confirmed(head(5))
    assert world.events() == ["rpc.disagreement", "rpc.disagreement.over"]


async def test_nothing_is_done_while_the_second_rpc_is_down_or_behind(tmp_path: Path) -> None:
    second: Any = Rpc({5: b"a" * 32}, down=True)
    world = World(tmp_path, second)
    assert not await world.watch.confirmed(head(5))
    second.down = False
    assert not await world.watch.confirmed(head(6))
    assert world.events() == ["rpc.unconfirmed"]
    assert await world.watch.confirmed(head(5))


async def test_a_head_continues_what_is_in_its_chain_and_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path)
    earlier = head(5, mark=b"a")
    # The same head, and its child, without asking anybody.
    assert await world.watch.continues(earlier, earlier)
    assert await world.watch.continues(head(6, mark=b"b", parent=b"a"), earlier)
    # Some blocks on: what the RPC shows at the earlier number decides.
    world.first.hashes = {5: b"a" * 32}
    assert await world.watch.continues(head(8, mark=b"c"), earlier)
    world.first.hashes = {5: b"x" * 32}
    assert not await world.watch.continues(head(8, mark=b"c"), earlier)
    # As high, or lower: another branch.
    world.first.hashes = {}
    assert not await world.watch.continues(head(5, mark=b"y"), earlier)
    assert not await world.watch.continues(head(4, mark=b"z"), earlier)
    with pytest.raises(ChainError):
        await world.watch.continues(head(8, mark=b"c"), earlier)
