"""An owner's tasks: how many at once, what goes on after a restart, and that each has its own trouble and secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from omnilytics.daemon import owner_tasks
from omnilytics.daemon.block_watch import Viewer
from omnilytics.daemon.chain import Head
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.node import Node, SnapshotSeen
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.owner_tasks import OwnerTasks, batch_entropy_of
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.transactions import duty_key, is_duty_of
from omnilytics.peers.errors import ChainError, DataError, PolicyError
from omnilytics.peers.hashing import base_context
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import MemberStatus, TaskStatus
from omnilytics.peers.prg import PAD, PAIR, pad_context, pair_context, stream_key
from omnilytics.peers.seeds import derive_pair_seed
from tests.market_views import seated, snapshot, state
from tests.part_stubs import NodeStub
from tests.round_network import secret
from tests.test_task_finder import ROWS, offer

ME = seated(9)[0]


class Blocks:
    """Shows blocks when a test wants."""

    def __init__(self) -> None:
        self.viewers: list[Viewer] = []
        self.number = 0

    def add(self, viewer: Viewer) -> None:
        self.viewers.append(viewer)

    def remove(self, viewer: Viewer) -> None:
        self.viewers.remove(viewer)

    async def next(self) -> None:
        self.number += 1
        head = Head(self.number, 0, self.number.to_bytes(32, "big"), 0, bytes(32))
        for viewer in self.viewers:
            if viewer.behind(head):
                await viewer.look(head)
        await settle()


@dataclass
class StillNode(NodeStub):
    """A node whose parts do nothing until a test ends them: by an error, or well."""

    blocks: Blocks = field(default_factory=Blocks)
    # By task: the parts that were played, and how the last one ends.
    parts: dict[int, list[OwnerPart]] = field(default_factory=dict)
    endings: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    async def play(self, part: OwnerPart, prepared: bool = False) -> None:
        assert prepared and part.task_id is not None
        self.journal.nonce(part.task_id, part.task_id.to_bytes(32, "big"))
        self.parts.setdefault(part.task_id, []).append(part)
        ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.endings[part.task_id] = ending
        await ending


async def settle() -> None:
    """Lets everybody do what can be done now."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StillNode]:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        yield StillNode(ME.account, journal)


def choices_of(most: int = 1, entropy: Callable[[int], bytes] = lambda _: bytes(32), **policy: Any) -> OwnerChoices:
    chosen = Policy(most_tasks=most, maximum_similar_tasks=9, **policy)
    return OwnerChoices(ROWS, entropy, policy=chosen)


@asynccontextmanager
async def playing(
    node: StillNode, choices: OwnerChoices, joins_more: bool = True, named: int | None = None
) -> AsyncIterator[tuple[OwnerTasks, asyncio.Task[None]]]:
    tasks = OwnerTasks(cast(Node, node), choices, joins_more, named)
    task = asyncio.create_task(tasks.play())
    await settle()
    try:
        yield tasks, task
    finally:
        task.cancel()
        await asyncio.wait([task])


# ------------------------------------------------------------------- how many, and which


async def test_up_to_so_many_tasks_are_played_and_the_next_when_one_is_over(node: StillNode) -> None:
    for task in (1, 2, 3):
        offer(node, task)
    async with playing(node, choices_of(2)) as (tasks, life):
        await node.blocks.next()
        assert sorted(node.parts) == [2, 3] == sorted(tasks.played)
        assert [candidate.task for candidate in tasks.finder.candidates] == [1]
        node.endings[3].set_result(None)
        await settle()
        assert sorted(node.parts) == [1, 2, 3] and sorted(tasks.played) == [1, 2]
        assert node.journal.unfinished_tasks() == [1, 2]
        for number in (1, 2):
            node.endings[number].set_result(None)
        await settle()
        assert not tasks.played and not life.done(), "it stays"
        offer(node, 4)
        await node.blocks.next()
        assert tasks.played == (4,)


async def test_what_was_joined_before_is_played_on_whatever_the_policy_says_now(node: StillNode) -> None:
    for task in (1, 2, 3, 4):
        offer(node, task, at=state(status=TaskStatus.RUNNING))
        node.journal.nonce(task, secret(str(task)))
    node.journal.finish_task(3)
    offer(node, 5)
    async with playing(node, choices_of(1, minimum_reward=10**18)) as (tasks, _):
        assert sorted(node.parts) == [1, 2, 4]
        # Three are more than one: there is no place until they are over.
        await node.blocks.next()
        assert sorted(tasks.played) == [1, 2, 4]


async def test_one_that_joins_nothing_more_ends_with_its_last_task(node: StillNode) -> None:
    for task in (1, 2, 3):
        offer(node, task)
    node.journal.nonce(1, secret("1"))
    async with playing(node, choices_of(), joins_more=False, named=2) as (tasks, life):
        assert sorted(tasks.played) == [1, 2]
        node.endings[1].set_result(None)
        await settle()
        assert not life.done()
        node.endings[2].set_result(None)
        await settle()
        assert life.done() and life.exception() is None
        assert node.blocks.viewers == []


async def test_a_named_task_that_does_not_fit_is_said_and_the_joined_ones_go_on(node: StillNode) -> None:
    for task in (1, 2):
        offer(node, task)
    node.journal.nonce(1, secret("1"))
    node.journal.decide(2, False)
    async with playing(node, choices_of(), joins_more=False, named=2) as (tasks, _):
        (said,) = node.said("task.failed")
        assert (said["task"], said["msg"], said["code"]) == (2, "you have refused task 2", PolicyError.code)
        assert tasks.played == (1,) and node.journal.unfinished_tasks() == [1]


async def test_the_owners_word_is_heard_without_a_block(node: StillNode) -> None:
    offer(node, 1)
    async with playing(node, choices_of(ask_first=True)) as (tasks, _):
        await node.blocks.next()
        assert not tasks.played
        node.journal.decide(1, True)
        tasks.look_again()
        await settle()
        assert tasks.played == (1,)


# ---------------------------------------------------------------------------- trouble


async def test_nothing_is_joined_before_the_terms_of_what_was_joined_are_known(
    node: StillNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they may still take counts: here two tasks of a kind are one too many."""
    monkeypatch.setattr(owner_tasks, "RPC_RETRY_SECONDS", 0.01)
    for task in (1, 2):
        offer(node, task)
    node.journal.nonce(1, secret("1"))
    honest, away = node.chain.created_task, True

    async def created_task(task: int, until: int) -> tuple[bytes, bytes]:
        if task == 1 and away:
            raise ChainError("cannot reach RPC")
        return await honest(task, until)

    monkeypatch.setattr(node.chain, "created_task", created_task)
    choices = choices_of(2)
    choices.policy = replace(choices.policy, maximum_similar_tasks=1)
    async with playing(node, choices) as (tasks, _):
        await node.blocks.next()
        assert tasks.finder.candidates == () and tasks.played == (1,)
        away = False
        async with asyncio.timeout(20):
            while not tasks.finder.candidates:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert tasks.played == (1,)
        (refused,) = node.said("task.refused")
        assert refused["task"] == 2 and "is like 1 earlier ones" in refused["msg"]


@pytest.mark.parametrize("trouble", [DataError("the rows have changed"), ChainError("no such task")], ids=repr)
async def test_a_task_that_fails_is_taken_up_again_and_the_others_go_on(
    node: StillNode, trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_tasks, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(owner_tasks, "RPC_RETRY_SECONDS", 0.01)
    for task in (1, 2):
        offer(node, task)
    async with playing(node, choices_of(2)) as (tasks, life):
        await node.blocks.next()
        first = node.endings[2]
        node.endings[1].set_exception(trouble)
        await settle()
        (said,) = node.said("task.failed" if isinstance(trouble, DataError) else "rpc.error")
        assert (said["task"], said["msg"]) == (1, str(trouble))
        # A stake hangs on it: its place is kept.
        assert sorted(tasks.played) == [1, 2] and sorted(tasks._choices.active) == [1, 2]
        async with asyncio.timeout(20):
            while len(node.parts[1]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert node.parts[1][0] is not node.parts[1][1], "as after a restart: nothing of a round is kept"
        assert len(node.parts[2]) == 1 and node.endings[2] is first and not life.done()
        assert node.journal.unfinished_tasks() == [1, 2]


async def test_a_bug_is_not_one_tasks_trouble(node: StillNode) -> None:
    offer(node, 1)
    async with playing(node, choices_of()) as (_, life):
        await node.blocks.next()
        node.endings[1].set_exception(ZeroDivisionError())
        await settle()
        assert isinstance(life.exception(), ZeroDivisionError)


async def test_an_rpc_that_is_away_while_it_looks_is_asked_again(
    node: StillNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> int:
        raise ChainError("cannot reach RPC")

    offer(node, 1)
    async with playing(node, choices_of()) as (tasks, life):
        with monkeypatch.context() as patched:
            patched.setattr(node.chain, "task_count", away)
            await node.blocks.next()
        assert node.said("rpc.error") and not life.done()
        await node.blocks.next()
        assert tasks.played == (1,)


async def test_the_end_ends_all_of_them(node: StillNode) -> None:
    for number in (1, 2):
        offer(node, number)
    async with playing(node, choices_of(2)) as (_, life):
        await node.blocks.next()
        life.cancel()
        await settle()
        assert life.cancelled() and all(ending.cancelled() for ending in node.endings.values())
    assert node.journal.unfinished_tasks() == [1, 2]


# ------------------------------------------------------- nothing of a round is shared


async def test_two_tasks_never_share_the_key_of_a_transaction(node: StillNode) -> None:
    """Both are in the same phase and owe the same: each is sent, once."""
    node.transactions.remembers = True
    joined = replace(ME, status=MemberStatus.JOINED)
    for task in (1, 2):
        offer(node, task)
    async with playing(node, choices_of(2)):
        await node.blocks.next()
        for _ in range(2):
            for task in (1, 2):
                (part,) = node.parts[task]
                others = seated(9)[1:]
                seen = snapshot(state(status=TaskStatus.REVEALING, round=0), (joined, *others))
                await part.handle(SnapshotSeen(replace(seen, task_id=task)))
    assert node.transactions.sent == [("reveal", (task, task.to_bytes(32, "big")), 0) for task in (1, 2)], (
        "with nonces of their own"
    )
    assert not is_duty_of(1, duty_key(11, "reveal")) and is_duty_of(1, duty_key(1, "reveal"))
    assert not is_duty_of(None, duty_key(1, "reveal"))


def test_batches_are_a_tasks_own_also_from_one_seed() -> None:
    """The same batch with the same noise in two tasks would give away more than either."""
    seed: Callable[[int], bytes] = lambda number: secret(f"seed {number}")  # noqa: E731
    drawn = {batch_entropy_of(task, seed)(number) for task in (1, 2) for number in (0, 1, 2)}
    assert len(drawn) == 6 and {len(entropy) for entropy in drawn} == {32}
    assert batch_entropy_of(1, seed)(1) == batch_entropy_of(1, seed)(1)


async def test_a_part_draws_its_batches_from_its_tasks_entropy(node: StillNode) -> None:
    for task in (1, 2):
        offer(node, task)
    async with playing(node, choices_of(2, lambda number: secret(f"seed {number}"))):
        await node.blocks.next()
        drawn = [node.parts[task][0]._choices.batch_entropy(1) for task in (1, 2)]
    assert drawn[0] != drawn[1]


def contexts() -> list[bytes]:
    """Of the same round with the same model, keys and pads, in two tasks."""
    same = secret("params"), secret("payload"), 1, secret("key hash"), [secret("pad hash")]
    return [base_context(31337, bytes(20), task, 1, *same) for task in (1, 2)]


def test_two_tasks_never_share_a_pair_seed_even_with_the_same_ephemeral_keys() -> None:
    mine, mates = (BoxIdentity.from_entropy(secret(name)) for name in ("mine", "mate's"))
    seeds = {derive_pair_seed(mine, mates.public, ctx, bytes(20), b"\1" * 20, True) for ctx in contexts()}
    assert len(seeds) == 2


def test_two_tasks_never_share_a_mask_even_with_the_same_seeds() -> None:
    keys = {stream_key(secret("seed"), PAIR, pair_context(ctx, 0, bytes(20), b"\1" * 20)) for ctx in contexts()}
    keys |= {stream_key(secret("seed"), PAD, pad_context(ctx, 0)) for ctx in contexts()}
    assert len(keys) == 4


# ------------------------------------------------------------ what they take together


async def test_a_round_is_allowed_only_if_every_other_task_may_post_one_first(node: StillNode) -> None:
    for task in (1, 2):
        offer(node, task)
    async with playing(node, choices_of(2)):
        await node.blocks.next()
        parts = [node.parts[task][0] for task in (1, 2)]
        assert [(promise.task, promise.rounds) for part in parts for promise in part._on_their_way()] == [
            (2, 1),
            (1, 1),
        ]
        node.endings[2].set_result(None)
        await settle()
        assert parts[0]._on_their_way() == []
