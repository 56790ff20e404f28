"""Posting a task: the cost said first, paid once whatever happens in between, and the weights in a file at the end."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from omnilytics.daemon import post
from omnilytics.daemon.amounts import format_amount
from omnilytics.daemon.config import Settings
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import create_keys, load_keys
from omnilytics.daemon.model import ModelPart, RoundResult, design_name
from omnilytics.daemon.post import TaskOrder, has_posted, share_of, with_defaults
from omnilytics.daemon.run import ModelOptions, model_choices
from omnilytics.daemon.training.data import load_digits, read_dataset, write_npz
from omnilytics.peers.errors import ConfigurationError, DataError, FundsError, JournalError, ParameterError
from omnilytics.peers.market import Outcome
from scripts import chain_process
from tests.local_market import LocalMarket, open_market
from tests.test_cli import _judge, refused, run_beside, run_here

SAID: dict[str, Any] = {
    "protection": None,
    "architecture": None,
    "features": None,
    "rounds": None,
    "groups": 6,
    "faulty": None,
    "lane_bits": None,
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "model"
    create_keys(home / "keys", "word", light=True)
    (home / "password").write_text("word\n")
    (home / "password").chmod(0o400)
    return home


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "own.npz"
    write_npz(path, load_digits().take(np.arange(0, 1797, 20)))
    return path


@contextlib.asynccontextmanager
async def market_for(anvil: chain_process.Chain, home: Path, wei: int) -> AsyncIterator[tuple[LocalMarket, list[str]]]:
    """A market, the options that lead there, and so much money on the folder's account."""
    async with open_market(anvil) as market:
        address = load_keys(home / "keys", "word").account.address
        await anvil.call("anvil_setBalance", address, hex(wei))
        where = ["--chain", anvil.rpc_url, "--market", "0x" + market.chain.market.hex()]
        yield market, ["--home", str(home), *where, "--broker", "mqtt://127.0.0.1:1"]


TERMS = ("--reward", "1eth", "--model", "softmax", "--rounds", "2", "--groups", "3", "--yes", "--only-post")


# ----------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ({}, ("secret-head", "softmax", 1, 1, "16")),
        ({"architecture": "mlp:64,32", "rounds": 10}, ("envelope", "mlp:64,32", 10, 1, "16")),
        ({"architecture": "softmax", "groups": 4}, ("envelope", "softmax", 20, 0, "16")),
        ({"architecture": "mlp:8", "protection": "perturbed"}, ("perturbed", "mlp:8", 20, 1, "32")),
        ({"architecture": "mlp:8", "protection": "secret-head", "faulty": 0}, ("secret-head", "mlp:8", 1, 0, "16")),
        ({"features": 64}, ("secret-head", "softmax", 1, 1, "16")),
        ({"protection": "envelope", "lane_bits": "8"}, ("envelope", "softmax", 20, 1, "8")),
    ],
    ids=str,
)
def test_what_is_not_said_is_chosen(said: dict[str, Any], chosen: tuple[Any, ...]) -> None:
    found = with_defaults(SAID | said)
    assert tuple(found[name] for name in ("protection", "architecture", "rounds", "faulty", "lane_bits")) == chosen


def test_the_reward_is_shared_evenly_and_never_exceeded() -> None:
    assert share_of(10**18, 10, 18) * 180 <= 10**18 < (share_of(10**18, 10, 18) + 1) * 180
    assert share_of(180, 10, 18) == 1
    for reward, rounds, owners in ((179, 10, 18), (0, 1, 1), (5, 0, 3), (5, 3, 0)):
        with pytest.raises(ParameterError, match="leaves nothing for each of"):
            share_of(reward, rounds, owners)


def options(rows: Path, **changes: Any) -> ModelOptions:
    from omnilytics.daemon.commands.model import run

    params = run.make_context("run", ["--test", str(rows)]).params | changes
    return ModelOptions(**{name: params[name] for name in ModelOptions.__dataclass_fields__})


def order_of(rows: Path, **changes: Any) -> TaskOrder:
    return TaskOrder(options(rows, **changes), read_dataset(rows).digest)


def test_an_order_is_read_back_and_knows_its_like(rows: Path, tmp_path: Path) -> None:
    order = order_of(rows)
    assert TaskOrder.decode(order.encode()) == order
    assert order.same_task(order_of(rows, task=5))
    assert order.same_task(replace(order, options=replace(order.options, test=tmp_path / "moved.npz")))
    assert not order.same_task(order_of(rows, rounds=21))
    assert not order.same_task(replace(order, rows=bytes(32)))
    for damaged in (b"", b"{}", b"[]", b'{"v": 2}', b'{"v": 1, "options": {}, "rows": ""}'):
        with pytest.raises(JournalError, match="record of what was posted cannot be read"):
            TaskOrder.decode(damaged)


def stored(home: Path, order: TaskOrder | None, task: int | None = None, sent: bool = False) -> Settings:
    """A folder whose journal holds this much of an earlier post."""
    settings = Settings(home)
    with contextlib.closing(Journal(settings.journal_path)) as journal:
        if order is not None:
            journal.replace("order", order.encode())
        if sent:
            journal.store_transaction(0, "createTask", bytes(32), b"raw")
        if task is not None:
            journal.bind("task", task.to_bytes(8, "big"))
    return settings


def test_another_order_is_refused_while_money_may_be_on_its_way(tmp_path: Path, rows: Path) -> None:
    mine, other = order_of(rows), order_of(rows, rate=5)
    assert post._standing(stored(tmp_path / "1", None), mine) is False
    assert post._standing(stored(tmp_path / "2", mine), mine) is False, "nothing was sent: it is quoted again"
    assert post._standing(stored(tmp_path / "3", other), mine) is False, "nothing was sent: a new order takes its place"
    assert post._standing(stored(tmp_path / "4", mine, sent=True), mine) is True
    assert post._standing(stored(tmp_path / "5", mine, task=7, sent=True), mine) is True
    with pytest.raises(ConfigurationError, match=r"is posting another task.*nothing was paid again") as caught:
        post._standing(stored(tmp_path / "6", other, sent=True), mine)
    assert f"omnilytics model run --home {tmp_path / '6'}" in caught.value.help
    for number, before in (("7", other), ("8", None)):
        with pytest.raises(ConfigurationError, match="has posted task 9, with other options; nothing was paid again"):
            post._standing(stored(tmp_path / number, before, task=9, sent=True), mine)
    assert [has_posted(Settings(tmp_path / number)) for number in ("1", "2", "none")] == [False, True, False]
    assert not (tmp_path / "none").exists(), "looking makes no folder"


def test_a_task_goes_on_with_its_own_rows_and_options_only(
    home: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Any] = []

    payout = "0x" + "0b" * 20

    class Still:
        settings = Settings(home, payout_address=payout)

        async def run(self, part: Any, alongside: Any) -> None:
            played.append(part)

    monkeypatch.setattr(post, "model_node", lambda *_: Still())
    monkeypatch.setattr(ModelPart, "__init__", lambda self, node, choices: setattr(self, "_choices", choices))
    callbacks = post.Callbacks(lambda quote: False, lambda task, again: None)
    settings, password = Settings(home), home / "password"
    with pytest.raises(ConfigurationError, match="no task was posted from") as caught:
        post.resume_task(settings, password, None, None, callbacks)
    assert "omnilytics model post" in caught.value.help
    order = order_of(rows, architecture="mlp:8")
    stored(home, order, task=7)
    post.resume_task(settings, password, None, None, callbacks)
    assert played[0]._choices.spec.architecture == "mlp:8"
    assert played[0].withdraw_to.hex() == payout[2:], "what is left over goes there"
    moved = tmp_path / "moved.npz"
    rows.rename(moved)
    with pytest.raises(DataError, match="cannot read"):
        post.resume_task(settings, password, None, None, callbacks)
    post.resume_task(settings, password, moved, None, callbacks)
    write_npz(rows, load_digits().take(np.arange(1, 1797, 20)))
    with pytest.raises(DataError, match="not the rows that the task was posted with"):
        post.resume_task(settings, password, None, None, callbacks)
    with contextlib.closing(Journal(settings.journal_path)) as journal:
        journal.bind(design_name(7), b"designed otherwise")
    with pytest.raises(ConfigurationError, match="would design another task"):
        post.resume_task(settings, password, moved, None, callbacks)
    assert len(played) == 2
    refused(2, "model", "run", "--home", home, "--rounds", 3, says="--rounds is of no use", cure="leave it out")
    refused(2, "model", "run", "--home", home, "--test", rows, "--model", "softmax", says="--model is of no use")


def test_each_round_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    from omnilytics.daemon.commands.model_post import tell_round

    found = SimpleNamespace(selected=(0, 2))
    result = cast(RoundResult, SimpleNamespace(outcome=Outcome.SELECTED, accuracy=0.9, found=found))
    tell_round(20)(3, result)
    tell_round(0)(4, result)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "round 3/20: accuracy 0.9000, selected, groups 0,2",
        "round 4: accuracy 0.9000, selected, groups 0,2",
    ]


# ------------------------------------------------------------------ what is refused


def test_amounts_without_units_and_missing_ones_are_refused(home: Path, rows: Path) -> None:
    base = "model", "post", "--home", home, "--test", rows
    refused(2, *base, "--reward", "10", says="amount '10' has no unit; write 10eth or 10wei")
    refused(2, *base, "--reward", "1btc", says="unknown unit 'btc'")
    refused(2, *base, says="say what is paid, by --reward or by --rate", cure="--reward 1eth")
    refused(2, *base, "--reward", "1eth", "--rate", "1gwei", says="say what is paid")
    refused(2, *base, "--reward", "17wei", says="leaves nothing for each of 18 owners in 1 rounds", cure="--reward")
    refused(2, *base, "--reward", "1eth", "--model", "cnn:8", says="unknown model 'cnn:8': no trainer 'cnn'")
    more = "--reward", "1eth", "--model", "torch:cnn:8", "--protection", "perturbed"
    refused(2, *base, *more, says="protection perturbed cannot train 'torch:cnn:8'", cure="--protection envelope")
    more = "--reward", "1eth", "--model", "torch:cnn:8", "--protection", "secret-head"
    refused(2, *base, *more, says="protection secret-head cannot train 'torch:cnn:8'", cure="--protection envelope")


async def test_nothing_is_posted_without_a_yes_or_the_money(anvil: chain_process.Chain, home: Path, rows: Path) -> None:
    async with market_for(anvil, home, 15 * 10**17) as (market, where):
        base = "model", "post", *where, "--test", rows, "--groups", "3", "--model", "softmax", "--only-post"
        told = await run_beside(*base, "--reward", "0.5eth")
        _judge(2, told, "nothing was posted: there is no terminal to ask on", "--yes")
        assert re.search(r"pay +0\.002777777777777777 eth an owner and round, 0\.49999999999999986 eth in all", told[2])
        assert "owners that join see the model; nobody else does" in told[2]
        _judge(6, await run_beside(*base, "--reward", "2eth", "--yes"), "has 1.5 eth, the task's escrow is", "--reward")
        assert await market.chain.task_count() == 0
        assert not has_posted(Settings(home))


# -------------------------------------------------------------- on a real chain


async def test_a_post_pays_once_however_often_it_is_said(anvil: chain_process.Chain, home: Path, rows: Path) -> None:
    async with market_for(anvil, home, 10**19) as (market, where):
        base = "model", "post", *where, "--test", rows, *TERMS
        code, out, err = await run_beside(*base, "--json")
        assert code == 0, err
        said = json.loads(out)
        assert (said["command"], said["data"]["task"], said["data"]["new"]) == ("model post", 1, True)
        state, params = await market.chain.state(1), await market.chain.params(1)
        assert (params.rounds, params.max_groups, params.faulty_groups) == (2, 3, 0)
        assert params.rate == 10**18 // 18 and said["data"]["escrow_wei"] == state.escrow
        assert f"{format_amount(state.escrow)} now, from 0x" in err
        # Said again, and once more after a crash that forgot the task: it is found again, and nothing is paid.
        for forget in (False, True):
            if forget:
                with contextlib.closing(sqlite3.connect(home / "journal.sqlite")) as journal, journal:
                    journal.execute("DELETE FROM meta WHERE name = 'task'")
            code, out, err = await run_beside(*base)
            assert (code, out) == (0, "task 1 was posted before; nothing was paid again\n"), err
            assert await market.chain.task_count() == 1
        _judge(2, await run_beside(*base, "--seed", 5), "has posted task 1, with other options", "omnilytics init")
        assert await market.chain.task_count() == 1
        # Whoever looks sees it wait for owners.
        code, out, err = await run_beside("model", "watch", *where, "--once")
        assert code == 0 and out.split() == ["round", "accuracy", "outcome", "selected", "complete", "paid"]
        assert re.fullmatch(r"round 0, 0 of 9 owners joined, \d+ s left\n", err)
        code, out, _ = await run_beside("model", "watch", "1", *where, "--once", "--json")
        view = json.loads(out)["data"]
        assert (view["status"], view["rows"], view["waiting"]["for"]) == ("joining", [], "0 of 9 owners joined")
        _judge(4, await run_beside("model", "watch", "5", *where, "--once"), "no task 5", "omnilytics tasks")


async def test_the_first_weights_can_be_fetched_and_predict(
    anvil: chain_process.Chain, home: Path, rows: Path, tmp_path: Path
) -> None:
    async with market_for(anvil, home, 10**19) as (_, where):
        terms = "--reward", "1eth", "--features", "20", "--groups", "3", "--yes", "--only-post"
        code, _, err = await run_beside("model", "post", *where, "--test", rows, *terms)
        assert code == 0 and "nobody but you ever sees the model" in err, err
        out = tmp_path / "model.safetensors"
        code, told, err = await run_beside("model", "fetch", "--home", home, "--out", out)
        assert (code, told) == (0, f"{out}: random:20 under secret-head, task 1 after round 0\n"), err
        code, told, err = await run_beside("model", "predict", "--home", home, "--model", out, "--data", rows)
        # A head of zeros: all scores tie, and the first class is taken.
        assert (code, told.split()) == (0, ["0"] * 90)
        share = (read_dataset(rows).labels == 0).mean()
        assert err == f"{share:.4f} of 90 rows are right\n"
        code, told, _ = await run_beside("model", "predict", "--home", home, "--model", out, "--data", rows, "--json")
        assert json.loads(told)["data"] == {"classes": ["0"] * 90, "accuracy": share}


def test_fetch_says_what_is_missing(home: Path, rows: Path, tmp_path: Path) -> None:
    base = "model", "fetch", "--home", home, "--out", tmp_path / "m.npz"
    refused(2, *base, says="has no task", cure="--home")
    refused(2, *base[:2], 7, *base[2:], says="has no journal", cure="--home")
    settings = stored(home, None, task=7)
    refused(2, *base, says="no model of task 7", cure="--home")
    with contextlib.closing(Journal(settings.journal_path)) as journal:
        journal.store_model(7, 0, np.zeros(650), b"")
        journal.store_model(7, 1, np.full(650, 0.5), b"")
    refused(2, *base, says="was made by an earlier version", cure="start the model owner's daemon once")
    record = model_choices(options(rows), read_dataset(rows)).record
    with contextlib.closing(Journal(settings.journal_path)) as journal:
        journal.bind(design_name(7), record)
    refused(2, *base, "--round", 3, says="no model after round 3 of task 7; the newest is after round 1")
    (home / "log.jsonl").write_text(
        '{"event":"round.done","task":7,"round":1,"data":{"accuracy":0.75}}\nnonsense "round.done"\n'
    )
    assert run_here(*base, "--round", 0)[:2] == (
        0,
        f"{tmp_path / 'm.npz'}: softmax under envelope, task 7 after round 0\n",
    )
    refused(2, *base, says="is there already", cure="--force")
    code, told, _ = run_here(*base, "--force", "--json")
    said = json.loads(told)["data"]
    assert (code, said["round"], said["accuracy"], said["classes"][:8]) == (0, "1", "0.75", '["0", "1')
    refused(2, "model", "fetch", "--home", home, "--out", tmp_path / "m.pt", says="is written as", cure="--out")
    refused(
        9,
        "model",
        "predict",
        "--home",
        home,
        "--model",
        rows,
        "--data",
        rows,
        says="not a model: its arrays are compressed",
    )


async def test_an_account_that_has_too_little_is_told_before_anything_is_sent(
    anvil: chain_process.Chain, home: Path, rows: Path
) -> None:
    async with market_for(anvil, home, 0) as (market, _):
        choices = model_choices(options(rows, groups=3, faulty=0, rounds=1), read_dataset(rows))
        with pytest.raises(FundsError, match="has 0 wei, the task's escrow is"):
            await post.quote(market.chain, None, choices, b"\x22" * 20)
