"""What stands in calldata, answers, logs and refusals: the same as eth_abi says, whichever way it is read."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi.abi import decode, encode
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.chain import load_artifact
from omnilytics.daemon.contract_abi import ContractAbi, DecodingError, selector, signature, type_of
from omnilytics.peers.hashing import keccak

ITEMS = load_artifact()["abi"]
ABI = ContractAbi(ITEMS)
MEMBER = ABI.functions["getMembers"]["outputs"]
STATE = ABI.functions["getTask"]["outputs"]


def value_of(kind: str, draw: Any) -> Any:
    if kind == "address":
        return "0x" + draw(st.binary(min_size=20, max_size=20)).hex()
    if kind == "bytes32":
        return draw(st.binary(min_size=32, max_size=32))
    if kind == "bool":
        return draw(st.booleans())
    return draw(st.integers(0, 2 ** int(kind.removeprefix("uint")) - 1))


@st.composite
def structs(draw: Any, entry: Any) -> tuple[Any, ...]:
    return tuple(value_of(part["type"], draw) for part in entry["components"])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_struct_and_an_array_are_read_as_eth_abi_reads_them(data: Any) -> None:
    for outputs, name in ((STATE, "getTask"), (MEMBER, "getMembers")):
        (only,) = outputs
        value: Any = data.draw(structs(only))
        if only["type"].endswith("[]"):
            value = tuple(data.draw(st.lists(structs(only), max_size=4)))
        raw = encode([type_of(only)], [value])
        assert ABI.result(name, raw) == decode([type_of(only)], raw)[0] == value


def test_fixed_sizes_are_what_is_looked_at_with_every_block() -> None:
    """If the contract's structs got a part of another kind, all would still work, and be slow again."""
    for name in ("getTask", "getMembers"):
        raw = bytes(32 * 64)
        (only,) = ABI.functions[name]["outputs"]
        assert {part["type"] for part in only["components"]} <= {
            "address", "bytes32", "bool", *(f"uint{bits}" for bits in range(8, 257, 8)),
        }  # fmt: skip
        ABI.result(name, raw)


@pytest.mark.parametrize("name", ["getTask", "getMembers", "taskCount", "getPaidRounds"])
@pytest.mark.parametrize("raw", [b"", bytes(31), b"\xff" * 32, bytes(31) + b"\x20" + b"\xff" * 32])
def test_bytes_that_are_no_answer_are_refused(name: str, raw: bytes) -> None:
    if name == "taskCount" and len(raw) >= 32:
        assert ABI.result(name, raw) == int.from_bytes(raw[:32], "big")
        return
    with pytest.raises((DecodingError, ValueError, OverflowError)):
        ABI.result(name, raw)


def test_a_number_that_its_type_cannot_hold_is_refused() -> None:
    (only,) = STATE
    at = next(index for index, part in enumerate(only["components"]) if part["type"] == "uint8")
    raw = bytearray(32 * len(only["components"]))
    raw[32 * at + 30] = 1
    with pytest.raises(DecodingError, match="does not fit 8 bits"):
        ABI.result("getTask", bytes(raw))


def test_several_values_are_a_tuple_and_one_is_itself() -> None:
    assert ABI.result("escrowRequired", encode(["uint256", "uint256"], [7, 9])) == (7, 9)
    assert ABI.result("taskCount", encode(["uint256"], [3])) == 3
    assert list(ABI.result("getPaidRounds", encode(["uint256[]"], [[1, 2]]))) == [1, 2]


def test_calldata_is_the_selector_and_the_arguments() -> None:
    item = ABI.functions["commit"]
    types = [type_of(entry) for entry in item["inputs"]]
    arguments = (1, b"\x01" * 32, b"\x02" * 32)
    assert ABI.call("commit", arguments) == keccak(signature(item).encode())[:4] + encode(types, arguments)


def test_a_logs_indexed_and_other_arguments_come_back_by_name() -> None:
    topics = [ABI.topic("Joined"), encode(["uint256"], [5]), encode(["address"], ["0x" + "ab" * 20])]
    said = ABI.event("Joined", topics, encode(["bytes32", "uint256"], [b"\x07" * 32, 9]))
    assert said == {"taskId": 5, "account": "0x" + "ab" * 20, "boxKey": b"\x07" * 32, "stake": 9}
    with pytest.raises(ValueError, match="another event"):
        ABI.event("Left", topics, b"")
    with pytest.raises((DecodingError, ValueError)):
        ABI.event("Joined", topics, b"")


def test_a_refusal_is_told_by_its_name() -> None:
    item = next(entry for entry in ITEMS if entry["type"] == "error" and entry["name"] == "WrongStatus")
    assert ABI.error(selector(item) + encode(["uint8"], [4])) == ("WrongStatus", {item["inputs"][0]["name"]: 4})
    assert ABI.error(b"\x00\x01\x02\x03") is None
    with pytest.raises(DecodingError):
        ABI.error(selector(item))
