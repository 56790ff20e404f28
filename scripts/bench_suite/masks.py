"""What masking costs a data owner: our stage beside Flower's, and beside the cipher alone; in turns, in one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from omnilytics.peers.masking import PairMask, mask_vector
from omnilytics.peers.prg import BLOCK_BYTES, SEED_BYTES, KeyStream
from omnilytics.peers.quantise import RingLayout, pack, quantise_drawing, to_ring
from omnilytics.peers.seeds import EphemeralKey, derive_pair_seed
from scripts.bench_suite.at_once import parts_of, run_at_once
from scripts.bench_suite.flower import Taken
from scripts.pages import table

DIMENSIONS = (10_000, 100_000, 1_000_000, 10_000_000)
NEIGHBOURS = (2, 10, 30, 100)
LANE_BITS = (16, 32)
CTX = bytes(31) + b"\x01"
# The masked vector is that of one seat of group 0; the mate's addresses are made up.
GROUP = POSITION = 0


class Stage(Protocol):
    """A client's stage that can be run once: values and neighbours to what it took."""

    def __call__(self, values: int, neighbours: int) -> Taken: ...


@dataclass(frozen=True)
class Compared:
    """Seconds of the fastest of several turns, by who; `sent` are the bytes that leave the client."""

    values: int
    neighbours: int
    seconds: dict[str, float]
    sent: dict[str, int]


def _address(index: int) -> bytes:
    return index.to_bytes(20, "big")


class OurStage:
    """Everything between an owner's gradient and the bytes that it posts: draw, quantise, derive the seeds of all
    pairs from the mates' keys, mask, pack. Keys and gradient are made before. With two processors the masks are added
    in two threads, if the vector is long."""

    def __init__(self, lane_bits: int, processors: int = 1) -> None:
        self.lane_bits = lane_bits
        self.processors = processors

    def __call__(self, values: int, neighbours: int) -> Taken:
        rng = np.random.default_rng(1)
        update = rng.normal(size=values).astype(np.float32).astype(np.float64)
        own = EphemeralKey.from_entropy(rng.bytes(32))
        mates = [EphemeralKey.from_entropy(rng.bytes(32)).public for _ in range(neighbours)]
        pad_seed = rng.bytes(32)
        layout = RingLayout(values, self.lane_bits)
        magnitude = ((1 << (self.lane_bits - 2)) - 1) // (neighbours + 1)
        started = time.perf_counter()
        draw = KeyStream(os.urandom(SEED_BYTES)).fill
        quantised = quantise_drawing(update, 8.0, magnitude, draw, self.lane_bits)
        pairs = [
            PairMask(
                derive_pair_seed(own, mate, CTX, _address(1), _address(2 + index), True),
                POSITION,
                index + 1,
                _address(1),
                _address(2 + index),
            )
            for index, mate in enumerate(mates)
        ]
        masked = mask_vector(
            to_ring(quantised, layout),
            CTX,
            GROUP,
            POSITION,
            pairs,
            pad_seed,
            run=run_at_once,
            parts=parts_of(layout.byte_count, self.processors),
        )
        sent = pack(masked, layout)
        return Taken(time.perf_counter() - started, len(sent))


def cipher_alone(lane_bits: int) -> Stage:
    """The limit: AES-256-CTR for as many streams over as many bytes, in cache-sized blocks, and one add of a vector."""

    def run(values: int, neighbours: int) -> Taken:
        size = values * lane_bits // 8
        zeroes, mask = memoryview(bytes(BLOCK_BYTES)), bytearray(BLOCK_BYTES)
        view = memoryview(mask)
        lanes = np.zeros(values, dtype=f"<u{lane_bits // 8}")
        encryptors = [
            Cipher(algorithms.AES(bytes([index]) * 32), modes.CTR(bytes(16))).encryptor()
            for index in range(neighbours + 1)
        ]
        started = time.perf_counter()
        for start in range(0, size, BLOCK_BYTES):
            count = min(BLOCK_BYTES, size - start)
            for encryptor in encryptors:
                encryptor.update_into(zeroes[:count], view[:count])
        np.add(lanes, lanes, out=lanes)
        return Taken(time.perf_counter() - started, size)

    return run


def masks_alone(lane_bits: int) -> Stage:
    """What masks cost of our stage: the streams, added; from seeds that are there."""

    def run(values: int, neighbours: int) -> Taken:
        layout = RingLayout(values, lane_bits)
        lanes = to_ring(np.zeros(values, dtype=np.int64), layout)
        pairs = [
            PairMask(bytes([index + 1]) * 32, POSITION, index + 1, _address(1), _address(2 + index))
            for index in range(neighbours)
        ]
        started = time.perf_counter()
        masked = mask_vector(lanes, CTX, GROUP, POSITION, pairs, bytes(32))
        return Taken(time.perf_counter() - started, masked.nbytes)

    return run


def compare(stages: dict[str, Stage], values: int, neighbours: int, turns: int) -> Compared:
    """All stages in turns, so that what disturbs the machine disturbs all; the fastest turn of each counts."""
    taken: dict[str, list[Taken]] = {name: [] for name in stages}
    for _ in range(turns):
        for name, stage in stages.items():
            taken[name].append(stage(values, neighbours))
    return Compared(
        values,
        neighbours,
        {name: min(one.seconds for one in many) for name, many in taken.items()},
        {name: many[0].bytes for name, many in taken.items()},
    )


def our_stages() -> dict[str, Stage]:
    """By name: for each lane width, the stage in one thread and in two, its masks, and the cipher alone."""
    stages: dict[str, Stage] = {}
    for bits in LANE_BITS:
        stages |= {
            f"ours{bits}": OurStage(bits),
            f"threads{bits}": OurStage(bits, processors=2),
            f"masks{bits}": masks_alone(bits),
            f"cipher{bits}": cipher_alone(bits),
        }
    return stages


def run_masks(
    stages: dict[str, Stage], cells: Sequence[tuple[int, int]], turns: int, say: Callable[[str], None]
) -> Iterator[Compared]:
    """A line of the table for each (values, neighbours)."""
    for values, neighbours in cells:
        say(f"{values:,} values, {neighbours} neighbours")
        # Small cells are noise in one turn; large ones take long.
        yield compare(stages, values, neighbours, max(turns, min(25, 8_000_000 // values)))


def masks_table(rows: Sequence[Compared]) -> str:
    """Milliseconds and ratios, in Markdown."""
    head = [
        "values", "neighbours", "Flower, ms", "ours, 32-bit lanes, ms", "16-bit, ms", "Flower / ours, 32-bit", "16-bit",
        "in two threads, 32-bit, ms", "16-bit, ms", "Flower / ours, 32-bit", "16-bit",
        "masks / cipher, 32-bit", "16-bit", "bytes sent: Flower", "ours, 32-bit", "16-bit",
    ]  # fmt: skip
    lines = []
    for row in rows:
        seconds = row.seconds
        lines.append(
            [
                f"{row.values:,}",
                str(row.neighbours),
                *(f"{1000 * seconds[name]:,.1f}" for name in ("flower", "ours32", "ours16")),
                *(f"{seconds['flower'] / seconds[name]:.1f}" for name in ("ours32", "ours16")),
                *(f"{1000 * seconds[name]:,.1f}" for name in ("threads32", "threads16")),
                *(f"{seconds['flower'] / seconds[name]:.1f}" for name in ("threads32", "threads16")),
                *(f"{seconds[f'masks{bits}'] / seconds[f'cipher{bits}']:.2f}" for bits in (32, 16)),
                *(f"{row.sent[name]:,}" for name in ("flower", "ours32", "ours16")),
            ]
        )
    return table(head, lines)
