"""The model owner's part where it selects: once, the same in every life, nothing that it has no secrets for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from omnilytics.daemon.chain import PostedPart
from omnilytics.daemon.events import WorkDone
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.model import ModelPart
from omnilytics.daemon.model_play import ModelChoices
from omnilytics.daemon.node import Node, SnapshotSeen
from omnilytics.daemon.protection.sides import Learned
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.data import Dataset
from omnilytics.peers.errors import ChainError, OmniLyticsError, VectorError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.market import Outcome, RoundOpening, RoundPhase, TaskSnapshot, TaskStatus, bitmap, bits
from tests.market_views import MODEL_OWNER, snapshot, state
from tests.part_stubs import NodeStub
from tests.round_network import CTX, secret
from tests.test_aggregate import OWN, masked, mean_of, pads_of

SPEC = TaskSpec("softmax", 1, ("a", "b"), 2.0, 1)
ROWS = Dataset(np.zeros((2, 1)), np.array([0, 1], dtype=np.int64), ("a", "b"))


@dataclass
class Side:
    """A model owner's side that selects by lot, with the round's entropy, and learns the sum of all averages."""

    refuses: bool = False

    def begin(self) -> Learned:
        return Learned(np.zeros(OWN.value_count), b"")

    def publish(self, learned: Learned, round_number: int, entropy: bytes) -> bytes:
        return b"published" + entropy

    def choose(
        self, learned: Learned, entropy: bytes, means: Mapping[int, NDArray[np.float64]], faulty: int, strict: bool
    ) -> tuple[int, ...]:
        if self.refuses:
            raise VectorError("statistic value 3 is not finite")
        drawn = sorted(means, key=lambda group: hashlib.sha256(entropy + bytes([group])).digest())
        return tuple(sorted(drawn[: len(means) - faulty - (2 if strict else 0)]))

    def trust(
        self,
        learned: Learned,
        entropy: bytes,
        means: Mapping[int, NDArray[np.float64]],
        selected: tuple[int, ...],
    ) -> tuple[int, ...]:
        return selected

    def learn(self, learned: Learned, entropy: bytes, average: NDArray[np.float64]) -> Learned:
        return Learned(learned.weights + average, entropy)

    def accuracy(self, learned: Learned, rows: Dataset) -> float:
        return 0.5


# One round: nothing is opened after it.
STRICT = replace(OWN, strict_selection=True, rounds=1)


def opening(round_number: int) -> RoundOpening:
    pads = tuple(keccak(seed) for seed in pads_of(OWN))
    return RoundOpening(1, round_number, CTX, bytes(32), bytes(32), bytes(32), bytes(32), 1, pads, 63, 0, 0)


@pytest.fixture
def node(tmp_path: Path) -> NodeStub:
    node = NodeStub(MODEL_OWNER, Journal(tmp_path / "journal.sqlite"))
    node.transactions.remembers = True
    node.chain.parts = [PostedPart(seat, 0, vector) for seat, vector in masked(OWN).items()]
    for number in (1, 2):
        node.chain.openings[number] = opening(number)
        node.journal.store_round_secrets(1, number, secret("model key"), pads_of(OWN))
    return node


async def part_of(node: NodeStub, side: Side | None = None) -> ModelPart:
    async def make_offer(chain: object) -> Any:
        raise AssertionError("the task is there")

    part = ModelPart(cast(Node, node), ModelChoices(make_offer, SPEC, side or Side(), ROWS), 1)
    await part.prepare()
    return part


def settling(block: int = 100, round_number: int = 1, **changes: Any) -> TaskSnapshot:
    values = {"group_count": 6, "complete": 0b111111, "phase": RoundPhase.SETTLE, "round": round_number}
    return snapshot(state(**(values | changes)), (), block=block, params=STRICT)


def ended(node: NodeStub, outcome: Outcome, selected: int | None = None, round_number: int = 1) -> TaskSnapshot:
    """The round is over, and the logs say how."""
    node.chain.events = {"RoundEnded": [{"outcome": outcome}], "PostClosed": [{"complete": 0b111111}]}
    if selected is not None:
        node.chain.events["GroupsSelected"] = [{"complete": 0b111111, "selected": selected}]
    return settling(block=110, phase=RoundPhase.IDLE, round_number=round_number)


def selections(node: NodeStub) -> list[tuple[Any, ...]]:
    return [arguments for function, arguments, _ in node.transactions.sent if function == "selectGroups"]


async def test_it_selects_once(node: NodeStub) -> None:
    part = await part_of(node)
    for block in (100, 101, 102):
        await part.handle(SnapshotSeen(settling(block)))
    assert len(node.working) == 1, "what is under way is not begun again"
    await node.work_done()
    ((task, ctx, chosen),) = selections(node)
    assert (task, ctx) == (1, CTX)
    assert len(bits(chosen)) == 6 - 1 - 2
    await part.handle(SnapshotSeen(settling(103)))
    assert not node.working and len(selections(node)) == 1


async def test_every_life_selects_the_same_groups(node: NodeStub) -> None:
    """A life that died after its transaction was sent must not name others: the round's entropy is in the journal."""
    chosen = set()
    for _ in range(4):
        node.transactions.known.clear()
        part = await part_of(node)
        await part.handle(SnapshotSeen(settling()))
        await node.work_done()
        chosen.add(selections(node)[-1])
    assert len(selections(node)) == 4 and len(chosen) == 1
    # Another folder has another entropy, and may choose others: there is a choice at all.
    secrets = [node.journal.bind(f"protection of task {task}", node.entropy(32)) for task in range(2, 8)]
    assert len(set(secrets)) == 6


async def test_it_is_silent_where_the_rounds_secrets_are_elsewhere(node: NodeStub, tmp_path: Path) -> None:
    """The deadline pays everybody; a selection made of noise would not even be refused by the contract."""
    elsewhere = replace(node, journal=Journal(tmp_path / "other.sqlite"))
    part = await part_of(elsewhere)
    await part.handle(SnapshotSeen(settling()))
    assert not elsewhere.working and not selections(elsewhere)
    await part.handle(SnapshotSeen(ended(elsewhere, Outcome.LATE)))
    await elsewhere.work_done()
    (done,) = elsewhere.said("round.done")
    assert (done["outcome"], done["selected_groups"]) == ("late", [])
    newest = elsewhere.journal.newest_model(1)
    assert newest is not None and newest[0] == 1 and not np.any(newest[1])


async def test_an_earlier_round_is_learnt_before_groups_are_selected(node: NodeStub) -> None:
    """What is known decides which groups help: a selection without it would be another one."""
    part = await part_of(node)
    ended(node, Outcome.LATE)
    await part.handle(SnapshotSeen(settling(round_number=2)))
    assert len(node.working) == 1
    await node.work_done()
    assert len(node.said("round.done")) == 1 and not selections(node)
    await part.handle(SnapshotSeen(settling(block=101, round_number=2)))
    await node.work_done()
    assert len(selections(node)) == 1


async def test_missing_logs_are_looked_for_again_with_the_next_block(node: NodeStub) -> None:
    part = await part_of(node)
    whole = node.chain.parts
    node.chain.parts = whole[:-1]
    await part.handle(SnapshotSeen(settling(100)))
    await node.work_done()
    assert len(node.said("logs.incomplete")) == 1 and not selections(node)
    node.chain.parts = whole
    await part.handle(SnapshotSeen(settling(100)))
    assert not node.working, "this block shows no more than it did"
    await part.handle(SnapshotSeen(settling(101)))
    await node.work_done()
    assert len(selections(node)) == 1


async def test_what_it_cannot_make_sense_of_is_raised(node: NodeStub) -> None:
    part = await part_of(node, Side(refuses=True))
    await part.handle(SnapshotSeen(settling()))
    with pytest.raises(OmniLyticsError, match="not finite"):
        await node.work_done()
    assert not selections(node)


async def test_what_was_selected_is_what_is_learnt(node: NodeStub) -> None:
    """Also by a life that would choose others, and once only."""
    chosen = (0, 3, 5)
    for life in range(3):
        part = await part_of(node)
        await part.handle(SnapshotSeen(ended(node, Outcome.SELECTED, bitmap(chosen))))
        assert len(node.working) == (1 if life == 0 else 0)
        if node.working:
            await node.work_done()
    newest = node.journal.newest_model(1)
    assert newest is not None and newest[0] == 1
    assert newest[1] == pytest.approx(mean_of(*chosen))
    assert sorted(node.journal.group_sums(1)) == [(1, group) for group in range(6)]
    (done,) = node.said("round.done")
    assert done["selected_groups"] == list(chosen) and done["complete_groups"] == list(range(6))
    assert not node.said("krum.disagreement")


async def test_late_it_learns_what_it_would_have_selected(node: NodeStub) -> None:
    part = await part_of(node)
    await part.handle(SnapshotSeen(settling()))
    await node.work_done()
    ((_, _, would),) = selections(node)
    await part.handle(SnapshotSeen(ended(node, Outcome.LATE)))
    await node.work_done()
    newest = node.journal.newest_model(1)
    assert newest is not None and newest[1] == pytest.approx(mean_of(*bits(would)))


async def test_a_selection_without_its_log_is_not_taken_for_none(node: NodeStub) -> None:
    """The round would be one without a step, for ever."""
    part = await part_of(node)
    with pytest.raises(ChainError, match="the logs do not show all of how round 1 ended"):
        await part.handle(SnapshotSeen(ended(node, Outcome.SELECTED)))
    assert not node.working


async def test_a_selection_that_comes_too_late_does_not_finish_a_round_twice(node: NodeStub) -> None:
    """The deadline passes while the sums are still being decrypted: finishing has begun when the choice is made."""
    part = await part_of(node)
    await part.handle(SnapshotSeen(settling()))
    over = ended(node, Outcome.LATE)
    await part.handle(SnapshotSeen(over))
    assert len(node.working) == 2
    await node.work_done(0)
    await part.handle(SnapshotSeen(replace(over, block=111)))
    assert len(node.working) == 1, "finishing is still under way"
    await node.work_done()
    assert len(node.said("round.done")) == 1


async def test_a_round_that_a_reorg_ends_in_another_way_is_learnt_again(node: NodeStub) -> None:
    """From the model before it: neither lost, nor learnt twice. Other endings are other rounds to the next one too."""
    part = await part_of(node)
    first = ended(node, Outcome.TOO_FEW)
    node.chain.events["PostClosed"] = [{"complete": 0b11}]
    await part.handle(SnapshotSeen(replace(first, state=replace(first.state, complete=0b11, paid=2))))
    await node.work_done()
    second = ended(node, Outcome.SELECTED, bitmap((0, 3, 5)))
    second = replace(second, block=111, state=replace(second.state, selected=bitmap((0, 3, 5)), paid=6))
    await part.handle(SnapshotSeen(second))
    assert len(node.said("round.undone")) == 1
    await node.work_done()
    newest = node.journal.newest_model(1)
    assert newest is not None and newest[0] == 1 and newest[1] == pytest.approx(mean_of(0, 3, 5))
    # And that ending holds, in this life and in the next.
    await part.handle(SnapshotSeen(replace(second, block=112)))
    await (await part_of(node)).handle(SnapshotSeen(replace(second, block=113)))
    assert not node.working and len(node.said("round.undone")) == 1


async def test_a_round_that_a_reorg_takes_away_is_forgotten(node: NodeStub) -> None:
    part = await part_of(node)
    over = ended(node, Outcome.SELECTED, bitmap((0, 3, 5)))
    await part.handle(SnapshotSeen(over))
    await node.work_done()
    await part.handle(SnapshotSeen(settling(block=111)))
    (said,) = node.said("round.undone")
    assert said["round"] == 1
    newest = node.journal.newest_model(1)
    assert newest is not None and newest[0] == 0 and not np.any(newest[1])
    await node.work_done()
    assert len(selections(node)) == 1, "and it plays the round once more"


async def test_what_builds_on_a_model_that_is_taken_back_is_thrown_away(node: NodeStub) -> None:
    part = await part_of(node)
    over = ended(node, Outcome.SELECTED, bitmap((0, 3, 5)))
    await part.handle(SnapshotSeen(over))
    await node.work_done()
    await part.handle(SnapshotSeen(ended(node, Outcome.SELECTED, bitmap((0, 3, 5)), round_number=2)))
    await part.handle(SnapshotSeen(settling(block=112)))
    assert len(node.said("round.undone")) == 1
    await node.work_done(0)
    assert [done["round"] for done in node.said("round.done")] == [1], "round 2 was of the fork that lost"


@pytest.mark.parametrize("status", [TaskStatus.ENDED, TaskStatus.CANCELLED])
async def test_in_a_task_that_is_over_nothing_is_selected(node: NodeStub, status: TaskStatus) -> None:
    part = await part_of(node)
    node.journal.store_model(1, 1, np.zeros(OWN.value_count), b"")
    part = await part_of(node)
    await part.handle(SnapshotSeen(settling(status=status)))
    assert not selections(node) and not node.working


@pytest.mark.parametrize("payout", [None, bytes([9]) * 20], ids=["own account", "payout address"])
async def test_when_its_task_is_over_the_refund_is_collected_by_itself(node: NodeStub, payout: bytes | None) -> None:
    part = await part_of(node)
    part.withdraw_to = payout
    node.journal.store_model(1, 1, np.zeros(OWN.value_count), b"")
    node.chain.due = 10**18
    over = settling(status=TaskStatus.CANCELLED, round_number=0)
    await part.handle(SnapshotSeen(over))
    assert node.transactions.sent == [("withdraw", ([1], payout or node.me), 0)]
    assert not part.finished
    # Mined, and the snapshot shows it.
    node.chain.due = 0
    node.transactions.known.clear()
    await part.handle(SnapshotSeen(replace(over, block=over.block + 1)))
    assert part.finished and len(node.said("task.done")) == 1


async def test_the_rounds_entropy_is_a_secret_that_no_log_says(node: NodeStub) -> None:
    part = await part_of(node)
    await part.handle(SnapshotSeen(settling()))
    await node.work_done()
    bound = node.journal.get("protection of task 1")
    assert bound is not None and len(bound) == 32
    assert bound in node.log.protected
    assert bound.hex() not in repr(node.log.events)


async def test_the_next_round_does_not_wait_for_a_block_once_the_last_is_learnt(node: NodeStub) -> None:
    part = await part_of(node)
    two = replace(STRICT, rounds=2)
    await part.handle(SnapshotSeen(replace(ended(node, Outcome.SELECTED, 0b111), params=two)))
    assert node.transactions.sent == [], "it is not learnt yet"
    work, proceed = node.working.pop()
    found = work()
    await part.handle(WorkDone(lambda: proceed(found)))
    assert [function for function, _, _ in node.transactions.sent] == ["openRound"]
