import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.peers import commitment
from omnilytics.peers.errors import CommitmentError, ParameterError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "commitment.json").read_text())
CASES = [VECTORS[f"case{i}"] for i in range(VECTORS["count"])]
BAD = [VECTORS[f"bad{i}"] for i in range(VECTORS["badCount"])]
CTX = b"c" * 32


def octets(value: str) -> bytes:
    return bytes.fromhex(value[2:])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_chains_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    vector, ctx, seat, size = octets(case["vector"]), octets(case["ctx"]), case["seat"], case["chunkWords"]
    assert commitment.tag(ctx, seat) == octets(case["tag"])
    assert commitment.terminal(ctx, seat) == octets(case["terminal"])
    assert commitment.links(vector, size, ctx, seat) == [octets(link) for link in case["links"]]
    assert commitment.root(vector, size, ctx, seat) == octets(case["root"])
    assert commitment.kept_root(octets(case["root"])) == int(case["keptRoot"])
    parts = zip(case["partFirst"], case["partData"], case["partNext"], case["partNextLink"], strict=True)
    kept = int(case["keptRoot"])
    for first, data, following, next_link in parts:
        end = commitment.verify_part(kept, first, octets(data), octets(next_link), size, case["wordCount"], ctx, seat)
        assert end == following
        kept = commitment.kept_root(octets(next_link))


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["reason"])
def test_what_was_not_committed_to_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(CommitmentError):
        commitment.verify_part(
            int(case["keptRoot"]),
            case["firstChunk"],
            octets(case["data"]),
            octets(case["nextLink"]),
            case["chunkWords"],
            case["wordCount"],
            octets(case["ctx"]),
            case["seat"],
        )


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 255), st.integers(32, 700), st.data())
def test_any_split_of_any_vector_is_accepted_part_by_part(
    words: int, chunk_words: int, seat: int, max_bytes: int, data: st.DataObject
) -> None:
    vector = data.draw(st.binary(min_size=32 * words, max_size=32 * words))
    links = commitment.links(vector, chunk_words, CTX, seat)
    chunks = commitment.chunks(vector, chunk_words)
    assert b"".join(chunks) == vector and len(links) == len(chunks) + 1
    if max_bytes < min(32 * chunk_words, len(vector)):
        with pytest.raises(ParameterError):
            commitment.split_parts(vector, chunk_words, max_bytes)
        return
    parts = commitment.split_parts(vector, chunk_words, max_bytes)
    assert b"".join(part for _, part, _ in parts) == vector
    running, expected = links[0], 0
    for first, part, following in parts:
        assert first == expected and len(part) <= max_bytes
        arguments = first, part, links[following], chunk_words, words, CTX, seat
        expected = commitment.verify_part(running, *arguments)
        assert commitment.verify_part(commitment.kept_root(running), *arguments) == expected == following
        running = links[following]
    assert expected == len(chunks)


@given(st.integers(0, 32 * 6 - 1), st.integers(1, 255))
def test_every_byte_is_bound(place: int, change: int) -> None:
    vector = bytes(range(192))
    other = bytearray(vector)
    other[place] ^= change
    assert commitment.root(bytes(other), 2, CTX, 3) != commitment.root(vector, 2, CTX, 3)


def test_context_and_seat_are_bound_and_domains_are_apart() -> None:
    vector = bytes(64)
    roots = {commitment.root(vector, size, ctx, seat) for size in (1, 2) for ctx in (CTX, bytes(32)) for seat in (0, 1)}
    assert len(roots) == 8
    assert commitment.tag(CTX, 0) != commitment.terminal(CTX, 0)


def test_settle_data_is_the_next_link_and_the_chunk_of_each_owner() -> None:
    owners = []
    for seat in (0, 1, 3):
        vector = bytes([seat]) * (32 * 5)
        owners.append((commitment.links(vector, 2, CTX, seat), commitment.chunks(vector, 2)))
    for index, length in ((0, 64), (1, 64), (2, 32)):
        data = commitment.settle_data(index, owners)
        assert len(data) == 3 * (32 + length)
        for place, (seat, (links, chunks)) in enumerate(zip((0, 1, 3), owners, strict=True)):
            entry = data[place * (32 + length) :][: 32 + length]
            assert entry == links[index + 1] + chunks[index]
            tag = commitment.tag(CTX, seat)
            assert commitment.link(tag, index, entry[:32], entry[32:]) == links[index]
    with pytest.raises(CommitmentError):
        commitment.settle_data(3, owners)
    with pytest.raises(CommitmentError):
        commitment.settle_data(-1, owners)
    shorter = (commitment.links(bytes(32), 2, CTX, 4), commitment.chunks(bytes(32), 2))
    with pytest.raises(CommitmentError):
        commitment.settle_data(0, [*owners, shorter])


def test_impossible_vectors_and_chunks_are_refused() -> None:
    for vector, chunk_words in ((b"", 1), (bytes(31), 1), (bytes(32), 0)):
        with pytest.raises(ParameterError):
            commitment.chunks(vector, chunk_words)
    with pytest.raises(ParameterError):
        commitment.tag(bytes(31), 0)
    with pytest.raises(ParameterError):
        commitment.tag(CTX, -1)
    with pytest.raises(ParameterError):
        commitment.kept_root(bytes(26))
