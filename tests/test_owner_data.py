"""What an owner's part does with its rows: which tasks it refuses for them, and that none is ever used twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.journal import Journal
from omnilytics.daemon.node import Node, SnapshotSeen
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.protection.feature_map import RandomFeatures
from omnilytics.daemon.protection.sealing import seal_model
from omnilytics.daemon.protection.secret_head import PublishedMap, encode_map_payload
from omnilytics.daemon.protection.sides import Floats, Labels, OwnerSide, Published
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.payload import ModelPayload, encode_payload
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.errors import DataError, ModelMismatchError, OmniLyticsError, PolicyError
from omnilytics.peers.hashing import keccak, model_commitment
from omnilytics.peers.market import RoundOpening, TaskParams, TaskStatus
from tests.envelope_sides import model_of
from tests.local_market import lasting
from tests.market_views import seated, snapshot, state
from tests.part_stubs import NodeStub
from tests.round_network import CTX, Entropy, secret

CLASSES = ("a", "b")
COLUMNS = 3
ENVELOPE = TaskSpec("softmax", COLUMNS, CLASSES, 1.0, 8)
# 2 w = 10 and 2.5 d / columns = 20.8: a group's sum needs 21 rows.
SECRET_HEAD = TaskSpec("random:4", COLUMNS, CLASSES, 1.0, 7, "secret-head")
# 4 * min(2, 4) = 8 rows.
PERTURBED = TaskSpec("mlp:2", COLUMNS, CLASSES, 1.0, 3, "perturbed")
SPECS = [ENVELOPE, SECRET_HEAD, PERTURBED]


def rows(count: int) -> Dataset:
    """Rows that say which they are: row i is i / 64 in every column."""
    numbers = np.repeat(np.arange(count, dtype=np.float64)[:, None] / 64, COLUMNS, axis=1)
    return Dataset(numbers, np.arange(count, dtype=np.int64) % 2, CLASSES)


def params_of(spec: TaskSpec, **changes: Any) -> TaskParams:
    fitting = lasting(
        value_count=spec.side.value_count,
        model_selection=spec.means.model_selection,
        rounds=4,
        lane_bits=max(16, spec.means.least_lane_bits),
    )
    return replace(fitting, **changes)


def node_in(folder: Path) -> NodeStub:
    return NodeStub(seated(9)[0].account, Journal(folder / "journal.sqlite"))


@pytest.fixture
def node(tmp_path: Path) -> NodeStub:
    return node_in(tmp_path)


def offer(node: NodeStub, spec: TaskSpec, task: int = 1, **changes: Any) -> None:
    joining = state(status=TaskStatus.JOINING)
    node.chain.tasks[task] = spec.encode(), params_of(spec, **changes), joining


def part_of(node: NodeStub, dataset: Dataset, task: int | None = 1, **choices: Any) -> OwnerPart:
    entropy = choices.pop("entropy", lambda _: bytes(32))
    # These tasks are smaller than an owner would agree to.
    small = Policy(minimum_batch_rows=1, minimum_group_samples=1, maximum_value_share=100.0)
    policy = replace(small, allow_thin_sums=choices.pop("allow_thin_sums", False))
    return OwnerPart(cast(Node, node), task, OwnerChoices(dataset, entropy, policy=policy, **choices))


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.protection)
async def test_a_task_that_fits_is_joined(node: NodeStub, spec: TaskSpec) -> None:
    offer(node, spec)
    part = part_of(node, rows(28))
    await part.prepare()
    assert node.journal.get("task") == (1).to_bytes(8, "big")


async def refusal(node: NodeStub, spec: TaskSpec, dataset: Dataset, choices: Any = None, **changes: Any) -> Any:
    """Of a task that was named, in words; and where none is named, it is passed over for one that fits."""
    offer(node, spec, **changes)
    with pytest.raises(OmniLyticsError) as caught:
        await part_of(node, dataset, **(choices or {})).prepare()
    assert node.journal.get("task") is None
    other = replace(ENVELOPE, feature_count=dataset.column_count)
    offer(node, other, task=2)
    # The newest is looked at first, so the one that fits has to be the older one.
    node.chain.tasks = {1: node.chain.tasks[2], 2: node.chain.tasks[1]}
    searching = part_of(node, dataset, None, **(choices or {}))
    await searching.prepare()
    assert searching.task_id == 1
    (refused,) = node.said("task.refused")
    assert (refused["task"], refused["msg"]) == (2, str(caught.value).replace("task 1 ", "task 2 "))
    return caught.value


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.protection)
async def test_who_selects_must_be_who_the_protection_says(node: NodeStub, spec: TaskSpec) -> None:
    """Pads by position under secret-head would show everybody how groups differ; pads by seat under the envelope
    would have the model owner select where owners were promised the contract."""
    wrong = not spec.means.model_selection
    error = await refusal(node, spec, rows(28), model_selection=wrong)
    assert isinstance(error, ModelMismatchError)
    who = "model owner" if wrong else "contract"
    assert str(error).startswith(f"the {who} selects, which protection {spec.protection} does not allow")


async def test_too_few_rows_for_every_round_to_have_its_own_are_refused(node: NodeStub) -> None:
    error = await refusal(node, SECRET_HEAD, rows(27))
    assert isinstance(error, DataError)
    assert "27 rows, the task needs 28: 4 rounds of at least 7, each row used once" in str(error)


@pytest.mark.parametrize("spec", [ENVELOPE, PERTURBED], ids=lambda spec: spec.protection)
async def test_where_rows_may_be_used_again_few_are_enough(node: NodeStub, spec: TaskSpec) -> None:
    offer(node, spec, rounds=100)
    await part_of(node, rows(4)).prepare()


@pytest.mark.parametrize(("spec", "needed"), [(SECRET_HEAD, 21), (PERTURBED, 8)], ids=["secret-head", "perturbed"])
async def test_sums_that_would_give_single_rows_away_are_refused(tmp_path: Path, spec: TaskSpec, needed: int) -> None:
    assert spec.least_group_rows == needed
    for batch_size in range(1, 9):
        (tmp_path / str(batch_size)).mkdir()
        node, thin = node_in(tmp_path / str(batch_size)), replace(spec, batch_size=batch_size)
        # Mates' rows as the task asks for them; our own 40, a quarter of them in each of four rounds if used once.
        together = 2 * batch_size + (10 if spec.means.fresh_rows else batch_size)
        if together >= needed:
            offer(node, thin)
            await part_of(node, rows(40)).prepare()
            continue
        error = await refusal(node, thin, rows(40))
        assert isinstance(error, PolicyError)
        assert f"has {together} rows behind a group's sum" in str(error) and f"below {needed} (allow_th" in str(error)
        assert "allow_thin_sums" in error.help


async def test_thin_sums_are_allowed_where_the_owner_says_so(node: NodeStub) -> None:
    offer(node, replace(SECRET_HEAD, batch_size=1))
    with pytest.raises(PolicyError, match="allow_thin_sums"):
        await part_of(node, rows(28)).prepare()
    await part_of(node, rows(28), allow_thin_sums=True).prepare()
    # It allows that and nothing else.
    with pytest.raises(DataError, match="each row used once"):
        await part_of(node, rows(3), allow_thin_sums=True).prepare()


async def test_other_columns_stakes_and_lengths_are_refused(node: NodeStub) -> None:
    narrow = Dataset(np.zeros((28, 2)), np.arange(28) % 2, CLASSES)
    assert isinstance(await refusal(node, SECRET_HEAD, narrow), DataError)
    node.log.events.clear()
    node.chain.tasks.clear()
    node.journal._write("DELETE FROM meta")
    error = await refusal(node, SECRET_HEAD, rows(28), value_count=SECRET_HEAD.side.value_count + 1)
    assert isinstance(error, ModelMismatchError)
    offer(node, SECRET_HEAD, stake=10**18 + 1)
    with pytest.raises(PolicyError, match="the policy allows 1000000000000000000"):
        await part_of(node, rows(28)).prepare()


# -------------------------------------------------------------------- rows in rounds

SCALING = FeatureScaling(np.zeros(COLUMNS), np.ones(COLUMNS))
MAP = RandomFeatures(COLUMNS, 4, bytes(32))


def plaintext_of(spec: TaskSpec, round_number: int) -> bytes:
    if spec.protection == "secret-head":
        return encode_map_payload(PublishedMap(MAP, SCALING), round_number)
    weights = np.full(spec.side.value_count, round_number / 8)
    return encode_payload(ModelPayload.of(model_of(spec.side), weights, SCALING, round_number))


def open_round(node: NodeStub, spec: TaskSpec, round_number: int) -> tuple[bytes, RoundOpening]:
    """The chain shows a round's payload; its key and opening."""
    key, base, plaintext = secret(f"key {round_number}"), secret("base"), plaintext_of(spec, round_number)
    payload = seal_model(plaintext, key, bytes(24))
    commit = model_commitment(base, key, plaintext)
    opening = RoundOpening(1, round_number, CTX, base, commit, keccak(key), keccak(payload), 1, (), 7, 0, 0)
    node.chain.payloads[round_number] = payload
    return key, opening


class Rows:
    """A statistic that remembers which rows it was of."""

    def __init__(self) -> None:
        self.used: list[list[int]] = []

    def __call__(
        self,
        side: OwnerSide,
        published: Published,
        features: Floats,
        labels: Labels,
        clip: float,
        generator: np.random.Generator,
    ) -> Floats:
        numbers = (64 * features[:, 0]).astype(np.int64)
        assert np.array_equal(labels, numbers % 2), "labels stay with their rows"
        self.used.append(numbers.tolist())
        return np.zeros(side.value_count)


async def train(node: NodeStub, spec: TaskSpec, dataset: Dataset, round_number: int, **choices: Any) -> list[int]:
    """One life of the daemon trains in one round; the rows that it used, none where it refused."""
    recorder = Rows()
    part = part_of(node, dataset, statistic=recorder, **choices)
    await part.prepare()
    await part.handle(SnapshotSeen(snapshot(state(round=round_number), params=node.chain.tasks[1][1])))
    await part._train(*open_round(node, spec, round_number))
    await node.work_done()
    return recorder.used[0] if recorder.used else []


def fresh() -> Iterator[bytes]:
    """What the operating system would give: never the same twice."""
    for number in range(10**6):
        yield hashlib.sha256(str(number).encode()).digest()


@given(
    count=st.integers(28, 60),
    played=st.lists(st.integers(1, 4), min_size=1, max_size=8),
)
@settings(max_examples=12, deadline=None)
async def test_no_row_is_used_in_two_rounds_whatever_is_missed_over_restarts(count: int, played: list[int]) -> None:
    """Every round is played in another life, whose entropy is another; some rounds are missed, some tried again."""
    entropies = fresh()
    with TemporaryDirectory() as folder:
        node = node_in(Path(folder))
        offer(node, SECRET_HEAD)
        used: dict[int, list[int]] = {}
        for round_number in played:
            node.entropy = Entropy(f"life {next(entropies).hex()}")
            batch = await train(node, SECRET_HEAD, rows(count), round_number, entropy=lambda _: next(entropies))
            assert len(set(batch)) == len(batch) == count // 4
            # The same round has the same rows, should it ever be tried again.
            assert used.setdefault(round_number, batch) == batch
        every = [row for batch in used.values() for row in batch]
        assert len(set(every)) == len(every)
        node.journal.close()


async def test_rows_may_be_used_again_where_the_protection_says_so(node: NodeStub) -> None:
    entropies = fresh()
    offer(node, ENVELOPE)
    batches = [await train(node, ENVELOPE, rows(12), number, entropy=lambda _: next(entropies)) for number in (1, 2, 3)]
    assert all(len(set(batch)) == 8 for batch in batches), "the spec's batch size"
    assert len({tuple(batch) for batch in batches}) > 1
    assert node.journal.get("row order of task 1") is None


@pytest.mark.parametrize("change", ["value", "label", "order", "one row more"])
async def test_other_rows_than_the_task_was_begun_with_are_refused(node: NodeStub, change: str) -> None:
    """Which of them were used can no longer be told."""
    offer(node, SECRET_HEAD)
    first = rows(29)
    assert len(await train(node, SECRET_HEAD, first, 1)) == 7
    features, labels = first.features.copy(), first.labels.copy()
    match change:
        case "value":
            features[3, 1] += 1e-9
        case "label":
            labels[3] ^= 1
        case "order":
            features, labels = features[::-1], labels[::-1]
        case "one row more":
            features, labels = rows(30).features, rows(30).labels
    with pytest.raises(DataError, match="the rows have changed since task 1 began") as caught:
        await train(node, SECRET_HEAD, Dataset(features, labels, CLASSES), 2)
    assert "the file that the task was joined with" in caught.value.help
    assert not node.working
    # With the right file it goes on.
    assert len(await train(node, SECRET_HEAD, rows(29), 2)) == 7


async def test_another_tasks_rows_are_another_matter(tmp_path: Path) -> None:
    """The promise is one task's: its order and its file are remembered under its number."""
    node = node_in(tmp_path)
    offer(node, SECRET_HEAD)
    await train(node, SECRET_HEAD, rows(29), 1)
    assert node.journal.get("rows of task 1") == rows(29).digest
    assert node.journal.get("rows of task 2") is None


async def test_the_same_map_in_every_round_is_no_offence(node: NodeStub) -> None:
    offer(node, SECRET_HEAD)
    assert await train(node, SECRET_HEAD, rows(28), 1) and await train(node, SECRET_HEAD, rows(28), 2)
    assert not node.said("train.refused")


async def test_an_envelope_with_the_same_weights_is_refused(node: NodeStub, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(node, ENVELOPE)
    weights = np.full(ENVELOPE.side.value_count, 0.5)

    def same(spec: TaskSpec, round_number: int) -> bytes:
        return encode_payload(ModelPayload.of(model_of(spec.side), weights, SCALING, round_number))

    monkeypatch.setattr("tests.test_owner_data.plaintext_of", same)
    assert await train(node, ENVELOPE, rows(12), 1)
    assert not await train(node, ENVELOPE, rows(12), 2)
    (refused,) = node.said("train.refused")
    assert "the same weights in round 1" in refused["msg"]
