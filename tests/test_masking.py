import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.peers.errors import ParameterError, VectorError
from omnilytics.peers.masking import PairMask, add_vectors, mask_vector, remove_pads
from omnilytics.peers.prg import BLOCK_BYTES, add_streams
from omnilytics.peers.quantise import Lanes, RingLayout, lift, pack, unpack
from omnilytics.peers.seeds import EphemeralKey, acknowledgement, derive_pair_seed

VECTORS = json.loads((Path(__file__).parent / "vectors" / "masks.json").read_text())
CASES = [VECTORS[f"case{i}"] for i in range(VECTORS["count"])]
BAD = [VECTORS[f"bad{i}"] for i in range(VECTORS["badCount"])]
CTX = b"c" * 32


def octets(value: str) -> bytes:
    return bytes.fromhex(value[2:])


def masks_of(position: int, size: int, salt: bytes = b"") -> list[PairMask]:
    def seed(mate: int) -> bytes:
        return (salt + bytes([min(position, mate), max(position, mate)])).ljust(32, b"s")

    def address(owner: int) -> bytes:
        # Descending, so that an order by address would not be the order by position.
        return bytes([200 - owner]) * 20

    return [
        PairMask(seed(mate), position, mate, address(position), address(mate))
        for mate in range(size)
        if mate != position
    ]


def pads_of(size: int) -> list[bytes]:
    return [bytes([p]) * 32 for p in range(size)]


def masked_group(plain: list[Lanes], group: int = 0, ctx: bytes = CTX) -> list[Lanes]:
    size = len(plain)
    return [mask_vector(plain[p], ctx, group, p, masks_of(p, size), pads_of(size)[p]) for p in range(size)]


def seat_pads(count: int) -> list[bytes]:
    """A pad for every seat: as where the model owner selects."""
    return [hashlib.sha256(b"pad of seat" + bytes([seat])).digest() for seat in range(count)]


def masked_by_seat(plain: list[Lanes], group: int, pads: list[bytes]) -> list[Lanes]:
    size = len(plain)
    return [
        mask_vector(plain[p], CTX, group, p, masks_of(p, size), pads[seat], pad_index=seat, group_size=size)
        for p, seat in enumerate(range(group * size, (group + 1) * size))
    ]


@pytest.mark.parametrize("case", CASES + BAD, ids=lambda case: case["name"])
def test_vectors_from_ephemeral_keys_to_the_sum(case: dict[str, Any]) -> None:
    bits, size = case["laneBits"], case["groupSize"]
    layout = RingLayout(case["wordCount"] * 256 // bits, bits)
    ctx, addresses = octets(case["ctx"]), [octets(a) for a in case["addresses"]]
    secrets = [octets(s) for s in case["ephemeralSecrets"]]
    publics = [octets(p) for p in case["ephemeralPublics"]]
    order = list(combinations(range(size), 2))
    masked = []
    for own in range(size):
        pairs = []
        own_key = EphemeralKey(secrets[own], publics[own])
        for mate in set(range(size)) - {own}:
            seed = derive_pair_seed(own_key, publics[mate], ctx, addresses[own], addresses[mate], own < mate)
            index = order.index((min(own, mate), max(own, mate)))
            assert seed == octets(case["pairSeeds"][index])
            assert acknowledgement(seed) == octets(case["acknowledgements"][index])
            pairs.append(PairMask(seed, own, mate, addresses[own], addresses[mate]))
        plain = unpack(octets(case["quantised"][own]), layout)
        index = case["padIndices"][own]
        y = mask_vector(plain, ctx, case["group"], own, pairs, octets(case["padSeeds"][own]), pad_index=index)
        assert pack(y, layout) == octets(case["masked"][own])
        masked.append(y)
    whole = "reason" not in case
    padded = add_vectors(masked)
    assert (pack(padded, layout) == octets(case["paddedSum"])) == whole
    pads, first = [octets(p) for p in case["padSeeds"]], case["padIndices"][0]
    bare = remove_pads(padded if whole else add_vectors(masked[1:]), ctx, pads, first)
    assert (pack(bare, layout) == octets(case["sum"])) == whole
    # An index is part of a pad's context: the same seeds under other indices are other pads.
    other = remove_pads(add_vectors(masked), ctx, pads, 0 if first else size)
    assert pack(other, layout) != octets(case["sum"])


@given(st.integers(3, 8), st.sampled_from([8, 16, 32]), st.integers(1, 3), st.integers(0, 255), st.data())
def test_masks_cancel_over_a_whole_group_and_never_over_fewer(
    size: int, bits: int, words: int, group: int, data: st.DataObject
) -> None:
    layout = RingLayout(words * 256 // bits, bits)
    vectors = data.draw(st.lists(st.binary(min_size=32 * words, max_size=32 * words), min_size=size, max_size=size))
    plain = [unpack(vector, layout) for vector in vectors]
    masked = masked_group(plain, group)
    assert np.array_equal(remove_pads(add_vectors(masked), CTX, pads_of(size)), add_vectors(plain))
    for count in range(1, size):
        for kept in combinations(range(size), count):
            partial = add_vectors([masked[p] for p in kept])
            truth = add_vectors([plain[p] for p in kept])
            pads = [(pads_of(size)[p], b"pad", CTX + bytes([p]), True) for p in kept]
            add_streams(partial, pads)
            assert not np.array_equal(partial, truth)


def test_padding_lanes_are_masked_too() -> None:
    masked = masked_group([np.zeros(64, "<u2")] * 3)
    assert all(np.count_nonzero(y[48:]) > 10 for y in masked)


def test_masks_differ_by_round_group_and_position_but_the_pad_is_common_to_all_groups() -> None:
    plain = [np.zeros(64, "<u2")] * 3
    one, other = masked_group(plain, group=0), masked_group(plain, group=1)
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert np.array_equal(add_vectors(one), add_vectors(other))
    assert not np.array_equal(add_vectors(one), add_vectors(masked_group(plain, ctx=b"d" * 32)))


@given(st.integers(3, 6), st.sampled_from([8, 16, 32]), st.integers(2, 4), st.data())
def test_pads_of_seats_come_off_their_own_groups_sum_and_off_no_other(
    size: int, bits: int, groups: int, data: st.DataObject
) -> None:
    layout = RingLayout(512 // bits, bits)
    pads = seat_pads(groups * size)
    vectors = data.draw(st.lists(st.binary(min_size=64, max_size=64), min_size=groups * size, max_size=groups * size))
    plain = [unpack(vector, layout) for vector in vectors]
    parts = [plain[group * size : (group + 1) * size] for group in range(groups)]
    sums = [add_vectors(masked_by_seat(part, group, pads)) for group, part in enumerate(parts)]
    for group, part in enumerate(parts):
        truth, first = add_vectors(part), group * size
        assert np.array_equal(remove_pads(sums[group], CTX, pads[first : first + size], first), truth)
        for other in set(range(groups)) - {group}:
            # Another group's pads, under its own indices or under the right ones, open nothing.
            theirs = pads[other * size : (other + 1) * size]
            assert not np.array_equal(remove_pads(sums[group], CTX, theirs, other * size), truth)
            assert not np.array_equal(remove_pads(sums[group], CTX, theirs, first), truth)
        # Nor do all of the group's own but one.
        fewer = sums[group].copy()
        add_streams(fewer, [(pads[first + p], b"pad", CTX + bytes([first + p]), True) for p in range(1, size)])
        assert not np.array_equal(fewer, truth)


def test_differences_of_sums_are_bare_under_common_pads_and_noise_under_pads_of_their_own() -> None:
    """Krum on the contract needs the first; where the model owner selects, nobody else learns how groups differ."""
    generator = np.random.default_rng(1)
    layout, size = RingLayout(32768, 16), 3
    # Small, as updates are: a lane has a twelfth of the ring to itself.
    parts = [[generator.integers(-1365, 1366, 32768).astype("<i2").view("<u2") for _ in range(size)] for _ in range(2)]
    bare = add_vectors(parts[0]) - add_vectors(parts[1])

    common = [add_vectors(masked_group(part, group)) for group, part in enumerate(parts)]
    assert np.array_equal(common[0] - common[1], bare)

    pads = seat_pads(2 * size)
    own = [add_vectors(masked_by_seat(part, group, pads)) for group, part in enumerate(parts)]
    difference = own[0] - own[1]
    counts = np.bincount(difference >> 8, minlength=256)
    # Chi-squared with 255 degrees of freedom; the bare difference misses it by far.
    assert chi_squared(counts) < 255 + 5 * np.sqrt(2 * 255)
    assert chi_squared(np.bincount(bare >> 8, minlength=256)) > 10_000
    correlation = np.corrcoef(lift(difference, layout), lift(bare, layout))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(32768)


def chi_squared(counts: np.ndarray[Any, Any]) -> float:
    """Pearson's statistic against equal shares."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2).sum() / expected)


def test_the_default_pad_is_that_of_the_position() -> None:
    plain = np.zeros(16, "<u2")
    by_position = mask_vector(plain, CTX, 3, 1, masks_of(1, 3), b"p" * 32)
    assert np.array_equal(by_position, mask_vector(plain, CTX, 3, 1, masks_of(1, 3), b"p" * 32, pad_index=1))
    assert not np.array_equal(by_position, mask_vector(plain, CTX, 3, 1, masks_of(1, 3), b"p" * 32, pad_index=10))
    with pytest.raises(ParameterError, match="pad index"):
        mask_vector(plain, CTX, 3, 1, masks_of(1, 3), b"p" * 32, pad_index=256)


def test_the_given_vectors_are_left_as_they_were() -> None:
    plain = np.arange(16, dtype="<u2")
    masked = mask_vector(plain, CTX, 0, 1, masks_of(1, 3), b"p" * 32)
    assert plain.tolist() == list(range(16))
    add_vectors([masked, plain])
    remove_pads(masked, CTX, pads_of(3))
    assert np.array_equal(masked, mask_vector(plain, CTX, 0, 1, masks_of(1, 3), b"p" * 32))


def test_no_vector_leaves_with_a_mask_missing() -> None:
    lanes, pad = np.zeros(16, "<u2"), b"p" * 32
    whole = masks_of(1, 4)
    reused = [whole[0], PairMask(whole[0].seed, 1, 2, whole[1].own_address, whole[1].mate_address), whole[2]]
    same_address = [
        whole[0],
        PairMask(whole[1].seed, 1, 2, whole[1].own_address, whole[0].mate_address),
        whole[2],
    ]
    bad: list[tuple[int, list[PairMask], bytes]] = [
        (1, [], pad),
        (1, masks_of(1, 2), pad),
        (1, whole[:2], pad),
        (1, [whole[0], whole[0], whole[2]], pad),
        (2, whole, pad),
        (1, [whole[0], masks_of(0, 4)[1], whole[2]], pad),
        (1, reused, pad),
        (1, same_address, pad),
        (1, whole, whole[0].seed),
        (1, whole, b"short"),
    ]
    for position, pairs, pad_seed in bad:
        with pytest.raises(ParameterError):
            mask_vector(lanes, CTX, 0, position, pairs, pad_seed, group_size=4)


def test_only_like_vectors_are_added() -> None:
    with pytest.raises(VectorError):
        add_vectors([])
    with pytest.raises(VectorError):
        add_vectors([np.zeros(16, "<u2"), np.zeros(16, "<u4")])
    with pytest.raises(VectorError):
        add_vectors([np.zeros(16, "<u2"), np.zeros(32, "<u2")])


def test_a_seed_is_not_in_the_repr() -> None:
    shown = repr(PairMask(b"SECRETSEED".ljust(32, b"!"), 0, 1, b"a" * 20, b"b" * 20))
    assert "SECRET" not in shown and "mate_position=1" in shown


def test_a_long_vectors_masks_are_added_in_as_many_parts_as_asked_for() -> None:
    lanes = np.arange(4 * BLOCK_BYTES // 2, dtype="<u2")
    counts: list[int] = []

    def run(jobs: Sequence[Callable[[], None]]) -> None:
        counts.append(len(jobs))
        for job in jobs:
            job()

    arguments = CTX, 0, 1, masks_of(1, 3), b"p" * 32
    assert np.array_equal(mask_vector(lanes, *arguments, run=run, parts=2), mask_vector(lanes, *arguments))
    assert counts == [2]
