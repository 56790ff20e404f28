"""Solidity equals Python on random chunks: the short run. The long one is scripts/differential."""

from __future__ import annotations

import pytest

from tests.differential.chunks import KINDS, make_case
from tests.differential.face import Difference, compare, compile_face


@pytest.fixture(scope="module")
def face() -> str:
    return compile_face()


async def test_links_distances_and_selections_are_equal(face: str) -> None:
    result = await compare(100, 7, face)
    assert result.chunks >= 100
    assert result.selections == 2 * result.chunks


@pytest.mark.parametrize("number", range(5))
async def test_a_single_bit_is_seen(face: str, number: int) -> None:
    """Otherwise the comparison would prove nothing."""
    with pytest.raises(Difference, match=f"seed 7, case {number}, "):
        await compare(1, 7, face, first=number, changed=True)


def test_cases_come_from_their_seed() -> None:
    assert make_case(3, 4) == make_case(3, 4)
    assert make_case(3, 4) != make_case(4, 4)
    assert {str(make_case(1, number)).split(", ")[2].split(":")[0] for number in range(len(KINDS))} == set(KINDS)
