"""What the model owner makes of posted vectors: the same sums whoever selects, and the groups that the chain says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omnilytics.daemon.aggregate import Aggregate, decrypt_round
from omnilytics.daemon.posting import PostedVectors
from omnilytics.peers.krum import select, squared_distances
from omnilytics.peers.market import Outcome, TaskParams
from omnilytics.peers.masking import PairMask, mask_vector
from omnilytics.peers.quantise import pack, to_ring
from tests.local_market import lasting
from tests.market_views import address
from tests.round_network import CTX, secret

CLIP = 2.0
CONTRACT = lasting(max_groups=6, faulty_groups=1)
OWN = replace(CONTRACT, model_selection=True)
GROUPS = range(6)
KINDS = pytest.mark.parametrize("params", [CONTRACT, OWN], ids=["contract selects", "model owner selects"])

# What honest owners posted: group 4 is far away from the others.
QUANTISED = {
    seat: np.random.default_rng(seat).integers(-40, 41, CONTRACT.value_count) + (3000 if seat // 3 == 4 else 0)
    for seat in range(18)
}


def pads_of(params: TaskParams, groups: int = 6) -> tuple[bytes, ...]:
    return tuple(secret(f"pad {index}") for index in range(params.pad_count(groups)))


def masked(params: TaskParams, quantised: Mapping[int, NDArray[np.int64]] = QUANTISED) -> dict[int, bytes]:
    """The vectors by seat, as owners make them."""
    vectors, pads, size = {}, pads_of(params), params.group_size
    for seat, values in quantised.items():
        group, position = divmod(seat, size)
        pairs = [
            PairMask(
                secret(f"pair {group} {min(position, mate)} {max(position, mate)}"),
                position,
                mate,
                address(seat),
                address(group * size + mate),
            )
            for mate in range(size)
            if mate != position
        ]
        lanes, index = to_ring(values, params.layout), params.pad_index(seat)
        vector = mask_vector(lanes, CTX, group, position, pairs, pads[index], pad_index=index, group_size=size)
        vectors[seat] = pack(vector, params.layout)
    return vectors


def posted(params: TaskParams, complete: tuple[int, ...] = tuple(GROUPS), **more: Any) -> PostedVectors:
    seats = {seat: vector for seat, vector in masked(params, **more).items() if seat // params.group_size in complete}
    return PostedVectors(params, CTX, complete, seats)


def true_sum(group: int) -> NDArray[np.int64]:
    total: NDArray[np.int64] = np.sum([QUANTISED[seat] for seat in range(3 * group, 3 * group + 3)], axis=0)
    return total


def mean_of(*groups: int) -> NDArray[np.float64]:
    owners = [QUANTISED[seat] for group in groups for seat in range(3 * group, 3 * group + 3)]
    mean: NDArray[np.float64] = np.mean(owners, axis=0) * CLIP / CONTRACT.max_magnitude
    return mean


@dataclass
class Choice:
    """A model owner's choice, and what it was asked."""

    groups: tuple[int, ...]
    asked: list[Mapping[int, NDArray[np.float64]]] = field(default_factory=list)

    def __call__(self, means: Mapping[int, NDArray[np.float64]]) -> tuple[int, ...]:
        self.asked.append(means)
        return self.groups


def krum(*complete: int) -> tuple[int, ...]:
    sums = [to_ring(true_sum(group), CONTRACT.layout) for group in complete]
    kept = select(squared_distances(sums, CONTRACT.layout), CONTRACT.faulty_groups, False)
    return tuple(complete[index] for index in kept)


def decrypted(
    params: TaskParams,
    outcome: Outcome | None,
    chosen: tuple[int, ...] = (),
    choice: Choice | None = None,
    vectors: PostedVectors | None = None,
    trusted: tuple[int, ...] = (),
) -> Aggregate:
    """One that must not be asked has no choice."""
    choose = choice or Choice((99,))

    def trust(means: Mapping[int, np.ndarray], selected: tuple[int, ...]) -> tuple[int, ...]:
        assert params.model_selection, "only a model owner that selects has a say in what it learns from"
        return trusted or selected

    return decrypt_round(vectors or posted(params), pads_of(params), outcome, chosen, CLIP, choose, trust)


@KINDS
@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_sums_are_those_of_the_owners_whoever_selects_and_however_it_ended(
    params: TaskParams, outcome: Outcome | None
) -> None:
    found = decrypted(params, outcome, (0, 1, 2, 3, 5), Choice((0, 1, 2, 3, 5)))
    for group in GROUPS:
        assert np.array_equal(found.sums[group], true_sum(group))
    # Distances are of the bare sums either way: common pads cancel in differences, others were taken off.
    for (a, b), value in zip(combinations(GROUPS, 2), _upper(found.distances), strict=True):
        assert value == int(((true_sum(a) - true_sum(b)) ** 2).sum())


def _upper(matrix: list[list[int]]) -> list[int]:
    return [matrix[a][b] for a, b in combinations(range(len(matrix)), 2)]


@KINDS
def test_pads_of_the_other_kind_open_nothing(params: TaskParams) -> None:
    other = CONTRACT if params.model_selection else OWN
    vectors = replace(posted(other), params=params)
    found = decrypt_round(vectors, pads_of(OWN), None, (), CLIP, Choice((0,)), lambda means, selected: selected)
    # The first group's pads are the same ones by either count.
    assert [np.array_equal(found.sums[group], true_sum(group)) for group in GROUPS] == [True] + [False] * 5


def test_the_contracts_selection_is_averaged_and_checked() -> None:
    own = krum(*GROUPS)
    assert 4 not in own and len(own) == 5
    agreed = decrypted(CONTRACT, Outcome.SELECTED, own)
    assert agreed.average == pytest.approx(mean_of(*own)) and agreed.selected == own
    assert not agreed.disagreement
    # What the chain says counts, but the model owner says that it is not what these vectors give.
    other = (0, 1, 2, 3, 4)
    found = decrypted(CONTRACT, Outcome.SELECTED, other)
    assert found.average == pytest.approx(mean_of(*other)) and found.selected == other
    assert found.disagreement


@pytest.mark.parametrize("chosen", [(0, 1, 2, 3, 5), (4,), (1, 2, 3, 4, 5)])
def test_the_model_owners_selection_is_averaged_and_never_made_again(chosen: tuple[int, ...]) -> None:
    """An earlier life made it: whatever this one would choose, what is on the chain is what was selected."""
    found = decrypted(OWN, Outcome.SELECTED, chosen)
    assert found.average == pytest.approx(mean_of(*chosen)) and found.selected == chosen
    assert not found.disagreement


@pytest.mark.parametrize("outcome", [Outcome.LATE, None])
def test_where_the_chain_says_nothing_the_selection_is_made_here(outcome: Outcome | None) -> None:
    own = krum(*GROUPS)
    late = decrypted(CONTRACT, outcome)
    assert late.selected == own and late.average == pytest.approx(mean_of(*own)) and not late.disagreement
    choice = Choice((0, 2, 5))
    late = decrypted(OWN, outcome, choice=choice)
    assert late.selected == (0, 2, 5) and late.average == pytest.approx(mean_of(0, 2, 5)) and not late.disagreement
    (means,) = choice.asked
    assert sorted(means) == list(GROUPS)
    for group in GROUPS:
        assert means[group] == pytest.approx(mean_of(group))


@KINDS
@pytest.mark.parametrize("complete", [(0, 2, 3, 5), (1,)])
@pytest.mark.parametrize("outcome", [Outcome.TOO_FEW, Outcome.LATE, None])
def test_too_few_complete_groups_give_no_average(
    params: TaskParams, complete: tuple[int, ...], outcome: Outcome | None
) -> None:
    """Below 2f + 3 nobody can tell who is poisoned; sums are still what the owners are paid for."""
    found = decrypted(params, outcome, vectors=posted(params, complete))
    assert (found.selected, found.average, found.distances, found.disagreement) == ((), None, [], False)
    assert sorted(found.sums) == list(complete)
    assert all(np.array_equal(found.sums[group], true_sum(group)) for group in complete)


@KINDS
@pytest.mark.parametrize("complete", [(0, 1, 2, 3, 5), (1, 2, 3, 4, 5)])
def test_groups_that_are_not_complete_are_no_candidates(params: TaskParams, complete: tuple[int, ...]) -> None:
    choice = Choice(complete[1:])
    found = decrypted(params, Outcome.LATE, choice=choice, vectors=posted(params, complete))
    expected = complete[1:] if params.model_selection else krum(*complete)
    assert found.selected == expected and found.average == pytest.approx(mean_of(*expected))


@KINDS
def test_a_poisoned_sum_is_clamped_before_it_is_averaged(params: TaskParams) -> None:
    """Whatever its owners post, a group moves the average no further than honest ones could."""
    loud = {**QUANTISED, 0: np.full(params.value_count, 2**15 - 1), 1: np.zeros(params.value_count, np.int64)}
    loud[2] = np.zeros(params.value_count, np.int64)
    found = decrypted(params, Outcome.SELECTED, (0,), vectors=posted(params, quantised=loud))
    assert np.array_equal(found.sums[0], loud[0])
    assert found.average == pytest.approx(np.full(params.value_count, CLIP))
