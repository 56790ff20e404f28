"""One queue of transactions for one account: the orders of a task in their order, those of many tasks side by side.

Callers submit a duty by its key (see duty_key); a duty that is already on its way, or done in a block that the caller
has not seen yet, is not sent twice. What the chain would do with a task's order depends on the one before it, so a task
has one transaction on its way at a time; the account has up to MOST_IN_FLIGHT of them, each with a nonce of its own
(see in_flight). An order gets its nonce when the chain has said that it would carry it out now.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from omnilytics.daemon.chain import (
    MAX_TRANSACTION_BYTES,
    MAX_TRANSACTION_GAS,
    Chain,
    ContractRefused,
    Receipt,
    RpcAnswered,
)
from omnilytics.daemon.ending import end_tasks
from omnilytics.daemon.in_flight import (
    MAX_BACKOFF_SECONDS,
    Call,
    FeePolicy,
    FeeTooHigh,
    Flight,
    InFlight,
    MoneyTiedUp,
    NonceTaken,
)
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError, FundsError, ParameterError

# Nodes take more of one account: geth keeps 16 executable and 64 queued ones, whatever its pool is short of.
MOST_IN_FLIGHT = 16
# How often one that was mined is suspected to be lost while nothing is on its way.
GAP_SECONDS = 5.0
RETRY_SECONDS = 2.0
# What touches the whole account: a withdrawal takes what was credited by any task, and the next finds it gone.
_ACCOUNT_WIDE = ("withdraw",)
# Between estimate and block others act too, and whoever comes last also closes the phase: it pays for closing
# a commit or post phase, or for drawing the groups. Gas that is not used costs nothing.
HEADROOM_GAS = {"": 300_000, "poke": 6_000_000}


def duty_key(task: int, duty: str) -> str:
    """The key of a task's duty: two tasks never share one, or the one's transaction would pass for the other's."""
    return f"task {task}: {duty}"


def is_duty_of(task: int | None, key: str) -> bool:
    """Whether a key is that of a duty of this task."""
    return task is not None and key.startswith(duty_key(task, ""))


_TASK = re.compile(r"task (\d+): ")


def task_of(key: str) -> int | None:
    """The task of a duty's key; None where the duty is of none, as the creation of one is."""
    found = _TASK.match(key)
    return None if found is None else int(found[1])


@dataclass
class _Order:
    call: Call
    done: asyncio.Future[Receipt] = field(repr=False)


class TransactionQueue:
    """Sends one account's transactions to the market: one at a time for a task, several at a time for all."""

    def __init__(
        self,
        chain: Chain,
        keys: Keys,
        journal: Journal,
        log: Logger,
        fees: FeePolicy,
        on_mined: Callable[[str, Receipt], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._keys = keys
        self._log = log
        self._on_mined = on_mined
        self._clock = clock
        self._flights = InFlight(chain, keys, journal, log, fees, clock)
        self._slots = asyncio.Semaphore(MOST_IN_FLIGHT)
        self._account_wide = asyncio.Lock()
        # What waits, by task; the first of each is under way. Orders of no task are kept in order among themselves.
        self._lanes: dict[int | None, deque[_Order]] = {}
        self._workers: dict[int | None, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._pending: set[str] = set()
        self._done_at: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._resent = asyncio.Event()
        self._waits_for_fee = False

    async def settled(self) -> None:
        """Returns when what an earlier life of the daemon had sent is mined, or can never be.

        Until then no order of this life gets a nonce.
        """
        await self._resent.wait()

    def wanted(self, key: str, block: int) -> bool:
        """Whether a duty seen in a snapshot of this block still needs a transaction from us."""
        if key in self._pending or key in self._flights.keys or self._clock() < self._not_before.get(key, 0.0):
            return False
        return self._done_at.get(key, -1) < block

    def submit(
        self,
        key: str,
        function: str,
        *arguments: Any,
        value: int = 0,
        most_gas: int | None = None,
        **fields: Any,
    ) -> asyncio.Future[Receipt]:
        """Queues a call of the market. The future gives its receipt, or ContractRefused or FundsError.

        most_gas: what the call needs at most, where the caller knows.
        """
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        # Nobody has to wait for the future; without this an unawaited failure would be reported twice.
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._pending.add(key)
        data = self._chain.encode(function, *arguments)
        order = _Order(Call(key, function, data, value, fields, most_gas), done)
        self._lanes.setdefault(task_of(key), deque()).append(order)
        self._woken.set()
        return done

    def idle(self, task: int) -> bool:
        """Whether nothing of this task is waiting or on its way, of an earlier life neither."""
        return not any(is_duty_of(task, key) for key in (*self._pending, *self._flights.keys))

    @property
    def pending_count(self) -> int:
        """How many transactions are waiting or on their way, those of an earlier life among them."""
        return len(self._pending.union(self._flights.keys))

    # -------------------------------------------------------------------- running

    async def run(self) -> None:
        """Works the queue until cancelled. First of all: what an earlier life sent and never saw mined."""
        try:
            await self._resume()
            self._resent.set()
            while True:
                for lane in self._lanes.keys() - self._workers.keys():
                    self._start(lane, self._work(lane))
                await self._watch_workers()
        finally:
            await end_tasks(self._workers.values())
            for task in self._workers.values():
                # The first error is told; one that nobody looks at would be told as well, by asyncio.
                if not task.cancelled():
                    task.exception()

    def _start(self, name: int | None, work: Coroutine[Any, Any, None]) -> None:
        task = self._workers[name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._woken.set())

    async def _watch_workers(self) -> None:
        """Waits for an order or the end of a worker, whose error is ours. Meanwhile what was mined and is lost again is
        handed over again, or nobody would ever miss it: a task whose creation a reorg has thrown out gives no duty any
        more."""
        try:
            async with asyncio.timeout(GAP_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            if not self._flights:
                with self._told():
                    await self._flights.mend()
        self._woken.clear()
        for name, task in list(self._workers.items()):
            if task.done():
                del self._workers[name]
                task.result()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ChainError as error:
            self._log("rpc.error", str(error), "warning", code=error.code)

    async def _resume(self) -> None:
        """All at once: the nonces are given away already."""
        for number, flight in enumerate(self._flights.take_up(_earlier_call)):
            self._start(number, self._resume_one(flight))
        while self._workers:
            await self._watch_workers()

    async def _resume_one(self, flight: Flight) -> None:
        started = self._clock()
        mined = await self._flights.resume(flight)
        if mined is None:
            return
        receipt, tx_hash = mined
        self._tell(flight.call, receipt, tx_hash, started)
        if receipt.succeeded:
            self._done_at[flight.call.key] = receipt.block
            if self._on_mined is not None:
                await self._on_mined(flight.call.key, receipt)

    async def _work(self, lane: int | None) -> None:
        """Carries out a task's orders, one after the other, as long as there are any."""
        orders = self._lanes[lane]
        while orders:
            await self._carry_out(orders[0])
            orders.popleft()
        del self._lanes[lane]

    async def _carry_out(self, order: _Order) -> None:
        call = order.call
        try:
            async with self._account_wide if call.function in _ACCOUNT_WIDE else contextlib.nullcontext():
                receipt = await self._perform(call)
            self._done_at[call.key] = receipt.block
            if not order.done.done():
                order.done.set_result(receipt)
            if self._on_mined is not None:
                await self._on_mined(call.key, receipt)
        except (ChainError, FundsError, ParameterError) as error:
            self._not_before[call.key] = self._clock() + RETRY_SECONDS
            self._flights.look_at_nonce_again()
            level = "info" if isinstance(error, ContractRefused) else "error"
            self._log("tx.refused", str(error), level, code=error.code, function=call.function, **call.fields)
            if not order.done.done():
                order.done.set_exception(error)
        finally:
            self._pending.discard(call.key)

    async def _perform(self, call: Call) -> Receipt:
        pause = 0.5
        while True:
            try:
                async with self._slots:
                    return await self._send(call)
            except ContractRefused:
                raise
            except FeeTooHigh as error:
                # Said once: it may take hours.
                if not self._waits_for_fee:
                    self._waits_for_fee = True
                    text = f"{error}; {call.function} waits"
                    self._log("fee.high", text, "warning", code=error.code, help=error.help, function=call.function)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
            except MoneyTiedUp:
                await self._flights.a_landing()
            except ChainError as error:
                told = isinstance(error, RpcAnswered) and not isinstance(error, NonceTaken)
                if told and self._others_wait(call):
                    # It may be this call alone that the RPC does not like. Its duty comes again; the others go on.
                    raise
                # The RPC is in trouble, not the order: wait, look at the nonce again, try again.
                self._log("rpc.error", str(error), "warning", code=error.code, function=call.function)
                self._flights.look_at_nonce_again()
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)

    def _others_wait(self, call: Call) -> bool:
        """Whether another task's orders wait for this one to be done."""
        task = call.fields.get("task")
        return any(not is_duty_of(task, key) for key in self._pending if key != call.key)

    async def _send(self, call: Call) -> Receipt:
        chain, me = self._chain, self._keys.address
        if len(call.data) + 200 > MAX_TRANSACTION_BYTES:
            raise ParameterError(
                f"{call.function} needs {len(call.data)} bytes of calldata, more than {MAX_TRANSACTION_BYTES}"
            )
        balance = await chain.balance(me)
        if balance < call.value:
            # Before the estimate, which an RPC refuses in words of its own.
            raise FundsError(
                f"account {self._keys.account.address} has {balance} wei; {call.function} needs {call.value} wei, "
                "and gas"
            )
        known = call.most_gas is not None and await chain.admits(me, call.data, call.value, call.most_gas)
        estimated = call.most_gas if known else await chain.estimate(me, call.data, call.value)
        assert estimated is not None
        gas = min(estimated * 5 // 4 + HEADROOM_GAS.get(call.function, HEADROOM_GAS[""]), MAX_TRANSACTION_GAS)
        started = self._clock()
        flight = await self._flights.launch(call, gas)
        if self._waits_for_fee:
            self._waits_for_fee = False
            self._log("fee.high.over", "the base fee is within the cap again")
        receipt, tx_hash = await self._flights.land(flight)
        self._tell(call, receipt, tx_hash, started)
        if not receipt.succeeded:
            # Somebody was faster between our estimate and the block; ask again why.
            await chain.estimate(me, call.data, call.value)
            raise ContractRefused("reverted", {"function": call.function})
        return receipt

    def _tell(self, call: Call, receipt: Receipt, tx_hash: bytes, started: float) -> None:
        self._log(
            "tx.mined" if receipt.succeeded else "tx.reverted",
            f"{call.function}: {receipt.gas_used} gas",
            "info" if receipt.succeeded else "warning",
            tx=tx_hash,
            block=receipt.block,
            gas=receipt.gas_used,
            wei=receipt.fee,
            dur_ms=int(1000 * (self._clock() - started)),
            function=call.function,
            calldata_bytes=len(call.data),
            # What came may be more than what a snapshot had let expect.
            wei_received=self._received(receipt) if call.function == "withdraw" else None,
            **call.fields,
        )

    def _received(self, receipt: Receipt) -> int:
        return sum(int(event["amount"]) for event in self._chain.events_in(receipt, "Withdrawn"))


def _earlier_call(key: str, transaction: dict[str, Any]) -> Call:
    """What the journal's key says of a call: "task 3: commit 7" is one of commit."""
    task = task_of(key)
    duty = key if task is None else key.removeprefix(duty_key(task, ""))
    fields = {} if task is None else {"task": task}
    return Call(key, duty.split(" ")[0], transaction["data"], transaction["value"], fields)
