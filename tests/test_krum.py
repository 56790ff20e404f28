import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.peers.errors import ParameterError, VectorError
from omnilytics.peers.krum import distances_from_pairs, pair_order, scores, select, squared_distances
from omnilytics.peers.masking import add_vectors
from omnilytics.peers.quantise import RingLayout, pack, unpack


def load(name: str, kind: str) -> list[dict[str, Any]]:
    file = json.loads((Path(__file__).parent / "vectors" / f"{name}.json").read_text())
    return [file[f"{kind}{i}"] for i in range(file["count" if kind == "case" else "badCount"])]


def matrix(case: dict[str, Any]) -> list[list[int]]:
    return distances_from_pairs([int(d) for d in case["distances"]], case["groups"])


def sums_and_distances(case: dict[str, Any]) -> tuple[list[str], list[str]]:
    layout = RingLayout(case["wordCount"] * 256 // case["laneBits"], case["laneBits"])
    vectors = [unpack(bytes.fromhex(vector[2:]), layout) for vector in case["vectors"]]
    size = case["groupSize"]
    sums = [add_vectors(vectors[i : i + size]) for i in range(0, len(vectors), size)]
    distances = squared_distances(sums, layout)
    flat = [str(distances[a][b]) for a, b in pair_order(len(sums))]
    return ["0x" + pack(lanes, layout).hex() for lanes in sums], flat


@pytest.mark.parametrize("case", load("ring_sums", "case"), ids=lambda case: case["name"])
def test_sums_and_distances_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    assert sums_and_distances(case) == (case["sums"], case["distances"])


@pytest.mark.parametrize("case", load("ring_sums", "bad"), ids=lambda case: case["reason"])
def test_wrong_sums_and_distances_differ(case: dict[str, Any]) -> None:
    assert sums_and_distances(case) != (case["sums"], case["distances"])


@pytest.mark.parametrize("case", load("krum", "case"), ids=lambda case: case["name"])
def test_the_selection_is_that_of_the_vectors(case: dict[str, Any]) -> None:
    assert scores(matrix(case), case["faulty"]) == [int(s) for s in case["scores"]]
    selected = select(matrix(case), case["faulty"], case["strict"])
    assert selected == case["selected"]
    assert sum(1 << group for group in selected) == case["bitmap"]


@pytest.mark.parametrize("case", load("krum", "bad"), ids=lambda case: f"{case['name']}: {case['reason']}")
def test_wrong_selections_are_refused(case: dict[str, Any]) -> None:
    if case["groups"] < 2 * case["faulty"] + 3:
        with pytest.raises(ParameterError, match="cannot tolerate"):
            select(matrix(case), case["faulty"], case["strict"])
    else:
        assert select(matrix(case), case["faulty"], case["strict"]) != case["selected"]


def test_too_few_groups_in_the_users_words() -> None:
    with pytest.raises(ParameterError, match=r"^4 groups cannot tolerate f=1; need 5$"):
        select([[0] * 4] * 4, 1, False)


@given(st.integers(3, 12), st.booleans(), st.data())
def test_selection_properties(groups: int, strict: bool, data: st.DataObject) -> None:
    faulty = data.draw(st.integers(0, (groups - 3) // 2))
    count = groups * (groups - 1) // 2
    values = data.draw(st.lists(st.integers(0, 1 << 100), min_size=count, max_size=count))
    distances = distances_from_pairs(values, groups)
    selected = select(distances, faulty, strict)
    assert selected == sorted(set(selected))
    assert len(selected) == groups - faulty - (2 if strict else 0) >= 1
    ranking = scores(distances, faulty)
    left_out = set(range(groups)) - set(selected)
    # INVARIANT: nobody left out is better than anybody selected, and among equals the lower index is in.
    assert all((ranking[s], s) < (ranking[o], o) for s in selected for o in left_out)
    # The scale of the vectors does not matter, nor does a strict selection pick other groups than the loose one.
    assert select([[7 * d for d in row] for row in distances], faulty, strict) == selected
    assert set(select(distances, faulty, True)) <= set(select(distances, faulty, False))


@given(st.sampled_from([8, 16, 32]), st.integers(2, 5), st.data())
def test_distances_do_not_see_a_common_pad(bits: int, groups: int, data: st.DataObject) -> None:
    layout = RingLayout(256 // bits, bits)
    words = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=groups + 1, max_size=groups + 1))
    pad, *sums = [unpack(word, layout) for word in words]
    distances = squared_distances(sums, layout)
    assert squared_distances([lanes + pad for lanes in sums], layout) == distances
    assert all(distances[a][b] == distances[b][a] >= 0 for a in range(groups) for b in range(groups))
    # Changing one group leaves the distance of any two others as it was.
    changed = squared_distances([sums[0] + pad, *sums[1:]], layout)
    assert all(changed[a][b] == distances[a][b] for a in range(1, groups) for b in range(1, groups))


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_largest_distance_is_exact(bits: int) -> None:
    layout = RingLayout(100_000, bits)
    zero = np.zeros(layout.lane_count, layout.dtype)
    far = np.full(layout.lane_count, 1 << (bits - 1), layout.dtype)
    assert squared_distances([zero, far], layout)[0][1] == layout.lane_count * (1 << (2 * bits - 2))
    near_far = np.full(layout.lane_count, (1 << (bits - 1)) - 1, layout.dtype)
    assert squared_distances([zero, near_far], layout)[0][1] == layout.lane_count * ((1 << (bits - 1)) - 1) ** 2


def test_bad_shapes_are_refused() -> None:
    assert pair_order(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    with pytest.raises(ParameterError):
        distances_from_pairs([1, 2], 3)
    with pytest.raises(ParameterError):
        select([[0, 1, 2], [1, 0], [2, 1, 0]], 0, False)
    with pytest.raises(ParameterError):
        select([[0] * 5] * 5, -1, False)
    with pytest.raises(VectorError):
        squared_distances([np.zeros(16, "<u2"), np.zeros(16, "<u4")], RingLayout(16, 16))
