"""Finding a task: who has a say, in which order, and what is told of every open task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from omnilytics.daemon.journal import Journal
from omnilytics.daemon.node import Node
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_finder import LOOK_SECONDS, TaskFinder, Verdict
from omnilytics.daemon.training.data import Dataset
from omnilytics.peers.errors import ChainError, ModelMismatchError, PolicyError
from omnilytics.peers.market import TaskParams, TaskState, TaskStatus
from tests.market_views import MODEL_OWNER, PARAMS, seated, state
from tests.part_stubs import ChainStub, NodeStub

SPEC = TaskSpec("softmax", 19, ("a", "b"), 0.5, 16)
ROWS = Dataset(np.zeros((64, 19)), np.arange(64) % 2, ("a", "b"))
JOINING = state(status=TaskStatus.JOINING)


@dataclass
class CountedChain(ChainStub):
    """Counts what it is asked."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    async def state(self, task: int, block: int | None = None) -> TaskState:
        self.asked.append(("state", task))
        return await super().state(task, block)

    async def created_task(self, task: int, until: int) -> tuple[bytes, bytes]:
        self.asked.append(("created_task", task))
        return await super().created_task(task, until)


@pytest.fixture
def chain() -> CountedChain:
    return CountedChain()


@pytest.fixture
def node(tmp_path: Path, chain: CountedChain) -> Iterator[NodeStub]:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        yield NodeStub(seated(9)[0].account, journal, chain=chain)


def offer(node: NodeStub, task: int, spec: bytes = SPEC.encode(), at: TaskState = JOINING, **changes: Any) -> None:
    params: TaskParams = replace(PARAMS, **changes)
    node.chain.tasks[task] = spec, params, at


def finder_of(node: NodeStub, **policy: Any) -> TaskFinder:
    return TaskFinder(cast(Node, node), OwnerChoices(ROWS, lambda _: bytes(32), policy=Policy(**policy)))


def listed(finder: TaskFinder) -> dict[int, tuple[Verdict, str]]:
    return {candidate.task: (candidate.verdict, candidate.reason) for candidate in finder.candidates}


async def test_the_newest_that_all_allow_is_picked_and_every_other_has_its_reason(node: NodeStub) -> None:
    offer(node, 1)
    offer(node, 2)
    offer(node, 3, rate=1)
    offer(node, 4, b"no description")
    offer(node, 5, value_count=41)
    offer(node, 6, at=state(status=TaskStatus.RUNNING))
    node.journal.decide(2, False)
    finder = finder_of(node, minimum_reward=2)
    found = await finder.look()
    assert found is not None and found.offer.task == 1
    assert (found.offer.spec, found.offer.params, found.offer.model_owner) == (SPEC, PARAMS, MODEL_OWNER)
    assert found.dataset.classes == SPEC.classes
    told = listed(finder)
    assert list(told) == [5, 4, 3, 2, 1]
    assert told[5] == (Verdict.REFUSED, "the task's model has 40 values, its vectors 41")
    assert told[4][0] is Verdict.REFUSED and told[4][1].startswith("the task's description cannot be used")
    assert told[3] == (
        Verdict.REFUSED,
        "task 3 pays 1 wei an owner and round, the policy wants 2 (minimum_reward)",
    )
    assert told[2] == (Verdict.REFUSED, "you have refused task 2")
    assert told[1] == (Verdict.ACCEPTED, SPEC.means.promise)
    assert [candidate.spec for candidate in finder.candidates] == [SPEC, None, SPEC, SPEC, SPEC]
    refused = {said["task"]: said["code"] for said in node.said("task.refused")}
    assert refused == {5: ModelMismatchError.code, 4: "parameter", 3: PolicyError.code, 2: PolicyError.code}


async def test_a_task_that_must_be_asked_for_waits_for_a_yes(node: NodeStub) -> None:
    offer(node, 1)
    offer(node, 2)
    finder = finder_of(node, ask_first=True)
    for _ in range(3):
        assert await finder.look() is None
    assert {verdict for verdict, _ in listed(finder).values()} == {Verdict.WAITING}
    assert [said["task"] for said in node.said("task.waiting")] == [2, 1], "each once"
    node.journal.decide(2, False)
    assert await finder.look() is None
    assert {task: verdict for task, (verdict, _) in listed(finder).items()} == {
        2: Verdict.REFUSED,
        1: Verdict.WAITING,
    }
    node.journal.decide(1, True)
    found = await finder.look()
    assert found is not None and found.offer.task == 1


async def test_a_yes_outweighs_no_policy(node: NodeStub) -> None:
    offer(node, 1, rate=1)
    node.journal.decide(1, True)
    for ask_first in (False, True):
        finder = finder_of(node, ask_first=ask_first, minimum_reward=2)
        assert await finder.look() is None
        assert listed(finder)[1][0] is Verdict.REFUSED and "(minimum_reward)" in listed(finder)[1][1]


async def test_a_task_that_was_refused_is_not_joined_by_name_either(node: NodeStub) -> None:
    offer(node, 1)
    node.journal.decide(1, False)
    with pytest.raises(PolicyError, match="you have refused task 1") as caught:
        await finder_of(node).accept(1)
    assert "accept it" in caught.value.help
    # It may think again; and a no that comes after joining is too late: a stake is on the chain.
    node.journal.decide(1, True)
    assert (await finder_of(node).accept(1)).offer.task == 1
    node.journal.nonce(1, bytes(32))
    node.journal.decide(1, False)
    assert (await finder_of(node).accept(1)).offer.task == 1


async def test_naming_a_task_is_a_word_on_it(node: NodeStub) -> None:
    offer(node, 1)
    assert (await finder_of(node, ask_first=True).accept(1)).offer.task == 1


async def test_a_long_market_costs_a_call_for_each_open_task(node: NodeStub, chain: CountedChain) -> None:
    """Closed tasks are asked for once, descriptions are read once; what is joined is read again."""
    for task in range(1, 9):
        offer(node, task, at=state(status=TaskStatus.ENDED))
    offer(node, 9)
    finder = finder_of(node, ask_first=True)
    await finder.look()
    assert len(chain.asked) == 9 + 1
    chain.asked.clear()
    await finder.look()
    assert chain.asked == [("state", 9)]
    chain.asked.clear()
    node.journal.decide(9, True)
    # A reorg has put another task in its place meanwhile.
    offer(node, 9, rate=0)
    finder._choices.policy = Policy(ask_first=True, minimum_reward=1)
    assert await finder.look() is None
    assert chain.asked == [("state", 9), ("created_task", 9)]
    assert listed(finder)[9][0] is Verdict.REFUSED


async def test_tasks_that_are_played_already_are_passed_over(node: NodeStub) -> None:
    offer(node, 1)
    offer(node, 2)
    finder = finder_of(node)
    found = await finder.look()
    assert found is not None and found.offer.task == 2
    finder._choices.active[2] = found.offer
    found = await finder.look()
    assert found is not None and found.offer.task == 1


async def test_where_nothing_more_is_joined_all_that_is_open_is_listed(node: NodeStub) -> None:
    for task in (1, 2, 3):
        offer(node, task)
    finder = finder_of(node)
    assert await finder.look(pick=False) is None
    assert [verdict for verdict, _ in listed(finder).values()] == [Verdict.ACCEPTED] * 3


async def test_what_tasks_that_are_played_may_still_take_counts_as_taken(node: NodeStub) -> None:
    """Two tasks that are alike are one too many here, though not a byte of the first is posted yet."""
    offer(node, 1)
    offer(node, 2)
    finder = finder_of(node, maximum_similar_tasks=1)
    first = await finder.look()
    assert first is not None
    finder._choices.active[2] = first.offer
    assert await finder.look() is None
    assert listed(finder)[1] == (
        Verdict.REFUSED,
        "task 1 is like 1 earlier ones of its model owner, the policy allows 1 (maximum_similar_tasks)",
    )
    # It was cancelled, say, and has taken nothing.
    del finder._choices.active[2]
    node.chain.tasks[2] = (*node.chain.tasks[2][:2], state(status=TaskStatus.CANCELLED))
    second = await finder.look()
    assert second is not None and second.offer.task == 1


async def test_it_waits_for_a_task(node: NodeStub) -> None:
    node.settings = SimpleNamespace(poll_seconds=0.001)  # type: ignore[attr-defined]
    searching = asyncio.create_task(finder_of(node).find())
    await asyncio.sleep(0)
    assert not searching.done()
    offer(node, 1)
    node.chain.head_hash = b"n" * 32
    assert (await searching).offer.task == 1


async def test_a_quiet_market_is_looked_through_once_a_block_and_now_and_then(
    node: NodeStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.settings = SimpleNamespace(poll_seconds=0.0)  # type: ignore[attr-defined]
    heads, looks, now = 0, 0, 0.0
    node.clock = lambda: now
    finder, head = finder_of(node), node.chain.head

    async def asked() -> Any:
        nonlocal heads
        heads += 1
        return await head()

    async def look(pick: bool = True) -> Any:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(node.chain, "head", asked)
    monkeypatch.setattr(finder, "look", look)
    searching = asyncio.create_task(finder.find())

    async def some() -> int:
        before = heads
        while heads < before + 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return looks

    assert await some() == 1
    node.chain.head_hash = b"n" * 32
    assert await some() == 2
    # The owner may have said a word on a task meanwhile.
    now = LOOK_SECONDS
    assert await some() == 3
    searching.cancel()


async def test_trouble_with_the_chain_is_no_refusal(node: NodeStub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(task: int, until: int) -> Any:
        raise ChainError("cannot reach RPC")

    offer(node, 1)
    finder = finder_of(node)
    with monkeypatch.context() as patched:
        patched.setattr(node.chain, "created_task", away)
        with pytest.raises(ChainError):
            await finder.look()
    assert finder.candidates == () and not node.said("task.refused")
    assert await finder.look() is not None
