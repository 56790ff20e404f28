"""The only web3: typed calls to the market contract, its logs as values, its reverts as words.

Nothing here decides anything. Every call has a timeout; whatever goes wrong between us and the
RPC becomes a ChainError that says what to do, and the callers try again.
"""

from __future__ import annotations

import omnilytics.daemon.lean_imports  # noqa: F401  (before eth_account, which web3 imports too)

# isort: split
import asyncio
import contextlib
import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import TransactionNotFound, Web3Exception

from omnilytics.daemon.recursion import keep_recursion_bounded
from omnilytics.daemon.redaction import redacted, secrets_in_url, shown_url
from omnilytics.peers.errors import ChainError, ChainMismatchError, ParameterError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.market import (
    Member,
    MemberStatus,
    Outcome,
    RoundOpening,
    RoundPhase,
    TaskParams,
    TaskSnapshot,
    TaskState,
    TaskStatus,
)
from omnilytics.peers.messages import run_identifier

ARTIFACT = Path(__file__).resolve().parent.parent / "contracts" / "artifacts" / "Market.json"
CALL_SECONDS = 15.0
# Public RPCs refuse wide ranges; logs are looked for backwards in windows of this many blocks.
LOG_WINDOW_BLOCKS = 2000
# Client pools refuse transactions over 128 KB; EIP-7825 stops a transaction at 2^24 gas.
MAX_TRANSACTION_BYTES = 120_000
MAX_TRANSACTION_GAS = 2**24

_T = TypeVar("_T")


class ContractRefused(ChainError):
    """The contract would revert. `name` and `arguments` are its custom error, or the reason as text."""

    code = "chain.refused"

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        told = ", ".join(f"{key}={_tell(value)}" for key, value in arguments.items())
        super().__init__(f"the contract refuses: {name}({told})", help=_HELP.get(name, ""))
        self.name = name
        self.arguments = dict(arguments)


class UnknownTask(ChainError):
    """The chain knows no task of this number: a mistyped one, or one that a reorg has taken back."""


class RpcAnswered(ChainError):
    """The RPC understood the call and answered with an error: what was asked for has not been done."""

    code = "chain.answered"


_HELP = {
    "EscrowMismatch": "send exactly the escrow that the parameters need",
    "WrongStake": "send exactly the task's stake",
    "StakeTooLow": "restore the stake: the daemon was slashed in this task",
    "TaskFull": "another task, or a larger one",
    "NotAllowed": "ask the model owner to put this address on the task's allowlist",
    "BoxKeyTaken": "every account needs a box key of its own",
    "NothingToWithdraw": "there is nothing to collect yet",
}


def _tell(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True)
class Head:
    """The newest block: number, time in chain seconds, its hash and its parent's, base fee in wei a gas."""

    number: int
    time: int
    hash: bytes
    base_fee: int
    parent: bytes


@dataclass(frozen=True)
class Receipt:
    """A mined transaction."""

    block: int
    gas_used: int
    gas_price: int
    succeeded: bool
    logs: tuple[Any, ...]

    @property
    def fee(self) -> int:
        """wei."""
        return self.gas_used * self.gas_price


@dataclass(frozen=True)
class PostedPart:
    """Bytes of a masked vector (event Posted)."""

    seat: int
    first_chunk: int
    data: bytes


def load_artifact(path: Path = ARTIFACT) -> dict[str, Any]:
    """The compiled market contract: abi and bytecode."""
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


keep_recursion_bounded()


class Chain:
    """One RPC, one market contract."""

    def __init__(self, url: str, market: bytes) -> None:
        self.url = url
        # Providers put keys into URLs, and errors go into logs.
        self._shown_url = shown_url(url)
        self._url_secrets = secrets_in_url(url)
        self.market = market
        self.chain_id = 0
        self.genesis = b""
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        self._web3 = AsyncWeb3(AsyncHTTPProvider(url, {"timeout": timeout}, None))
        self._address = AsyncWeb3.to_checksum_address("0x" + market.hex())
        abi = load_artifact()["abi"]
        self._contract = self._web3.eth.contract(address=self._address, abi=abi)
        self._error_abi = {_selector(item): item for item in abi if item["type"] == "error"}

    async def connect(self, expected_chain_id: int | None = None) -> None:
        """Checks the chain and that the contract is there. Raises ChainError or ChainMismatchError."""
        self.chain_id = await self._ask(self._web3.eth.chain_id)
        if expected_chain_id is not None and self.chain_id != expected_chain_id:
            raise ChainMismatchError(
                f"RPC chain id {self.chain_id}, config expects {expected_chain_id}",
                help="use the RPC of the right chain, or correct --chain-id",
            )
        if not await self._ask(self._web3.eth.get_code(self._address)):
            raise ChainMismatchError(
                f"no contract code at {self._address}",
                help="check --market; a local chain that was started anew has forgotten its contracts",
            )
        block = await self._ask(self._web3.eth.get_block(0))
        self.genesis = bytes(block["hash"])

    @property
    def run_name(self) -> str:
        """Tells this market on this chain from every other on one broker: 16 hex digits."""
        return run_identifier(self.chain_id, self.market, self.genesis)

    async def close(self) -> None:
        """Closes the connection."""
        await self._web3.provider.disconnect()

    async def _ask(self, call: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answer = await call
            if answer is None:
                raise ValueError("null")
            return answer
        except TimeoutError as error:
            raise ChainError(f"cannot reach RPC {self._shown_url}: no answer in {CALL_SECONDS:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ChainError(f"cannot reach RPC {self._shown_url}: {self._shown(error)}") from error
        except Web3Exception as error:
            raise self._refusal(error) from error
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            # Most often a proxy's page of HTML, or null where there should be a block.
            raise ChainError(
                f"{self._shown_url} is no Ethereum RPC, or in trouble: it answers with nonsense"
            ) from error

    def _shown(self, error: object) -> str:
        return redacted(str(error), self._url_secrets)

    def _refusal(self, error: Web3Exception) -> ChainError:
        data = getattr(error, "data", None)
        if isinstance(data, dict):
            data = data.get("data")
        if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
            with contextlib.suppress(ValueError, DecodingError):
                raw = bytes.fromhex(data[2:])
                item = self._error_abi.get(raw[:4])
                if item is not None:
                    values = abi_decode([entry["type"] for entry in item["inputs"]], raw[4:])
                    names = [entry["name"] for entry in item["inputs"]]
                    return ContractRefused(item["name"], dict(zip(names, values, strict=True)))
        text = self._shown(getattr(error, "message", None) or error)
        if "revert" in text.lower():
            return ContractRefused("revert", {"reason": text})
        return RpcAnswered(f"RPC {self._shown_url} answered with an error: {text}")

    # ------------------------------------------------------------------ reading

    async def head(self) -> Head:
        """The newest block."""
        block = await self._ask(self._web3.eth.get_block("latest"))
        return Head(
            block["number"],
            block["timestamp"],
            bytes(block["hash"]),
            block.get("baseFeePerGas", 0),
            bytes(block["parentHash"]),
        )

    async def block_hash(self, number: int) -> bytes:
        """The hash of a block by number."""
        return bytes((await self._ask(self._web3.eth.get_block(number)))["hash"])

    async def _view(self, name: str, *arguments: Any, block: int | None = None) -> Any:
        function = self._contract.get_function_by_name(name)(*arguments)
        return await self._ask(function.call(block_identifier="latest" if block is None else block))

    async def task_count(self) -> int:
        """How many tasks there are; their numbers are given by the contract."""
        return int(await self._view("taskCount"))

    async def params(self, task_id: int) -> TaskParams:
        """The parameters of a task."""
        return TaskParams(*_in_order(await self._view("getParams", task_id)))

    async def state(self, task_id: int, block: int | None = None) -> TaskState:
        """The moving part of a task at a block."""
        values = _in_order(await self._view("getTask", task_id, block=block))
        names = [entry.name for entry in fields(TaskState)]
        named = dict(zip(names, values, strict=True))
        named["model_owner"] = _address(named["model_owner"])
        named["status"] = TaskStatus(named["status"])
        named["phase"] = RoundPhase(named["phase"])
        return TaskState(**named)

    async def members(self, task_id: int, block: int | None = None) -> tuple[Member, ...]:
        """All owners of a task at a block."""
        rows = [_in_order(row) for row in await self._view("getMembers", task_id, block=block)]
        return tuple(
            Member(_address(row[0]), row[1], row[2], MemberStatus(row[3]), row[4], row[5], row[6]) for row in rows
        )

    async def snapshot(
        self, task_id: int, params: TaskParams, head: Head, depth: int, members: tuple[Member, ...] | None
    ) -> TaskSnapshot:
        """The task as `depth` blocks under the head show it; the clock is the head's."""
        # Never "latest": the block must be the head's own, or logs up to the head could miss what the state shows.
        block = max(0, head.number - depth)
        state = await self.state(task_id, block)
        if members is None:
            members = await self.members(task_id, block)
        return TaskSnapshot(task_id, params, state, members, head.number, head.time, head.number - block)

    async def paid_rounds(self, task_id: int) -> list[int]:
        """How often each group was paid."""
        return list(await self._view("getPaidRounds", task_id))

    async def withdrawable(self, account: bytes, task_ids: Sequence[int], block: int | None = None) -> int:
        """Wei that a withdrawal would pay, as of a block."""
        return int(await self._view("withdrawable", _checksum(account), list(task_ids), block=block))

    async def credits(self, account: bytes) -> int:
        """Wei credited to an account over all tasks."""
        return int(await self._view("credits", _checksum(account)))

    async def escrow_required(self, params: TaskParams) -> tuple[int, int]:
        """Wei that createTask wants: (reward, settlement pot).

        Raises ContractRefused for bad parameters, ParameterError for numbers that their fields cannot hold.
        """
        described = self._contract.get_function_by_name("escrowRequired").abi["inputs"][0]
        for entry, value in zip(described["components"], params_tuple(params), strict=True):
            kind = entry["type"]
            if kind.startswith("uint") and not 0 <= value < 2 ** int(kind.removeprefix("uint")):
                raise ParameterError(f"{entry['name']} = {value} does not fit its field ({kind})")
        reward, pot = await self._view("escrowRequired", params_tuple(params))
        return reward, pot

    async def settle_gas(self, groups: int, group_size: int, words: int, lane_bits: int, last: bool) -> int:
        """The gas a settle call is reimbursed for."""
        return int(await self._view("settleGas", groups, group_size, words, lane_bits, last))

    async def balance(self, account: bytes) -> int:
        """Wei."""
        return await self._ask(self._web3.eth.get_balance(_checksum(account)))

    # ------------------------------------------------------------------ logs

    async def _logs(self, event: str, first: int, last: int, *topics: bytes | None) -> list[Any]:
        described = self._contract.get_event_by_name(event)()
        wanted = ["0x" + keccak(_signature(described.abi).encode()).hex()]
        wanted += [None if topic is None else "0x" + topic.hex() for topic in topics]  # type: ignore[misc]
        query: Any = {"address": self._address, "topics": wanted, "fromBlock": first, "toBlock": last}
        found = await self._ask(self._web3.eth.get_logs(query))
        return [described.process_log(entry) for entry in found]

    async def created_task(self, task_id: int, until: int) -> tuple[bytes, bytes]:
        """The spec of a task and its model owner's address, from its TaskCreated event."""
        for first, last in _windows(until):
            for log in await self._logs("TaskCreated", first, last, _word(task_id)):
                return bytes(log["args"]["spec"]), _address(log["args"]["modelOwner"])
        raise UnknownTask(f"no task {task_id} on this contract", help="list tasks, and check --task")

    async def tasks_of(self, model_owner: bytes, until: int) -> list[tuple[int, bytes]]:
        """The tasks that an account has created, newest first: (task, spec)."""
        found: list[tuple[int, bytes]] = []
        for first, last in _windows(until):
            logs = await self._logs("TaskCreated", first, last, None, bytes(12) + model_owner)
            found += [(log["args"]["taskId"], bytes(log["args"]["spec"])) for log in reversed(logs)]
        return found

    async def opening(self, task_id: int, round_number: int, until: int) -> RoundOpening:
        """How a round was opened."""
        for first, last in _windows(until):
            for log in await self._logs("RoundOpened", first, last, _word(task_id), _word(round_number)):
                said = log["args"]
                return RoundOpening(
                    task_id,
                    round_number,
                    bytes(said["ctx"]),
                    bytes(said["baseCtx"]),
                    bytes(said["modelCommit"]),
                    bytes(said["keyHash"]),
                    bytes(said["payloadHash"]),
                    said["partCount"],
                    tuple(bytes(item) for item in said["padHashes"]),
                    said["playable"],
                    said["commitDeadline"],
                    log["blockNumber"],
                )
        raise ChainError(f"no opening of round {round_number} of task {task_id} in the logs")

    async def payload(self, opening: RoundOpening) -> bytes:
        """The encrypted model of a round, all parts put together."""
        parts: dict[int, bytes] = {}
        for first, last in _windows(opening.block):
            topics = _word(opening.task_id), _word(opening.round)
            for log in await self._logs("ModelPart", first, last, *topics):
                # A part published again replaces the earlier one.
                parts[log["args"]["part"]] = bytes(log["args"]["data"])
            if all(part in parts for part in range(opening.part_count)):
                return b"".join(parts[part] for part in range(opening.part_count))
        raise ChainError(f"round {opening.round}: the encrypted model is not complete in the logs")

    async def posted(self, opening: RoundOpening, until: int) -> list[PostedPart]:
        """All parts of masked vectors that a round's owners have posted."""
        found: list[PostedPart] = []
        topics = _word(opening.task_id), _word(opening.round)
        for first in range(opening.block, until + 1, LOG_WINDOW_BLOCKS):
            last = min(until, first + LOG_WINDOW_BLOCKS - 1)
            for log in await self._logs("Posted", first, last, *topics):
                said = log["args"]
                found.append(PostedPart(said["seat"], said["firstChunk"], bytes(said["data"])))
        return found

    async def round_events(self, event: str, opening: RoundOpening, until: int) -> list[Mapping[str, Any]]:
        """The arguments of a round's events of one name."""
        topics = _word(opening.task_id), _word(opening.round)
        found: list[Mapping[str, Any]] = []
        for first in range(opening.block, until + 1, LOG_WINDOW_BLOCKS):
            last = min(until, first + LOG_WINDOW_BLOCKS - 1)
            found += [log["args"] for log in await self._logs(event, first, last, *topics)]
        return found

    async def task_events(self, event: str, task_id: int, first: int, last: int) -> list[Mapping[str, Any]]:
        """The arguments of a task's events of one name in these blocks, oldest first."""
        found: list[Mapping[str, Any]] = []
        for start in range(first, last + 1, LOG_WINDOW_BLOCKS):
            end = min(last, start + LOG_WINDOW_BLOCKS - 1)
            found += [log["args"] for log in await self._logs(event, start, end, _word(task_id))]
        return found

    async def created_block(self, task_id: int, until: int) -> int:
        """The block in which a task was created. Raises ChainError for no such task."""
        for first, last in _windows(until):
            for log in await self._logs("TaskCreated", first, last, _word(task_id)):
                return int(log["blockNumber"])
        raise UnknownTask(f"no task {task_id} on this contract", help="list tasks: omnilytics tasks")

    async def round_endings(self, task_id: int, until: int) -> dict[int, Outcome]:
        """How the rounds of a task ended, as far as the newest window of logs goes back."""
        first, last = _windows(until)[0]
        logs = await self._logs("RoundEnded", first, last, _word(task_id))
        return {log["args"]["round"]: Outcome(log["args"]["outcome"]) for log in logs}

    def events_in(self, receipt: Receipt, event: str) -> list[Mapping[str, Any]]:
        """The arguments of the events of one name in a receipt."""
        described = self._contract.get_event_by_name(event)()
        topic = keccak(_signature(described.abi).encode())
        return [
            described.process_log(log)["args"]
            for log in receipt.logs
            if log["topics"] and bytes(log["topics"][0]) == topic
        ]

    # --------------------------------------------------------------- transacting

    def encode(self, function: str, *arguments: Any) -> bytes:
        """The calldata of a call."""
        return bytes.fromhex(self._contract.encode_abi(function, args=list(arguments))[2:])

    async def estimate(self, sender: bytes, data: bytes, value: int) -> int:
        """Gas that a call would use. Raises ContractRefused with the contract's own error."""
        return await self._ask(
            self._web3.eth.estimate_gas(
                {"from": _checksum(sender), "to": self._address, "data": data, "value": value}  # type: ignore[typeddict-item]
            )
        )

    async def next_nonce(self, account: bytes) -> int:
        """The account's next nonce, pending transactions counted."""
        return await self._ask(self._web3.eth.get_transaction_count(_checksum(account), "pending"))

    async def mined_nonce(self, account: bytes) -> int:
        """The account's next nonce, only mined transactions counted."""
        return await self._ask(self._web3.eth.get_transaction_count(_checksum(account), "latest"))

    async def send_raw(self, raw: bytes) -> None:
        """Hands a signed transaction to the RPC. One that the RPC knows already is no error."""
        try:
            await self._ask(self._web3.eth.send_raw_transaction(raw))
        except ContractRefused:
            raise
        except ChainError as error:
            if not any(word in str(error).lower() for word in ("already known", "already imported")):
                raise

    async def knows(self, tx_hash: bytes) -> bool:
        """Whether the RPC knows a transaction, mined or waiting to be."""
        try:
            await self._ask(self._web3.eth.get_transaction(tx_hash))  # type: ignore[arg-type]
        except RpcAnswered as error:
            if isinstance(error.__cause__, TransactionNotFound):
                return False
            raise
        return True

    async def receipt(self, tx_hash: bytes) -> Receipt | None:
        """A transaction's receipt, or None while it is not mined."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                found = await self._web3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]
        except Web3Exception:
            return None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise ChainError(f"cannot reach RPC {self._shown_url}: {self._shown(error)}") from error
        price = found.get("effectiveGasPrice", 0)
        return Receipt(found["blockNumber"], found["gasUsed"], price, found["status"] == 1, tuple(found["logs"]))

    def transaction(self, data: bytes, value: int, nonce: int, gas: int, max_fee: int, tip: int) -> dict[str, Any]:
        """An unsigned EIP-1559 transaction to the market."""
        return {
            "type": 2,
            "chainId": self.chain_id,
            "to": self._address,
            "data": data,
            "value": value,
            "nonce": nonce,
            "gas": gas,
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": tip,
        }


def params_tuple(params: TaskParams) -> tuple[Any, ...]:
    """The parameters in the order of the contract's struct."""
    return tuple(getattr(params, entry.name) for entry in fields(TaskParams))


def _in_order(row: Any) -> list[Any]:
    return list(row.values()) if isinstance(row, Mapping) else list(row)


def _address(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _checksum(account: bytes) -> Any:
    return AsyncWeb3.to_checksum_address("0x" + account.hex())


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _windows(until: int) -> list[tuple[int, int]]:
    """Block ranges from `until` backwards to the first block."""
    return [(max(0, last - LOG_WINDOW_BLOCKS + 1), last) for last in range(until, -1, -LOG_WINDOW_BLOCKS)]


def _signature(item: Any) -> str:
    return f"{item['name']}({','.join(_type(entry) for entry in item['inputs'])})"


def _type(entry: Mapping[str, Any]) -> str:
    kind: str = entry["type"]
    if kind.startswith("tuple"):
        return f"({','.join(_type(part) for part in entry['components'])}){kind[5:]}"
    return kind


def _selector(item: Any) -> bytes:
    return keccak(_signature(item).encode())[:4]
