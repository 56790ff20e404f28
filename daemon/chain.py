"""The only web3: typed calls to the market contract, its logs as values, its reverts as words.

Nothing here decides anything. Every call has a timeout; whatever goes wrong between us and the
RPC becomes a ChainError that says what to do, and the callers try again.

Calls go to web3's provider itself: on its way through web3's middleware an answer that is looked at with every block
took ten times as long as in the provider, and thirty daemons on one machine had no time left for anything else.
"""

from __future__ import annotations

import omnilytics.daemon.lean_imports  # noqa: F401  (before eth_account, which web3 imports too)

# isort: split
import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint, RPCResponse

from omnilytics.daemon.contract_abi import ContractAbi, DecodingError
from omnilytics.daemon.recursion import keep_recursion_bounded
from omnilytics.daemon.redaction import redacted, secrets_in_url, shown_url
from omnilytics.peers.errors import ChainError, ChainMismatchError, ParameterError
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


class _Fault(Web3Exception):
    """The RPC's own error object, as it came."""

    def __init__(self, said: Any) -> None:
        told = said if isinstance(said, Mapping) else {"message": said}
        super().__init__(str(told.get("message", told)))
        self.message = str(told.get("message", told))
        self.data = told.get("data")


class _Provider(AsyncHTTPProvider):
    """Keeps connections open: web3's own opens one for every call, and takes a lock in a thread for it."""

    _session: aiohttp.ClientSession | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """See web3. Raises aiohttp.ClientError, and TimeoutError."""
        request = self.encode_rpc_request(method, params)
        try:
            return self.decode_rpc_response(await self._post(request))
        except aiohttp.ServerDisconnectedError:
            # The connection had been closed meanwhile. A transaction may have got there: whoever sends one decides.
            if method == "eth_sendRawTransaction":
                raise
            return self.decode_rpc_response(await self._post(request))

    async def _post(self, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop, self._session = loop, aiohttp.ClientSession(raise_for_status=True)
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        headers = self.get_request_headers()
        async with self._session.post(str(self.endpoint_uri), data=request, headers=headers, timeout=timeout) as answer:
            return await answer.read()

    async def disconnect(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


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
        self._provider = _Provider(url)
        self._address = AsyncWeb3.to_checksum_address("0x" + market.hex())
        self._abi = ContractAbi(load_artifact()["abi"])

    async def connect(self, expected_chain_id: int | None = None) -> None:
        """Checks the chain and that the contract is there. Raises ChainError or ChainMismatchError."""
        self.chain_id = await self._rpc("eth_chainId", read=_number)
        if expected_chain_id is not None and self.chain_id != expected_chain_id:
            raise ChainMismatchError(
                f"RPC chain id {self.chain_id}, config expects {expected_chain_id}",
                help="use the RPC of the right chain, or correct --chain-id",
            )
        if not await self._rpc("eth_getCode", self._address, "latest", read=_bytes):
            raise ChainMismatchError(
                f"no contract code at {self._address}",
                help="check --market; a local chain that was started anew has forgotten its contracts",
            )
        self.genesis = await self.block_hash(0)

    @property
    def run_name(self) -> str:
        """Tells this market on this chain from every other on one broker: 16 hex digits."""
        return run_identifier(self.chain_id, self.market, self.genesis)

    async def close(self) -> None:
        """Closes the connection."""
        await self._provider.disconnect()

    async def _rpc(self, method: str, *parameters: Any, read: Callable[[Any], _T], null: bool = False) -> _T:
        """The answer to a call, as `read` makes it of what came. null: whether `read` takes null for an answer."""

        async def call() -> _T:
            response: Mapping[str, Any] = await self._provider.make_request(RPCEndpoint(method), parameters)
            if response.get("error") is not None:
                raise _Fault(response["error"])
            if response["result"] is None and not null:
                raise ValueError("null")
            return read(response["result"])

        return await self._ask(call())

    async def _ask(self, call: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await call
        except TimeoutError as error:
            raise ChainError(f"cannot reach RPC {self._shown_url}: no answer in {CALL_SECONDS:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ChainError(f"cannot reach RPC {self._shown_url}: {self._shown(error)}") from error
        except Web3Exception as error:
            raise self._refusal(error) from error
        except (
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            ArithmeticError,
            RecursionError,
            DecodingError,
        ) as error:
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
        if isinstance(data, str):
            with contextlib.suppress(ValueError, DecodingError):
                # Some nodes put a word before it.
                told = self._abi.error(_bytes(data.removeprefix("Reverted ")))
                if told is not None:
                    return ContractRefused(*told)
        text = self._shown(getattr(error, "message", None) or error)
        if "revert" in text.lower():
            return ContractRefused("revert", {"reason": text})
        return RpcAnswered(f"RPC {self._shown_url} answered with an error: {text}")

    # ------------------------------------------------------------------ reading

    async def head(self) -> Head:
        """The newest block."""
        return await self._rpc("eth_getBlockByNumber", "latest", False, read=_head)

    async def block_hash(self, number: int) -> bytes:
        """The hash of a block by number."""
        return await self._rpc("eth_getBlockByNumber", hex(number), False, read=lambda block: _bytes(block["hash"]))

    async def _view(self, name: str, *arguments: Any, block: int | None = None) -> Any:
        call = {"to": self._address, "data": "0x" + self._abi.call(name, arguments).hex()}
        at = "latest" if block is None else hex(block)
        return await self._rpc("eth_call", call, at, read=lambda data: self._abi.result(name, _bytes(data)))

    async def task_count(self) -> int:
        """How many tasks there are; their numbers are given by the contract."""
        return int(await self._view("taskCount"))

    async def params(self, task_id: int) -> TaskParams:
        """The parameters of a task."""
        return TaskParams(*_in_order(await self._view("getParams", task_id)))

    async def state(self, task_id: int, block: int | None = None) -> TaskState:
        """The moving part of a task at a block."""
        return _known(_state, _in_order(await self._view("getTask", task_id, block=block)))

    async def members(self, task_id: int, block: int | None = None) -> tuple[Member, ...]:
        """All owners of a task at a block."""
        rows = [_in_order(row) for row in await self._view("getMembers", task_id, block=block)]
        return tuple(_known(_member, row) for row in rows)

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
        described = self._abi.functions["escrowRequired"]["inputs"][0]
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
        return await self._rpc("eth_getBalance", _checksum(account), "latest", read=_number)

    # ------------------------------------------------------------------ logs

    async def _logs(self, event: str, first: int, last: int, *topics: bytes | None) -> list[dict[str, Any]]:
        wanted = [None if topic is None else "0x" + topic.hex() for topic in (self._abi.topic(event), *topics)]
        query = {"address": self._address, "topics": wanted, "fromBlock": hex(first), "toBlock": hex(last)}
        return await self._rpc("eth_getLogs", query, read=lambda found: [self._log(event, entry) for entry in found])

    def _log(self, event: str, entry: Any) -> dict[str, Any]:
        topics = [_bytes(topic) for topic in entry["topics"]]
        said = self._abi.event(event, topics, _bytes(entry["data"]))
        return {"args": said, "blockNumber": _number(entry["blockNumber"])}

    async def created_task(self, task_id: int, until: int) -> tuple[bytes, bytes]:
        """The spec of a task and its model owner's address, from its TaskCreated event."""
        for first, last in _windows(until):
            for log in await self._logs("TaskCreated", first, last, _word(task_id)):
                return bytes(log["args"]["spec"]), _bytes(log["args"]["modelOwner"])
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
        topic = self._abi.topic(event)
        return [
            self._log(event, log)["args"] for log in receipt.logs if log["topics"] and _bytes(log["topics"][0]) == topic
        ]

    # --------------------------------------------------------------- transacting

    def encode(self, function: str, *arguments: Any) -> bytes:
        """The calldata of a call."""
        return self._abi.call(function, arguments)

    async def estimate(self, sender: bytes, data: bytes, value: int) -> int:
        """Gas that a call would use. Raises ContractRefused with the contract's own error."""
        return await self._rpc("eth_estimateGas", self._call_of(sender, data, value), read=_number)

    async def admits(self, sender: bytes, data: bytes, value: int, gas: int) -> bool:
        """Whether a call would be carried out with so much gas. One try, where an estimate is a search of twenty."""
        try:
            await self._rpc("eth_call", {**self._call_of(sender, data, value), "gas": hex(gas)}, "latest", read=_bytes)
        except (ContractRefused, RpcAnswered):
            return False
        return True

    def _call_of(self, sender: bytes, data: bytes, value: int) -> dict[str, str]:
        return {"from": _checksum(sender), "to": self._address, "data": "0x" + data.hex(), "value": hex(value)}

    async def next_nonce(self, account: bytes) -> int:
        """The account's next nonce, pending transactions counted."""
        return await self._rpc("eth_getTransactionCount", _checksum(account), "pending", read=_number)

    async def mined_nonce(self, account: bytes) -> int:
        """The account's next nonce, only mined transactions counted."""
        return await self._rpc("eth_getTransactionCount", _checksum(account), "latest", read=_number)

    async def send_raw(self, raw: bytes) -> None:
        """Hands a signed transaction to the RPC. One that the RPC knows already is no error."""
        try:
            await self._rpc("eth_sendRawTransaction", "0x" + raw.hex(), read=_bytes)
        except ContractRefused:
            raise
        except ChainError as error:
            if not any(word in str(error).lower() for word in ("already known", "already imported")):
                raise

    async def knows(self, tx_hash: bytes) -> bool:
        """Whether the RPC knows a transaction, mined or waiting to be."""
        return await self._rpc(
            "eth_getTransactionByHash", "0x" + tx_hash.hex(), read=lambda found: found is not None, null=True
        )

    async def receipt(self, tx_hash: bytes) -> Receipt | None:
        """A transaction's receipt, or None while it is not mined."""
        try:
            return await self._rpc("eth_getTransactionReceipt", "0x" + tx_hash.hex(), read=_receipt, null=True)
        except (RpcAnswered, ContractRefused):
            # Some nodes say so that they know no such transaction.
            return None

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


_STATE_NAMES = [entry.name for entry in fields(TaskState)]


def _state(values: Sequence[Any]) -> TaskState:
    named = dict(zip(_STATE_NAMES, values, strict=True))
    named["model_owner"] = _bytes(named["model_owner"])
    named["status"] = TaskStatus(named["status"])
    named["phase"] = RoundPhase(named["phase"])
    return TaskState(**named)


def _member(row: Sequence[Any]) -> Member:
    return Member(_bytes(row[0]), row[1], row[2], MemberStatus(row[3]), *row[4:])


def _known(make: Callable[[Sequence[Any]], _T], values: Sequence[Any]) -> _T:
    """A struct of the contract. Raises ChainError for a status or phase that there is not."""
    try:
        return make(values)
    except ValueError as error:
        raise ChainError(f"the RPC shows what no market shows: {error}") from error


def _in_order(row: Any) -> list[Any]:
    return list(row.values()) if isinstance(row, Mapping) else list(row)


def _bytes(text: str) -> bytes:
    """Raises ValueError for what is no hex with 0x before it."""
    if not text.startswith("0x"):
        raise ValueError("no hex")
    return bytes.fromhex(text[2:])


def _number(text: str) -> int:
    """Raises ValueError or TypeError for what is no quantity of JSON-RPC."""
    return int(text, 16)


def _head(block: Mapping[str, Any]) -> Head:
    return Head(
        _number(block["number"]),
        _number(block["timestamp"]),
        _bytes(block["hash"]),
        _number(block.get("baseFeePerGas", "0x0")),
        _bytes(block["parentHash"]),
    )


def _receipt(found: Mapping[str, Any] | None) -> Receipt | None:
    # Some nodes show a transaction that waits with a receipt of no block.
    if found is None or found["blockNumber"] is None:
        return None
    return Receipt(
        _number(found["blockNumber"]),
        _number(found["gasUsed"]),
        _number(found.get("effectiveGasPrice", "0x0")),
        _number(found["status"]) == 1,
        tuple(found["logs"]),
    )


def _checksum(account: bytes) -> Any:
    return AsyncWeb3.to_checksum_address("0x" + account.hex())


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _windows(until: int) -> list[tuple[int, int]]:
    """Block ranges from `until` backwards to the first block."""
    return [(max(0, last - LOG_WINDOW_BLOCKS + 1), last) for last in range(until, -1, -LOG_WINDOW_BLOCKS)]
