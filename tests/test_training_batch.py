"""Which rows go into which round, where each is used once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.daemon.training.batch import fresh_batch
from omnilytics.peers.errors import ParameterError

ENTROPY = st.binary(min_size=32, max_size=32)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    """(rows, rounds) with at least a row a round."""
    rounds = draw(st.integers(1, 12))
    return draw(st.integers(rounds, 200)), rounds


@given(shapes(), ENTROPY)
def test_rounds_share_no_row_and_leave_fewer_than_a_round_of_them(shape: tuple[int, int], entropy: bytes) -> None:
    rows, rounds = shape
    batches = [fresh_batch(rows, rounds, number, entropy) for number in range(1, rounds + 1)]
    assert {len(batch) for batch in batches} == {rows // rounds}
    every = np.concatenate(batches)
    assert len(set(every.tolist())) == len(every) > rows - rounds
    for batch in batches:
        assert batch.dtype == np.int64 and batch.min() >= 0 and batch.max() < rows
        assert np.array_equal(batch, np.sort(batch))


@given(shapes(), ENTROPY, st.data())
def test_a_round_is_the_same_whatever_was_played_before(
    shape: tuple[int, int], entropy: bytes, data: st.DataObject
) -> None:
    rows, rounds = shape
    number = data.draw(st.integers(1, rounds))
    expected = fresh_batch(rows, rounds, number, entropy)
    for other in data.draw(st.lists(st.integers(1, rounds), max_size=4)):
        fresh_batch(rows, rounds, other, entropy)
    assert np.array_equal(fresh_batch(rows, rounds, number, entropy), expected)


@given(st.integers(40, 200), ENTROPY, ENTROPY)
def test_another_entropy_is_another_order(rows: int, one: bytes, other: bytes) -> None:
    same = np.array_equal(fresh_batch(rows, 2, 1, one), fresh_batch(rows, 2, 1, other))
    assert same == (one == other)


def test_the_order_of_an_entropy_never_changes() -> None:
    """A daemon of a later version must go on with the rows that are left, and no others."""
    assert fresh_batch(10, 3, 1, bytes(32)).tolist() == [0, 1, 2]
    assert fresh_batch(10, 3, 2, bytes(32)).tolist() == [5, 7, 9]


def test_all_rows_are_equally_likely_in_every_round() -> None:
    counts = np.zeros((2, 10))
    for number in range(2000):
        for round_number in (1, 2):
            counts[round_number - 1, fresh_batch(10, 3, round_number, number.to_bytes(32, "big"))] += 1
    # 600 each, with a standard deviation of 20.5.
    assert np.abs(counts - 600).max() < 100


@pytest.mark.parametrize(
    ("rows", "rounds", "number"),
    [(0, 1, 1), (3, 4, 1), (10, 3, 0), (10, 3, 4), (10, 3, -1), (10, 0, 1), (10, -2, 1), (10, 0, 0)],
)
def test_rows_and_rounds_that_are_none_are_refused(rows: int, rounds: int, number: int) -> None:
    with pytest.raises(ParameterError, match=f"{rows} rows; none is left for round {number} of {rounds}"):
        fresh_batch(rows, rounds, number, bytes(32))
