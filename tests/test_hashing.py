import json
from pathlib import Path
from typing import Any

import pytest

from omnilytics.peers.errors import ParameterError
from omnilytics.peers.hashing import (
    abi_words,
    base_context,
    blake2b_keyed,
    keccak,
    model_commitment,
    round_context,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "context.json").read_text())
CASES = [VECTORS[f"case{i}"] for i in range(VECTORS["count"])]
BAD = [VECTORS[f"bad{i}"] for i in range(VECTORS["badCount"])]


def octets(value: str) -> bytes:
    return bytes.fromhex(value[2:])


def base_of(case: dict[str, Any]) -> bytes:
    return base_context(
        int(case["chainId"]),
        octets(case["market"]),
        int(case["taskId"]),
        int(case["round"]),
        octets(case["paramsHash"]),
        keccak(octets(case["payload"])),
        int(case["partCount"]),
        keccak(octets(case["key"])),
        [keccak(octets(seed)) for seed in case["padSeeds"]],
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_contexts_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    base = base_of(case)
    commit = model_commitment(base, octets(case["key"]), octets(case["plaintext"]))
    assert base == octets(case["baseCtx"])
    assert commit == octets(case["modelCommit"])
    assert round_context(base, commit) == octets(case["ctx"])


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["reason"])
def test_a_context_binds_every_field(case: dict[str, Any]) -> None:
    assert base_of(case) != octets(case["baseCtx"])


def test_keccak_is_ethereums() -> None:
    assert keccak().hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak(b"a", b"bc") == keccak(b"abc")


def test_words_are_padded_on_the_left() -> None:
    assert abi_words(1, b"\x11" * 20, b"\x22" * 32) == bytes(31) + b"\1" + bytes(12) + b"\x11" * 20 + b"\x22" * 32


@pytest.mark.parametrize("value", [-1, 1 << 256, b"", b"1" * 19, b"1" * 33])
def test_what_is_no_static_word_is_refused(value: int | bytes) -> None:
    with pytest.raises(ParameterError):
        abi_words(value)


def test_blake2b_binds_key_and_person() -> None:
    digests = {blake2b_keyed(b"data", key, person) for key in (b"", b"key") for person in (b"", b"person")}
    assert len(digests) == 4
    assert {len(digest) for digest in digests} == {32}
    with pytest.raises(ParameterError):
        blake2b_keyed(b"", b"k" * 65, b"")
    with pytest.raises(ParameterError):
        blake2b_keyed(b"", b"", b"p" * 17)


def test_wrong_lengths_are_refused_without_showing_the_bytes() -> None:
    with pytest.raises(ParameterError, match="model key has 31 bytes, needs 32") as caught:
        model_commitment(bytes(32), b"\xab" * 31, b"")
    assert "ab" * 3 not in str(caught.value)
    with pytest.raises(ParameterError):
        round_context(bytes(31), bytes(32))
    with pytest.raises(ParameterError, match="pad hash 1"):
        base_context(1, bytes(20), 0, 1, bytes(32), bytes(32), 1, bytes(32), [bytes(32), bytes(31)])
    with pytest.raises(ParameterError, match="market"):
        base_context(1, bytes(32), 0, 1, bytes(32), bytes(32), 1, bytes(32), [])
