"""An account's transactions that have a nonce and no block yet: several at once, each looked after at its own nonce.

A nonce is given to a call that the chain would carry out now, and taken back only while it is the last one and the RPC
has said no: so there is never a gap below another. From then on it is that call's, whatever the RPC says or does not
say, until a block has it: journalled before it is sent, handed over again where the node has forgotten it, paid better
when it sticks, and found again by the next life of the daemon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omnilytics.daemon.chain import Chain, ContractRefused, Receipt, RpcAnswered
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys, read_transaction
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError, FundsError

RECEIPT_POLL_SECONDS = 0.05
MAX_RECEIPT_PAUSE_SECONDS = 1.0
# How often a node is asked whether it still knows what was handed to it: one that was restarted has forgotten its
# pool, and a reorg can lose what was mined. At first; the pause doubles with each time that it is handed over again.
LOST_SECONDS = 2.0
RETRY_SECONDS = 2.0
MAX_BACKOFF_SECONDS = 30.0
# How long a nonce is seen to be nobody's, with ours behind it, before a transaction to ourselves fills it.
FILL_SECONDS = 30.0
_FILL_GAS = 21_000
_ANY_NONCE = 2**63 - 1
# The journal's name for what fills a nonce.
_FILLING = "fill a gap"


class FeeTooHigh(ChainError):
    """A gas costs more than the cap allows. The order waits until it does not."""

    code = "chain.fee"


class MoneyTiedUp(FundsError):
    """The account has the money, but what is in flight may need it. The order waits until one of those is mined."""


class NonceTaken(ChainError):
    """Another program has used the nonce that was next. The call can have a later one."""


@dataclass(frozen=True)
class FeePolicy:
    """What we are ready to pay, wei a gas, and when a transaction that does not get mined is paid better."""

    price_cap: int = 500 * 10**9
    tip: int = 10**9
    bump_seconds: float = 45.0


@dataclass(frozen=True)
class Call:
    """A call of the market: its duty's key, the function's name, calldata, wei, and what the log says beside."""

    key: str
    function: str
    data: bytes
    value: int
    fields: dict[str, Any]
    # Where it is known, gas that the call needs at most: a try with it takes the place of an estimate.
    most_gas: int | None = None


@dataclass
class Flight:
    """A transaction at its nonce: as it was signed last, and every hash under which a block may have it."""

    call: Call
    transaction: dict[str, Any]
    raw: bytes
    tx_hash: bytes
    # By our clock: since when it has offered its price.
    priced_at: float
    hashes: list[bytes]
    # Handed over, and not answered.
    in_doubt: bool = False

    @property
    def nonce(self) -> int:
        """Its own, for good."""
        return int(self.transaction["nonce"])

    @property
    def most_wei(self) -> int:
        """What it may cost: value and gas at its price."""
        return int(self.transaction["value"] + self.transaction["gas"] * self.transaction["maxFeePerGas"])


class InFlight:
    """All flights of one account. Whoever launches one also lands it, or the queue of nonces stands."""

    def __init__(
        self,
        chain: Chain,
        keys: Keys,
        journal: Journal,
        log: Logger,
        fees: FeePolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain, self._keys, self._journal, self._log = chain, keys, journal, log
        self._fees, self._clock = fees, clock
        self._flights: dict[int, Flight] = {}
        # One nonce is given away at a time, and not while what is lost is handed over again.
        self._giving = asyncio.Lock()
        # The next nonce; None: the RPC knows.
        self._next: int | None = None
        self._landed = asyncio.Event()
        # A nonce that nobody has, and since when.
        self._gap: tuple[int, float] | None = None

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def keys(self) -> list[str]:
        """The duties in flight."""
        return [flight.call.key for flight in self._flights.values()]

    def look_at_nonce_again(self) -> None:
        """Something went wrong: the next nonce is asked of the RPC, ours in flight left out."""
        self._next = None

    async def a_landing(self) -> None:
        """Returns when one of the flights has ended."""
        self._landed.clear()
        if self._flights:
            await self._landed.wait()

    # ------------------------------------------------------------------- launching

    async def launch(self, call: Call, gas: int) -> Flight:
        """Gives a call the next nonce, journals it signed, and hands it over.

        Raises FeeTooHigh, FundsError, MoneyTiedUp (a later landing may help), NonceTaken, and ChainError when the RPC
        has answered with an error; then the nonce is free again. No answer is no error: it may have arrived.
        """
        async with self._giving:
            chain, me, fees = self._chain, self._keys.address, self._fees
            head = await chain.head()
            tip = min(fees.tip, fees.price_cap)
            max_fee = min(2 * head.base_fee + tip, fees.price_cap)
            if max_fee < head.base_fee:
                raise FeeTooHigh(
                    f"the base fee of {head.base_fee} wei is above the configured cap of {fees.price_cap} wei",
                    help="waiting for a lower fee; or raise gas_price_cap in config.toml (--gas-price-cap)",
                )
            balance, needed = await chain.balance(me), call.value + gas * max_fee
            if balance - self._promised() < needed:
                kind = FundsError if balance < needed or not self._flights else MoneyTiedUp
                raise kind(
                    f"account {self._keys.account.address} has {balance} wei; {call.function} needs up to {needed} wei"
                )
            nonce = await chain.next_nonce(me) if self._next is None else self._next
            while nonce in self._flights:
                nonce += 1
            flight = self._sign(call, chain.transaction(call.data, call.value, nonce, gas, max_fee, tip))
            self._flights[nonce] = flight
            try:
                await self._hand_over(flight)
            except (ContractRefused, RpcAnswered):
                # Nobody has a later one: no gap.
                self._end(flight, forget=True)
                self._next = None
                if await chain.next_nonce(me) > nonce:
                    text = f"another transaction of this account took nonce {nonce} of {call.function}"
                    raise NonceTaken(text) from None
                raise
            except ChainError as error:
                self._log("rpc.error", str(error), "warning", code=error.code, function=call.function)
            self._next = nonce + 1
            return flight

    def _promised(self) -> int:
        """Wei that the flights may cost together. A block may have some of them already: rather too much."""
        return sum(flight.most_wei for flight in self._flights.values())

    def _sign(self, call: Call, transaction: dict[str, Any]) -> Flight:
        """Signed and journalled, before anybody sees it."""
        raw, tx_hash = self._keys.sign(transaction)
        self._journal.store_transaction(transaction["nonce"], call.key, tx_hash, raw)
        return Flight(call, transaction, raw, tx_hash, self._clock(), [tx_hash])

    async def _hand_over(self, flight: Flight) -> None:
        """To the RPC. Raises ChainError; where that is no answer it may have arrived all the same."""
        try:
            await self._chain.send_raw(flight.raw)
        except (ContractRefused, RpcAnswered):
            flight.in_doubt = False
            raise
        except ChainError:
            flight.in_doubt = True
            raise
        flight.in_doubt = False
        call = flight.call
        fields = {"function": call.function, **call.fields}
        self._log("tx.sent", f"{call.function} sent", "debug", tx=flight.tx_hash, **fields)

    def _end(self, flight: Flight, forget: bool = False) -> None:
        if forget:
            self._journal.forget_transaction(flight.nonce)
        del self._flights[flight.nonce]
        self._landed.set()

    # --------------------------------------------------------------------- landing

    async def land(self, flight: Flight) -> tuple[Receipt, bytes]:
        """Hands it over, the same or a dearer one again, until a block has one: (receipt, hash).

        Raises ChainError when none of them ever can be.
        """
        pause, patience = RETRY_SECONDS / 4, self._fees.bump_seconds
        if flight.in_doubt:
            patience = pause = 2 * pause
        while True:
            mined = await self._wait_mending(flight, patience)
            if mined is not None:
                self._journal.transaction_mined(flight.nonce, mined[0].block)
                self._end(flight)
                return mined
            if await self._lost(flight):
                self._end(flight, forget=True)
                self._next = None
                text = f"another transaction of this account took nonce {flight.nonce} of {flight.call.function}"
                raise NonceTaken(text)
            await self._pay_more(flight)
            patience = self._fees.bump_seconds
            try:
                await self._hand_over(flight)
                pause = RETRY_SECONDS / 4
            except ChainError as error:
                self._log("rpc.error", str(error), "warning", code=error.code, function=flight.call.function)
                patience = pause = min(2 * pause, MAX_BACKOFF_SECONDS)

    async def _pay_more(self, flight: Flight) -> None:
        """Signs a dearer one in its place, journalled: when its price has been offered for long enough, may be what is
        in the way, and the account can pay for it beside the other flights."""
        max_fee, tip = flight.transaction["maxFeePerGas"], flight.transaction["maxPriorityFeePerGas"]
        # At least 12.5 % more, or nodes refuse the replacement; never over the cap.
        dearer = min(max_fee * 5 // 4 + 1, self._fees.price_cap)
        if self._clock() - flight.priced_at < self._fees.bump_seconds or 8 * dearer < 9 * max_fee:
            return
        more = (dearer - max_fee) * flight.transaction["gas"]
        try:
            # Behind one that sticks a better price is paid for nothing.
            first = await self._chain.mined_nonce(self._keys.address) >= flight.nonce
            if not first and (await self._chain.head()).base_fee <= max_fee:
                return
            if await self._chain.balance(self._keys.address) < self._promised() + more:
                return
        except ChainError as error:
            self._log("rpc.error", str(error), "warning", code=error.code)
            return
        before, call = flight.tx_hash, flight.call
        fees = {"maxFeePerGas": dearer, "maxPriorityFeePerGas": min(tip * 5 // 4 + 1, dearer)}
        signed = self._sign(call, flight.transaction | fees)
        flight.transaction, flight.raw, flight.tx_hash = signed.transaction, signed.raw, signed.tx_hash
        flight.priced_at = signed.priced_at
        # Also where the RPC refuses it now: handed over once more it may be the one that is mined.
        flight.hashes.append(signed.tx_hash)
        self._log("tx.bumped", f"{call.function} is not mined yet; paying more", "warning", tx=before)

    async def _wait_mending(self, flight: Flight, seconds: float) -> tuple[Receipt, bytes] | None:
        """As _wait; meanwhile what the chain has lost is handed over again: an earlier transaction, or this one.

        A dearer one would take until the end of our patience, and nobody has refused the price of this one."""
        until = self._clock() + seconds
        pause, poll = LOST_SECONDS, RECEIPT_POLL_SECONDS
        while (left := until - self._clock()) > 0:
            mined = await self._wait(flight.hashes, min(left, pause), poll)
            if mined is not None:
                return mined
            poll = MAX_RECEIPT_PAUSE_SECONDS
            try:
                if flight.nonce == min(self._flights):
                    # The others look after themselves.
                    await self.mend()
                free = await self._chain.mined_nonce(self._keys.address) <= flight.nonce
                if free and not await self._known(flight.hashes):
                    await self._chain.send_raw(flight.raw)
                    pause = min(2 * pause, MAX_BACKOFF_SECONDS)
                    text = f"sent {flight.call.key} again: the node does not know it any more"
                    fields = {"nonce": flight.nonce, **flight.call.fields}
                    self._log("tx.resent", text, "warning", tx=flight.tx_hash, **fields)
            except ChainError as error:
                self._log("rpc.error", str(error), "warning", code=error.code)
        return None

    async def _known(self, hashes: list[bytes]) -> bool:
        """Whether the node knows any of these transactions, mined or waiting."""
        for tx_hash in reversed(hashes):
            if await self._chain.knows(tx_hash):
                return True
        return False

    async def _lost(self, flight: Flight) -> bool:
        """Whether the account's transaction of its nonce is mined and is none of its own."""
        try:
            # Twice: an RPC of several nodes may answer from two of them.
            for _ in range(2):
                if await self._chain.mined_nonce(self._keys.address) <= flight.nonce:
                    return False
                if await self._wait(flight.hashes, RETRY_SECONDS) is not None:
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

    # ------------------------------------------------------------------------ gaps

    async def mend(self) -> None:
        """A reorg can throw out a transaction that was mined, and every node forget it: until it is mined again,
        nothing with a later nonce ever is. The same bytes go out again. Raises ChainError."""
        async with self._giving:
            first = await self._chain.next_nonce(self._keys.address)
            end = min(self._flights, default=_ANY_NONCE if self._next is None else self._next)
            if first >= end:
                self._gap = None
                return
            rows = self._journal.transactions_between(first, end)
            for nonce, duty, tx_hash, raw in rows:
                await self._chain.send_raw(raw)
                text = f"sent {duty} again: the chain has lost it"
                self._log("tx.resent", text, "warning", tx=tx_hash, nonce=nonce)
            if self._flights and (not rows or rows[0][0] > first):
                await self._fill(first)

    async def _fill(self, nonce: int) -> None:
        """A nonce that was another program's and that a reorg has thrown out, or one that we gave up: nobody sends it
        any more, and ours wait behind it. The next call gets it; if none comes, an empty transaction to ourselves."""
        now = self._clock()
        self._next = None
        if self._gap is None or self._gap[0] != nonce:
            self._gap = nonce, now
        if now - self._gap[1] < FILL_SECONDS:
            return
        fees = self._fees
        head = await self._chain.head()
        max_fee = min(4 * head.base_fee + fees.tip, fees.price_cap)
        plain = self._chain.transaction(b"", 0, nonce, _FILL_GAS, max_fee, min(fees.tip, max_fee))
        flight = self._sign(Call(_FILLING, "", b"", 0, {}), plain | {"to": self._keys.account.address})
        # As if a block had it: nobody has to see it mined, and where it is missing it is sent again as what a reorg has
        # lost.
        self._journal.transaction_mined(nonce, head.number)
        await self._chain.send_raw(flight.raw)
        text = f"nobody sends nonce {nonce}, and later ones wait for it: filled with an empty transaction"
        self._log("tx.resent", text, "warning", tx=flight.tx_hash, nonce=nonce)

    # --------------------------------------------------------------- an earlier life

    def take_up(self, call_of: Callable[[str, dict[str, Any]], Call]) -> list[Flight]:
        """Flights for what an earlier life has journalled and never seen mined; each is to be resumed."""
        for _, duty, tx_hash, raw in self._journal.unmined_transactions():
            transaction = read_transaction(raw)
            flight = Flight(call_of(duty, transaction), transaction, raw, tx_hash, self._clock(), [tx_hash])
            self._flights[flight.nonce] = flight
        return list(self._flights.values())

    async def resume(self, flight: Flight) -> tuple[Receipt, bytes] | None:
        """Hands the same bytes over again where the node has not got them, and lands them. None: they never can be."""
        pause = 0.5
        while True:
            try:
                if await self._chain.receipt(flight.tx_hash) is None:
                    waited_for = flight.nonce >= await self._chain.next_nonce(self._keys.address)
                    if waited_for and not await self._chain.knows(flight.tx_hash):
                        await self._chain.send_raw(flight.raw)
                        text = f"sent {flight.call.key} again after a restart"
                        self._log("tx.resent", text, tx=flight.tx_hash, nonce=flight.nonce)
                    elif await self._lost(flight):
                        break
                return await self.land(flight)
            except ContractRefused:
                break
            except NonceTaken:
                return None
            except ChainError as error:
                self._log("rpc.error", str(error), "warning", code=error.code)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
        self._end(flight, forget=True)
        return None
