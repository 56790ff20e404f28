"""A market contract on a test's own chain, and accounts that can act on it without a daemon."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from eth_account import Account

from omnilytics.daemon.chain import Chain, Receipt, params_tuple
from omnilytics.daemon.keystore import Keys
from omnilytics.peers.hashing import abi_words, keccak
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import TaskParams, TaskSnapshot
from scripts import chain_process
from scripts.deployment import deploy, read_artifact
from tests.round_network import secret

PARAMS = TaskParams(
    group_size=3,
    max_groups=3,
    faulty_groups=0,
    strict_selection=False,
    model_selection=False,
    broker_delivery=False,
    lane_bits=16,
    max_magnitude=5461,
    value_count=40,
    chunk_words=2,
    rounds=2,
    max_empty_rounds=2,
    max_missed_rounds=3,
    depth=1,
    block_seconds=1,
    join_seconds=1000,
    reveal_seconds=1000,
    open_seconds=500,
    commit_seconds=1000,
    post_seconds=1000,
    settle_seconds=2000,
    turn_seconds=20,
    rate=10**15,
    stake=4 * 10**15,
    deposit=10**15,
    gas_price_cap=50 * 10**9,
    gas_tip=10**9,
)
SPEC = b'{"spec": "of no interest here"}'


def keys_of(private_key: str, name: str) -> Keys:
    return Keys(Account.from_key(private_key), BoxIdentity.from_entropy(secret(f"{name} box")))


def nonce_of(keys: Keys) -> bytes:
    return keccak(keys.address)


@dataclass
class LocalMarket:
    """The contract, a model owner, and owners; everything is mined at once."""

    anvil: chain_process.Chain
    chain: Chain
    model: Keys
    owners: list[Keys]
    task: int = 0
    params: TaskParams = PARAMS
    spare: list[Keys] = field(default_factory=list)

    async def send(
        self, keys: Keys, function: str, *arguments: Any, value: int = 0, tip: int = 10**9, gas: int = 10_000_000
    ) -> bytes:
        """Signs a call and hands it over: its hash."""
        data = self.chain.encode(function, *arguments)
        nonce = await self.chain.next_nonce(keys.address)
        transaction = self.chain.transaction(data, value, nonce, gas, 100 * 10**9, tip)
        raw, tx_hash = keys.sign(transaction)
        await self.chain.send_raw(raw)
        return tx_hash

    async def act(self, keys: Keys, function: str, *arguments: Any, value: int = 0) -> Receipt:
        """A call that must succeed. Raises ContractRefused in the contract's own words otherwise."""
        await self.chain.estimate(keys.address, self.chain.encode(function, *arguments), value)
        tx_hash = await self.send(keys, function, *arguments, value=value)
        # Mined at once, but an anvil under load answers a moment earlier.
        async with asyncio.timeout(20):
            while (receipt := await self.chain.receipt(tx_hash)) is None:  # noqa: ASYNC110 (no event tells of a block)
                await asyncio.sleep(0.01)
        assert receipt.succeeded, function
        return receipt

    async def snapshot(self) -> TaskSnapshot:
        return await self.chain.snapshot(self.task, self.params, await self.chain.head(), 0, None)

    # ------------------------------------------------------------ a task's life

    async def create(self, params: TaskParams = PARAMS, spec: bytes = SPEC) -> Receipt:
        reward, pot = await self.chain.escrow_required(params)
        arguments = params_tuple(params), self.model.box.public, spec
        receipt = await self.act(self.model, "createTask", *arguments, value=reward + pot)
        self.task = await self.chain.task_count()
        self.params = params
        return receipt

    def join_arguments(self, keys: Keys) -> tuple[Any, ...]:
        commitment = keccak(abi_words(self.task, keys.address, nonce_of(keys)))
        return self.task, keys.box.public, commitment, []

    async def join(self, keys: Keys) -> Receipt:
        return await self.act(keys, "join", *self.join_arguments(keys), value=self.params.stake)

    async def draw(self) -> None:
        """All owners join and reveal, and the groups are drawn."""
        for keys in self.owners:
            await self.join(keys)
        for keys in self.owners:
            await self.act(keys, "reveal", self.task, nonce_of(keys))
        await self.anvil.mine(3)
        await self.act(self.model, "poke", self.task)

    def opening_arguments(self, round_number: int, payload: bytes, parts: int = 1) -> tuple[Any, ...]:
        """For openRound with the last of `parts` parts of a payload."""
        pads = [keccak(secret(f"pad {position}")) for position in range(self.params.pad_count(self.params.max_groups))]
        last = payload if parts == 1 else payload[-(len(payload) // parts) :]
        hashes = secret("commit"), keccak(secret("key")), keccak(payload)
        return (self.task, round_number, *hashes, parts, pads, last)

    async def open_round(self, round_number: int) -> Receipt:
        return await self.act(self.model, "openRound", *self.opening_arguments(round_number, b"model" * 20))


@contextlib.asynccontextmanager
async def open_market(anvil: chain_process.Chain, url: str | None = None) -> AsyncIterator[LocalMarket]:
    """Deploys the contract; with `url` its Chain talks to the RPC over there (a proxy, say)."""
    deployed = await asyncio.to_thread(deploy, anvil.rpc_url, read_artifact(), anvil.private_keys[0])
    chain = Chain(url or anvil.rpc_url, bytes.fromhex(deployed.market[2:]))
    try:
        await chain.connect()
        people = [keys_of(key, f"account {number}") for number, key in enumerate(anvil.private_keys[1:15])]
        yield LocalMarket(anvil, chain, people[0], people[1:10], spare=people[10:])
    finally:
        await chain.close()


def lasting(params: TaskParams = PARAMS, **changes: Any) -> TaskParams:
    return replace(params, **changes)
