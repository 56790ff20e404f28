"""How an owner's options and configuration come together: the policy in force, and what is done to gradients."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest

from omnilytics.daemon import run
from omnilytics.daemon.config import Settings
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.protection.sides import StatisticFunction, honest_statistic
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.payload import as_published
from omnilytics.daemon.training.private import PrivacyOptions, clipped_mean_gradient
from omnilytics.peers.addresses import checksum_address
from omnilytics.peers.errors import ConfigurationError
from tests.envelope_sides import payload_of
from tests.part_stubs import LogStub

NOISY = {"noise_multiplier": 4.0, "clip_norm": 0.01}


class StillNode:
    """A node that runs nothing; with tasks that are joined already, or without."""

    def __init__(self, *joined: int) -> None:
        self.journal = mock.Mock(**{"unfinished_tasks.return_value": list(joined), "get.return_value": None})
        self.ran: list[str] = []
        self.chain = None

    async def run(self, part: object, alongside: object) -> None:
        self.ran.append("one part")

    async def run_all(self, play: object, alongside: object) -> None:
        self.ran.append("tasks")


def choices_of(
    home: Path,
    tables: dict[str, Any],
    statistic: StatisticFunction = honest_statistic,
    payout_address: str = "",
    **options: Any,
) -> OwnerChoices:
    """What the owner's part is given by these tables of config.toml and these options."""
    given: list[OwnerChoices] = []
    path = home / "rows.npz"
    np.savez(path, X=np.eye(4), y=np.arange(4) % 2)

    def part(node: object, task: int | None, choices: OwnerChoices) -> OwnerPart:
        given.append(choices)
        return cast(OwnerPart, SimpleNamespace(finder=mock.Mock()))

    settings = Settings(home, tables=tables, payout_address=payout_address)
    with mock.patch.object(run, "_node", lambda *_: StillNode()), mock.patch.object(run, "OwnerTasks"):
        run.run_owner(settings, home / "password", run.OwnerOptions(path, **options), statistic, cast(Any, part))
    (choices,) = given
    return choices


def test_without_tables_gradients_are_as_they_come_and_the_policy_is_the_default(tmp_path: Path) -> None:
    choices = choices_of(tmp_path, {})
    assert choices.statistic is honest_statistic
    assert (choices.policy, choices.privacy, choices.secret_batch) == (Policy(), PrivacyOptions(), True)


def test_the_policy_is_the_files_and_max_stake_is_stronger(tmp_path: Path) -> None:
    tables = {"policy": {"maximum_stake": 5, "minimum_reward": 7}}
    assert choices_of(tmp_path, tables).policy == Policy(maximum_stake=5, minimum_reward=7)
    assert choices_of(tmp_path, tables, max_stake=9).policy == Policy(maximum_stake=9, minimum_reward=7)
    assert choices_of(tmp_path, tables, max_stake=0).policy.maximum_stake == 0


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_with_privacy_every_gradient_is_clipped_and_gets_its_noise(tmp_path: Path, noise: float) -> None:
    choices = choices_of(tmp_path, {"privacy": {**NOISY, "noise_multiplier": noise}})
    assert choices.privacy == PrivacyOptions(noise, 0.01)
    generator = np.random.default_rng(0)
    model = Model(Architecture(), 20, 5)
    weights, features = as_published(generator.normal(size=model.value_count)), generator.normal(size=(8, 20))
    labels = generator.integers(0, 5, 8)
    with mock.patch.object(os, "urandom", np.random.default_rng(1).bytes):
        found = choices.statistic(EnvelopeOwner(model), payload_of(model, weights), features, labels, 1.0, generator)
    rest = found - clipped_mean_gradient(model, weights, features, labels, 0.01)
    assert np.any(rest) == bool(noise)
    # 105 normals of standard deviation 4 * 0.01 / 8: their mean square is within a factor of two.
    assert rest.std() == pytest.approx(noise * 0.01 / 8, rel=0.5)


ALICE = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
BOB = "0x" + "0b" * 20


def test_earnings_go_to_the_flags_address_over_the_files_over_the_own_account(tmp_path: Path) -> None:
    assert choices_of(tmp_path, {}).withdraw_to is None
    assert choices_of(tmp_path, {}, payout_address=ALICE).withdraw_to == bytes.fromhex(ALICE[2:])
    assert choices_of(tmp_path, {}, payout_address=ALICE, withdraw_to=BOB).withdraw_to == bytes.fromhex(BOB[2:])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"payout_address": ALICE.replace("5aA", "5AA")}, "payout_address: .* wrong checksum"),
        ({"payout_address": "alice"}, "payout_address: 'alice' is not an address"),
        ({"payout_address": "0x" + "00" * 20}, "belongs to nobody"),
        ({"withdraw_to": ALICE[:-1] + "0"}, "--withdraw-to .* wrong checksum"),
    ],
)
def test_an_address_that_may_be_a_slip_is_refused_before_anything_is_done(
    tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        choices_of(tmp_path, {}, **given)


def test_a_new_payout_address_is_journalled_and_said(tmp_path: Path) -> None:
    log = LogStub()
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal:
        node = cast(Any, SimpleNamespace(journal=journal, log=log))
        for payout in (BOB, BOB, ALICE, ALICE):
            run.announce_payout(node, bytes.fromhex(payout[2:]))
        assert journal.get("payout") == bytes.fromhex(ALICE[2:])
    ((event, fields),) = log.events
    assert event == "payout.changed"
    assert ALICE in fields["msg"] and checksum_address(bytes.fromhex(BOB[2:])) in fields["msg"]


@pytest.mark.parametrize(("address", "payout"), [("", None), (ALICE, bytes.fromhex(ALICE[2:]))])
def test_a_model_owners_refund_goes_to_the_payout_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, payout: bytes | None
) -> None:
    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(run, "DaemonControl", lambda *_: SimpleNamespace(run=nothing))
    node = SimpleNamespace(settings=Settings(tmp_path, payout_address=address), run=nothing)
    part = SimpleNamespace()
    run.play_model(cast(Any, node), cast(Any, part))
    assert part.withdraw_to == payout


def test_batches_from_a_seed_are_no_secret(tmp_path: Path) -> None:
    assert choices_of(tmp_path, {}, seed="5").secret_batch is False


def test_a_hostile_gradient_is_left_alone_and_counts_as_without_noise(tmp_path: Path) -> None:
    poison = cast(StatisticFunction, lambda *_: None)
    choices = choices_of(tmp_path, {"privacy": NOISY}, poison)
    assert choices.statistic is poison and choices.privacy == PrivacyOptions()


# ------------------------------------------------------------------- one task, or several


def ran(home: Path, *joined: int, tables: dict[str, Any] | None = None, **options: Any) -> tuple[str, mock.Mock]:
    """What a daemon plays that has joined these tasks before: "one part" or "tasks"; and how these were asked for."""
    path = home / "rows.npz"
    np.savez(path, X=np.eye(4), y=np.arange(4) % 2)
    node = StillNode(*joined)
    with mock.patch.object(run, "_node", lambda *_: node), mock.patch.object(run, "OwnerTasks") as tasks:
        run.run_owner(
            Settings(home, tables=tables or {}),
            home / "password",
            run.OwnerOptions(path, **options),
            part_class=mock.Mock(),
        )
    (played,) = node.ran
    return played, tasks


def test_without_a_word_it_is_one_task_as_ever(tmp_path: Path) -> None:
    assert ran(tmp_path)[0] == ran(tmp_path, task=7)[0] == ran(tmp_path, 7, task=7)[0] == "one part"
    assert ran(tmp_path, max_tasks=1)[0] == "one part"


@pytest.mark.parametrize(
    ("options", "tables", "most"),
    [
        ({"stay": True}, {}, 1),
        ({"max_tasks": 3}, {}, 3),
        ({"stay": True, "max_tasks": 3}, {"policy": {"most_tasks": 2}}, 3),
        ({}, {"policy": {"most_tasks": 2}}, 2),
    ],
    ids=str,
)
def test_it_stays_where_it_is_told_to(
    tmp_path: Path, options: dict[str, Any], tables: dict[str, Any], most: int
) -> None:
    played, tasks = ran(tmp_path, tables=tables, **options)
    (_, choices, joins_more, named, _), _ = tasks.call_args
    assert (played, choices.policy.most_tasks, joins_more, named) == ("tasks", most, True, None)


@pytest.mark.parametrize("task", [None, 7], ids=["none named", "one named"])
def test_what_was_joined_in_an_earlier_life_is_played_on_by_one_that_does_not_stay(
    tmp_path: Path, task: int | None
) -> None:
    """Stakes hang on it."""
    played, tasks = ran(tmp_path, 8, 9, task=task, tables={"policy": {"most_tasks": 2}} if task else {})
    (_, _, joins_more, named, _), _ = tasks.call_args
    assert (played, joins_more, named) == ("tasks", False, task)


@pytest.mark.parametrize("options", [{"stay": True}, {"max_tasks": 2}], ids=str)
def test_one_named_task_and_all_there_are_exclude_each_other(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="--task names the only task"):
        ran(tmp_path, task=7, **options)
