"""The local chain: its rules, its clock, its errors."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from scripts.chain_process import Chain, ChainUnreachableError, RpcError, rpc_call, start_anvil
from scripts.deployment import deploy, find_market, read_artifact
from scripts.processes import ProcessError
from scripts.toolchain import MissingProgramError


async def test_it_has_osaka_rules_and_a_transaction_gas_limit(anvil: Chain) -> None:
    assert anvil.chain_id == 31337
    assert len(anvil.accounts) == len(anvil.private_keys) == 40
    head = await anvil.call("eth_getBlockByNumber", "latest", False)
    assert int(head["gasLimit"], 16) == 60_000_000
    transfer = {"from": anvil.accounts[0], "to": anvil.accounts[1], "value": "0x1"}
    with pytest.raises(RpcError):
        await anvil.call("eth_sendTransaction", transfer | {"gas": hex(2**24 + 1)})
    # Osaka's CLZ opcode: 0x1e of 1 is 255.
    clz = "0x60011e60005260206000f3"
    assert int(await anvil.call("eth_call", {"data": clz}), 16) == 255


async def test_time_and_blocks_can_be_moved(anvil: Chain) -> None:
    before = await anvil.call("eth_getBlockByNumber", "latest", False)
    await anvil.advance(3600)
    await anvil.mine(5)
    after = await anvil.call("eth_getBlockByNumber", "latest", False)
    assert int(after["timestamp"], 16) - int(before["timestamp"], 16) >= 3600
    assert int(after["number"], 16) - int(before["number"], 16) == 6


async def test_it_mines_on_demand_and_at_intervals(tmp_path: Path) -> None:
    async with start_anvil(tmp_path, block_time=1) as chain:
        transfer = {"from": chain.accounts[0], "to": chain.accounts[1], "value": "0x1"}
        sent = await chain.call("eth_sendTransaction", transfer)
        async with asyncio.timeout(0.8):
            while await chain.call("eth_getTransactionReceipt", sent) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        number = int(await chain.call("eth_blockNumber"), 16)
        await asyncio.sleep(2.2)
        assert int(await chain.call("eth_blockNumber"), 16) >= number + 2


async def test_a_saved_chain_goes_on(tmp_path: Path) -> None:
    async with start_anvil(tmp_path / "1", block_time=0, state_file=tmp_path / "state.json") as chain:
        await chain.mine(7)
    async with start_anvil(tmp_path / "2", block_time=0, state_file=tmp_path / "state.json") as chain:
        assert int(await chain.call("eth_blockNumber"), 16) == 7


async def test_the_market_is_deployed_and_found_again(anvil: Chain) -> None:
    artifact = read_artifact()
    deployed = await asyncio.to_thread(deploy, anvil.rpc_url, artifact, anvil.private_keys[0])
    assert deployed.chain_id == 31337
    assert deployed.block == 1
    found = await asyncio.to_thread(find_market, anvil.rpc_url, deployed.market, artifact)
    assert (found.market, found.genesis_hash) == (deployed.market, deployed.genesis_hash)


def test_a_wrong_anvil_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start() -> None:
        async with start_anvil(tmp_path):
            pass

    monkeypatch.setenv("ANVIL", str(tmp_path / "missing"))
    with pytest.raises(MissingProgramError, match="ANVIL="):
        asyncio.run(start())
    broken = tmp_path / "anvil"
    broken.write_text("#!/bin/sh\necho out of memory >&2; exit 9\n")
    os.chmod(broken, stat.S_IRWXU)  # noqa: PTH101
    monkeypatch.setenv("ANVIL", str(broken))
    with pytest.raises(ProcessError, match=r"anvil: ended with code 9 before its address\n  \| out of memory"):
        asyncio.run(start())


def test_an_unreachable_chain_is_told() -> None:
    with pytest.raises(ChainUnreachableError, match=r"cannot reach RPC http://127\.0\.0\.1:9: "):
        rpc_call("http://127.0.0.1:9", "eth_chainId")
