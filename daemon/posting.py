"""Vectors on their way to the chain and back: the parts of a post, and all posts of a round put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from omnilytics.daemon.chain import PostedPart
from omnilytics.daemon.journal import StoredVector
from omnilytics.peers.commitment import chunks, links, settle_data, split_parts
from omnilytics.peers.errors import CommitmentError
from omnilytics.peers.market import TaskParams
from omnilytics.peers.masking import add_vectors
from omnilytics.peers.quantise import Lanes, unpack

# Bytes of vector in one post; with the rest of the transaction it stays under the pools' limit of 128 KB,
# and its calldata floor (40 gas a byte) far under a transaction's gas limit.
MAX_PART_BYTES = 100_000


@dataclass(frozen=True)
class PostPart:
    """The arguments of one call of post."""

    first_chunk: int
    data: bytes = field(repr=False)
    next_link: bytes


def post_parts(stored: StoredVector, params: TaskParams, seat: int) -> list[PostPart]:
    """The calls of post that a vector takes, in order.

    Raises CommitmentError when the vector was committed from another seat: it must not be shown then.
    """
    chain = links(stored.vector, params.chunk_words, stored.ctx, seat)
    if chain[0] != stored.root:
        raise CommitmentError(f"the vector was not committed from seat {seat}: the groups were drawn anew; not posting")
    return [
        PostPart(first, data, chain[following])
        for first, data, following in split_parts(stored.vector, params.chunk_words, MAX_PART_BYTES)
    ]


@dataclass(frozen=True)
class PostedVectors:
    """All masked vectors of the complete groups of a round, by seat."""

    params: TaskParams
    ctx: bytes
    groups: tuple[int, ...]
    vectors: dict[int, bytes] = field(repr=False)

    @classmethod
    def collect(
        cls,
        parts: Sequence[PostedPart],
        params: TaskParams,
        ctx: bytes,
        groups: Sequence[int],
        held: Mapping[int, bytes] | None = None,
    ) -> PostedVectors:
        """Puts the parts of the complete groups' vectors together. Raises CommitmentError when one is not whole.

        held: vectors by seat that were handed over, and not posted; of those that were both, what the chain shows.
        """
        vectors: dict[int, bytes] = {}
        for group in groups:
            for seat in range(group * params.group_size, (group + 1) * params.group_size):
                # The contract takes parts in order and each only once; a repeated log is the same part.
                own = {part.first_chunk: part.data for part in parts if part.seat == seat}
                vector = b"".join(own[first] for first in sorted(own))
                if held is not None and len(vector) != params.layout.byte_count:
                    vector = held.get(seat, b"")
                if len(vector) != params.layout.byte_count:
                    raise CommitmentError(
                        f"seat {seat} has {len(vector)} of {params.layout.byte_count} bytes in the logs",
                        help="the RPC does not show all logs; trying again"
                        + ("" if held is None else "; or this journal is older than what was handed over"),
                    )
                vectors[seat] = vector
        return cls(params, ctx, tuple(groups), vectors)

    @cached_property
    def _chains(self) -> list[tuple[list[bytes], list[bytes]]]:
        words = self.params.chunk_words
        return [
            (links(vector, words, self.ctx, seat), chunks(vector, words))
            for seat, vector in sorted(self.vectors.items())
        ]

    def settle_data(self, chunk: int) -> bytes:
        """The argument data of settle for a chunk."""
        return settle_data(chunk, self._chains)

    def group_sum(self, group: int) -> Lanes:
        """The sum of a group's vectors in the ring: pair masks are gone, pads are not."""
        size = self.params.group_size
        seats = range(group * size, (group + 1) * size)
        return add_vectors([unpack(self.vectors[seat], self.params.layout) for seat in seats])
