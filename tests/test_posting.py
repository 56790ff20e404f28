"""Vectors on their way to the chain and back again."""

from dataclasses import replace

import numpy as np
import pytest

from omnilytics.daemon.chain import PostedPart
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.posting import MAX_PART_BYTES, PostedVectors, post_parts
from omnilytics.peers.commitment import WORD_BYTES, root, terminal, verify_part
from omnilytics.peers.errors import CommitmentError
from omnilytics.peers.quantise import unpack
from tests.local_market import PARAMS
from tests.round_network import CTX, secret

SMALL = replace(PARAMS, value_count=40, chunk_words=1)
# More than two parts of a post: 8000 words, 256 kB.
LARGE = replace(PARAMS, value_count=16 * 8000, chunk_words=300)


def vector_of(seat: int, size: int) -> bytes:
    return np.random.default_rng(seat).bytes(size)


def stored(seat: int, params: object = SMALL) -> StoredVector:
    assert isinstance(params, type(PARAMS))
    data = vector_of(seat, params.layout.byte_count)
    return StoredVector(CTX, root(data, params.chunk_words, CTX, seat), data, np.zeros(1, np.int64))


def test_a_small_vector_is_one_post_that_ends_in_the_terminal() -> None:
    (part,) = post_parts(stored(4), SMALL, 4)
    assert part.first_chunk == 0
    assert part.data == stored(4).vector
    assert part.next_link == terminal(CTX, 4)


def test_a_large_vector_is_posted_in_parts_that_the_contracts_check_accepts() -> None:
    vector = stored(4, LARGE)
    parts = post_parts(vector, LARGE, 4)
    assert len(parts) == 3
    assert b"".join(part.data for part in parts) == vector.vector
    running: bytes = vector.root
    following = 0
    for part in parts:
        assert len(part.data) <= MAX_PART_BYTES
        assert part.first_chunk == following
        following = verify_part(
            running, part.first_chunk, part.data, part.next_link, LARGE.chunk_words, LARGE.layout.word_count, CTX, 4
        )
        running = part.next_link
    assert following == LARGE.chunk_count


def test_a_vector_committed_from_another_seat_is_not_shown() -> None:
    with pytest.raises(CommitmentError, match="not committed from seat 5"):
        post_parts(stored(4, LARGE), LARGE, 5)


def test_parts_do_not_show_their_bytes() -> None:
    (part,) = post_parts(stored(4), SMALL, 4)
    assert repr(part.data)[2:20] not in repr(part)


# --------------------------------------------------------------------- collecting


def posts(seats: range, params: object = SMALL) -> list[PostedPart]:
    assert isinstance(params, type(PARAMS))
    return [
        PostedPart(seat, part.first_chunk, part.data)
        for seat in seats
        for part in post_parts(stored(seat, params), params, seat)
    ]


@pytest.mark.parametrize("params", [SMALL, LARGE])
def test_vectors_are_put_together_from_parts_in_any_order_and_number(params: object) -> None:
    assert isinstance(params, type(PARAMS))
    parts = posts(range(9), params)
    shuffled = [parts[index] for index in np.random.default_rng(1).permutation(len(parts))]
    vectors = PostedVectors.collect(shuffled + parts[:3], params, CTX, (0, 2))
    assert sorted(vectors.vectors) == [0, 1, 2, 6, 7, 8]
    for seat, vector in vectors.vectors.items():
        assert vector == stored(seat, params).vector


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_a_vector_that_is_not_whole_in_the_logs_is_noticed(lost: int) -> None:
    parts = posts(range(3), LARGE)
    del parts[lost]
    with pytest.raises(CommitmentError, match=r"seat \d has \d+ of 256000 bytes in the logs") as caught:
        PostedVectors.collect(parts, LARGE, CTX, (0,))
    assert "trying again" in caught.value.help


def test_groups_that_are_not_complete_need_not_be_there() -> None:
    vectors = PostedVectors.collect(posts(range(3, 6)), SMALL, CTX, (1,))
    assert sorted(vectors.vectors) == [3, 4, 5]


def test_the_sum_of_a_group_is_its_vectors_added_in_the_ring() -> None:
    vectors = PostedVectors.collect(posts(range(9)), SMALL, CTX, (0, 1, 2))
    for group in range(3):
        expected = sum(
            unpack(stored(seat).vector, SMALL.layout).astype(np.int64) for seat in range(3 * group, 3 * group + 3)
        )
        assert np.array_equal(vectors.group_sum(group), np.asarray(expected) % 2**16)


def test_the_data_of_a_settlement_is_links_and_words_seat_by_seat() -> None:
    vectors = PostedVectors.collect(posts(range(9)), SMALL, CTX, (0, 2))
    last = SMALL.chunk_count - 1
    size = 32 + WORD_BYTES
    for chunk in range(SMALL.chunk_count):
        data = vectors.settle_data(chunk)
        assert len(data) == 6 * size
        for place, seat in enumerate((0, 1, 2, 6, 7, 8)):
            piece = data[place * size : (place + 1) * size]
            assert piece[32:] == stored(seat).vector[chunk * WORD_BYTES : (chunk + 1) * WORD_BYTES]
            if chunk == last:
                assert piece[:32] == terminal(CTX, seat)


def test_a_chunk_that_is_not_there_cannot_be_settled() -> None:
    vectors = PostedVectors.collect(posts(range(3)), SMALL, CTX, (0,))
    with pytest.raises(CommitmentError):
        vectors.settle_data(SMALL.chunk_count)


def test_posted_vectors_do_not_show_their_bytes() -> None:
    vectors = PostedVectors.collect(posts(range(3)), SMALL, CTX, (0,))
    assert repr(stored(0).vector)[2:20] not in repr(vectors)
    assert secret("x") not in repr(vectors).encode()


def test_vectors_that_were_handed_over_fill_what_was_not_posted() -> None:
    size = SMALL.layout.byte_count
    vectors = {seat: vector_of(seat, size) for seat in range(3)}
    parts = [PostedPart(0, 0, vectors[0])]
    held = {0: bytes(size), 1: vectors[1], 2: vectors[2]}
    assert PostedVectors.collect(parts, SMALL, CTX, [0], held).vectors == vectors, "what is on the chain comes first"
    # Of one that was acknowledged in the middle of its post a part is on the chain.
    begun = [*parts, PostedPart(1, 0, vectors[1][:32])]
    assert PostedVectors.collect(begun, SMALL, CTX, [0], held).vectors == vectors
    with pytest.raises(CommitmentError, match="seat 1 has 32 of 96 bytes"):
        PostedVectors.collect(begun, SMALL, CTX, [0])
    with pytest.raises(CommitmentError, match="seat 2 has 0 of 96 bytes") as caught:
        PostedVectors.collect(begun, SMALL, CTX, [0], {1: vectors[1]})
    assert "older" in caught.value.help
