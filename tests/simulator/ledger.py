"""The simulated chain: a mempool, blocks and reorgs around the real EVM, and each participant's own view of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import rlp  # type: ignore[import-untyped]
from eth_abi.abi import decode as abi_decode
from eth_utils.address import to_checksum_address

from omnilytics.daemon.chain import CALL_SECONDS, Chain, ContractRefused, Head, Receipt, RpcAnswered, params_tuple
from omnilytics.peers.errors import ChainError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.market import Member, TaskParams, TaskState
from tests.simulator.codec import interface
from tests.simulator.evm import CHAIN_ID, FIRST_BLOCKS, GENESIS_TIME, Call, Evm, EvmError
from tests.simulator.life import Faults, Life
from tests.simulator.virtual_time import VirtualLoop

# Depths of reorgs, in blocks; counted by band.
REORG_BANDS = ((1, 1), (2, 2), (3, 3), (4, 6), (7, 12), (13, 20), (21, 32))
# The deep ones are drawn oftener: only in the later rounds is there so much to reorganise.
_REORG_WEIGHTS = (1, 1, 1, 1.2, 2.5, 3.5, 3)


def band_name(band: tuple[int, int]) -> str:
    """Under which reorgs of these depths are counted."""
    low, high = band
    return f"reorg of depth {low} to {high}" if low < high else f"reorg of depth {low}"


def _first_hash(number: int) -> bytes:
    """Of a block that was there before the market."""
    return keccak(max(0, number).to_bytes(8, "big"))


@dataclass(frozen=True)
class Log:
    """An event of the market in a block."""

    name: str
    arguments: dict[str, Any]
    topics: tuple[bytes, ...]
    block: int

    @cached_property
    def shown(self) -> dict[str, Any]:
        """As web3 shows it."""
        return {"args": self.arguments, "blockNumber": self.block}


@dataclass(frozen=True)
class Block:
    """A block as the simulator keeps it. Its hash is the simulator's own: anvil's never repeat."""

    number: int
    time: int
    hash: bytes
    parent: bytes
    base_fee: int
    transactions: tuple[bytes, ...] = field(default=(), repr=False)
    logs: tuple[Log, ...] = field(default=(), repr=False)
    # Results of calls at this block, by calldata.
    views: dict[bytes, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def head(self) -> Head:
        """As the product's chain adapter shows it."""
        return Head(self.number, self.time, self.hash, self.base_fee, self.parent)


@dataclass(frozen=True)
class Sent:
    """A transaction on its way to the market, taken apart."""

    sender: bytes
    nonce: int
    data: bytes
    value: int


class Ledger:
    """The chain of one scenario."""

    def __init__(self, evm: Evm, loop: VirtualLoop, entropy: random.Random, faults: Faults, block_seconds: int) -> None:
        self.evm = evm
        self.faults = faults
        self.market = evm.market
        self.task_id = 1
        self._loop = loop
        self._entropy = entropy
        self._block_seconds = block_seconds
        self._raw: dict[bytes, bytes] = {}
        # Balances and nonces, until something changes them.
        self._accounts: dict[tuple[str, bytes, str], int] = {}
        # What the product made of a view's result, by the result's identity.
        self._shown: dict[tuple[str, int], tuple[Any, Any]] = {}
        self.receipts: dict[bytes, Receipt] = {}
        # When, by the virtual clock, and how deep.
        self.reorgs: list[tuple[float, int]] = []
        self.on_block: Callable[[Block], None] = lambda block: None
        self.on_call: Callable[[bytes, bytes, str], None] = lambda sender, data, stage: None
        self.on_mined: Callable[[], None] = lambda: None
        evm.reset(entropy.randbytes(32))
        first = evm.rpc("eth_getBlockByNumber", "latest", False)
        fee = int(first["baseFeePerGas"], 16)
        self.blocks = [
            Block(number, GENESIS_TIME + number, _first_hash(number), _first_hash(number - 1), fee)
            for number in range(FIRST_BLOCKS + 1)
        ]
        self.by_name: dict[str, list[Log]] = {name: [] for name in interface().events}

    # ------------------------------------------------------------------ writing

    def fund(self, account: bytes, wei: int) -> None:
        """Gives an account money."""
        self.evm.rpc("anvil_setBalance", "0x" + account.hex(), hex(wei))
        self._accounts.clear()

    def accept(self, raw: bytes) -> None:
        """A transaction enters the mempool. Raises EvmError where a node would refuse it."""
        tx_hash = keccak(raw)
        self._accounts.clear()
        self.evm.rpc("eth_sendRawTransaction", "0x" + raw.hex())
        self._raw[tx_hash] = raw

    async def run(self) -> None:
        """Makes blocks for ever."""
        while True:
            await asyncio.sleep(self._block_seconds)
            if self.faults.strikes("chain_stall", self._entropy):
                await asyncio.sleep(self._entropy.uniform(5, 40))
            if self.faults.strikes("reorg", self._entropy):
                # Deep ones come once there are rounds, or few tasks would ever have any.
                bands = len(REORG_BANDS) if self.by_name["RoundOpened"] else 4
                low, high = self._entropy.choices(REORG_BANDS[:bands], _REORG_WEIGHTS[:bands])[0]
                self.reorg(min(self._entropy.randint(low, high), len(self.blocks) - FIRST_BLOCKS - 1))
            else:
                self.mine(self.now())

    def now(self) -> int:
        """Chain time, by the virtual clock."""
        return GENESIS_TIME + FIRST_BLOCKS + 1 + int(self._loop.now)

    def mine(self, when: int) -> Block:
        """A block with everything that is in the mempool."""
        parent = self.blocks[-1]
        when = max(parent.time + 1, when)
        to = "0x" + self.market.hex()
        state, members = self._calls()
        self._accounts.clear()
        self.evm.rpc("evm_setNextBlockTimestamp", when)
        self.evm.rpc("evm_mine")
        answers = self.evm.batch(
            Call("eth_getBlockByNumber", ("latest", False)),
            Call("eth_getBlockReceipts", ("latest",)),
            Call("eth_call", ({"to": to, "data": "0x" + state.hex()}, "latest")),
            Call("eth_call", ({"to": to, "data": "0x" + members.hex()}, "latest")),
        )
        for answer in answers[:2]:
            if isinstance(answer, EvmError):
                raise answer
        number = parent.number + 1
        found = answers[0]
        if int(found["number"], 16) != number:
            raise AssertionError(f"anvil is at block {found['number']}, the simulator at {number}")
        hashes = tuple(bytes.fromhex(entry[2:]) for entry in found["transactions"])
        logs: list[Log] = []
        for entry in answers[1] or ():
            logs += self._receipt(number, entry)
        seal = keccak(parent.hash, number.to_bytes(8, "big"), when.to_bytes(8, "big"), *hashes)
        views = {
            data: bytes.fromhex(answer[2:])
            for data, answer in ((state, answers[2]), (members, answers[3]))
            if not isinstance(answer, EvmError)
        }
        block = Block(number, when, seal, parent.hash, int(found["baseFeePerGas"], 16), hashes, tuple(logs), views)
        self.blocks.append(block)
        for log in logs:
            self.by_name[log.name].append(log)
        self.on_block(block)
        return block

    def _calls(self) -> tuple[bytes, bytes]:
        functions = interface().functions
        return functions["getTask"].call(self.task_id), functions["getMembers"].call(self.task_id)

    def _receipt(self, block: int, entry: dict[str, Any]) -> list[Log]:
        logs = []
        for item in entry["logs"]:
            topics = [bytes.fromhex(topic[2:]) for topic in item["topics"]]
            event = interface().topics[topics[0]]
            arguments = event.decode(topics, bytes.fromhex(item["data"][2:]))
            logs.append(Log(event.name, arguments, tuple(topics), block))
        self.receipts[bytes.fromhex(entry["transactionHash"][2:])] = Receipt(
            block,
            int(entry["gasUsed"], 16),
            int(entry["effectiveGasPrice"], 16),
            int(entry["status"], 16) == 1,
            tuple(logs),
        )
        return logs

    def reorg(self, depth: int) -> None:
        """Another fork wins: the last blocks are gone, one more than that are new; some transactions are lost."""
        if depth < 1:
            return
        self.reorgs.append((self._loop.now, depth))
        self.faults.counters[band_name(next(band for band in REORG_BANDS if band[0] <= depth <= band[1]))] += 1
        gone = self.blocks[-depth:]
        del self.blocks[-depth:]
        last = self.blocks[-1].number
        for name, logs in self.by_name.items():
            self.by_name[name] = [log for log in logs if log.block <= last]
        self.receipts = {tx: receipt for tx, receipt in self.receipts.items() if receipt.block <= last}
        self._accounts.clear()
        self.evm.rpc("anvil_rollback", depth)
        self.evm.seed_history(self._entropy.randbytes(32))
        waiting = [tx for block in gone for tx in block.transactions]
        if self._entropy.random() < 0.5:
            self._entropy.shuffle(waiting)
        late: list[bytes] = []
        for tx in waiting:
            lot = self._entropy.random()
            if lot < 0.1:
                self.faults.counters["transaction lost in a reorg"] += 1
            elif lot < 0.4:
                late.append(tx)
            else:
                self._again(tx)
        start, end = self.blocks[-1].time, self.now()
        for number in range(depth + 1):
            self.mine(start + (end - start) * (number + 1) // (depth + 1))
            if number == 0:
                for tx in late:
                    self._again(tx)

    def _again(self, tx: bytes) -> None:
        try:
            self.evm.rpc("eth_sendRawTransaction", "0x" + self._raw[tx].hex())
        except EvmError:
            self.faults.counters["transaction invalid on the other fork"] += 1

    # ------------------------------------------------------------------ reading

    def view(self, data: bytes, block: Block) -> bytes:
        """What a call of the market returns at a block. Raises EvmError where it reverts."""
        if data not in block.views:
            asked = {"to": "0x" + self.market.hex(), "data": "0x" + data.hex()}
            try:
                newest = block.number == self.blocks[-1].number
                answer = self.evm.rpc("eth_call", asked, "latest" if newest else hex(block.number))
            except EvmError as error:
                block.views[data] = error
            else:
                block.views[data] = bytes.fromhex(answer[2:])
        found = block.views[data]
        if isinstance(found, EvmError):
            raise found
        assert isinstance(found, bytes)
        return found

    def view_all(self, calls: Sequence[bytes], block: Block) -> None:
        """Asks for several views of a block in one exchange; `view` and `read` find them then."""
        where = "latest" if block.number == self.blocks[-1].number else hex(block.number)
        wanted = [data for data in calls if data not in block.views]
        asked = [
            Call("eth_call", ({"to": "0x" + self.market.hex(), "data": "0x" + data.hex()}, where)) for data in wanted
        ]
        for data, answer in zip(wanted, self.evm.batch(*asked) if asked else (), strict=True):
            block.views[data] = answer if isinstance(answer, EvmError) else bytes.fromhex(answer[2:])

    def account(self, method: str, account: bytes, where: str) -> int:
        """A balance or nonce, as anvil has it now."""
        key = method, account, where
        if key not in self._accounts:
            self._accounts[key] = int(self.evm.rpc(method, "0x" + account.hex(), where), 16)
        return self._accounts[key]

    async def shown(self, name: str, values: Any, decode: Callable[[Chain], Any]) -> Any:
        """What the product's own decoding makes of a view's result: once for all who see the same."""
        key = name, id(values)
        if key not in self._shown:
            self._shown[key] = values, await decode(cast(Chain, _Told(values)))
        return self._shown[key][1]

    def read(self, name: str, *arguments: Any, block: Block | None = None) -> Any:
        """A view of the market, decoded; once for everybody who asks at this block."""
        function = interface().functions[name]
        block = block or self.blocks[-1]
        data = function.call_once(*arguments)
        decoded = b"decoded" + data
        if decoded not in block.views:
            block.views[decoded] = function.result(self.view(data, block))
        return block.views[decoded]


class _Told:
    """In place of an RPC: one answer."""

    def __init__(self, values: Any) -> None:
        self._values = values

    async def _view(self, _name: str, *_arguments: Any, **_more: Any) -> Any:
        return self._values


def take_apart(raw: bytes, sender: bytes) -> Sent:
    """A signed EIP-1559 transaction, without asking who signed it."""
    fields = rlp.decode(raw[1:])
    return Sent(sender, int.from_bytes(fields[1], "big"), fields[7], int.from_bytes(fields[6], "big"))


class ChainView(Chain):
    """A participant's RPC: the ledger, seen late, in part, or not at all.

    The product's own decoding (tasks, members, openings, posts) runs on top; only what touches the network is replaced.
    """

    def __init__(self, ledger: Ledger, me: bytes, life: Life, entropy: random.Random) -> None:
        self.url = "simulated"
        self.market = ledger.market
        self.chain_id = 0
        self.genesis = b""
        self._ledger = ledger
        self._me = me
        self._life = life
        self._entropy = entropy
        self._address = to_checksum_address("0x" + ledger.market.hex())
        self._lag = 0
        self._lag_until = 0.0

    async def _travel(self) -> None:
        """The way to the RPC and back."""
        life, entropy, faults = self._life, self._entropy, self._ledger.faults
        life.check()
        await asyncio.sleep(entropy.uniform(0.001, 0.02))
        life.check()
        if faults.strikes("rpc_timeout", entropy, life.name):
            await asyncio.sleep(CALL_SECONDS)
            life.check()
            raise ChainError(f"cannot reach RPC {self.url}: no answer in {CALL_SECONDS:.0f} s")
        if faults.strikes("rpc_error", entropy, life.name):
            raise ChainError(f"RPC {self.url} answered with an error: internal error")

    @property
    def _newest(self) -> Block:
        """The head as this RPC shows it."""
        now = asyncio.get_running_loop().time()
        faults = self._ledger.faults
        if now >= self._lag_until:
            self._lag = 0
            if faults.strikes("rpc_stale_head", self._entropy, self._life.name):
                self._lag = self._entropy.randint(1, 5)
                self._lag_until = now + self._entropy.uniform(1, 20)
        elif self._lag:
            faults.touch(self._life.name)
        return self._ledger.blocks[max(0, len(self._ledger.blocks) - 1 - self._lag)]

    def _refused(self, error: EvmError) -> ChainError:
        if error.data is not None and len(error.data) >= 10:
            raw = bytes.fromhex(error.data[2:])
            item = interface().errors.get(raw[:4])
            if item is not None:
                values = abi_decode([entry["type"] for entry in item["inputs"]], raw[4:])
                return ContractRefused(
                    item["name"], dict(zip([e["name"] for e in item["inputs"]], values, strict=True))
                )
        if "revert" in str(error).lower():
            return ContractRefused("revert", {"reason": str(error)})
        return RpcAnswered(f"RPC {self.url} answered with an error: {error}")

    # ------------------------------------------------------------------ reading

    async def connect(self, expected_chain_id: int | None = None) -> None:
        await self._travel()
        self.chain_id = CHAIN_ID
        self.genesis = self._ledger.blocks[0].hash

    async def close(self) -> None:
        return None

    async def head(self) -> Head:
        await self._travel()
        return self._newest.head

    async def block_hash(self, number: int) -> bytes:
        await self._travel()
        return self._ledger.blocks[number].hash

    async def _view(self, name: str, *arguments: Any, block: int | None = None) -> Any:
        await self._travel()
        blocks = self._ledger.blocks
        if block is not None and block >= len(blocks):
            raise ChainError(f"RPC {self.url} answered with an error: no such block")
        try:
            return self._ledger.read(name, *arguments, block=self._newest if block is None else blocks[block])
        except EvmError as error:
            raise self._refused(error) from error

    async def state(self, task_id: int, block: int | None = None) -> TaskState:
        values = await self._view("getTask", task_id, block=block)
        found = await self._ledger.shown("state", values, lambda told: Chain.state(told, task_id, block))
        return cast(TaskState, found)

    async def members(self, task_id: int, block: int | None = None) -> tuple[Member, ...]:
        values = await self._view("getMembers", task_id, block=block)
        found = await self._ledger.shown("members", values, lambda told: Chain.members(told, task_id, block))
        return cast(tuple[Member, ...], found)

    async def escrow_required(self, params: TaskParams) -> tuple[int, int]:
        reward, pot = await self._view("escrowRequired", params_tuple(params))
        return reward, pot

    async def balance(self, account: bytes) -> int:
        await self._travel()
        return self._ledger.account("eth_getBalance", account, "latest")

    async def _logs(self, event: str, first: int, last: int, *topics: bytes | None) -> list[Any]:
        await self._travel()
        last = min(last, self._newest.number)
        found = []
        for log in self._ledger.by_name[event]:
            if not first <= log.block <= last:
                continue
            if all(topic is None or topic == own for topic, own in zip(topics, log.topics[1:], strict=False)):
                found.append(log.shown)
        if found and self._ledger.faults.strikes("rpc_missing_logs", self._entropy, self._life.name):
            del found[self._entropy.randrange(len(found))]
        return found

    def events_in(self, receipt: Receipt, event: str) -> list[Mapping[str, Any]]:
        return [log.arguments for log in receipt.logs if log.name == event]

    # --------------------------------------------------------------- transacting

    def encode(self, function: str, *arguments: Any) -> bytes:
        plain = ["0x" + a.hex() if isinstance(a, bytes) and len(a) == 20 else a for a in arguments]
        return interface().functions[function].call(*plain)

    async def estimate(self, sender: bytes, data: bytes, value: int) -> int:
        await self._travel()
        self._ledger.on_call(sender, data, "estimate")
        asked = {
            "from": "0x" + sender.hex(),
            "to": self._address,
            "data": "0x" + data.hex(),
            "value": hex(value),
        }
        try:
            # Without "latest" anvil's own clock, which is no virtual one, would tell the time.
            return int(self._ledger.evm.rpc("eth_estimateGas", asked, "latest"), 16)
        except EvmError as error:
            raise self._refused(error) from error

    async def admits(self, sender: bytes, data: bytes, value: int, gas: int) -> bool:
        await self._travel()
        self._ledger.on_call(sender, data, "estimate")
        asked = {
            "from": "0x" + sender.hex(), "to": self._address, "data": "0x" + data.hex(), "value": hex(value),
            "gas": hex(gas),
        }  # fmt: skip
        try:
            self._ledger.evm.rpc("eth_call", asked, "latest")
        except EvmError:
            return False
        return True

    async def next_nonce(self, account: bytes) -> int:
        await self._travel()
        return self._ledger.account("eth_getTransactionCount", account, "pending")

    async def mined_nonce(self, account: bytes) -> int:
        """The account's next nonce, only mined transactions counted."""
        await self._travel()
        return self._ledger.account("eth_getTransactionCount", account, "latest")

    async def send_raw(self, raw: bytes) -> None:
        await self._travel()
        ledger, entropy, faults = self._ledger, self._entropy, self._ledger.faults
        ledger.on_call(self._me, take_apart(raw, self._me).data, "send")
        if faults.strikes("transaction_lost", entropy, self._life.name):
            return
        if faults.strikes("transaction_late", entropy, self._life.name):
            asyncio.get_running_loop().call_later(entropy.uniform(1, 30), self._deliver_late, raw)
            return
        try:
            ledger.accept(raw)
        except EvmError as error:
            text = str(error).lower()
            if "already known" not in text and "already imported" not in text:
                raise self._refused(error) from error
        if faults.strikes("transaction_answer_lost", entropy, self._life.name):
            await asyncio.sleep(CALL_SECONDS)
            raise ChainError(f"cannot reach RPC {self.url}: no answer in {CALL_SECONDS:.0f} s")

    def _deliver_late(self, raw: bytes) -> None:
        try:
            self._ledger.accept(raw)
        except EvmError:
            self._ledger.faults.counters["late transaction refused"] += 1

    async def knows(self, tx_hash: bytes) -> bool:
        await self._travel()
        return self._ledger.evm.rpc("eth_getTransactionByHash", "0x" + tx_hash.hex()) is not None

    async def receipt(self, tx_hash: bytes) -> Receipt | None:
        await self._travel()
        found = self._ledger.receipts.get(tx_hash)
        return found if found is not None and found.block <= self._newest.number else None
