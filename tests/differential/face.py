"""The contract's libraries on a local chain: tests/contracts/Face.sol, compiled as the market is."""

from __future__ import annotations

import asyncio
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eth_abi.abi import decode, encode

from omnilytics.peers.hashing import keccak
from scripts.chain_process import Chain, rpc_call, start_anvil
from scripts.toolchain import ROOT
from tests.contracts.mutants import read_sources, standard_json
from tests.differential.chunks import Case, make_case

_ADDRESS = "0x" + "fa" * 20
_CHUNK = ("bytes32", "uint256", "uint256", "uint256", "uint256", "uint256", "uint256", "uint256[]", "bytes")
_HEAD = ("bytes32", "uint256", "uint256", "uint256", "bytes", "bytes32")


class Difference(Exception):
    """Solidity and Python do not agree. The text says in which case, and about what."""


@dataclass
class Result:
    """How much was compared."""

    cases: int = 0
    chunks: int = 0
    links: int = 0
    distances: int = 0
    selections: int = 0


def compile_face() -> str:
    """Run-time code of the harness, with the settings of contracts/foundry.toml."""
    contracts = ROOT / "contracts"
    profile = tomllib.loads((contracts / "foundry.toml").read_text())["profile"]["default"]
    sources = read_sources(contracts, ROOT / "tests" / "contracts" / "Face.sol")
    answer = standard_json(
        contracts,
        {
            "language": "Solidity",
            "sources": {name: {"content": text} for name, text in sources.items()},
            "settings": {
                "evmVersion": profile["evm_version"],
                "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
                "viaIR": profile["via_ir"],
                "outputSelection": {"harness/Face.sol": {"Face": ["evm.deployedBytecode.object"]}},
            },
        },
    )
    return "0x" + str(answer["contracts"]["harness/Face.sol"]["Face"]["evm"]["deployedBytecode"]["object"])


async def compare(chunks: int, seed: int, code: str, first: int = 0, changed: bool = False) -> Result:
    """Compare case after case until so many chunks are done. Raises Difference.

    With `changed`, one bit of what Solidity reads is turned in every case: then each must differ.
    """
    result = Result()
    with tempfile.TemporaryDirectory() as folder:
        async with start_anvil(Path(folder)) as chain:
            await chain.call("anvil_setCode", _ADDRESS, code)
            number = first
            while result.chunks < chunks:
                case = make_case(seed, number)
                await asyncio.to_thread(_compare_case, chain, case, result, changed)
                number += 1
    return result


def _compare_case(chain: Chain, case: Case, result: Result, changed: bool) -> None:
    for chunk in case.chunks:
        data = bytes([chunk.data[0], *chunk.data[1:-1], chunk.data[-1] ^ 1]) if changed else chunk.data
        arguments = (
            case.ctx,
            chunk.number,
            case.groups,
            case.group_size,
            chunk.words,
            case.lane_bits,
            case.faulty,
            chunk.totals,
            data,
        )
        answer = _call(chain, "chunk", _CHUNK, arguments)
        links, nexts, totals, loose, strict = decode(
            ["bytes32[]", "bytes32[]", "uint256[]", "uint256", "uint256"], answer
        )
        with _about(case, chunk.number):
            _equal("links", list(links), chunk.links)
            _equal("next links", list(nexts), chunk.nexts)
            _equal("distances", list(totals), chunk.new_totals)
            _equal("selection", loose, chunk.loose)
            _equal("strict selection", strict, chunk.strict)
        result.chunks += 1
        result.links += len(links)
        result.distances += len(totals)
        result.selections += 2
    part = case.part
    with _about(case, part.first):
        head = (case.ctx, part.seat, part.first, case.chunk_words, part.data, part.next_link)
        _equal("link of a posted part", _call(chain, "head", _HEAD, head), part.link)
        seat = ("bytes32", "uint256"), (case.ctx, part.seat)
        _equal("tag", _call(chain, "tag", *seat), case.tag)
        _equal("terminal", _call(chain, "terminal", *seat), case.terminal)
    result.links += 1
    result.cases += 1


def _call(chain: Chain, name: str, types: tuple[str, ...], arguments: tuple[object, ...]) -> bytes:
    selector = keccak(f"{name}({','.join(types)})".encode())[:4]
    call = {"to": _ADDRESS, "data": "0x" + (selector + encode(types, arguments)).hex()}
    return bytes.fromhex(rpc_call(chain.rpc_url, "eth_call", call, "latest", timeout=60.0)[2:])


@contextmanager
def _about(case: Case, chunk: int) -> Iterator[None]:
    try:
        yield
    except Difference as difference:
        raise Difference(f"{case}, chunk {chunk}: {difference}") from None


def _equal(what: str, solidity: object, python: object) -> None:
    if solidity != python:
        raise Difference(f"{what}: Solidity {solidity!r}, Python {python!r}")


def run(chunks: int, seed: int, first: int = 0) -> tuple[Result, float]:
    """What scripts/differential does: the result and how many seconds it took."""
    started = time.monotonic()
    result = asyncio.run(compare(chunks, seed, compile_face(), first))
    return result, time.monotonic() - started
