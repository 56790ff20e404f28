"""What a round costs on the chain: the market beside the baseline, and beside the least that its calldata can cost.

Everything is read from receipts of a real chain (anvil). Vectors are random, as masked ones are, so nearly no byte is
zero; the sums of groups lie about a common pad, as honest ones do, those of poisoned groups anywhere. A task has as
many owners as seats, and all of them post.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from eth_abi.abi import encode
from eth_account import Account

from omnilytics.daemon.chain import Chain, Receipt
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.posting import PostedVectors, post_parts
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_offer import Terms, Timing, make_offer
from omnilytics.peers.commitment import root
from omnilytics.peers.hashing import abi_words, keccak
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import TaskSnapshot, bits
from omnilytics.peers.quantise import RingLayout, pack
from scripts.chain_process import Chain as Anvil
from scripts.chain_process import rpc_call
from scripts.deployment import deploy, read_artifact
from scripts.pages import table
from scripts.toolchain import ROOT

# EIP-2028 and EIP-7623: a transaction costs at least this, whatever it does.
BASE_GAS, FLOOR_ZERO_BYTE, FLOOR_OTHER_BYTE = 21_000, 10, 40
CLASSES = tuple("0123456789")
LONG = 10**6  # seconds: no phase ends by itself here
GAS_LIMIT = 2**24 - 1
BASELINE_SOURCE = ROOT / "tests" / "contracts" / "Baseline.sol"
# Values in one call of the baseline: what fits a transaction's gas.
BASELINE_STEP = 100


def floor_gas(data: bytes) -> int:
    """The least that a transaction with this calldata can cost (EIP-7623)."""
    zeroes = data.count(0)
    return BASE_GAS + FLOOR_ZERO_BYTE * zeroes + FLOOR_OTHER_BYTE * (len(data) - zeroes)


@dataclass(frozen=True)
class Cell:
    """A task to be measured. d = value_count is a multiple of ten: a softmax over ten classes.

    poisoned: so many groups, the last ones, have sums of random lanes.
    """

    value_count: int
    groups: int
    group_size: int
    lane_bits: int
    poisoned: int = 0

    @property
    def owners(self) -> int:
        """All seats."""
        return self.groups * self.group_size


# Standard deviation of a lane of a group's sum, as a share of the largest sum that honest owners can have.
SPREAD = 1 / 16


def masked_vectors(cell: Cell, layout: RingLayout, seed: int) -> list[bytes]:
    """What is posted for each seat: random bytes of which only a group's sum is not random, but pads and a gradient."""
    rng = np.random.default_rng(seed)
    full = 1 << cell.lane_bits
    pads = rng.integers(0, full, layout.lane_count)
    vectors = rng.integers(0, full, (cell.groups, cell.group_size, layout.lane_count))
    for group in range(cell.groups - cell.poisoned):
        gradient = np.rint(rng.normal(0.0, SPREAD * full / 4, layout.lane_count)).astype(np.int64)
        vectors[group, -1] = pads + gradient - vectors[group, :-1].sum(axis=0)
    lanes = (vectors.reshape(cell.owners, layout.lane_count) % full).astype(layout.dtype)
    return [pack(np.ascontiguousarray(row), layout) for row in lanes]


@dataclass
class Spent:
    """Gas used by a function over a round, and the least that its calldata can cost."""

    gas: int = 0
    floor: int = 0
    calls: int = 0

    def add(self, gas: int, data: bytes) -> None:
        """One transaction."""
        self.gas, self.floor, self.calls = self.gas + gas, self.floor + floor_gas(data), self.calls + 1

    @property
    def ratio(self) -> float:
        """Over the floor."""
        return self.gas / self.floor


@dataclass(frozen=True)
class RoundGas:
    """A round of a cell: what each function spent, and words in a chunk."""

    cell: Cell
    chunk_words: int
    spent: dict[str, Spent] = field(default_factory=dict)

    def a_value(self, *functions: str) -> float:
        """Gas a value and owner, of these functions or of all."""
        names = functions or tuple(self.spent)
        return sum(self.spent[name].gas for name in names) / (self.cell.value_count * self.cell.owners)


class Player:
    """All participants of one task, without daemons: it signs what they would sign."""

    def __init__(self, anvil: Anvil, chain: Chain, cell: Cell, seed: int) -> None:
        self._anvil, self._chain, self._cell, self._seed = anvil, chain, cell, seed
        self._random = random.Random(seed)
        self._people = [
            Keys(Account.from_key(self._random.randbytes(32)), BoxIdentity.from_entropy(self._random.randbytes(32)))
            for _ in range(cell.owners + 1)
        ]
        self._nonces: dict[bytes, int] = {}
        self.result: RoundGas

    async def play(self) -> RoundGas:
        """One round, to its end. Raises ContractRefused in the contract's words where a call fails."""
        chain, cell = self._chain, self._cell
        for keys in self._people:
            await self._anvil.call("anvil_setBalance", "0x" + keys.address.hex(), hex(10**24))
        spec = TaskSpec("softmax", cell.value_count // len(CLASSES) - 1, CLASSES, 1.0, 200)
        terms = Terms(2, cell.group_size, cell.groups, max(0, (cell.groups - 3) // 2), cell.lane_bits)
        timing = Timing(LONG, LONG, LONG, LONG, LONG, LONG, 60)
        offer = await make_offer(chain, spec, terms, timing)
        params = offer.params
        self.result = RoundGas(cell, params.chunk_words)
        model, *owners = self._people
        reward, pot = await chain.escrow_required(params)
        await self._act(
            model, "createTask", offer.contract_params(), model.box.public, spec.encode(), value=reward + pot
        )
        task = await chain.task_count()
        for keys in owners:
            commitment = keccak(abi_words(task, keys.address, keccak(keys.address)))
            await self._act(keys, "join", task, keys.box.public, commitment, [], value=params.stake)
        for keys in owners:
            await self._act(keys, "reveal", task, keccak(keys.address))
        await self._anvil.mine(3)
        await self._act(model, "poke", task)
        pads = [keccak(self._random.randbytes(32)) for _ in range(params.pad_count(cell.groups))]
        # Two bytes a weight, as the envelope publishes them.
        payload = self._random.randbytes(min(2 * cell.value_count, 100_000))
        opening = task, 1, self._random.randbytes(32), self._random.randbytes(32), keccak(payload), 1, pads, payload
        await self._act(model, "openRound", *opening, count=True)

        async def now() -> TaskSnapshot:
            return await chain.snapshot(task, params, await chain.head(), 0, None)

        snapshot = await now()
        ctx, seats = snapshot.state.ctx, {member.account: member.seat for member in snapshot.members}
        vectors = dict(enumerate(masked_vectors(cell, params.layout, self._seed)))
        for keys in owners:
            seat = seats[keys.address]
            await self._act(keys, "commit", task, ctx, root(vectors[seat], params.chunk_words, ctx, seat), count=True)
        for keys in owners:
            seat = seats[keys.address]
            stored = StoredVector(ctx, root(vectors[seat], params.chunk_words, ctx, seat), vectors[seat], None)  # type: ignore[arg-type]
            for part in post_parts(stored, params, seat):
                await self._act(keys, "post", task, ctx, part.first_chunk, part.data, part.next_link, count=True)
        by_account = {keys.address: keys for keys in owners}
        snapshot = await now()
        posted = PostedVectors(params, ctx, tuple(bits(snapshot.state.complete)), vectors)
        for chunk in range(params.chunk_count):
            settler = by_account[(await now()).settler().account]
            await self._act(settler, "settle", task, ctx, chunk, posted.settle_data(chunk), count=True)
        return self.result

    async def _act(self, keys: Keys, function: str, *arguments: Any, value: int = 0, count: bool = False) -> None:
        chain = self._chain
        data = chain.encode(function, *arguments)
        nonce = self._nonces.get(keys.address, 0)
        self._nonces[keys.address] = nonce + 1
        raw, tx_hash = keys.sign(chain.transaction(data, value, nonce, GAS_LIMIT, 200 * 10**9, 10**9))
        await chain.send_raw(raw)
        async with asyncio.timeout(60):
            while (receipt := await chain.receipt(tx_hash)) is None:  # noqa: ASYNC110 (no event tells of a block)
                await asyncio.sleep(0.005)
        if not receipt.succeeded:
            # Says in the contract's words why.
            await chain.estimate(keys.address, data, value)
        self._count(function, receipt, data, count)

    def _count(self, function: str, receipt: Receipt, data: bytes, count: bool) -> None:
        if count:
            self.result.spent.setdefault(function, Spent()).add(receipt.gas_used, data)


async def market_gas(anvil: Anvil, cells: Sequence[Cell], say: Any) -> list[RoundGas]:
    """A round of each cell, on one market."""
    deployed = await asyncio.to_thread(deploy, anvil.rpc_url, read_artifact(), anvil.private_keys[0])
    chain = Chain(anvil.rpc_url, bytes.fromhex(deployed.market[2:]))
    await chain.connect()
    try:
        rows = []
        for number, cell in enumerate(cells):
            say(f"{cell.value_count:,} values, {cell.groups} groups of {cell.group_size}, {cell.lane_bits} bits")
            rows.append(await Player(anvil, chain, cell, number).play())
        return rows
    finally:
        await chain.close()


# ---------------------------------------------------------------------- baseline


def compile_baseline() -> tuple[list[Any], str]:
    """ABI and bytecode of tests/contracts/Baseline.sol, optimised as the market is."""
    request = {
        "language": "Solidity",
        "sources": {"Baseline.sol": {"content": BASELINE_SOURCE.read_text(encoding="utf-8")}},
        "settings": {
            "optimizer": {"enabled": True, "runs": 1000},
            "viaIR": True,
            "outputSelection": {"*": {"*": ["abi", "evm.bytecode"]}},
        },
    }
    compiler = ROOT / "contracts" / "solc.cjs"
    done = subprocess.run(
        ["node", str(compiler), "--standard-json"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    contract = json.loads(done.stdout)["contracts"]["Baseline.sol"]["Baseline"]
    return contract["abi"], "0x" + contract["evm"]["bytecode"]["object"]


@dataclass(frozen=True)
class BaselineGas:
    """Gas a value and owner: storing, and adding up; without what a transaction costs by itself."""

    store: float
    add: float


def baseline_gas(anvil: Anvil, owners: int = 2, values: int = 400) -> BaselineGas:
    """The baseline with random words. Owners are anvil's own accounts, which it signs for."""
    abi, bytecode = compile_baseline()
    address = deploy(anvil.rpc_url, {"abi": abi, "bytecode": bytecode}, anvil.private_keys[0]).market
    accounts: list[str] = rpc_call(anvil.rpc_url, "eth_accounts")
    rng = random.Random(1)

    def call(sender: str, signature: str, kinds: list[str], *arguments: Any) -> int:
        data = keccak(signature.encode())[:4] + encode(kinds, arguments)
        transaction = {"from": sender, "to": address, "data": "0x" + data.hex(), "gas": hex(GAS_LIMIT)}
        sent = rpc_call(anvil.rpc_url, "eth_sendTransaction", transaction)
        receipt = None
        while receipt is None:
            receipt = rpc_call(anvil.rpc_url, "eth_getTransactionReceipt", sent)
        if int(receipt["status"], 16) != 1:
            raise AssertionError(f"{signature} failed")
        return int(receipt["gasUsed"], 16) - BASE_GAS

    stored = added = 0
    for sender in accounts[1 : owners + 1]:
        for _ in range(0, values, BASELINE_STEP):
            words = [[rng.getrandbits(256) >> 8 for _ in range(BASELINE_STEP)] for _ in range(3)]
            stored += call(sender, "store(uint256[],uint256[],uint256[])", ["uint256[]"] * 3, *words)
    for number, owner in enumerate(accounts[1 : owners + 1]):
        for first in range(0, values, BASELINE_STEP):
            kinds = ["address", "uint256", "uint256"]
            used = call(accounts[0], "add(address,uint256,uint256)", kinds, owner, first, first + BASELINE_STEP)
            # The first owner's addition makes the sums; what each further one costs is what grows.
            added += used if number else 0
    return BaselineGas(stored / (owners * values), added / ((owners - 1) * values))


# ------------------------------------------------------------------------ tables


def gas_table(rows: Sequence[RoundGas], baseline: BaselineGas) -> str:
    """Gas a value and owner, and over the floor of its own calldata, in Markdown."""
    head = [
        "values", "groups", "of", "lanes", "poisoned", "words a chunk", "post, gas a value and owner", "settle",
        "whole round", "post / floor", "settle / floor", "baseline / whole round",
    ]  # fmt: skip
    whole = baseline.store + baseline.add
    lines = [
        [
            f"{row.cell.value_count:,}",
            str(row.cell.groups),
            str(row.cell.group_size),
            f"{row.cell.lane_bits}-bit",
            str(row.cell.poisoned),
            str(row.chunk_words),
            f"{row.a_value('post'):.1f}",
            f"{row.a_value('settle'):.1f}",
            f"{row.a_value():.1f}",
            f"{row.spent['post'].ratio:.3f}",
            f"{row.spent['settle'].ratio:.3f}",
            f"{whole / row.a_value():,.0f}",
        ]
        for row in rows
    ]
    said = (
        f"The baseline (`{BASELINE_SOURCE.relative_to(ROOT)}`): {baseline.store:,.0f} gas a value and owner to store, "
        f"{baseline.add:,.0f} to add up.\n\n"
    )
    return said + table(head, lines)


def default_cells(quick: bool) -> list[Cell]:
    """Small and large vectors; what a settle's cost depends on: groups, poisoned ones, lane widths."""
    if quick:
        return [Cell(650, 3, 3, 16)]
    return [
        Cell(650, 6, 3, 16),
        Cell(2_000, 6, 3, 16),
        *(Cell(10_000, groups, 3, 16) for groups in (3, 6, 12, 21)),
        *(Cell(10_000, groups, 3, 16, poisoned) for groups in (12, 21) for poisoned in (1, groups // 2, groups)),
        *(Cell(10_000, groups, 3, 8) for groups in (6, 12, 21)),
        Cell(10_000, 6, 3, 32),
        Cell(10_000, 6, 5, 16),
        Cell(40_000, 6, 3, 16),
    ]
