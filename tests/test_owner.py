"""What an owner's part does with duties beside its rounds: safe mode, a slashed stake, a dead mate, collecting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from omnilytics.daemon.chain import PostedPart
from omnilytics.daemon.journal import Journal, StoredVector
from omnilytics.daemon.node import Node, SnapshotSeen
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Offer
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.data import Dataset
from omnilytics.peers.commitment import root
from omnilytics.peers.market import Member, MemberStatus, RoundOpening, RoundPhase, TaskSnapshot, TaskStatus
from tests.market_views import MODEL_OWNER, PARAMS, seated, snapshot, state
from tests.part_stubs import NodeStub

SPEC = TaskSpec("softmax", 19, ("a", "b"), 0.5, 16)
DATA = Dataset(np.zeros((2, 1)), np.array([0, 1], dtype=np.int64), ("a", "b"))


@pytest.fixture
def node(tmp_path: Path) -> NodeStub:
    return NodeStub(seated(9)[0].account, Journal(tmp_path / "journal.sqlite"))


def part_of(node: NodeStub, **choices: Any) -> OwnerPart:
    part = OwnerPart(cast(Node, node), 1, OwnerChoices(DATA, lambda _: bytes(32), **choices))
    privacy = part._choices.privacy
    part._offer = Offer(1, MODEL_OWNER, SPEC, PARAMS, 64, privacy.noise_multiplier, privacy.delta)
    return part


def shown(me: Member, phase: RoundPhase = RoundPhase.IDLE, round_number: int = 2, **changes: Any) -> TaskSnapshot:
    recent = (round_number).to_bytes(4, "big") + bytes([4]) + bytes(27)
    others = tuple(replace(member, record=recent) for member in seated(9)[1:])
    return snapshot(state(phase=phase, round=round_number, **changes), (me, *others))


def with_record(member: Member, round_number: int, flags: int) -> Member:
    return replace(member, record=round_number.to_bytes(4, "big") + bytes([flags]) + bytes(27))


async def test_a_commitment_that_the_journal_does_not_know_means_safe_mode(node: NodeStub) -> None:
    part = part_of(node)
    me = with_record(seated(9)[0], 2, 1)
    for _ in range(3):
        await part.handle(SnapshotSeen(shown(me)))
    (said,) = node.said("safe-mode")
    assert said["msg"] == "round 2: chain holds my commitment, journal does not; safe mode"
    assert "copy" in said["help"]
    # Nothing that could become a second vector goes out any more ...
    posting = shown(me, RoundPhase.POST, committed=0b111)
    await part.handle(SnapshotSeen(posting))
    playing = shown(with_record(me, 2, 1), RoundPhase.COMMIT, round_number=3)
    await part.handle(SnapshotSeen(playing))
    assert node.transactions.sent == []
    # ... and pay and stake are still collected.
    node.chain.due = 7
    await part.handle(SnapshotSeen(shown(me, status=TaskStatus.ENDED)))
    assert [function for function, _, _ in node.transactions.sent] == ["withdraw"]


async def test_a_commitment_that_the_journal_knows_is_posted(node: NodeStub) -> None:
    part = part_of(node)
    me = with_record(seated(9)[0], 2, 1)
    node.journal.store_vector(1, 2, _stored(me, me.seat))
    await part.handle(SnapshotSeen(shown(me, RoundPhase.POST, committed=0b111)))
    assert {function for function, _, _ in node.transactions.sent} == {"post"}
    assert not node.said("safe-mode")


async def test_a_vector_committed_from_another_seat_is_never_shown(node: NodeStub) -> None:
    """A reorg can draw other groups: what was masked in the old ones must not leave."""
    part = part_of(node)
    me = with_record(seated(9)[0], 2, 1)
    node.journal.store_vector(1, 2, _stored(me, me.seat + 1))
    await part.handle(SnapshotSeen(shown(me, RoundPhase.POST, committed=0b111)))
    assert node.transactions.sent == [] and len(node.said("post.refused")) == 1


def _stored(me: Member, seat: int) -> StoredVector:
    params, ctx = shown(me).params, shown(me).state.ctx
    vector = bytes(params.layout.byte_count)
    return StoredVector(ctx, root(vector, params.chunk_words, ctx, seat), vector, np.zeros(1, dtype=np.int64))


async def test_a_slashed_stake_is_told_once_and_restored_only_when_wanted(node: NodeStub) -> None:
    params = shown(seated(9)[0]).params
    short = with_record(replace(seated(9)[0], stake=params.stake - 5), 2, 4)
    cautious = part_of(node)
    for _ in range(3):
        await cautious.handle(SnapshotSeen(shown(short, short=1)))
    assert len(node.said("stake.short")) == 1 and node.transactions.sent == []
    await part_of(node, restore_stake=True).handle(SnapshotSeen(shown(short, short=1)))
    assert node.transactions.sent == [("restoreStake", (1,), 5)]


async def test_a_mate_that_is_dead_for_good_is_reported_and_expelled(node: NodeStub) -> None:
    limit = shown(seated(9)[0]).params.max_missed_rounds
    now = limit + 5
    me = with_record(seated(9)[0], now, 4)
    seen = shown(me, round_number=now)
    dead = with_record(seen.members[1], 4, 4)
    seen = replace(seen, members=(me, dead, *seen.members[2:]))
    await part_of(node).handle(SnapshotSeen(seen))
    assert node.transactions.sent == [("expel", (1, dead.account), 0)]
    assert node.said("group.dead")[0]["peer_to"] == dead.account


async def test_who_is_out_collects_and_has_finished(node: NodeStub) -> None:
    part = part_of(node)
    out = replace(seated(9)[0], status=MemberStatus.OUT)
    node.chain.due = 9
    await part.handle(SnapshotSeen(shown(out)))
    assert [function for function, _, _ in node.transactions.sent] == ["withdraw"] and not part.finished
    node.chain.due = 0
    await part.handle(SnapshotSeen(shown(out)))
    assert part.finished and len(node.said("task.done")) == 1


# ---------------------------------------------------------------------------- settle


def settling(next_chunk: int = 0) -> TaskSnapshot:
    """Two chunks; the seats of all three groups take turns, in round 9 from the first."""
    params = replace(PARAMS, value_count=4 * 16, chunk_words=2)
    me = with_record(seated(9)[0], 9, 3)
    shown_ = shown(me, RoundPhase.SETTLE, 9, complete=0b111, next_chunk=next_chunk, turn_end=1000)
    return replace(shown_, params=params)


def posts(node: NodeStub, seats: int = 9) -> None:
    params, ctx = settling().params, settling().state.ctx
    node.chain.openings[9] = RoundOpening(1, 9, ctx, bytes(32), bytes(32), bytes(32), bytes(32), 1, (), 7, 0, 0)
    node.chain.parts = [PostedPart(seat, 0, bytes(params.layout.byte_count)) for seat in range(seats)]


async def test_who_has_a_turn_in_the_round_collects_the_vectors_before_it_comes(tmp_path: Path) -> None:
    """The second chunk is the second seat's: everybody waits for it, so it has the vectors by then."""
    node = NodeStub(seated(9)[1].account, Journal(tmp_path / "journal.sqlite"))
    posts(node)
    part = part_of(node)
    await part.handle(SnapshotSeen(settling()))
    assert len(node.working) == 1 and node.transactions.sent == []
    await part.handle(SnapshotSeen(settling()))
    assert len(node.working) == 1, "once a round"
    await node.work_done()
    assert node.transactions.sent == [], "it is the first seat's turn"
    await part.handle(SnapshotSeen(settling(next_chunk=1)))
    assert [function for function, _, _ in node.transactions.sent] == ["settle"]
    assert node.working == [] and node.chain.settles == [(3, 2, True)]


async def test_a_turn_that_comes_while_vectors_are_collected_is_taken_when_they_are_there(node: NodeStub) -> None:
    posts(node)
    part = part_of(node)
    await part.handle(SnapshotSeen(settling()))
    assert node.transactions.sent == []
    await node.work_done()
    assert [(function, arguments[2]) for function, arguments, _ in node.transactions.sent] == [("settle", 0)]


async def test_vectors_that_are_not_all_there_are_looked_for_again(node: NodeStub) -> None:
    posts(node, seats=8)
    part = part_of(node)
    await part.handle(SnapshotSeen(settling()))
    await node.work_done()
    assert len(node.said("logs.incomplete")) == 1 and node.transactions.sent == []
    posts(node)
    await part.handle(SnapshotSeen(settling()))
    await node.work_done()
    assert len(node.transactions.sent) == 1


async def test_who_has_no_turn_collects_nothing(tmp_path: Path) -> None:
    node = NodeStub(seated(9)[5].account, Journal(tmp_path / "journal.sqlite"))
    posts(node)
    await part_of(node).handle(SnapshotSeen(settling()))
    assert node.working == []
