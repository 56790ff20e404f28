"""Random vectors for the differential run, and what the Python side makes of each of their chunks."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from omnilytics.peers import commitment
from omnilytics.peers.krum import distances_from_pairs, pair_order, select, squared_distances
from omnilytics.peers.masking import add_vectors
from omnilytics.peers.quantise import Lanes, RingLayout, pack

MAX_CALL_BYTES = 120_000  # TaskBounds: no task may ask for longer settle calls
KINDS = ("masked", "honest", "saturated", "wrap", "half", "edges", "ones", "equal", "hostile", "limits", "one far away")


@dataclass(frozen=True)
class Chunk:
    """One settle call: what goes in, and what must come out."""

    number: int
    words: int
    totals: list[int]
    data: bytes
    links: list[bytes]
    nexts: list[bytes]
    new_totals: list[int]
    loose: int
    strict: int


@dataclass(frozen=True)
class Part:
    """One posted part of an owner's vector, and the link in front of it."""

    seat: int
    first: int
    data: bytes
    next_link: bytes
    link: bytes


@dataclass(frozen=True)
class Case:
    """All vectors of one round, cut into chunks."""

    name: str
    ctx: bytes
    groups: int
    group_size: int
    lane_bits: int
    faulty: int
    chunk_words: int
    chunks: list[Chunk]
    part: Part
    tag: bytes
    terminal: bytes

    def __str__(self) -> str:
        shape = f"G={self.groups} n={self.group_size} b={self.lane_bits} f={self.faulty}"
        return f"{self.name}: {shape} words={[chunk.words for chunk in self.chunks]}"


def make_case(seed: int, number: int) -> Case:
    """Case `number` of a seed: the same every time."""
    chance = random.Random(f"{seed} {number}")
    bits = chance.choice((8, 16, 32))
    groups = chance.choice((3, 4, 5, 6, 7, 8, 12, chance.randint(3, 24), 24))
    size = chance.randint(3, max(3, min(16, 128 // groups)))
    owners = groups * size
    most_words = min(chance.choice((1, 2, 3, 8, 40)), MAX_CALL_BYTES // (32 * owners) - 1)
    chunk_words = chance.randint(1, most_words)
    total_words = chance.randint(1, chunk_words * chance.randint(1, 5))
    faulty = chance.randint(0, (groups - 3) // 2)
    kind = KINDS[number % len(KINDS)]
    layout = RingLayout(total_words * 256 // bits, bits)
    vectors = _vectors(kind, np.random.default_rng(chance.getrandbits(64)), layout, groups, size)
    ctx = chance.randbytes(32)
    packed = [pack(vector, layout) for vector in vectors]
    chains = [commitment.links(vector, chunk_words, ctx, seat) for seat, vector in enumerate(packed)]
    pieces = [commitment.chunks(vector, chunk_words) for vector in packed]
    totals = [0] * len(pair_order(groups))
    chunks = []
    for index in range(len(pieces[0])):
        words = len(pieces[0][index]) // 32
        chunk_layout = RingLayout(words * 256 // bits, bits)
        lanes_before = index * chunk_words * 256 // bits
        cut = [vector[lanes_before : lanes_before + chunk_layout.lane_count] for vector in vectors]
        sums = [add_vectors(cut[group * size : (group + 1) * size]) for group in range(groups)]
        distances = squared_distances(sums, chunk_layout)
        new_totals = [total + distances[a][b] for total, (a, b) in zip(totals, pair_order(groups), strict=True)]
        matrix = distances_from_pairs(new_totals, groups)
        chunks.append(
            Chunk(
                number=index,
                words=words,
                totals=totals,
                data=commitment.settle_data(index, list(zip(chains, pieces, strict=True))),
                links=[chain[index] for chain in chains],
                nexts=[chain[index + 1] for chain in chains],
                new_totals=new_totals,
                loose=sum(1 << group for group in select(matrix, faulty, False)),
                strict=sum(1 << group for group in select(matrix, faulty, True)),
            )
        )
        totals = new_totals
    seat = chance.randrange(owners)
    first = chance.randrange(len(chunks))
    behind = chance.randint(first + 1, len(chunks))
    return Case(
        name=f"seed {seed}, case {number}, {kind}",
        ctx=ctx,
        groups=groups,
        group_size=size,
        lane_bits=bits,
        faulty=faulty,
        chunk_words=chunk_words,
        chunks=chunks,
        part=Part(seat, first, b"".join(pieces[seat][first:behind]), chains[seat][behind], chains[seat][first]),
        tag=commitment.tag(ctx, seat),
        terminal=commitment.terminal(ctx, seat),
    )


def _vectors(kind: str, entropy: np.random.Generator, layout: RingLayout, groups: int, size: int) -> list[Lanes]:
    """The vectors of all owners, group by group."""
    full, half, lanes = 1 << layout.lane_bits, 1 << (layout.lane_bits - 1), layout.lane_count
    limit = ((1 << (layout.lane_bits - 2)) - 1) // size  # q_max at most
    shape = (groups, size, lanes)
    if kind in ("masked", "hostile"):
        values = entropy.integers(0, full, shape)
        # a masked group's sum is honest
        values[:, -1] = entropy.integers(-limit, limit + 1, (groups, lanes)) - values[:, :-1].sum(axis=1)
        if kind == "hostile":
            values[entropy.integers(0, groups)] = entropy.choice(
                [0, 1, half - 1, half, half + 1, full - 1], (size, lanes)
            )
    elif kind == "honest":
        centre = entropy.integers(-limit // 2, limit // 2 + 1, lanes)
        values = centre + entropy.integers(-max(1, limit // 8), max(1, limit // 8) + 1, shape)
    elif kind == "limits":
        # Where near groups end: differences of -r to r - 1 from the first group, r = 2^(b-3); in some blocks beyond.
        values = entropy.integers(0, full, shape)
        edge = full // 8
        around = entropy.choice([0, edge - 1, -edge], (groups, lanes))
        beyond = (entropy.integers(0, 8, (groups, lanes)) == 0) & (np.arange(lanes) * layout.lane_bits // 1024 % 2 == 0)
        around = np.where(beyond, entropy.choice([edge, -edge - 1], (groups, lanes)), around)
        around[0] = 0
        values[:, -1] = entropy.integers(0, full, lanes) + around - values[:, :-1].sum(axis=1)
    elif kind == "saturated":
        values = np.broadcast_to(entropy.choice([-limit, limit], (groups, 1, 1)), shape)
    elif kind == "wrap":
        values = full - 1 - entropy.integers(0, 3, shape)
    elif kind == "half":
        values = np.zeros(shape, np.int64)
        values[:, 0] = entropy.choice([0, half - 1, half, half + 1], (groups, lanes))
    elif kind == "edges":
        values = entropy.choice([0, 1, half - 1, half, half + 1, full - 1], shape)
    elif kind == "ones":
        values = np.broadcast_to(entropy.choice([0, full - 1], (groups, size, 1)), shape)
    elif kind == "equal":
        values = np.broadcast_to(entropy.integers(0, full, (1, size, lanes)), shape)
        values = values + (np.arange(groups) % 3)[:, None, None]  # many ties
    else:
        values = np.zeros(shape, np.int64)
        values[entropy.integers(0, groups), 0] = half
    flat = (np.asarray(values, np.int64).reshape(groups * size, lanes) % full).astype(layout.dtype)
    return [np.ascontiguousarray(row) for row in flat]
