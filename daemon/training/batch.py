"""The random batch of a round, as a function of entropy: whoever knows the entropy can replay it.

This chooses rows, it hides nothing, so a fast generator is fine here (masks never come from one).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from omnilytics.peers.errors import ParameterError

DEFAULT_BATCH_SIZE = 64


def generator_from_entropy(entropy: bytes, domain: str) -> np.random.Generator:
    """A numpy generator whose PCG64 is seeded with SHA-256(domain, 0, entropy); one stream a domain."""
    digest = hashlib.sha256(domain.encode() + b"\0" + entropy).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def fresh_batch(rows: int, rounds: int, round_number: int, order_entropy: bytes) -> NDArray[np.int64]:
    """The round's batch where every row is used in one round only: the r-th of `rounds` equal parts of a fair shuffle.

    `order_entropy` is fixed for the task, so rounds r = 1, 2, .. never share a row, whatever happens between them.
    rows // rounds indices, int64, ascending. Raises ParameterError where there are fewer rows than rounds, and for a
    round that is none of them.
    """
    size = rows // rounds if rounds > 0 else 0
    if size < 1 or not 1 <= round_number <= rounds:
        raise ParameterError(f"dataset has {rows} rows; none is left for round {round_number} of {rounds}")
    words = generator_from_entropy(order_entropy, "order").bit_generator.random_raw(rows)
    order = np.argsort(words, kind="stable")
    return np.sort(order[(round_number - 1) * size : round_number * size]).astype(np.int64)


def choose_batch(rows: int, batch_size: int, entropy: bytes) -> NDArray[np.int64]:
    """min(rows, batch_size) different row indices, ascending, int64: a fair draw without replacement.

    Every row gets one raw 64-bit word of PCG64 seeded with SHA-256("batch", 0, entropy); the rows with the
    smallest words are taken. Raw words are what numpy promises never to change, so the same entropy gives
    the same batch in every process and version. Raises ParameterError when rows or batch_size is below 1.
    """
    if rows < 1:
        raise ParameterError("dataset has 0 rows")
    if batch_size < 1:
        raise ParameterError(f"batch size {batch_size} is below 1")
    words = generator_from_entropy(entropy, "batch").bit_generator.random_raw(rows)
    return np.sort(np.argsort(words, kind="stable")[:batch_size]).astype(np.int64)
