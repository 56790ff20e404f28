"""Deploys the market contract, or checks one that is there already. Plain JSON-RPC: web3 stays daemon/chain.py's.

The key that pays signs here and is not sent anywhere.
"""

import json
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.chain_process import RpcError, rpc_call
from scripts.toolchain import ROOT

ARTIFACT = ROOT / "contracts" / "artifacts" / "Market.json"
TRANSACTION_GAS_LIMIT = 2**24
"""EIP-7825: no transaction may ask for more."""


class DeploymentError(Exception):
    """The market could not be deployed, or is not what it should be."""


@dataclass(frozen=True)
class Deployment:
    """Where the market is. With the genesis hash a daemon notices a local chain that was started anew."""

    chain_id: int
    genesis_hash: str
    market: str
    block: int | None
    """The block of the deployment: logs are read from here. None where the market was there before."""
    gas: int | None


def read_artifact(path: Path = ARTIFACT) -> dict[str, Any]:
    """The compiled contract: {"abi", "bytecode", "deployedBytecode"}."""
    try:
        artifact = json.loads(path.read_text())
        if not re.fullmatch(r"0x([0-9a-f]{2})+", artifact["bytecode"]):
            raise DeploymentError(f"{path} holds no linked bytecode; run: scripts/build-contracts")
    except FileNotFoundError:
        raise DeploymentError(f"{path} is missing; run: scripts/build-contracts") from None
    except (ValueError, KeyError, TypeError):
        raise DeploymentError(f"{path} is no compiled contract; run: scripts/build-contracts") from None
    assert isinstance(artifact, dict)
    return artifact


def read_key(path: Path) -> str:
    """A private key in hex from a file that only its owner can read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DeploymentError(f"cannot read key file {path}: {getattr(error, 'strerror', error)}") from error
    if mode & 0o077:
        raise DeploymentError(f"key file {path} has mode {mode:04o}; run: chmod 600 {path}")
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text):
        raise DeploymentError(f"key file {path} does not hold a private key of 64 hexadecimal digits")
    return text if text.startswith("0x") else f"0x{text}"


def deploy(rpc_url: str, artifact: dict[str, Any], private_key: str, *, timeout: float = 180.0) -> Deployment:
    """Sends the deployment, waits until it is in a block. Blocks: call it in a thread."""
    from eth_account import Account

    account = Account.from_key(private_key)
    chain_id = int(rpc_call(rpc_url, "eth_chainId"), 16)
    head = rpc_call(rpc_url, "eth_getBlockByNumber", "latest", False)
    transaction: dict[str, Any] = {"from": account.address, "data": artifact["bytecode"], "value": "0x0"}
    try:
        gas = int(rpc_call(rpc_url, "eth_estimateGas", transaction), 16)
    except RpcError as error:
        raise DeploymentError(f"the chain would refuse the deployment from {account.address}: {error}") from error
    fields: dict[str, Any] = {
        "chainId": chain_id,
        "nonce": int(rpc_call(rpc_url, "eth_getTransactionCount", account.address, "pending"), 16),
        "gas": min(gas + gas // 10, TRANSACTION_GAS_LIMIT),
        "data": artifact["bytecode"],
        "value": 0,
    }
    if head.get("baseFeePerGas"):
        tip = int(rpc_call(rpc_url, "eth_maxPriorityFeePerGas"), 16)
        fields |= {"maxFeePerGas": 2 * int(head["baseFeePerGas"], 16) + tip, "maxPriorityFeePerGas": tip}
    else:
        fields |= {"gasPrice": int(rpc_call(rpc_url, "eth_gasPrice"), 16)}
    raw = Account.sign_transaction(fields, private_key).raw_transaction.hex()
    try:
        sent = rpc_call(rpc_url, "eth_sendRawTransaction", raw if raw.startswith("0x") else f"0x{raw}")
    except RpcError as error:
        raise DeploymentError(f"the chain refuses the deployment from {account.address}: {error}") from error
    deadline, pause = time.monotonic() + timeout, 0.02
    while (receipt := rpc_call(rpc_url, "eth_getTransactionReceipt", sent)) is None:
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"the deployment {sent} is in no block after {timeout:g} s; is the gas price too low?"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 2.0)
    if int(receipt["status"], 16) != 1:
        raise DeploymentError(f"the deployment {sent} failed on the chain")
    return Deployment(
        chain_id=chain_id,
        genesis_hash=_genesis_hash(rpc_url),
        market=_checksum(receipt["contractAddress"]),
        block=int(receipt["blockNumber"], 16),
        gas=int(receipt["gasUsed"], 16),
    )


def find_market(rpc_url: str, market: str, artifact: dict[str, Any]) -> Deployment:
    """Checks that a market of this version is at the address. Blocks: call it in a thread."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", market):
        raise DeploymentError(f"{market!r} is no address")
    chain_id = int(rpc_call(rpc_url, "eth_chainId"), 16)
    code = rpc_call(rpc_url, "eth_getCode", market, "latest")
    if code in ("0x", "0x0", None):
        raise DeploymentError(f"no contract code at {market} on chain {chain_id}")
    expected = artifact.get("deployedBytecode")
    # Equal but for the immutables that the constructor filled in: the length tells versions apart well enough.
    if expected is not None and len(code) != len(expected):
        raise DeploymentError(f"the contract at {market} is not this version's market")
    return Deployment(chain_id, _genesis_hash(rpc_url), _checksum(market), None, None)


def _genesis_hash(rpc_url: str) -> str:
    genesis: str = rpc_call(rpc_url, "eth_getBlockByNumber", "0x0", False)["hash"]
    return genesis


def _checksum(address: str) -> str:
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address))
