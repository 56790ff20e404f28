"""Vectors over the broker in the daemons: durable before they are answered, acknowledged when it is time, settled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.events import SnapshotSeen, TimePassed
from omnilytics.daemon.journal import Journal, StoredVector
from omnilytics.daemon.node import Node
from omnilytics.daemon.posting import PostedVectors
from omnilytics.daemon.vector_handover import HandingOver, TakingOver
from omnilytics.peers.commitment import root
from omnilytics.peers.errors import JournalError
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import Member, MemberStatus, RoundPhase, TaskSnapshot
from omnilytics.peers.messages import MAX_PART_BYTES
from tests.market_views import snapshot, state
from tests.part_stubs import NodeStub
from tests.round_network import CTX, secret
from tests.test_aggregate import CONTRACT, masked
from tests.test_model_part import opening, part_of
from tests.test_owner import part_of as owner_part_of

PARAMS = replace(CONTRACT, broker_delivery=True, rounds=1)  # 18 owners, a post phase of 1000 s
VECTORS = masked(PARAMS)
MODEL, BOX = secret("the model owner")[:20], BoxIdentity.from_entropy(secret("model box"))


def box(seat: int) -> BoxIdentity:
    return BoxIdentity.from_entropy(secret(f"owner box {seat}"))


def seat_member(seat: int, flags: int = 1, params: Any = PARAMS) -> Member:
    record = (1).to_bytes(4, "big") + bytes([flags, 0]) + root(VECTORS[seat], params.chunk_words, CTX, seat)[-26:]
    account = secret(f"owner {seat}")[:20]
    return Member(account, params.stake, seat, MemberStatus.SEATED, box(seat).public, record, 0)


def shown(time: int = 100, posted: int = 0, params: Any = PARAMS, **changes: Any) -> TaskSnapshot:
    members = tuple(seat_member(seat, 3 if posted >> seat & 1 else 1, params) for seat in range(18))
    values: dict[str, Any] = {
        "phase": RoundPhase.POST,
        "round": 1,
        "committed": 0b111111,
        "group_count": 6,
        "phase_end": 1000,
    }
    values |= {"model_owner": MODEL, "box_key": BOX.public}
    return snapshot(state(**(values | changes)), members, time=time, params=params)


@dataclass
class Someone:
    """A node stub, and what carries its messages."""

    node: NodeStub

    def hear_from(self, sender: bytes) -> list[Arrived]:
        """What was sent since the last time, as it arrives."""
        sent, self.node.broker.sent = self.node.broker.sent, []
        return [Arrived(task, number, sender, envelope) for task, number, _, envelope in sent]


def owner_node(folder: Path, seat: int) -> NodeStub:
    node = NodeStub(seat_member(seat).account, Journal(folder / f"owner{seat}.sqlite"))
    node.keys = SimpleNamespace(box=box(seat))
    vector = VECTORS[seat]
    stored = StoredVector(CTX, root(vector, PARAMS.chunk_words, CTX, seat), vector, np.zeros(1, dtype=np.int64))
    node.journal.store_vector(1, 1, stored)
    return node


@pytest.fixture
def model(tmp_path: Path) -> NodeStub:
    node = NodeStub(MODEL, Journal(tmp_path / "model.sqlite"))
    node.keys = SimpleNamespace(box=BOX)
    node.transactions.remembers = True
    return node


def hand_over(taking: TakingOver, model: NodeStub, folder: Path, seats: range | list[int]) -> None:
    for seat in seats:
        node = owner_node(folder, seat)
        giving = HandingOver(cast(Node, node))
        stored = node.journal.vector(1, 1)
        assert stored is not None
        giving.begin(shown(), stored)
        while there := Someone(node).hear_from(node.me):
            for arrived in there:
                assert taking.hears(arrived)
            for answer in Someone(model).hear_from(MODEL):
                assert giving.hears(answer)
        assert len(node.said("vector.handed-over")) == 1


def test_all_vectors_are_kept_and_then_acknowledged(model: NodeStub, tmp_path: Path) -> None:
    taking = TakingOver(cast(Node, model))
    assert taking.collect(shown()) and not taking.collect(shown())
    hand_over(taking, model, tmp_path, range(17))
    assert taking.acknowledged_now(shown(time=249)) == 0, "there is time for the last one"
    assert taking.acknowledged_now(shown(time=250)) == (1 << 17) - 1, "a quarter of the phase is over"
    assert taking.acknowledged_now(shown(time=249, posted=1 << 17)) == (1 << 17) - 1, "the last one has posted"
    hand_over(taking, model, tmp_path, [17])
    assert taking.acknowledged_now(shown()) == (1 << 18) - 1
    assert taking.acknowledged_now(shown(posted=0b11)) == (1 << 18) - 4, "what the chain shows is not said again"
    assert taking.acknowledged_now(shown(posted=(1 << 18) - 1)) == 0
    assert taking.acknowledged_now(shown(ctx=bytes(32))) == 0, "of another round, or fork"
    kept = model.journal.received_vectors(1, 1, CTX)
    assert {seat: vector for seat, (_, vector) in kept.items()} == VECTORS


def test_another_life_has_them_in_its_journal(model: NodeStub, tmp_path: Path) -> None:
    first = TakingOver(cast(Node, model))
    first.collect(shown())
    hand_over(first, model, tmp_path, range(18))
    second = TakingOver(cast(Node, model))
    second.collect(shown())
    assert second.acknowledged_now(shown()) == (1 << 18) - 1


def test_what_was_committed_to_anew_after_a_reorg_is_asked_for_again(model: NodeStub, tmp_path: Path) -> None:
    taking = TakingOver(cast(Node, model))
    taking.collect(shown())
    hand_over(taking, model, tmp_path, range(18))
    seen = shown(time=300)
    other = replace(seen.members[5], record=seen.members[5].record[:6] + bytes(26))
    seen = replace(seen, members=(*seen.members[:5], other, *seen.members[6:]))
    assert taking.collect(seen)
    assert taking.acknowledged_now(seen) == (1 << 18) - 1 - (1 << 5)


def test_nothing_is_answered_that_is_not_on_disk(model: NodeStub, tmp_path: Path) -> None:
    taking = TakingOver(cast(Node, model))
    taking.collect(shown())
    node = owner_node(tmp_path, 3)
    giving = HandingOver(cast(Node, node))
    stored = node.journal.vector(1, 1)
    assert stored is not None
    giving.begin(shown(), stored)
    assert len(VECTORS[3]) <= MAX_PART_BYTES
    (only,) = Someone(node).hear_from(node.me)
    model.journal.close()
    with pytest.raises(JournalError):
        taking.hears(only)
    assert model.broker.sent == []


def test_lost_parts_are_sent_again_while_the_chain_waits_for_them(tmp_path: Path) -> None:
    node = owner_node(tmp_path, 3)
    now = [0.0]
    node.clock = lambda: now[0]
    giving = HandingOver(cast(Node, node))
    stored = node.journal.vector(1, 1)
    assert stored is not None
    giving.begin(shown(), stored)
    assert giving.begun(CTX) and not giving.begun(bytes(32))
    now[0] = 100.0
    giving.tick()
    assert len(node.broker.sent) == 1, "nobody has said that it is awaited"
    giving.want(True)
    giving.tick()
    assert len(node.broker.sent) == 2
    giving.want(False)
    now[0] = 200.0
    giving.tick()
    assert len(node.broker.sent) == 2
    assert not giving.hears(Arrived(1, 1, b"s" * 20, b"")) and not giving.hears(Arrived(2, 1, MODEL, b""))
    assert giving.hears(Arrived(1, 1, MODEL, b"")) and len(node.said("message.dropped")) == 1


async def test_an_owner_hands_over_once_and_posts_when_it_is_left_out(tmp_path: Path) -> None:
    node = owner_node(tmp_path, 4)
    part = owner_part_of(node)
    for _ in range(3):
        await part.handle(SnapshotSeen(shown()))
    assert len(node.broker.sent) == 1 and node.transactions.sent == []
    assert [entry.round for entry in node.journal.exposures()] == [1], "in the ledger before the first byte leaves"
    await part.handle(TimePassed())
    await part.handle(SnapshotSeen(shown(time=501)))
    assert [function for function, _, _ in node.transactions.sent] == ["post"]
    assert node.transactions.sent[0][1][3] == VECTORS[4]


async def test_a_vector_committed_from_another_seat_is_not_handed_over(tmp_path: Path) -> None:
    node = owner_node(tmp_path, 4)
    part = owner_part_of(node)
    seen = shown()
    moved = replace(seen.members[4], seat=5), replace(seen.members[5], seat=4)
    await part.handle(SnapshotSeen(replace(seen, members=(*seen.members[:4], *moved, *seen.members[6:]))))
    assert node.broker.sent == [] and node.transactions.sent == [] and len(node.said("post.refused")) == 1


async def test_the_model_owner_takes_what_came_before_it_saw_the_phase_and_settles(
    model: NodeStub, tmp_path: Path
) -> None:
    model.chain.openings[1] = opening(1)
    part = await part_of(model)
    await part.handle(SnapshotSeen(shown(close_block=100)))
    for seat in range(18):
        node = owner_node(tmp_path, seat)
        giving = HandingOver(cast(Node, node))
        stored = node.journal.vector(1, 1)
        assert stored is not None
        giving.begin(shown(), stored)
        for arrived in Someone(node).hear_from(node.me):
            await part.handle(arrived)
    assert model.transactions.sent == [] and model.journal.received_roots(1, 1, CTX) == {}
    await part.handle(SnapshotSeen(shown()))
    assert [(name, arguments) for name, arguments, _ in model.transactions.sent] == [
        ("acknowledge", (1, CTX, (1 << 18) - 1))
    ]
    settling = shown(phase=RoundPhase.SETTLE, posted=(1 << 18) - 1, complete=0b111111)
    await part.handle(SnapshotSeen(settling))
    name, arguments, _ = model.transactions.sent[-1]
    whole = PostedVectors(PARAMS, CTX, tuple(range(6)), VECTORS)
    assert (name, arguments) == ("settle", (1, CTX, 0, whole.settle_data(0)))
