"""Several transactions in flight: nonces without gaps, each effect once, money never promised twice.

On a chain of the test's own and a virtual clock; the same queue on a real chain is in test_transactions.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from omnilytics.daemon.chain import Chain, ContractRefused, Receipt
from omnilytics.daemon.in_flight import FILL_SECONDS, FeePolicy
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.log import Logger
from omnilytics.daemon.transactions import MOST_IN_FLIGHT, TransactionQueue, duty_key
from omnilytics.peers.errors import FundsError
from tests.local_market import keys_of
from tests.pool_chain import Faults, KilledError, PoolChain
from tests.simulator.virtual_time import VirtualLoop

FEES = FeePolicy()
KEYS = keys_of("0x" + "42" * 32, "somebody")
GWEI = 10**9


class World:
    """One account on one chain, over as many lives of its queue as it takes."""

    def __init__(self, folder: Path, seed: int = 1, fees: FeePolicy = FEES) -> None:
        self.entropy = random.Random(seed)
        self.loop = VirtualLoop(random.Random(seed + 1))
        self.chain = PoolChain(KEYS, self.entropy)
        self.fees = fees
        self.path = folder / "journal.sqlite"
        self.journal = Journal(self.path)
        self.said: list[tuple[str, str, dict[str, Any]]] = []
        self.queue: TransactionQueue
        self.life: asyncio.Task[None]

    def log(self, event: str, text: str, level: str = "info", **fields: Any) -> None:
        self.said.append((event, text, fields))

    def count(self, event: str) -> int:
        return sum(said[0] == event for said in self.said)

    def begin(self) -> None:
        """A new life, with the journal of the last."""
        chain, log = cast(Chain, self.chain), cast(Logger, self.log)
        self.queue = TransactionQueue(chain, KEYS, self.journal, log, self.fees, clock=self.loop.time)
        self.life = asyncio.ensure_future(self.queue.run())

    async def end(self) -> None:
        """kill -9, as far as a program can do that to itself."""
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)

    def order(self, task: int, step: int, value: int = 0) -> asyncio.Future[Receipt]:
        effect = f"task {task} step {step}"
        return self.queue.submit(duty_key(task, f"step {step}"), "step", effect, value=value, task=task)

    async def pooled(self, count: int) -> None:
        await self.until(lambda: len(self.chain.pool) >= count)

    async def until(self, true: Callable[[], object], seconds: float = 3000.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 (a virtual clock)
                await asyncio.sleep(0.1)

    async def blocks(self, seconds: float = 2.0) -> None:
        """Blocks for ever."""
        while True:
            await asyncio.sleep(seconds)
            self.chain.mine()

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            self.begin()
            try:
                await scenario()
            finally:
                await self.end()

        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(whole())
            assert self.loop.unhandled == []
        finally:
            self.journal.close()
            self.loop.close()
            asyncio.set_event_loop(None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# ----------------------------------------------------------------- side by side


def test_tasks_share_a_block_and_each_keeps_its_order(world: World) -> None:
    async def scenario() -> None:
        orders = [world.order(task, step) for task in range(5) for step in range(2)]
        await world.pooled(5)
        await asyncio.sleep(5)
        assert len(world.chain.pool) == 5, "a task's second order waits for its first"
        assert world.queue.pending_count == 10
        world.chain.mine()
        await world.pooled(5)
        world.chain.mine()
        receipts = await asyncio.gather(*orders)
        assert [receipt.block for receipt in receipts] == [1, 2] * 5
        assert world.queue.pending_count == 0
        assert world.journal.unmined_transactions() == []

    world.play(scenario)


def test_no_more_than_the_limit_are_in_flight(world: World) -> None:
    async def scenario() -> None:
        orders = [world.order(task, 0) for task in range(MOST_IN_FLIGHT + 3)]
        await world.pooled(MOST_IN_FLIGHT)
        await asyncio.sleep(5)
        assert len(world.chain.pool) == MOST_IN_FLIGHT
        world.chain.mine()
        await world.pooled(3)
        world.chain.mine()
        assert {receipt.block for receipt in await asyncio.gather(*orders)} == {1, 2}

    world.play(scenario)


def test_what_the_estimate_refuses_takes_no_nonce(world: World) -> None:
    """The one in the middle."""

    async def scenario() -> None:
        world.chain.refused.add("task 1 step 0")
        orders = [world.order(task, 0) for task in range(3)]
        with pytest.raises(ContractRefused):
            await orders[1]
        await world.pooled(2)
        assert sorted(world.chain.pool) == [0, 1]
        world.chain.mine()
        await asyncio.gather(orders[0], orders[2])
        assert not world.queue.wanted(duty_key(1, "step 0"), 10**9), "not at once again"

    world.play(scenario)


def test_withdrawals_follow_each_other(world: World) -> None:
    """Each takes all credits of the account: a second one beside it would find nothing, and pay for that."""

    async def scenario() -> None:
        orders = [
            world.queue.submit(duty_key(task, "withdraw"), "withdraw", f"task {task} step 0", task=task)
            for task in range(2)
        ]
        await world.pooled(1)
        await asyncio.sleep(5)
        assert len(world.chain.pool) == 1
        world.chain.mine()
        await world.pooled(1)
        world.chain.mine()
        assert [receipt.block for receipt in await asyncio.gather(*orders)] == [1, 2]

    world.play(scenario)


# ------------------------------------------------------------------------- money


def test_money_that_others_in_flight_may_need_is_not_promised_again(world: World) -> None:
    """Enough for each of two stakes, and for both only when the gas of the first has turned out to be small."""

    async def scenario() -> None:
        stake = 10**18
        world.chain.wei = 2 * stake + 5 * 10**15
        first = world.order(1, 0, stake)
        await world.pooled(1)
        second = world.order(2, 0, stake)
        await asyncio.sleep(20)
        assert len(world.chain.pool) == 1
        assert not second.done(), "no error while the money may come free"
        world.chain.mine()
        await world.pooled(1)
        world.chain.mine()
        assert [(await first).block, (await second).block] == [1, 2]
        # A third cannot be paid, whatever comes.
        with pytest.raises(FundsError):
            await world.order(3, 0, stake)
        assert world.chain.seen["overdraft"] == 0

    world.chain.base_fee = 5 * GWEI
    world.play(scenario)


def test_no_dearer_one_is_signed_than_the_account_can_pay(tmp_path: Path) -> None:
    world = World(tmp_path, fees=FeePolicy(bump_seconds=5.0))

    async def scenario() -> None:
        gas = 50_000 * 5 // 4 + 300_000
        world.chain.wei = gas * 3 * GWEI * 5 // 4 + gas
        order = world.order(1, 0)
        await asyncio.sleep(60)
        (waiting,) = world.chain.pool.values()
        assert waiting.max_fee <= 3 * GWEI * 5 // 4 + 1
        assert world.count("tx.bumped") == 1
        assert world.chain.seen["overdraft"] == 0
        world.chain.mine()
        assert (await order).succeeded

    world.play(scenario)


def test_behind_one_that_sticks_nothing_is_paid_for_a_better_place(tmp_path: Path) -> None:
    """The first is paid better; those behind it are when the base fee has outgrown them, too."""
    world = World(tmp_path, fees=FeePolicy(bump_seconds=5.0))

    async def scenario() -> None:
        orders = [world.order(task, 0) for task in range(3)]
        await world.pooled(3)
        prices = {nonce: found.max_fee for nonce, found in world.chain.pool.items()}
        await world.until(lambda: world.chain.pool[0].max_fee > prices[0])
        await asyncio.sleep(6)
        assert [world.chain.pool[nonce].max_fee for nonce in (1, 2)] == [prices[1], prices[2]]
        world.chain.base_fee = prices[0] * 2
        await world.until(lambda: all(found.max_fee >= 2 * prices[0] for found in world.chain.pool.values()))
        world.chain.mine()
        assert {receipt.block for receipt in await asyncio.gather(*orders)} == {1}
        assert world.chain.nonce == 3

    world.play(scenario)


def test_over_the_cap_nobody_takes_a_nonce(tmp_path: Path) -> None:
    world = World(tmp_path, fees=FeePolicy(price_cap=5 * GWEI))

    async def scenario() -> None:
        world.chain.base_fee = 6 * GWEI
        orders = [world.order(task, 0) for task in range(3)]
        await asyncio.sleep(100)
        assert world.chain.pool == {} and world.journal.transactions_between(0, 100) == []
        assert world.count("fee.high") == 1
        world.chain.base_fee = GWEI
        await world.pooled(3)
        assert all(found.max_fee <= 5 * GWEI for found in world.chain.pool.values())
        world.chain.mine()
        await asyncio.gather(*orders)
        assert world.count("fee.high.over") == 1

    world.play(scenario)


# ---------------------------------------------------------------- stuck and raced


def test_one_that_the_node_has_lost_in_the_middle_is_handed_over_again(world: World) -> None:
    async def scenario() -> None:
        orders = [world.order(task, 0) for task in range(3)]
        await world.pooled(3)
        lost = world.chain.pool.pop(1)
        world.chain.mine()
        assert (await orders[0]).block == 1 or (await orders[1]).block == 1
        await world.pooled(2)
        assert world.chain.pool[1].raw == lost.raw
        world.chain.mine()
        await asyncio.gather(*orders)
        assert world.count("tx.resent") == 1

    world.play(scenario)


def test_a_nonce_that_another_program_took_costs_its_order_a_retry(world: World) -> None:
    """In the middle: the later ones keep theirs, and nothing is done twice."""

    async def scenario() -> None:
        orders = [world.order(task, 0) for task in range(3)]
        await world.pooled(3)
        mine = world.chain.pool.pop(1)
        world.chain.other_program()
        assert world.chain.pool[1].foreign and world.chain.pool[1].raw != mine.raw
        world.chain.mine()
        await world.pooled(1)
        world.chain.mine()
        await asyncio.gather(*orders)
        assert sorted(world.chain.effects) == [f"task {task} step 0" for task in range(3)]
        assert any("took nonce 1" in text for _, text, _ in world.said)
        # One that is there first is no trouble at all.
        world.chain.other_program()
        last = world.order(9, 0)
        await world.pooled(2)
        world.chain.mine()
        assert (await last).succeeded
        assert world.chain.nonce == 6

    world.play(scenario)


def test_a_nonce_that_nobody_sends_any_more_is_filled(world: World) -> None:
    """Another program took it, and a reorg has thrown that out: ours behind it would wait for ever."""

    async def scenario() -> None:
        orders = [world.order(task, 0) for task in range(2)]
        await world.pooled(2)
        del world.chain.pool[0]
        world.chain.other_program()
        # Mined alone; the order that had it takes a later nonce.
        second = world.chain.pool.pop(1)
        world.chain.mine()
        world.chain.pool[1] = second
        await world.until(lambda: 2 in world.chain.pool)
        world.chain.reorg(1, lose=1.0)
        assert world.chain.nonce == 0 and sorted(world.chain.pool) == [1, 2]
        await asyncio.sleep(FILL_SECONDS + 10)
        assert sorted(world.chain.pool) == [0, 1, 2]
        world.chain.mine()
        await asyncio.gather(*orders)
        assert world.chain.nonce == 3

    world.play(scenario)


# --------------------------------------------------------------------- restarts


@pytest.mark.parametrize("arrived", [False, True])
def test_a_crash_between_two_that_were_journalled(world: World, arrived: bool) -> None:
    """One in the pool, one journalled and perhaps sent, one that waited: the next life finds the same bytes."""

    async def scenario() -> None:
        world.order(0, 0)
        await world.pooled(1)
        faults = Faults(killed_after_send=1.0) if arrived else Faults(killed_before_send=1.0)
        world.chain.faults = faults
        world.order(1, 0)
        with pytest.raises(KilledError):
            await world.life
        world.chain.faults = Faults()
        assert len(world.chain.pool) == 1 + arrived
        rows = world.journal.unmined_transactions()
        assert [(nonce, duty) for nonce, duty, _, _ in rows] == [(0, "task 0: step 0"), (1, "task 1: step 0")]
        world.begin()
        await asyncio.sleep(1)
        assert not world.queue.wanted(duty_key(1, "step 0"), 10**9), "an earlier life's is on its way"
        assert world.queue.pending_count == 2 and not world.queue.idle(1)
        later = world.order(2, 0)
        await asyncio.sleep(10)
        assert [found.raw for _, found in sorted(world.chain.pool.items())] == [row[3] for row in rows]
        world.chain.mine()
        await world.queue.settled()
        assert world.journal.unmined_transactions() == []
        await world.pooled(1)
        world.chain.mine()
        assert (await later).block == 2
        assert world.chain.effects == [f"task {task} step 0" for task in range(3)]
        mined = [fields for event, _, fields in world.said if event == "tx.mined"]
        assert sorted((entry["task"], entry["function"]) for entry in mined) == [(0, "step"), (1, "step"), (2, "step")]

    world.play(scenario)


def test_what_an_earlier_life_sent_is_paid_better_when_it_sticks(tmp_path: Path) -> None:
    world = World(tmp_path, fees=FeePolicy(bump_seconds=5.0))

    async def scenario() -> None:
        for task in range(2):
            world.order(task, 0)
        await world.pooled(2)
        await world.end()
        world.chain.forget()
        world.chain.base_fee *= 10
        world.begin()
        await world.until(lambda: len(world.chain.pool) == 2, 60)
        await world.until(lambda: min(f.max_fee for f in world.chain.pool.values()) >= world.chain.base_fee)
        world.chain.mine()
        await world.queue.settled()
        assert world.chain.effects == ["task 0 step 0", "task 1 step 0"]

    world.play(scenario)


# ------------------------------------------------------------- anything at any time


@pytest.mark.parametrize("seed", range(12))
def test_whatever_goes_wrong_each_effect_happens_once(tmp_path: Path, seed: int) -> None:
    """Ten tasks of five steps; an RPC that loses, delays and answers nothing; kills; another program with the key;
    nodes that forget; in every third run reorgs. Nothing is left hanging, nothing is done twice."""
    world = World(tmp_path, seed, FeePolicy(bump_seconds=10.0))
    chain, entropy, tasks, steps = world.chain, world.entropy, 10, 5
    reorgs = seed % 3 == 0

    def look() -> None:
        """What a daemon's parts do with a snapshot: the next duty of each task, sometimes the one after it too."""
        done, block = set(chain.effects), len(chain.blocks) - 1
        for task in range(tasks):
            left = [step for step in range(steps) if f"task {task} step {step}" not in done]
            for step in left[: entropy.randint(1, 2)]:
                if world.queue.wanted(duty_key(task, f"step {step}"), block):
                    world.order(task, step, value=10**15)

    async def live() -> None:
        while True:
            await asyncio.sleep(0.5)
            if world.life.done():
                if not world.life.cancelled():
                    assert isinstance(world.life.exception(), KilledError), world.life.exception()
                world.begin()
            look()

    async def trouble() -> None:
        for _ in range(40):
            await asyncio.sleep(2)
            error, timeout, lost, late, answer_lost = (entropy.choice((0.0, 0.02, 0.1)) for _ in range(5))
            chain.faults = Faults(error, timeout, lost, late, answer_lost, 0.02, 0.02)
            chain.base_fee = max(GWEI, chain.base_fee * entropy.choice((4, 5, 6, 7)) // 5)
            chain.base_fee = min(chain.base_fee, 100 * GWEI)
            lot = entropy.random()
            if lot < 0.1:
                chain.forget()
            elif lot < 0.2:
                chain.other_program()
            elif lot < 0.3 and reorgs:
                chain.reorg(entropy.randint(1, 4), 0.3)
            elif lot < 0.8:
                chain.mine()
            if lot > 0.95:
                world.life.cancel()
        chain.faults = Faults()
        chain.base_fee = GWEI

    async def scenario() -> None:
        living = asyncio.ensure_future(live())
        await trouble()
        mining = asyncio.ensure_future(world.blocks())
        try:
            await world.until(lambda: len(chain.effects) == tasks * steps and not chain.pool)
            await world.until(lambda: world.queue.pending_count == 0)
        finally:
            for running in (living, mining):
                running.cancel()
            await asyncio.gather(living, mining, return_exceptions=True)
        done = chain.effects
        assert len(set(done)) == len(done) == tasks * steps
        for task in range(tasks):
            assert [effect for effect in done if effect.startswith(f"task {task} ")] == [
                f"task {task} step {step}" for step in range(steps)
            ]
        assert sorted(entry.transaction.nonce for entry in chain.mined) == list(range(chain.nonce))
        assert world.journal.unmined_transactions() == []
        assert max(len(block) for block in chain.blocks) > 1
        if not reorgs:
            assert all(entry.succeeded for entry in chain.mined), "gas for nothing"

    world.play(scenario)
