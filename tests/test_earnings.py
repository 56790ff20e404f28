"""What an account has earned, and how it is collected without a daemon, on a real chain."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from omnilytics.daemon.chain_identity import check_identity
from omnilytics.daemon.config import Settings
from omnilytics.daemon.earnings import (
    RememberedTask,
    TaskEarnings,
    last_role,
    read_earnings,
    remembered,
    withdraw,
)
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys, create_keys
from omnilytics.daemon.ledger import Exposure, Mechanism
from omnilytics.peers.errors import ChainError, ChainMismatchError
from omnilytics.peers.market import Member, MemberStatus, TaskStatus
from scripts import chain_process
from scripts.chain_process import rpc_call
from tests.local_market import PARAMS, LocalMarket, open_market
from tests.market_views import state

ME = bytes([7]) * 20
STAKE = PARAMS.stake
MONEY = 100 * 10**18


# ---------------------------------------------------------------------- reading


class Views:
    """A chain of three tasks: one that pays us, one without us, and one of our own."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.tasks = [
            state(status=TaskStatus.RUNNING, model_owner=bytes(20)),
            state(status=TaskStatus.JOINING, model_owner=bytes(20)),
            state(status=TaskStatus.ENDED, model_owner=ME),
        ]

    async def head(self) -> Any:
        from omnilytics.daemon.chain import Head

        return Head(9, 0, bytes(32), 0, bytes(32))

    async def task_count(self) -> int:
        return len(self.tasks)

    async def state(self, task: int, block: int | None = None) -> Any:
        assert block == 7
        return self.tasks[task - 1]

    async def members(self, task: int, block: int | None = None) -> tuple[Member, ...]:
        return (replace(self.member, account=bytes(20)), *((self.member,) if task == 1 else ()))

    async def params(self, task: int) -> Any:
        return PARAMS

    async def paid_rounds(self, task: int) -> list[int]:
        return [0, 5, 0]

    async def withdrawable(self, account: bytes, tasks: list[int], block: int | None = None) -> int:
        return 11 + (3 * PARAMS.rate if tasks == [1] else 0)


def member(seat: int, status: MemberStatus, collected: int = 2) -> Member:
    return Member(ME, STAKE, seat, status, bytes(32), bytes(32), collected)


async def test_pay_is_counted_in_rounds_of_the_own_group() -> None:
    views: Any = Views(member(4, MemberStatus.SEATED))
    found = await read_earnings(views, ME, depth=2)
    rate = PARAMS.rate
    assert found.tasks == (
        TaskEarnings(1, "owner", "running", 5, 5 * rate, 2 * rate, 3 * rate, STAKE),
        TaskEarnings(3, "model", "ended"),
    )
    assert (found.credits, found.paid, found.withdrawn, found.withdrawable) == (11, 5 * rate, 2 * rate, 3 * rate + 11)


@pytest.mark.parametrize(
    "someone",
    [member(255, MemberStatus.JOINED, 0), member(255, MemberStatus.OUT, 0), member(2, MemberStatus.REVEALED, 0)],
)
async def test_who_has_no_seat_has_no_pay(someone: Member) -> None:
    views: Any = Views(someone)
    (entry, _) = (await read_earnings(views, ME, depth=2)).tasks
    assert (entry.paid_rounds, entry.paid, entry.withdrawn) == (0, 0, 0)


def test_without_a_chain_the_journal_knows_the_rounds(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    assert remembered(path) == []
    assert not path.exists()
    with closing(Journal(path)) as journal:
        for task, number in ((9, 1), (3, 1), (3, 2)):
            how = Mechanism(0.0, 64, 80)
            entry = Exposure(task, number, bytes(20), ME, "softmax", bytes(32), 3, "envelope", how)
            journal.plan_exposure(entry)
            journal.enter_exposure(task, number)
    assert remembered(path) == [RememberedTask(3, 2), RememberedTask(9, 1)]


@pytest.mark.parametrize(
    ("text", "role"), [(None, "owner"), ("", "owner"), ('{"role": "model"}\n', "model"), ("nonsense\n", "owner")]
)
def test_who_withdraws_logs_on_as_who_it_was(tmp_path: Path, text: str | None, role: str) -> None:
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    assert last_role(tmp_path / "log.jsonl") == role


# ------------------------------------------------------------------ withdrawing


@pytest_asyncio.fixture
async def market(anvil: chain_process.Chain) -> AsyncIterator[LocalMarket]:
    async with open_market(anvil) as opened:
        yield opened


@pytest_asyncio.fixture
async def owed(market: LocalMarket, tmp_path: Path) -> tuple[Settings, Keys]:
    """A folder whose account joined a task that was cancelled for want of others: its stake is released."""
    home = tmp_path / "home"
    keys = create_keys(home / "keys", "password", light=True)
    url = market.anvil.rpc_url
    await asyncio.to_thread(rpc_call, url, "anvil_setBalance", keys.account.address, hex(MONEY))
    await market.create()
    await market.join(keys)
    await market.anvil.advance(PARAMS.join_seconds + 1)
    await market.act(market.model, "poke", market.task)
    return Settings(home, chain=url, market="0x" + market.chain.market.hex()), keys


async def test_everything_owed_is_collected_once_and_told(market: LocalMarket, owed: tuple[Settings, Keys]) -> None:
    settings, keys = owed
    before = await read_earnings(market.chain, keys.address)
    assert before.tasks == (TaskEarnings(1, "owner", "cancelled", withdrawable=STAKE, staked=STAKE),)
    to = bytes([9]) * 20
    done = await withdraw(settings, keys, to, 60)
    assert done is not None
    assert (done.amount, await market.chain.balance(to)) == (STAKE, STAKE)
    spent = MONEY - STAKE - await market.chain.balance(keys.address)
    assert 0 < done.fee < spent
    after = await read_earnings(market.chain, keys.address)
    assert (after.withdrawable, after.tasks[0].staked) == (0, 0)
    assert await withdraw(settings, keys, None, 60) is None
    records = [json.loads(line) for line in settings.log_path.read_text().splitlines()]
    (mined,) = [record for record in records if record["event"] == "tx.mined"]
    assert (mined["data"]["function"], mined["data"]["wei_received"]) == ("withdraw", STAKE)
    with closing(Journal(settings.journal_path)) as journal:
        assert journal.unmined_transactions() == []
        assert len(journal.transactions_between(0, 100)) == 1


async def test_a_model_owners_refund_is_a_credit(market: LocalMarket, owed: tuple[Settings, Keys]) -> None:
    found = await read_earnings(market.chain, market.model.address)
    assert found.tasks == (TaskEarnings(1, "model", "cancelled"),)
    assert found.credits == sum(await market.chain.escrow_required(PARAMS)) == found.withdrawable


async def test_a_model_owner_collects_its_refund_from_a_task_that_nobody_poked(
    market: LocalMarket, tmp_path: Path
) -> None:
    """Its daemon is gone, and the deadline has passed: the contract shows nothing yet, and pays all the same."""
    settings = Settings(tmp_path / "model", chain=market.anvil.rpc_url, market="0x" + market.chain.market.hex())
    settings.home.mkdir()
    await market.create()
    to = bytes([7]) * 20
    assert await withdraw(settings, market.model, to, 60) is None, "while owners may still join"
    await market.anvil.advance(PARAMS.join_seconds + 1)
    await market.anvil.mine(1)
    assert (await read_earnings(market.chain, market.model.address)).withdrawable == 0
    done = await withdraw(settings, market.model, to, 60)
    assert done is not None
    assert done.amount == sum(await market.chain.escrow_required(PARAMS)) == await market.chain.balance(to)
    assert await withdraw(settings, market.model, to, 60) is None


async def test_the_folder_of_another_chain_sends_nothing(market: LocalMarket, owed: tuple[Settings, Keys]) -> None:
    settings, keys = owed
    with closing(Journal(settings.journal_path)) as journal:
        journal.bind("chain", b"\x01" * 32 + market.chain.market)
        with pytest.raises(ChainMismatchError, match="another chain or market"):
            check_identity(journal, market.chain)
    with pytest.raises(ChainMismatchError, match="another chain or market"):
        await withdraw(settings, keys, None, 60)
    assert (await read_earnings(market.chain, keys.address)).withdrawable == STAKE


async def test_a_withdrawal_that_no_block_takes_is_given_up_and_not_forgotten(
    market: LocalMarket, owed: tuple[Settings, Keys]
) -> None:
    settings, keys = owed
    await asyncio.to_thread(rpc_call, market.anvil.rpc_url, "evm_setAutomine", False)
    with pytest.raises(ChainError, match="no block had the withdrawal in 3 s") as caught:
        await withdraw(settings, keys, None, 3)
    assert "omnilytics earnings" in caught.value.help
    with closing(Journal(settings.journal_path)) as journal:
        assert len(journal.unmined_transactions()) == 1
    await market.anvil.mine(1)
    # The next one looks for it first, and finds that nothing is left.
    assert await withdraw(settings, keys, None, 60) is None
    assert (await read_earnings(market.chain, keys.address)).withdrawable == 0
