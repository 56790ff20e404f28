"""What an owner's part does with its policy and its ledger: whom it joins, what it enters when, what it sits out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from omnilytics.daemon.accounting import epsilon_of
from omnilytics.daemon.chain import Head
from omnilytics.daemon.journal import Journal, StoredVector
from omnilytics.daemon.ledger import Exposure, Mechanism, kind_of
from omnilytics.daemon.node import Node, SnapshotSeen
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Offer, Policy
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.private import PrivacyOptions
from omnilytics.peers.commitment import root
from omnilytics.peers.errors import PolicyError
from omnilytics.peers.market import RoundPhase, TaskParams, TaskSnapshot, TaskState, TaskStatus
from omnilytics.peers.owner_round import OwnerRound
from tests.market_views import MODEL_OWNER, PARAMS, seated, state
from tests.part_stubs import ChainStub, NodeStub, Queue
from tests.test_owner import SPEC, shown, with_record

ME = seated(9)[0]
NOISY = PrivacyOptions(noise_multiplier=8.0, clip_norm=1.0)
ROWS = Dataset(np.zeros((64, 19)), np.arange(64) % 2, ("a", "b"))


class ChainOfTasks(ChainStub):
    """A market with some open tasks, by number: (model owner, parameters)."""

    offered: dict[int, tuple[bytes, TaskParams]]

    async def head(self) -> Any:
        return Head(1, 0, bytes(32), 0, bytes(32))

    async def task_count(self) -> int:
        return len(self.offered)

    async def state(self, task: int, block: int | None = None) -> TaskState:
        return state(status=TaskStatus.JOINING)

    async def created_task(self, task: int, until: int) -> tuple[bytes, bytes]:
        return SPEC.encode(), self.offered[task][0]

    async def params(self, task: int) -> TaskParams:
        return self.offered[task][1]


class Part(OwnerPart):
    """Remembers the rounds that it would play."""

    played: list[int]

    async def _play(self, snapshot: TaskSnapshot, round_number: int) -> None:
        self.played.append(round_number)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeStub]:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        chain = ChainOfTasks()
        chain.offered = {number: (MODEL_OWNER, PARAMS) for number in (1, 2)}
        yield NodeStub(ME.account, journal, chain=chain)


def part_of(node: NodeStub, task: int | None = 1, **choices: Any) -> Part:
    part = Part(cast(Node, node), task, OwnerChoices(ROWS, lambda _: bytes(32), **choices))
    part.played = []
    return part


async def prepared(node: NodeStub, **choices: Any) -> Part:
    part = part_of(node, **choices)
    await part.prepare()
    return part


def entry(task: int = 1, number: int = 1, noise: float = 0.0, epsilon: float | None = None) -> Exposure:
    privacy = (1.0, 1e-5, epsilon) if noise else (0.0, 0.0, None)
    mechanism = Mechanism(noise, 16, 64)
    return Exposure(task, number, bytes(20), MODEL_OWNER, "softmax", kind_of(SPEC), 3, "envelope", mechanism, *privacy)


def enter(node: NodeStub, *entries: Exposure) -> None:
    for each in entries:
        node.journal.plan_exposure(each)
        node.journal.enter_exposure(each.task, each.round)


def store_vector(node: NodeStub, round_number: int = 2, seat: int = ME.seat) -> None:
    seen = shown(ME)
    vector = bytes(seen.params.layout.byte_count)
    commitment = root(vector, seen.params.chunk_words, seen.state.ctx, seat)
    node.journal.store_vector(
        1, round_number, StoredVector(seen.state.ctx, commitment, vector, np.zeros(1, dtype=np.int64))
    )


POSTING = shown(with_record(ME, 2, 1), RoundPhase.POST, committed=0b111)
PLAYING = shown(with_record(ME, 1, 4), RoundPhase.COMMIT)


# ------------------------------------------------------------------------- consent


async def test_a_named_task_that_the_policy_refuses_ends_the_daemon_in_its_words(node: NodeStub) -> None:
    with pytest.raises(PolicyError, match=r"task 1 pays 1000000000000000 wei .* wants 2000000000000000 \(minimum_rew"):
        await part_of(node, policy=Policy(minimum_reward=2 * 10**15)).prepare()
    assert node.journal.get("task") is None


async def test_an_unnamed_task_is_passed_over_and_the_next_one_taken(node: NodeStub) -> None:
    cast(ChainOfTasks, node.chain).offered[2] = (bytes([9]) * 20, PARAMS)
    part = await prepared(node, task=None, policy=Policy(model_owners=("0x" + MODEL_OWNER.hex(),)))
    assert part.task_id == 1
    (said,) = node.said("task.refused")
    assert (said["task"], said["code"]) == (2, "policy")
    assert said["msg"] == f"task 2 is offered by 0x{'09' * 20}, which is not on the policy's list (model_owners)"


async def test_the_ledger_of_earlier_tasks_counts(node: NodeStub) -> None:
    enter(node, entry(task=5), entry(task=6))
    with pytest.raises(PolicyError, match="task 1 is like 2 earlier ones of its model owner"):
        await part_of(node).prepare()


async def test_who_has_joined_plays_on_under_a_stricter_policy(node: NodeStub) -> None:
    """Leaving would cost the stake; the mates wait."""
    strict = Policy(minimum_reward=10**18)
    node.journal.nonce(1, bytes(32))
    assert (await prepared(node, policy=strict)).task_id == 1
    with pytest.raises(PolicyError):
        await part_of(node, task=2, policy=strict).prepare()


# -------------------------------------------------------------------------- ledger


class Watching(Queue):
    """Notes what stands in the ledger whenever something is sent."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal
        self.entered: list[int] = []

    def submit(self, key: str, function: str, *arguments: Any, value: int = 0, **fields: Any) -> None:
        super().submit(key, function, *arguments, value=value, **fields)
        self.entered.append(len(self.journal.exposures()))


def commit(part: Part, round_number: int = 2) -> None:
    """What the round's machine orders when its vector is masked."""
    seen = shown(ME)
    opening = SimpleNamespace(ctx=seen.state.ctx, round=round_number)
    vector = bytes(seen.params.layout.byte_count)
    commitment = root(vector, seen.params.chunk_words, seen.state.ctx, ME.seat)
    part._snapshot = seen
    part._commit(
        cast(OwnerRound, SimpleNamespace(opening=opening, group=0)), vector, commitment, np.zeros(1, dtype=np.int64)
    )


async def test_a_round_is_entered_before_its_first_byte_leaves_and_once(node: NodeStub) -> None:
    node.transactions = Watching(node.journal)
    part = await prepared(node)
    commit(part)
    assert node.journal.exposures() == [], "a commitment shows nothing"
    for _ in range(3):
        await part.handle(SnapshotSeen(POSTING))
    posts = [name for name, _, _ in node.transactions.sent]
    assert posts[0] == "commit" and set(posts[1:]) == {"post"}
    assert node.transactions.entered[0] == 0 and set(node.transactions.entered[1:]) == {1}
    assert node.journal.exposures() == [entry(number=2)]
    # Another life posts the same bytes.
    again = await prepared(node)
    await again.handle(SnapshotSeen(POSTING))
    assert node.journal.exposures() == [entry(number=2)]


async def test_what_is_not_posted_is_not_entered(node: NodeStub) -> None:
    part = await prepared(node)
    store_vector(node, seat=ME.seat + 1)
    await part.handle(SnapshotSeen(POSTING))
    assert node.said("post.refused") and node.journal.exposures() == []


async def test_a_vector_of_an_older_version_is_entered_without_noise(node: NodeStub) -> None:
    part = await prepared(node, privacy=NOISY)
    store_vector(node)
    await part.handle(SnapshotSeen(POSTING))
    (found,) = node.journal.exposures()
    assert found.mechanism == Mechanism(0.0, 16, 64) and found.epsilon is None


async def test_the_noise_entered_is_the_vectors_and_not_todays(node: NodeStub) -> None:
    enter(node, entry(number=1, noise=8.0, epsilon=0.5))
    commit(await prepared(node, privacy=NOISY))
    without = await prepared(node)
    await without.handle(SnapshotSeen(POSTING))
    expected = epsilon_of({Mechanism(8.0, 16, 64): 2}, 1e-5)
    assert node.journal.exposures()[1:] == [entry(number=2, noise=8.0, epsilon=expected)]


async def test_batches_that_can_be_replayed_are_entered_as_such(node: NodeStub) -> None:
    part = await prepared(node, privacy=NOISY, secret_batch=False)
    commit(part)
    await part.handle(SnapshotSeen(POSTING))
    (found,) = node.journal.exposures()
    assert found.mechanism == Mechanism(8.0, 16, 64, secret_batch=False)
    assert found.epsilon == epsilon_of({Mechanism(8.0, 64, 64): 1}, 1e-5)


# -------------------------------------------------------------------- rounds in play


async def test_a_round_that_would_exceed_epsilon_is_sat_out_in_words_once(node: NodeStub) -> None:
    limit = epsilon_of({Mechanism(8.0, 16, 64): 3}, 1e-5)
    part = await prepared(node, privacy=NOISY, policy=Policy(maximum_epsilon=limit))
    enter(node, *(entry(number=number, noise=8.0, epsilon=0.5) for number in (10, 11)))
    await part.handle(SnapshotSeen(PLAYING))
    assert part.played == [2]
    enter(node, entry(number=12, noise=8.0, epsilon=0.5))
    for _ in range(3):
        await part.handle(SnapshotSeen(replace_ctx(PLAYING)))
    assert part.played == [2]
    (said,) = node.said("round.sat-out")
    assert said["msg"].startswith("task 1 would bring epsilon to ") and said["msg"].endswith("(maximum_epsilon)")
    assert {name for name, _, _ in node.transactions.sent} == {"sitOut"}


def replace_ctx(seen: TaskSnapshot) -> TaskSnapshot:
    return replace(seen, state=replace(seen.state, ctx=bytes([5]) * 32))


async def test_a_vector_that_is_made_is_posted_whatever_the_policy(node: NodeStub) -> None:
    """Its mates may have committed; not to post it would cost the stake."""
    part = await prepared(node, privacy=NOISY, policy=Policy(maximum_epsilon=2.5))
    enter(node, *(entry(number=number, noise=8.0, epsilon=0.5) for number in range(10, 40)))
    store_vector(node)
    await part.handle(SnapshotSeen(PLAYING))
    assert part.played == [2] and not node.said("round.sat-out")


async def test_noise_without_a_limit_is_played_and_counted(node: NodeStub) -> None:
    part = await prepared(node, privacy=NOISY)
    await part.handle(SnapshotSeen(PLAYING))
    assert part.played == [2]
    assert math.isfinite(part._exposure(2, part._offer).epsilon or math.inf)


async def test_a_group_that_is_never_paid_is_sat_out_with(node: NodeStub) -> None:
    part = await prepared(node, policy=Policy(maximum_unpaid_rounds=3))
    enter(node, *(entry(number=number) for number in (10, 11, 12)))
    await part.handle(SnapshotSeen(PLAYING))
    assert part.played == [2]
    enter(node, entry(number=13))
    await part.handle(SnapshotSeen(replace_ctx(PLAYING)))
    (said,) = node.said("round.sat-out")
    assert said["msg"] == ("task 1 left our group unpaid 4 times in a row, the policy allows 3 (maximum_unpaid_rounds)")


async def test_one_payment_starts_the_count_anew(node: NodeStub) -> None:
    part = await prepared(node, policy=Policy(maximum_unpaid_rounds=1))
    for paid, number in ((0, 10), (1, 11), (1, 12), (2, 13)):
        node.chain.paid = paid
        enter(node, entry(number=number))
        seen = replace(PLAYING, state=replace(PLAYING.state, ctx=bytes([number]) * 32))
        await part.handle(SnapshotSeen(seen))
    assert part.played == [2] * 4 and not node.said("round.sat-out")


def test_an_offer_is_what_the_owner_would_bring() -> None:
    offer = Offer(1, MODEL_OWNER, SPEC, PARAMS, 10, 2.0)
    assert (offer.batch_rows, offer.group_samples, offer.mechanism) == (10, 42, Mechanism(2.0, 10, 10))
    unknown = Offer(1, MODEL_OWNER, SPEC, PARAMS)
    assert (unknown.batch_rows, unknown.group_samples, unknown.mechanism) == (16, 48, Mechanism(0.0, 16, 16))
