"""One queue of transactions for one account: in order, journalled before they are sent, bumped when they stick.

Callers submit a duty by its key (see duty_key); a duty that is already on its way, or done in a block that the caller
has not seen yet, is not sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
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
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError, FundsError, ParameterError

RECEIPT_POLL_SECONDS = 0.05
MAX_RECEIPT_PAUSE_SECONDS = 1.0
# How often a transaction that is waited for is suspected to lack its predecessor, and one that was mined to be lost.
GAP_SECONDS = 5.0
# How often a node is asked whether it still knows what was handed to it: one that was restarted has forgotten its
# pool, and a reorg can lose what was mined. At first; the pause doubles with each time that it is handed over again.
LOST_SECONDS = 2.0
_ANY_NONCE = 2**63 - 1
RETRY_SECONDS = 2.0
MAX_BACKOFF_SECONDS = 30.0
# Between estimate and block others act too, and whoever comes last also closes the phase: it pays for closing
# a commit or post phase, or for drawing the groups. Gas that is not used costs nothing.
HEADROOM_GAS = {"": 300_000, "poke": 6_000_000}


class FeeTooHigh(ChainError):
    """A gas costs more than the cap allows. The order waits until it does not."""

    code = "chain.fee"


def duty_key(task: int, duty: str) -> str:
    """The key of a task's duty: two tasks never share one, or the one's transaction would pass for the other's."""
    return f"task {task}: {duty}"


def is_duty_of(task: int | None, key: str) -> bool:
    """Whether a key is that of a duty of this task."""
    return task is not None and key.startswith(duty_key(task, ""))


@dataclass(frozen=True)
class FeePolicy:
    """What we are ready to pay, wei a gas, and when a transaction that does not get mined is paid better."""

    price_cap: int = 500 * 10**9
    tip: int = 10**9
    bump_seconds: float = 45.0


@dataclass
class _Order:
    key: str
    function: str
    data: bytes
    value: int
    fields: dict[str, Any]
    done: asyncio.Future[Receipt] = field(repr=False)


class TransactionQueue:
    """Sends one account's transactions to the market, one after the other."""

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
        self._journal = journal
        self._log = log
        self._fees = fees
        self._on_mined = on_mined
        self._clock = clock
        self._orders: asyncio.Queue[_Order] = asyncio.Queue()
        self._pending: set[str] = set()
        self._done_at: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._nonce: int | None = None
        self._resent = asyncio.Event()
        self._waits_for_fee = False

    async def settled(self) -> None:
        """Returns when what an earlier life of the daemon had sent is mined, or can never be."""
        await self._resent.wait()

    def wanted(self, key: str, block: int) -> bool:
        """Whether a duty seen in a snapshot of this block still needs a transaction from us."""
        if key in self._pending or self._clock() < self._not_before.get(key, 0.0):
            return False
        return self._done_at.get(key, -1) < block

    def submit(
        self, key: str, function: str, *arguments: Any, value: int = 0, **fields: Any
    ) -> asyncio.Future[Receipt]:
        """Queues a call of the market. The future gives its receipt, or ContractRefused or FundsError."""
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        # Nobody has to wait for the future; without this an unawaited failure would be reported twice.
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._pending.add(key)
        data = self._chain.encode(function, *arguments)
        self._orders.put_nowait(_Order(key, function, data, value, fields, done))
        return done

    def idle(self, task: int) -> bool:
        """Whether nothing of this task is waiting or on its way."""
        return not any(is_duty_of(task, key) for key in self._pending)

    @property
    def pending_count(self) -> int:
        """How many orders are waiting or on their way."""
        return len(self._pending)

    async def run(self) -> None:
        """Works the queue until cancelled. First of all: what an earlier life sent and never saw mined."""
        await self._resend()
        self._resent.set()
        while True:
            order = await self._next_order()
            try:
                receipt = await self._perform(order)
                self._done_at[order.key] = receipt.block
                if not order.done.done():
                    order.done.set_result(receipt)
                if self._on_mined is not None:
                    await self._on_mined(order.key, receipt)
            except (ChainError, FundsError, ParameterError) as error:
                self._not_before[order.key] = self._clock() + RETRY_SECONDS
                self._nonce = None
                level = "info" if isinstance(error, ContractRefused) else "error"
                self._log("tx.refused", str(error), level, code=error.code, function=order.function, **order.fields)
                if not order.done.done():
                    order.done.set_exception(error)
            finally:
                self._pending.discard(order.key)

    async def _next_order(self) -> _Order:
        """Waits for an order. Meanwhile what was mined and is lost again is handed over again, or nobody would ever
        miss it: a task whose creation a reorg has thrown out gives no duty any more."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GAP_SECONDS):
                    return await self._orders.get()
            try:
                await self._mend_gap(_ANY_NONCE if self._nonce is None else self._nonce)
            except ChainError as error:
                self._log("rpc.error", str(error), "warning", code=error.code)

    async def _resend(self) -> None:
        """Hands transactions of an earlier life to the RPC again, the same bytes."""
        for nonce, duty, tx_hash, raw in self._journal.unmined_transactions():
            pause = 0.5
            while True:
                try:
                    receipt = await self._chain.receipt(tx_hash)
                    if receipt is None and nonce >= await self._chain.next_nonce(self._keys.address):
                        await self._chain.send_raw(raw)
                        self._log("tx.resent", f"sent {duty} again after a restart", tx=tx_hash)
                    if receipt is None and await self._lost(nonce, [tx_hash]):
                        self._journal.forget_transaction(nonce)
                        break
                    if receipt is None:
                        mined = await self._wait([tx_hash], self._fees.bump_seconds)
                        receipt = mined[0] if mined is not None else None
                    if receipt is not None:
                        self._journal.transaction_mined(nonce, receipt.block)
                    break
                except ContractRefused:
                    break
                except ChainError as error:
                    self._log("rpc.error", str(error), "warning", code=error.code)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, MAX_BACKOFF_SECONDS)

    async def _perform(self, order: _Order) -> Receipt:
        pause = 0.5
        while True:
            try:
                return await self._send(order)
            except ContractRefused:
                raise
            except FeeTooHigh as error:
                # Said once: it may take hours.
                if not self._waits_for_fee:
                    self._waits_for_fee = True
                    text = f"{error}; {order.function} waits"
                    self._log("fee.high", text, "warning", code=error.code, help=error.help, function=order.function)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
            except ChainError as error:
                if isinstance(error, RpcAnswered) and self._others_wait(order):
                    # It may be this call alone that the RPC does not like. Its duty comes again; the others go on.
                    raise
                # The RPC is in trouble, not the order: wait, look at the nonce again, try again.
                self._log("rpc.error", str(error), "warning", code=error.code, function=order.function)
                self._nonce = None
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)

    def _others_wait(self, order: _Order) -> bool:
        """Whether another task's orders wait for this one to be done."""
        task = order.fields.get("task")
        return any(not is_duty_of(task, key) for key in self._pending if key != order.key)

    async def _send(self, order: _Order) -> Receipt:
        chain, keys = self._chain, self._keys
        if len(order.data) + 200 > MAX_TRANSACTION_BYTES:
            raise ParameterError(
                f"{order.function} needs {len(order.data)} bytes of calldata, more than {MAX_TRANSACTION_BYTES}"
            )
        balance = await chain.balance(keys.address)
        if balance < order.value:
            # Before the estimate, which an RPC refuses in words of its own.
            raise FundsError(
                f"account {keys.account.address} has {balance} wei; {order.function} needs {order.value} wei, and gas"
            )
        estimated = await chain.estimate(keys.address, order.data, order.value)
        gas = min(estimated * 5 // 4 + HEADROOM_GAS.get(order.function, HEADROOM_GAS[""]), MAX_TRANSACTION_GAS)
        head = await chain.head()
        tip = min(self._fees.tip, self._fees.price_cap)
        max_fee = min(2 * head.base_fee + tip, self._fees.price_cap)
        if max_fee < head.base_fee:
            raise FeeTooHigh(
                f"the base fee of {head.base_fee} wei is above the configured cap of {self._fees.price_cap} wei",
                help="waiting for a lower fee; or raise gas_price_cap in config.toml (--gas-price-cap)",
            )
        if self._waits_for_fee:
            self._waits_for_fee = False
            self._log("fee.high.over", f"the base fee of {head.base_fee} wei is within the cap again")
        if balance < order.value + gas * max_fee:
            raise FundsError(
                f"account {keys.account.address} has {balance} wei; {order.function} needs up to "
                f"{order.value + gas * max_fee} wei"
            )
        if self._nonce is None:
            self._nonce = await chain.next_nonce(keys.address)
        nonce = self._nonce
        started = self._clock()
        receipt, tx_hash = await self._until_mined(order, nonce, gas, max_fee, tip)
        self._nonce = nonce + 1
        self._journal.transaction_mined(nonce, receipt.block)
        self._log(
            "tx.mined" if receipt.succeeded else "tx.reverted",
            f"{order.function}: {receipt.gas_used} gas",
            "info" if receipt.succeeded else "warning",
            tx=tx_hash,
            block=receipt.block,
            gas=receipt.gas_used,
            wei=receipt.fee,
            dur_ms=int(1000 * (self._clock() - started)),
            function=order.function,
            calldata_bytes=len(order.data),
            # What came may be more than what a snapshot had let expect.
            wei_received=self._received(receipt) if order.function == "withdraw" else None,
            **order.fields,
        )
        if not receipt.succeeded:
            # Somebody was faster between our estimate and the block; ask again why.
            await chain.estimate(keys.address, order.data, order.value)
            raise ContractRefused("reverted", {"function": order.function})
        return receipt

    def _received(self, receipt: Receipt) -> int:
        return sum(int(event["amount"]) for event in self._chain.events_in(receipt, "Withdrawn"))

    async def _until_mined(self, order: _Order, nonce: int, gas: int, max_fee: int, tip: int) -> tuple[Receipt, bytes]:
        """Hands a transaction over, and the same or a dearer one again, until one is mined: (receipt, hash).

        Raises ChainError when none of them ever can be. Until then the nonce is the order's, whatever the RPC
        says or does not say: under a second nonce the order could be carried out twice.
        """
        chain = self._chain
        hashes: list[bytes] = []
        pause = RETRY_SECONDS / 4
        while True:
            raw, tx_hash = self._keys.sign(chain.transaction(order.data, order.value, nonce, gas, max_fee, tip))
            self._journal.store_transaction(nonce, order.key, tx_hash, raw)
            patience = self._fees.bump_seconds
            try:
                await chain.send_raw(raw)
                fields = {"function": order.function, **order.fields}
                self._log("tx.sent", f"{order.function} sent", "debug", tx=tx_hash, **fields)
            except ChainError as error:
                answered = isinstance(error, (ContractRefused, RpcAnswered))
                if answered and not hashes:
                    self._journal.forget_transaction(nonce)
                    raise
                self._log("rpc.error", str(error), "warning", code=error.code, function=order.function)
                patience = pause = min(2 * pause, MAX_BACKOFF_SECONDS)
                # No answer: it may have arrived all the same.
                taken = not answered
            else:
                taken = True
            if taken and tx_hash not in hashes:
                hashes.append(tx_hash)
            mined = await self._wait_mending(order, nonce, hashes, raw, patience)
            if mined is not None:
                return mined
            if await self._lost(nonce, hashes):
                self._journal.forget_transaction(nonce)
                raise ChainError(f"another transaction of this account took nonce {nonce} of {order.function}")
            # At least 12.5 % more, or nodes refuse the replacement; never over the cap.
            dearer = min(max_fee * 5 // 4 + 1, self._fees.price_cap)
            if patience == self._fees.bump_seconds and 8 * dearer >= 9 * max_fee:
                max_fee, tip = dearer, min(tip * 5 // 4 + 1, dearer)
                self._log("tx.bumped", f"{order.function} is not mined yet; paying more", "warning", tx=tx_hash)

    async def _wait_mending(
        self, order: _Order, nonce: int, hashes: list[bytes], raw: bytes, seconds: float
    ) -> tuple[Receipt, bytes] | None:
        """As _wait; meanwhile what the chain has lost is handed over again: an earlier transaction, or this one (raw).

        A dearer one would take until the end of our patience, and nobody has refused the price of this one."""
        until = self._clock() + seconds
        pause, poll = LOST_SECONDS, RECEIPT_POLL_SECONDS
        while (left := until - self._clock()) > 0:
            mined = await self._wait(hashes, min(left, pause), poll)
            if mined is not None:
                return mined
            poll = MAX_RECEIPT_PAUSE_SECONDS
            try:
                await self._mend_gap(nonce)
                free = await self._chain.mined_nonce(self._keys.address) <= nonce
                if hashes and free and not await self._known(hashes):
                    await self._chain.send_raw(raw)
                    pause = min(2 * pause, MAX_BACKOFF_SECONDS)
                    text = f"sent {order.key} again: the node does not know it any more"
                    self._log("tx.resent", text, "warning", tx=hashes[-1], nonce=nonce, **order.fields)
            except ChainError as error:
                self._log("rpc.error", str(error), "warning", code=error.code)
        return None

    async def _known(self, hashes: list[bytes]) -> bool:
        """Whether the node knows any of these transactions, mined or waiting."""
        for tx_hash in reversed(hashes):
            if await self._chain.knows(tx_hash):
                return True
        return False

    async def _mend_gap(self, nonce: int) -> None:
        """A reorg can throw out a transaction that was mined, and every node forget it: until it is mined again,
        nothing with a later nonce ever is. The same bytes go out again."""
        first = await self._chain.next_nonce(self._keys.address)
        if first >= nonce:
            return
        for earlier, duty, tx_hash, raw in self._journal.transactions_between(first, nonce):
            await self._chain.send_raw(raw)
            self._log("tx.resent", f"sent {duty} again: the chain has lost it", "warning", tx=tx_hash, nonce=earlier)

    async def _lost(self, nonce: int, hashes: list[bytes]) -> bool:
        """Whether the account's transaction of this nonce is mined and is none of these."""
        try:
            # Twice: an RPC of several nodes may answer from two of them.
            for _ in range(2):
                if await self._chain.mined_nonce(self._keys.address) <= nonce:
                    return False
                if await self._wait(hashes, RETRY_SECONDS) is not None:
                    return False
        except ChainError as error:
            self._log("rpc.error", str(error), "warning", code=error.code)
            return False
        return True

    async def _wait(
        self, hashes: list[bytes], seconds: float, pause: float = RECEIPT_POLL_SECONDS
    ) -> tuple[Receipt, bytes] | None:
        """The receipt of the first of these transactions that is mined, and its hash; None after the seconds."""
        until = self._clock() + seconds
        while self._clock() < until:
            try:
                for tx_hash in hashes:
                    receipt = await self._chain.receipt(tx_hash)
                    if receipt is not None:
                        return receipt, tx_hash
            except ChainError as error:
                # What was handed over is on its way, whether we can see it or not.
                self._log("rpc.error", str(error), "warning", code=error.code)
                pause = max(pause, RETRY_SECONDS / 4)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, MAX_RECEIPT_PAUSE_SECONDS)
        return None
