"""A chain of one account for tests of the queue of transactions: a pool, blocks, reorgs, and an RPC that misbehaves.

Every call has one effect, named by its calldata, that happens once: a second call of the same effect is refused by the
estimate and reverts in a block. An effect "task 3 step 2" wants "task 3 step 1" to have happened.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from omnilytics.daemon.chain import ContractRefused, Head, Receipt, RpcAnswered
from omnilytics.daemon.keystore import Keys, read_transaction
from omnilytics.peers.errors import ChainError
from omnilytics.peers.hashing import keccak

CALL_SECONDS = 10.0
GAS = 50_000


class KilledError(BaseException):
    """kill -9: no handler of the product survives it."""


@dataclass(frozen=True)
class Pooled:
    """A transaction as it was signed."""

    raw: bytes
    hash: bytes
    nonce: int
    value: int
    gas: int
    max_fee: int
    effect: str
    foreign: bool = False

    @property
    def most_wei(self) -> int:
        """What it may cost."""
        return self.value + self.gas * self.max_fee


@dataclass(frozen=True)
class Mined:
    """A transaction in a block, and whether its effect happened."""

    transaction: Pooled
    succeeded: bool
    price: int


@dataclass
class Faults:
    """How likely what is, each time."""

    error: float = 0.0
    timeout: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    answer_lost: float = 0.0
    killed_before_send: float = 0.0
    killed_after_send: float = 0.0


@dataclass
class PoolChain:
    """The chain and its RPC, for the one account that has `keys`."""

    keys: Keys
    entropy: random.Random
    wei: int = 10**20
    base_fee: int = 10**9
    faults: Faults = field(default_factory=Faults)
    chain_id: int = 31337
    pool: dict[int, Pooled] = field(default_factory=dict)
    blocks: list[list[Mined]] = field(default_factory=lambda: [[]])
    # Effects whose estimate the RPC refuses.
    refused: set[str] = field(default_factory=set)
    seen: Counter[str] = field(default_factory=Counter)
    most_pooled: int = 0

    # ----------------------------------------------------------------- the chain

    @property
    def mined(self) -> list[Mined]:
        """All of it, oldest first."""
        return [entry for block in self.blocks for entry in block]

    @property
    def effects(self) -> list[str]:
        """What has happened, oldest first."""
        own = (entry.transaction for entry in self.mined if entry.succeeded and not entry.transaction.foreign)
        return [transaction.effect for transaction in own if transaction.effect]

    @property
    def nonce(self) -> int:
        """The next one that a block takes."""
        return len(self.mined)

    @property
    def balance_now(self) -> int:
        """Wei."""
        spent = 0
        for entry in self.mined:
            spent += GAS * entry.price + (entry.transaction.value if entry.succeeded else 0)
        return self.wei - spent

    def _fits(self, effect: str) -> bool:
        done = self.effects
        if effect in done:
            return False
        task, _, step = effect.rpartition(" step ")
        return step in ("", "0") or f"{task} step {int(step) - 1}" in done

    def mine(self) -> None:
        """A block with whatever can be in it."""
        block: list[Mined] = []
        self.blocks.append(block)
        while (found := self.pool.get(self.nonce)) is not None and found.max_fee >= self.base_fee:
            del self.pool[found.nonce]
            fits = found.foreign or not found.effect or self._fits(found.effect)
            price = min(found.max_fee, self.base_fee + 10**9)
            block.append(Mined(found, fits, price))
        for nonce in [nonce for nonce in self.pool if nonce < self.nonce]:
            del self.pool[nonce]

    def reorg(self, depth: int, lose: float) -> None:
        """The last blocks are gone; what they had is in the pool again, but for what is lost."""
        depth = min(depth, len(self.blocks) - 1)
        gone = self.blocks[len(self.blocks) - depth :]
        del self.blocks[len(self.blocks) - depth :]
        for block in gone:
            for entry in block:
                if self.entropy.random() >= lose:
                    self.pool.setdefault(entry.transaction.nonce, entry.transaction)
        for _ in range(depth + 1):
            self.mine()

    def forget(self) -> None:
        """A node that was restarted: its pool is empty."""
        self.pool.clear()

    def accept(self, raw: bytes, foreign: bool = False) -> None:
        """Into the pool. Raises RpcAnswered as nodes do."""
        fields = read_transaction(raw)
        found = Pooled(
            raw, keccak(raw), fields["nonce"], fields["value"], fields["gas"], fields["maxFeePerGas"],
            bytes(fields["data"]).decode(), foreign,
        )  # fmt: skip
        before = self.pool.get(found.nonce)
        if before is not None and before.hash == found.hash:
            return
        if found.nonce < self.nonce:
            raise RpcAnswered("RPC answered with an error: nonce too low")
        if before is not None and 10 * found.max_fee < 11 * before.max_fee:
            raise RpcAnswered("RPC answered with an error: replacement transaction underpriced")
        others = sum(entry.most_wei for nonce, entry in self.pool.items() if nonce != found.nonce)
        if others + found.most_wei > self.balance_now:
            self.seen["overdraft"] += 1
            raise RpcAnswered("RPC answered with an error: insufficient funds for gas * price + value: overdraft")
        self.pool[found.nonce] = found
        self.most_pooled = max(self.most_pooled, len(self.pool))

    def other_program(self) -> None:
        """Somebody with the same key sends something of its own under the next nonce."""
        nonce = self.nonce
        while nonce in self.pool:
            nonce += 1
        to = self.keys.account.address
        fields = self.transaction(b"other", 0, nonce, GAS, 10 * self.base_fee, 10**9) | {"to": to}
        self.accept(self.keys.sign(fields)[0], foreign=True)

    # ------------------------------------------------------------- what the product asks

    async def _travel(self) -> None:
        await asyncio.sleep(self.entropy.uniform(0.001, 0.05))
        if self.entropy.random() < self.faults.error:
            raise ChainError("cannot reach RPC: connection refused")
        if self.entropy.random() < self.faults.timeout:
            await asyncio.sleep(CALL_SECONDS)
            raise ChainError("cannot reach RPC: no answer in 10 s")

    def encode(self, function: str, *arguments: Any) -> bytes:
        """The effect's name."""
        return " ".join(map(str, arguments)).encode()

    def transaction(self, data: bytes, value: int, nonce: int, gas: int, max_fee: int, tip: int) -> dict[str, Any]:
        """As the product's."""
        return {
            "type": 2, "chainId": self.chain_id, "to": "0x" + "11" * 20, "data": data, "value": value, "nonce": nonce,
            "gas": gas, "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip,
        }  # fmt: skip

    async def head(self) -> Head:
        """The newest block."""
        await self._travel()
        return Head(len(self.blocks) - 1, 0, bytes(32), self.base_fee, bytes(32))

    async def balance(self, account: bytes) -> int:
        """Wei."""
        await self._travel()
        return self.balance_now

    async def estimate(self, sender: bytes, data: bytes, value: int) -> int:
        """Gas. Raises ContractRefused for what cannot happen now."""
        await self._travel()
        self.seen["estimate"] += 1
        if data.decode() in self.refused or not self._fits(data.decode()):
            raise ContractRefused("NotNow", {"effect": data.decode()})
        return GAS

    async def next_nonce(self, account: bytes) -> int:
        """Pending ones counted."""
        await self._travel()
        nonce = self.nonce
        while nonce in self.pool:
            nonce += 1
        return nonce

    async def mined_nonce(self, account: bytes) -> int:
        """Without pending ones."""
        await self._travel()
        return self.nonce

    async def send_raw(self, raw: bytes) -> None:
        """To the pool, or not, or later."""
        if self.entropy.random() < self.faults.killed_before_send:
            self.seen["killed"] += 1
            raise KilledError
        await self._travel()
        if self.entropy.random() < self.faults.lost:
            return
        if self.entropy.random() < self.faults.late:
            asyncio.get_running_loop().call_later(self.entropy.uniform(1, 30), self._late, raw)
            return
        self.accept(raw)
        if self.entropy.random() < self.faults.killed_after_send:
            self.seen["killed"] += 1
            raise KilledError
        if self.entropy.random() < self.faults.answer_lost:
            await asyncio.sleep(CALL_SECONDS)
            raise ChainError("cannot reach RPC: no answer in 10 s")

    def _late(self, raw: bytes) -> None:
        try:
            self.accept(raw)
        except RpcAnswered:
            self.seen["late and refused"] += 1

    async def knows(self, tx_hash: bytes) -> bool:
        """Mined or waiting."""
        await self._travel()
        return any(entry.hash == tx_hash for entry in self.pool.values()) or self._find(tx_hash) is not None

    async def receipt(self, tx_hash: bytes) -> Receipt | None:
        """None while it is not mined."""
        await self._travel()
        return self._find(tx_hash)

    def _find(self, tx_hash: bytes) -> Receipt | None:
        for number, block in enumerate(self.blocks):
            for entry in block:
                if entry.transaction.hash == tx_hash:
                    return Receipt(number, GAS, entry.price, entry.succeeded, ())
        return None

    def events_in(self, _receipt: Receipt, _event: str) -> list[Any]:
        """None are kept."""
        return []
