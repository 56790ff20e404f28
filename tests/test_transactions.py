"""The queue of transactions on a real chain: in order, journalled first, once whatever happens on the way."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from eth_account import Account

from omnilytics.daemon import in_flight, transactions
from omnilytics.daemon.chain import MAX_TRANSACTION_GAS, Chain, ContractRefused, Receipt, RpcAnswered, params_tuple
from omnilytics.daemon.in_flight import FeePolicy
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log import Logger
from omnilytics.daemon.transactions import TransactionQueue, duty_key
from omnilytics.peers.errors import FundsError, ParameterError
from scripts import chain_process
from tests.local_market import PARAMS, SPEC, LocalMarket, keys_of, open_market

FEES = FeePolicy(bump_seconds=30.0)
PATIENCE = 20.0


class Daemon:
    """A queue with its journal and log, as a daemon has them."""

    def __init__(self, market: LocalMarket, keys: Keys, folder: Path, fees: FeePolicy, chain: Chain | None) -> None:
        self.market, self.keys = market, keys
        self.journal = Journal(folder / "journal.sqlite")
        self.log_path = folder / "log.jsonl"
        self.log = Logger(self.log_path, "owner", "0x")
        self.mined: list[str] = []
        self.queue = TransactionQueue(chain or market.chain, keys, self.journal, self.log, fees, self._on_mined)

    async def _on_mined(self, key: str, _receipt: Receipt) -> None:
        self.mined.append(key)

    def records(self, event: str) -> list[dict[str, Any]]:
        lines = self.log_path.read_text(encoding="utf-8").splitlines()
        return [record for record in map(json.loads, lines) if record["event"] == event]

    async def until(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.records(event)) >= count)
        return self.records(event)

    def create(self) -> Awaitable[Receipt]:
        data = params_tuple(PARAMS), self.keys.box.public, SPEC
        return self.queue.submit("createTask", "createTask", *data, value=ESCROW, task=1)


ESCROW = 0


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def eventually_async(ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await ask() != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(
    market: LocalMarket, keys: Keys, folder: Path, fees: FeePolicy = FEES, chain: Chain | None = None
) -> AsyncIterator[Daemon]:
    daemon = Daemon(market, keys, folder, fees, chain)
    task = asyncio.create_task(daemon.queue.run())
    try:
        yield daemon
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        daemon.log.close()
        daemon.journal.close()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.4)
    monkeypatch.setattr(in_flight, "RETRY_SECONDS", 0.4)
    monkeypatch.setattr(in_flight, "LOST_SECONDS", 0.2)


@pytest_asyncio.fixture
async def market(anvil: chain_process.Chain) -> AsyncIterator[LocalMarket]:
    global ESCROW
    async with open_market(anvil) as opened:
        ESCROW = sum(await opened.chain.escrow_required(PARAMS))
        yield opened


async def transaction(market: LocalMarket, tx_hash: str) -> dict[str, Any]:
    found: dict[str, Any] = await market.anvil.call("eth_getTransactionByHash", tx_hash)
    return found


async def count_of(market: LocalMarket, keys: Keys) -> int:
    return await market.chain.mined_nonce(keys.address)


# -------------------------------------------------------------------- several tasks


async def test_an_order_that_the_rpc_does_not_like_holds_no_other_tasks_orders_back(
    market: LocalMarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, and with an error: alone, the order would be tried again and again. Its duty comes back anyway."""
    for _ in range(2):
        await market.create()
    owner, disliked = market.owners[0], 1
    honest = market.chain.estimate

    async def estimate(sender: bytes, data: bytes, value: int) -> int:
        if data == market.chain.encode("leave", disliked):
            raise RpcAnswered("RPC answered with an error: gas required exceeds allowance")
        return await honest(sender, data, value)

    monkeypatch.setattr(market.chain, "estimate", estimate)
    async with running(market, owner, tmp_path) as daemon, asyncio.timeout(PATIENCE):
        stuck = daemon.queue.submit(duty_key(1, "leave"), "leave", 1, task=1)
        join = daemon.queue.submit(
            duty_key(2, "join"), "join", *market.join_arguments(owner), value=PARAMS.stake, task=2
        )
        assert not daemon.queue.idle(1) and not daemon.queue.idle(2) and daemon.queue.idle(3)
        with pytest.raises(RpcAnswered):
            await stuck
        assert (await join).succeeded
        assert daemon.queue.idle(1)
        # While nobody else waits it is the RPC's trouble as ever: tried again until it is over.
        again = daemon.queue.submit(duty_key(1, "join"), "leave", 1, task=1)
        await daemon.until("rpc.error")
        assert not again.done()


async def test_orders_of_two_tasks_are_mined_in_one_block(market: LocalMarket, tmp_path: Path) -> None:
    """A real node takes consecutive nonces, and a later one before an earlier one."""
    owner = market.owners[0]
    joins = []
    for _ in range(3):
        await market.create()
        joins.append(market.join_arguments(owner))
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, owner, tmp_path) as daemon, asyncio.timeout(PATIENCE):
        orders = [
            daemon.queue.submit(duty_key(join[0], "join"), "join", *join, value=PARAMS.stake, task=join[0])
            for join in joins
        ]
        first = await daemon.until("tx.sent", 3)
        await market.anvil.call("anvil_dropTransaction", first[0]["tx"])
        # anvil drops the later ones with it.
        again = await daemon.until("tx.resent", 3)
        assert {record["tx"] for record in again} == {record["tx"] for record in first}
        await eventually_async(lambda: market.chain.next_nonce(owner.address), 3)
        await market.anvil.mine()
        receipts = await asyncio.gather(*orders)
        assert len({receipt.block for receipt in receipts}) == 1
        assert all(receipt.succeeded for receipt in receipts)
        assert await count_of(market, owner) == 3
        assert daemon.journal.unmined_transactions() == []
    await market.anvil.call("evm_setAutomine", True)


# -------------------------------------------------------------------- all is well


async def test_orders_are_carried_out_one_after_the_other_and_told(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    async with running(market, market.owners[0], tmp_path) as daemon:
        join = daemon.queue.submit(
            "join", "join", *market.join_arguments(market.owners[0]), value=PARAMS.stake, task=1, group=2
        )
        leave = daemon.queue.submit("leave", "leave", 1)
        assert daemon.queue.pending_count
        assert not daemon.queue.wanted("join", 10**9)
        async with asyncio.timeout(PATIENCE):
            first, second = await join, await leave
        assert first.succeeded
        assert first.block < second.block
        assert daemon.journal.unmined_transactions() == []
        await eventually(lambda: not daemon.queue.pending_count)
        assert daemon.mined == ["join", "leave"]
        # A snapshot that may not show the result yet is no reason to act again; a later one is.
        assert not daemon.queue.wanted("join", first.block)
        assert daemon.queue.wanted("join", first.block + 1)
        assert daemon.queue.wanted("never sent", 0)
        record = daemon.records("tx.mined")[0]
        assert (record["block"], record["gas"], record["wei"]) == (first.block, first.gas_used, first.fee)
        assert (record["task"], record["group"], record["data"]["function"]) == (1, 2, "join")
        assert record["data"]["calldata_bytes"] == len(
            market.chain.encode("join", *market.join_arguments(market.owners[0]))
        )
        # Gas is asked for with room to spare, because others act between the estimate and the block.
        sent = await transaction(market, record["tx"])
        assert int(sent["gas"], 16) >= first.gas_used * 5 // 4 + 200_000
        assert int(sent["gas"], 16) <= MAX_TRANSACTION_GAS


@pytest.mark.parametrize("most_gas", [1_000_000, 60_000])
async def test_where_the_most_gas_is_known_it_is_tried_and_not_searched_for(
    market: LocalMarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_gas: int
) -> None:
    """A number that is too low costs a try, and no transaction."""
    await market.create()
    searched: list[bytes] = []
    honest = market.chain.estimate

    async def estimate(sender: bytes, data: bytes, value: int) -> int:
        searched.append(data)
        return await honest(sender, data, value)

    monkeypatch.setattr(market.chain, "estimate", estimate)
    owner = market.owners[0]
    async with running(market, owner, tmp_path) as daemon, asyncio.timeout(PATIENCE):
        arguments = market.join_arguments(owner)
        receipt = await daemon.queue.submit("join", "join", *arguments, value=PARAMS.stake, most_gas=most_gas)
        assert receipt.succeeded
        assert len(searched) == (0 if most_gas > receipt.gas_used else 1)
        assert (most_gas > receipt.gas_used) == (most_gas == 1_000_000)
        # What the contract refuses is refused in its own words all the same.
        with pytest.raises(ContractRefused, match="the contract refuses"):
            await daemon.queue.submit("again", "join", *arguments, value=PARAMS.stake, most_gas=most_gas)


async def test_a_refusal_has_the_contracts_own_words_and_sends_nothing(market: LocalMarket, tmp_path: Path) -> None:
    keys = market.owners[0]
    async with running(market, keys, tmp_path) as daemon:
        with pytest.raises(ContractRefused, match=r"NoSuchTask\(taskId=77\)") as caught:
            await daemon.queue.submit("poke", "poke", 77)
        assert caught.value.name == "NoSuchTask"
        assert caught.value.arguments == {"taskId": 77}
        assert await count_of(market, keys) == 0
        assert daemon.journal.unmined_transactions() == []
        (record,) = await daemon.until("tx.refused")
        assert record["level"] == "info"
        assert record["code"] == "chain.refused"
        # Not at once again: the next snapshot would only ask for the same.
        assert not daemon.queue.wanted("poke", 10**9)
        # And the queue goes on.
        await market.create()
        assert (await daemon.queue.submit("poke again", "poke", 1)).succeeded


async def test_a_call_too_large_for_client_pools_is_not_sent(market: LocalMarket, tmp_path: Path) -> None:
    async with running(market, market.model, tmp_path) as daemon:
        with pytest.raises(ParameterError, match="bytes of calldata, more than 120000"):
            await daemon.queue.submit("part", "publishPart", 1, 1, 0, bytes(120_000))
        assert await count_of(market, market.model) == 0


async def test_a_transaction_is_durable_before_anybody_sees_it(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    chain = market.chain
    async with running(market, market.owners[0], tmp_path) as daemon:
        seen: list[tuple[bytes, list[bytes]]] = []
        honest = chain.send_raw

        async def spy(raw: bytes) -> None:
            with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as other:
                seen.append((raw, [entry[3] for entry in other.unmined_transactions()]))
            await honest(raw)

        chain.send_raw = spy  # type: ignore[method-assign]
        await daemon.queue.submit("poke", "poke", 1)
    (entry,) = seen
    assert entry[1] == [entry[0]]


# ------------------------------------------------------------------------- money


async def test_an_account_without_money_is_told_what_it_needs(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    poor = keys_of("0x" + "42" * 32, "poor")
    async with running(market, poor, tmp_path) as daemon:
        with pytest.raises(FundsError, match=f"{poor.account.address} has 0 wei; join needs {PARAMS.stake} wei"):
            await daemon.queue.submit("join", "join", *market.join_arguments(poor), value=PARAMS.stake)
        # Enough for the stake, not for gas.
        await market.anvil.call("anvil_setBalance", poor.account.address, hex(PARAMS.stake + 10**10))
        with pytest.raises(FundsError, match="needs up to"):
            await daemon.queue.submit("join 2", "join", *market.join_arguments(poor), value=PARAMS.stake)
        assert await count_of(market, poor) == 0
        await market.anvil.call("anvil_setBalance", poor.account.address, hex(10**18))
        receipt = await daemon.queue.submit("join 3", "join", *market.join_arguments(poor), value=PARAMS.stake)
        assert receipt.succeeded


async def test_no_more_than_the_cap_is_paid_and_a_lower_fee_is_waited_for(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    await market.anvil.call("anvil_setNextBlockBaseFeePerGas", hex(50 * 10**9))
    await market.anvil.mine()
    async with running(market, market.owners[0], tmp_path, FeePolicy(price_cap=10**9, tip=2 * 10**9)) as daemon:
        poke = daemon.queue.submit("poke", "poke", 1)
        (record,) = await daemon.until("fee.high")
        assert "above the configured cap of 1000000000 wei; poke waits" in record["msg"]
        assert "gas_price_cap" in record["data"]["help"]
        assert await count_of(market, market.owners[0]) == 0
        await market.anvil.call("anvil_setNextBlockBaseFeePerGas", hex(10**6))
        await market.anvil.mine()
        receipt = await asyncio.wait_for(poke, PATIENCE)
        assert receipt.gas_price <= 10**9
        # Said once when it begins and once when it ends, however long it takes.
        assert len(daemon.records("fee.high")) == len(daemon.records("fee.high.over")) == 1
        assert daemon.records("rpc.error") == []
        sent = await transaction(market, daemon.records("tx.mined")[0]["tx"])
        assert int(sent["maxFeePerGas"], 16) <= 10**9
        assert int(sent["maxPriorityFeePerGas"], 16) <= int(sent["maxFeePerGas"], 16)


# ---------------------------------------------------------------- stuck and raced


async def test_a_stuck_transaction_is_paid_better_under_the_same_nonce(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    keys = market.owners[0]
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, keys, tmp_path, replace(FEES, bump_seconds=0.3)) as daemon:
        poke = daemon.queue.submit("poke", "poke", 1)
        (first,) = await daemon.until("tx.sent")
        cheap = int((await transaction(market, first["tx"]))["maxFeePerGas"], 16)
        last = (await daemon.until("tx.sent", 3))[-1]
        dear = int((await transaction(market, last["tx"]))["maxFeePerGas"], 16)
        assert dear >= cheap * 9 // 8 * 9 // 8
        assert len(daemon.records("tx.bumped")) >= 2
        await market.anvil.mine()
        await market.anvil.call("evm_setAutomine", True)
        assert (await asyncio.wait_for(poke, PATIENCE)).succeeded
        assert await count_of(market, keys) == 1
        mined = await transaction(market, daemon.records("tx.mined")[0]["tx"])
        assert mined["blockNumber"] is not None
        assert mined["nonce"] == "0x0"
        assert daemon.journal.unmined_transactions() == []


async def test_at_the_cap_the_same_bytes_wait_and_nothing_goes_out_twice(market: LocalMarket, tmp_path: Path) -> None:
    """Replaced at the same price it would be refused, and then must not be sent under the next nonce."""
    head = await market.chain.head()
    await market.anvil.call("evm_setAutomine", False)
    fees = FeePolicy(price_cap=head.base_fee + 1000, tip=1000, bump_seconds=0.2)
    async with running(market, market.model, tmp_path, fees) as daemon:
        create = daemon.create()
        await daemon.until("tx.sent", 3)
        pending = await market.anvil.call("eth_getTransactionCount", market.model.account.address, "pending")
        assert int(pending, 16) == 1
        assert daemon.records("tx.bumped") == []
        await market.anvil.call("evm_setAutomine", True)
        await market.anvil.mine()
        await asyncio.wait_for(create, PATIENCE)
        assert await market.chain.task_count() == 1
        assert await count_of(market, market.model) == 1


async def test_another_program_with_the_same_key_costs_a_retry_and_no_more(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    keys = market.owners[0]
    async with running(market, keys, tmp_path) as daemon:
        await daemon.queue.submit("first", "poke", 1)
        await market.act(keys, "poke", 1)  # takes the nonce that the queue believes to be next
        await asyncio.wait_for(daemon.queue.submit("second", "poke", 1), PATIENCE)
        assert await count_of(market, keys) == 3
        assert daemon.mined == ["first", "second"]
        assert daemon.journal.unmined_transactions() == []


async def test_a_nonce_lost_while_waiting_is_noticed(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    keys = market.owners[0]
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, keys, tmp_path, replace(FEES, bump_seconds=0.5)) as daemon:
        poke = daemon.queue.submit("poke", "poke", 1)
        (record,) = await daemon.until("tx.sent")
        # Another program replaces it by something of its own.
        await market.anvil.call("anvil_dropTransaction", record["tx"])
        data = market.chain.encode("poke", 1)
        raw, _ = keys.sign(market.chain.transaction(data, 0, 0, 500_000, 100 * 10**9, 90 * 10**9))
        await market.chain.send_raw(raw)
        await market.anvil.mine()
        await market.anvil.call("evm_setAutomine", True)
        assert (await asyncio.wait_for(poke, PATIENCE)).succeeded
        assert await count_of(market, keys) == 2
        assert any("took nonce 0" in entry["msg"] for entry in daemon.records("rpc.error"))


async def test_what_the_node_has_forgotten_is_handed_over_again_at_once(market: LocalMarket, tmp_path: Path) -> None:
    """A node that was restarted has an empty pool; nobody waits for the moment when a dearer one would be sent."""
    await market.create()
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, market.owners[0], tmp_path, replace(FEES, bump_seconds=10_000.0)) as daemon:
        poke = daemon.queue.submit("poke", "poke", 1)
        (sent,) = await daemon.until("tx.sent")
        await market.anvil.call("anvil_dropAllTransactions")
        (record,) = await daemon.until("tx.resent")
        assert record["tx"] == sent["tx"]
        assert "does not know it any more" in record["msg"]
        await market.anvil.call("evm_setAutomine", True)
        await market.anvil.mine()
        assert (await asyncio.wait_for(poke, PATIENCE)).succeeded
        assert await count_of(market, market.owners[0]) == 1
        assert daemon.records("tx.bumped") == []


async def test_what_a_reorg_throws_out_is_handed_over_again_while_it_is_waited_for(
    market: LocalMarket, tmp_path: Path
) -> None:
    """Mined, unseen by us, thrown out and forgotten."""
    await market.create()
    blind = True
    honest = market.chain.receipt

    async def receipt(tx_hash: bytes) -> Receipt | None:
        return None if blind else await honest(tx_hash)

    market.chain.receipt = receipt  # type: ignore[method-assign]
    async with running(market, market.owners[0], tmp_path, replace(FEES, bump_seconds=10_000.0)) as daemon:
        poke = daemon.queue.submit("poke", "poke", 1)
        await eventually_async(lambda: count_of(market, market.owners[0]), 1)
        await market.anvil.call("evm_setAutomine", False)
        await market.anvil.call("anvil_rollback", 1)
        await market.anvil.call("anvil_dropAllTransactions")
        await daemon.until("tx.resent")
        blind = False
        await market.anvil.call("evm_setAutomine", True)
        await market.anvil.mine()
        assert (await asyncio.wait_for(poke, PATIENCE)).succeeded


async def test_what_the_node_knows_is_not_handed_over_again(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, market.owners[0], tmp_path, replace(FEES, bump_seconds=10_000.0)) as daemon:
        asked = 0
        honest = market.chain.knows

        async def knows(tx_hash: bytes) -> bool:
            nonlocal asked
            asked += 1
            return await honest(tx_hash)

        market.chain.knows = knows  # type: ignore[method-assign]
        poke = daemon.queue.submit("poke", "poke", 1)
        await eventually(lambda: asked >= 3)
        await market.anvil.mine()
        assert (await asyncio.wait_for(poke, PATIENCE)).succeeded
        assert daemon.records("tx.resent") == []
        assert not await honest(bytes(32))


async def test_what_a_reorg_throws_out_is_sent_again_though_nobody_has_an_order(
    market: LocalMarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task of a model owner that waits for owners: without it there is nothing to wait for, and no duty."""
    monkeypatch.setattr(transactions, "GAP_SECONDS", 0.2)
    async with running(market, market.spare[0], tmp_path) as daemon:
        created = await asyncio.wait_for(daemon.create(), PATIENCE)
        sent = daemon.records("tx.sent")[0]["tx"]
        await market.anvil.call("evm_setAutomine", False)
        await market.anvil.call("anvil_rollback", 1)
        await market.anvil.call("anvil_dropAllTransactions")
        assert await market.chain.receipt(bytes.fromhex(sent[2:])) is None
        (record,) = await daemon.until("tx.resent")
        assert record["tx"] == sent
        await market.anvil.mine()
        again = await market.chain.receipt(bytes.fromhex(sent[2:]))
        assert again is not None
        assert again.succeeded
        assert again.block == created.block
        # What is there is not sent once more.
        await market.anvil.call("evm_setAutomine", True)
        await asyncio.gather(daemon.queue.submit("poke", "poke", 1), return_exceptions=True)
        assert len(daemon.records("tx.resent")) == 1


async def test_a_transaction_that_reverts_in_its_block_says_why(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    slow, fast = market.owners[:2]
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, slow, tmp_path) as daemon:
        join = daemon.queue.submit("join", "join", *market.join_arguments(slow), value=PARAMS.stake)
        await daemon.until("tx.sent")
        # In the same block, before ours, somebody registers our box key.
        stolen: tuple[Any, ...] = (1, slow.box.public, bytes(32), [])
        await market.send(fast, "join", *stolen, value=PARAMS.stake, tip=50 * 10**9, gas=1_000_000)
        await market.anvil.mine()
        with pytest.raises(ContractRefused, match="BoxKeyTaken"):
            await asyncio.wait_for(join, PATIENCE)
        (record,) = daemon.records("tx.reverted")
        assert record["gas"] > 21_000
        assert daemon.journal.unmined_transactions() == []


# --------------------------------------------------------------------- restarts


async def test_after_a_restart_the_same_bytes_are_sent_again(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    keys = market.owners[0]
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, keys, tmp_path) as daemon:
        daemon.queue.submit("poke", "poke", 1)
        (sent,) = await daemon.until("tx.sent")
        ((nonce, duty, tx_hash, raw),) = daemon.journal.unmined_transactions()
        assert (nonce, duty, "0x" + tx_hash.hex()) == (0, "poke", sent["tx"])
    await market.anvil.call("anvil_dropTransaction", sent["tx"])
    assert await transaction(market, sent["tx"]) is None
    async with running(market, keys, tmp_path) as daemon:
        (resent,) = await daemon.until("tx.resent")
        assert resent["tx"] == sent["tx"]
        again = daemon.queue.submit("poke 2", "poke", 1)
        await asyncio.sleep(0.1)
        assert daemon.journal.unmined_transactions() == [(0, "poke", tx_hash, raw)], "the new one waits its turn"
        await market.anvil.call("evm_setAutomine", True)
        await market.anvil.mine()
        async with asyncio.timeout(PATIENCE):
            await daemon.queue.settled()
            await again
        assert daemon.journal.unmined_transactions() == []
        assert await count_of(market, keys) == 2
        assert (await transaction(market, sent["tx"]))["nonce"] == "0x0"


async def test_what_was_mined_while_the_daemon_was_away_is_not_sent_again(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    keys = market.owners[0]
    await market.anvil.call("evm_setAutomine", False)
    async with running(market, keys, tmp_path) as daemon:
        daemon.queue.submit("poke", "poke", 1)
        await daemon.until("tx.sent")
    await market.anvil.mine()
    async with running(market, keys, tmp_path) as daemon:
        await asyncio.wait_for(daemon.queue.settled(), PATIENCE)
        assert daemon.journal.unmined_transactions() == []
        assert daemon.records("tx.resent") == []


async def test_what_can_never_be_mined_does_not_hold_a_restart_up(market: LocalMarket, tmp_path: Path) -> None:
    """Its nonce went to another transaction: nothing to send, nothing to wait half a minute for."""
    await market.create()
    keys = market.owners[0]
    data = market.chain.encode("poke", 1)
    raw, tx_hash = keys.sign(market.chain.transaction(data, 0, 0, 400_000, 100 * 10**9, 10**9))
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.store_transaction(0, "old", tx_hash, raw)
    await market.act(keys, "poke", 1)
    async with running(market, keys, tmp_path, replace(FEES, bump_seconds=10_000.0)) as daemon:
        await asyncio.wait_for(daemon.queue.settled(), PATIENCE)
        assert daemon.journal.unmined_transactions() == []


# ---------------------------------------------------------------- an RPC in trouble


class Proxy:
    """Stands between a daemon and the RPC and misbehaves as told."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.down = False
        self.swallow_answers_to: set[str] = set()
        self.seen: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        method = json.loads(body)["method"]
        self.seen.append(method)
        if not self.down:
            async with ClientSession() as session, session.post(self.target, data=body, headers=JSON) as reply:
                answer = await reply.read()
        if self.down or method in self.swallow_answers_to:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return web.Response(body=answer, content_type="application/json")


JSON = {"Content-Type": "application/json"}


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(url)
    app = web.Application(client_max_size=10**7)
    app.router.add_post("/", proxy.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield proxy, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_an_rpc_that_takes_a_transaction_and_never_answers_gets_it_once(
    market: LocalMarket, tmp_path: Path
) -> None:
    """createTask twice would lock the escrow twice."""
    await market.anvil.call("evm_setAutomine", False)
    async with proxy_to(market.anvil.rpc_url) as (proxy, url):
        chain = Chain(url, market.chain.market)
        await chain.connect()
        proxy.swallow_answers_to = {"eth_sendRawTransaction"}
        async with running(market, market.model, tmp_path, chain=chain) as daemon:
            create = daemon.create()
            await eventually(lambda: proxy.seen.count("eth_sendRawTransaction") >= 2)
            proxy.swallow_answers_to = set()
            await market.anvil.call("evm_setAutomine", True)
            await market.anvil.mine()
            await asyncio.wait_for(create, PATIENCE)
            assert await count_of(market, market.model) == 1
            assert await market.chain.task_count() == 1
        await chain.close()


async def test_an_rpc_that_goes_away_while_we_wait_gets_the_order_once(market: LocalMarket, tmp_path: Path) -> None:
    await market.anvil.call("evm_setAutomine", False)
    async with proxy_to(market.anvil.rpc_url) as (proxy, url):
        chain = Chain(url, market.chain.market)
        await chain.connect()
        async with running(market, market.model, tmp_path, chain=chain) as daemon:
            create = daemon.create()
            await daemon.until("tx.sent")
            proxy.down = True
            await daemon.until("rpc.error")
            # Mined while we are blind.
            await market.anvil.call("evm_setAutomine", True)
            await market.anvil.mine()
            proxy.down = False
            receipt = await asyncio.wait_for(create, PATIENCE)
            assert chain.events_in(receipt, "TaskCreated")[0]["taskId"] == 1
            assert await count_of(market, market.model) == 1
            assert await market.chain.task_count() == 1
        await chain.close()


async def test_an_rpc_that_is_down_at_first_is_waited_for(market: LocalMarket, tmp_path: Path) -> None:
    await market.create()
    async with proxy_to(market.anvil.rpc_url) as (proxy, url):
        chain = Chain(url, market.chain.market)
        await chain.connect()
        proxy.down = True
        async with running(market, market.owners[0], tmp_path, chain=chain) as daemon:
            poke = daemon.queue.submit("poke", "poke", 1)
            (record,) = await daemon.until("rpc.error")
            assert "cannot reach RPC" in record["msg"]
            assert record["code"] == "chain"
            assert not poke.done()
            proxy.down = False
            assert (await asyncio.wait_for(poke, PATIENCE)).succeeded
        await chain.close()


async def test_a_failure_that_nobody_awaits_is_no_unhandled_error(market: LocalMarket, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with running(market, market.owners[0], tmp_path) as daemon:
        daemon.queue.submit("poke", "poke", 99)
        await daemon.until("tx.refused")
    assert told == []


def test_an_order_does_not_show_its_future_and_keys_do_not_show_themselves() -> None:
    keys = keys_of("0x" + "42" * 32, "somebody")
    out = io.StringIO()
    print(keys, file=out)
    for value in keys.secrets():
        assert value.hex() not in out.getvalue()
    assert Account.from_key("0x" + "42" * 32).address == keys.account.address
