"""A local chain for tests and testbeds: anvil with Osaka rules on a free port of 127.0.0.1.

    async with start_anvil(folder) as chain:
        AsyncWeb3(AsyncHTTPProvider(chain.rpc_url))

Also what a launcher asks of any chain before it trusts it, without web3: plain JSON-RPC calls.
"""

import asyncio
import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.processes import ManagedProcess, ProcessError, Supervisor
from scripts.toolchain import find_anvil

START_TIMEOUT = 20.0


class ChainUnreachableError(Exception):
    """An RPC address does not answer, or answers something else than JSON-RPC."""


class RpcError(Exception):
    """The chain answered a call with an error."""


@dataclass(frozen=True)
class Chain:
    """A running anvil. Its accounts' keys are the well-known ones of every anvil: worth nothing elsewhere."""

    rpc_url: str
    websocket_url: str
    chain_id: int
    accounts: tuple[str, ...]
    private_keys: tuple[str, ...]
    process: ManagedProcess

    async def call(self, method: str, *params: object) -> Any:
        """One JSON-RPC call, such as `call("evm_increaseTime", 60)`."""
        return await asyncio.to_thread(rpc_call, self.rpc_url, method, *params)

    async def mine(self, blocks: int = 1) -> None:
        """Adds blocks at once."""
        await self.call("anvil_mine", hex(blocks))

    async def advance(self, seconds: int) -> None:
        """Moves chain time forward and mines a block that shows it."""
        await self.call("evm_increaseTime", seconds)
        await self.call("evm_mine")


def rpc_call(url: str, method: str, *params: object, timeout: float = 10.0) -> Any:
    """One JSON-RPC call over HTTP; its result. Blocks: call it in a thread."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    # A local chain is never behind a proxy.
    proxies = urllib.request.ProxyHandler({} if _is_loopback(url) else None)
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.build_opener(proxies).open(request, timeout=timeout) as answer:
            reply = json.load(answer)
    except urllib.error.HTTPError as error:
        raise ChainUnreachableError(f"RPC {url} refuses the call: HTTP {error.code}") from error
    except urllib.error.URLError as error:
        raise ChainUnreachableError(f"cannot reach RPC {url}: {error.reason}") from error
    except OSError as error:
        raise ChainUnreachableError(f"cannot reach RPC {url}: {error}") from error
    except ValueError as error:
        raise ChainUnreachableError(f"{url} is no Ethereum RPC: its answer is not JSON") from error
    if not isinstance(reply, dict) or ("result" not in reply and "error" not in reply):
        raise ChainUnreachableError(f"{url} is no Ethereum RPC: its answer is not JSON-RPC")
    if "error" in reply:
        said = reply["error"]
        raise RpcError(f"{method}: {said.get('message', said) if isinstance(said, dict) else said}")
    return reply["result"]


def _is_loopback(url: str) -> bool:
    return re.match(r"https?://(127\.|localhost[:/]|\[::1\])", url) is not None


@contextlib.asynccontextmanager
async def start_anvil(
    folder: Path,
    *,
    block_time: float = 1.0,
    interval_only: bool = False,
    accounts: int = 10,
    balance: int = 1_000_000,
    chain_id: int = 31337,
    state_file: Path | None = None,
    timestamp: int | None = None,
    log_calls: bool = False,
    anvil: Path | None = None,
) -> AsyncIterator[Chain]:
    """Runs anvil until the block is left; its log and its accounts are written to `folder`.

    It mines a block at every transaction and, where `block_time` is not 0, one every `block_time` seconds, so
    that chain time moves; with `interval_only` no others, so that transactions wait as they do on public networks.
    `balance` is each account's, in ether. With `state_file` the chain is saved there
    every second and found again at the next start. Raises MissingProgramError or ProcessError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config_file = folder / "anvil.json"
    config_file.unlink(missing_ok=True)
    argv: list[str | Path] = [anvil or find_anvil(), "--host", "127.0.0.1", "--port", "0"]
    argv += ["--hardfork", "osaka", "--enable-tx-gas-limit", "--gas-limit", "60000000"]
    argv += ["--no-request-size-limit"]
    argv += ["--chain-id", str(chain_id), "--accounts", str(accounts), "--balance", str(balance)]
    argv += ["--config-out", config_file, "--color", "never"]
    if block_time:
        argv += ["--block-time", f"{block_time:g}", *([] if interval_only else ["--mixed-mining"])]
    if timestamp is not None:
        argv += ["--timestamp", str(timestamp)]
    if state_file is not None:
        argv += ["--state", state_file, "--state-interval", "1"]

    def listening(line: str) -> str | None:
        match = re.match(r"Listening on (\S+)", line.strip())
        return match.group(1) if match else None

    async with Supervisor() as supervisor:
        process = await supervisor.start("anvil", argv, log=folder / "anvil.log")
        address = await process.wait_line(listening, what="its address", timeout=START_TIMEOUT)
        url = f"http://{address}"
        try:
            answered = int(await asyncio.to_thread(rpc_call, url, "eth_chainId"), 16)
            if not log_calls:  # a line a call would fill the disk in a long run
                await asyncio.to_thread(rpc_call, url, "anvil_setLoggingEnabled", False)
            config = json.loads(config_file.read_text())
        except (ChainUnreachableError, RpcError, OSError, ValueError) as error:
            raise ProcessError(f"anvil listens but does not work: {error} (log: {process.log})") from error
        yield Chain(
            rpc_url=url,
            websocket_url=f"ws://{address}",
            chain_id=answered,
            accounts=tuple(config["available_accounts"]),
            private_keys=tuple(config["private_keys"]),
            process=process,
        )
