"""The EVM: one anvil, driven block by block over one connection. The real contract, with one byte changed.

anvil gives every block a random PREVRANDAO, so block hashes never repeat. The market uses one block hash in a
task's life, for the draw of the groups: BLOCKHASH, or, where that is zero, the history contract of EIP-2935.
Here its BLOCKHASH is replaced by ISZERO (zero for every block), and the history contract by one that hashes a
seed: so the draw, too, comes from the seed. Everything else runs as it does on a live chain.
"""

from __future__ import annotations

import ctypes
import json
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

from scripts.deployment import read_artifact
from scripts.toolchain import find_anvil

GENESIS_TIME = 1_800_000_000
CHAIN_ID = 31337
HISTORY = "0x0000f90827f1c53a10cb7a02335b175320002935"
# keccak256(number as given, seed in the last slot) as the hash of every block.
_HISTORY_CODE = "0x5f355f527f" + "ff" * 32 + "5460205260405f205f5260205ff3"
_SEED_SLOT = "0x" + "ff" * 32
DEPLOYER = "0x" + "d0" * 20
# The market is older than any scenario: nobody ever looks at a block from before it.
FIRST_BLOCKS = 40


class EvmError(Exception):
    """anvil answered with an error; `data` is what the contract said."""

    def __init__(self, message: str, data: str | None) -> None:
        super().__init__(message)
        self.data = data


def deterministic_bytecode() -> str:
    """The market's creation code with its only BLOCKHASH replaced."""
    code = bytearray.fromhex(read_artifact()["bytecode"][2:])
    found, place = [], 0
    while place < len(code):
        if code[place] == 0x40:
            found.append(place)
        place += code[place] - 0x5E if 0x60 <= code[place] <= 0x7F else 1
    if len(found) != 1:
        raise AssertionError(f"{len(found)} BLOCKHASH instructions in the market's code; the simulator expects one")
    code[found[0]] = 0x15
    return "0x" + code.hex()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass(frozen=True)
class Call:
    """One JSON-RPC call."""

    method: str
    params: tuple[Any, ...]


class Evm:
    """A running anvil with a market on it. Scenarios begin and end at the same snapshot."""

    def __init__(self) -> None:
        argv = [str(find_anvil()), "--host", "127.0.0.1", "--port", "0", "--hardfork", "osaka"]
        argv += ["--enable-tx-gas-limit", "--gas-limit", "60000000", "--no-request-size-limit", "--no-mining"]
        argv += ["--order", "fifo", "--timestamp", str(GENESIS_TIME), "--chain-id", str(CHAIN_ID), "--color", "never"]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, preexec_fn=_die_with_parent)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            match = re.match(r"Listening on ([^:]+):(\d+)", line.strip())
            if match:
                break
        else:
            raise EvmError("anvil ended before it listened", None)
        self._socket = socket.create_connection((match.group(1), int(match.group(2))), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")
        self.rpc("anvil_setLoggingEnabled", False)
        self.market = self._deploy()
        self._snapshot = self.rpc("evm_snapshot")

    def close(self) -> None:
        """Ends anvil."""
        self._reader.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _deploy(self) -> bytes:
        self.rpc("anvil_setBalance", DEPLOYER, hex(10**21))
        self.rpc("anvil_setCode", HISTORY, _HISTORY_CODE)
        self.rpc("anvil_impersonateAccount", DEPLOYER)
        code = {"from": DEPLOYER, "data": deterministic_bytecode(), "gas": hex(2**24)}
        sent = self.rpc("eth_sendTransaction", code)
        self.rpc("evm_setNextBlockTimestamp", GENESIS_TIME + 1)
        self.rpc("evm_mine")
        receipt = self.rpc("eth_getTransactionReceipt", sent)
        if int(receipt["status"], 16) != 1:
            raise EvmError("the market cannot be deployed", None)
        # One second apart.
        self.rpc("anvil_mine", hex(FIRST_BLOCKS - 1), "0x1")
        return bytes.fromhex(receipt["contractAddress"][2:])

    def reset(self, seed: bytes) -> None:
        """Back to the empty market, with another seed for the draw."""
        self.rpc("anvil_dropAllTransactions")
        self.rpc("evm_revert", self._snapshot)
        self._snapshot = self.rpc("evm_snapshot")
        self.seed_history(seed)

    def seed_history(self, seed: bytes) -> None:
        """Gives every block another hash, as the market sees it."""
        self.rpc("anvil_setStorageAt", HISTORY, _SEED_SLOT, "0x" + seed.hex())

    # ------------------------------------------------------------------- calls

    def rpc(self, method: str, *params: Any) -> Any:
        """One call."""
        answer = self._exchange({"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
        return self._result(answer)

    def batch(self, *calls: Call) -> list[Any]:
        """Several reads in one exchange, in any order; an EvmError stands where one failed."""
        asked = [
            {"jsonrpc": "2.0", "id": number, "method": call.method, "params": call.params}
            for number, call in enumerate(calls)
        ]
        answers = self._exchange(asked)
        results: list[Any] = [None] * len(calls)
        for answer in answers:
            try:
                results[answer["id"]] = self._result(answer)
            except EvmError as error:
                results[answer["id"]] = error
        return results

    @staticmethod
    def _result(answer: Any) -> Any:
        error = answer.get("error")
        if error is None:
            return answer["result"]
        data = error.get("data")
        raise EvmError(str(error.get("message")), data if isinstance(data, str) else None)

    def _exchange(self, body: Any) -> Any:
        data = json.dumps(body).encode()
        head = b"POST / HTTP/1.1\r\nHost: anvil\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._socket.sendall(head % len(data) + data)
        length = -1
        while True:
            line = self._reader.readline()
            if not line:
                raise EvmError("anvil is gone", None)
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if line == b"\r\n":
                break
        return json.loads(self._reader.read(length))
