"""Work in two threads at once: the cipher and NumPy's loops leave the interpreter to others meanwhile.

No daemon masks in this way yet: scripts/bench masks measures whether it should.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

THREADS: Final = 2
"""More were never measured."""
PART_BYTES: Final = 256 * 1024
"""A thread for less of a vector costs more than it gains."""


def parts_of(byte_count: int, processors: int | None = None) -> int:
    """In how many parts a vector of so many bytes is best masked: 1 or 2.

    `processors` are those that this process may use (default: the system's answer).
    """
    usable = len(os.sched_getaffinity(0)) if processors is None else processors
    return max(1, min(THREADS, usable, byte_count // PART_BYTES))


def run_at_once(jobs: Sequence[Callable[[], None]]) -> None:
    """Run every job, the first in this thread and each other one in a thread of its own; return when all have ended.

    What the first of the failed ones raised is raised then.
    """
    if not jobs:
        return
    with ThreadPoolExecutor(max_workers=max(1, len(jobs) - 1), thread_name_prefix="part") as pool:
        others = [pool.submit(job) for job in jobs[1:]]
        jobs[0]()
    for other in others:
        other.result()
