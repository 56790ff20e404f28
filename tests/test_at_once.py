import threading

import numpy as np
import pytest

from omnilytics.peers.prg import PAD, add_streams
from scripts.bench_suite.at_once import PART_BYTES, parts_of, run_at_once


@pytest.mark.parametrize(
    ("bytes_", "processors", "parts"),
    [
        (0, 8, 1),
        (PART_BYTES, 8, 1),
        (2 * PART_BYTES - 1, 8, 1),
        (2 * PART_BYTES, 8, 2),
        (1 << 30, 8, 2),
        (1 << 30, 1, 1),
    ],
)
def test_small_vectors_and_one_processor_make_one_part(bytes_: int, processors: int, parts: int) -> None:
    assert parts_of(bytes_, processors) == parts
    assert 1 <= parts_of(bytes_) <= 2


def test_jobs_run_at_once_and_all_have_ended() -> None:
    # Each waits for the other: one after the other they would wait in vain.
    meeting, ended = threading.Barrier(3, timeout=30), []

    def job(name: int) -> None:
        meeting.wait()
        ended.append(name)

    run_at_once([lambda: job(0), lambda: job(1), lambda: job(2)])
    assert sorted(ended) == [0, 1, 2]
    run_at_once([])


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_any_job_comes_out_after_the_others_have_ended(failing: int) -> None:
    ended: list[int] = []

    def job(name: int) -> None:
        if name == failing:
            raise ValueError(str(name))
        ended.append(name)

    with pytest.raises(ValueError, match=f"^{failing}$"):
        run_at_once([lambda: job(0), lambda: job(1)])
    assert ended == [1 - failing]


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_masks_of_two_threads_are_those_of_one(dtype: str) -> None:
    size = 700_001
    lanes = np.random.default_rng(size).integers(0, 255, size).astype(dtype)
    streams = [(bytes([index]) * 32, PAD, bytes(33), index % 2 == 1) for index in range(4)]
    alone, together = lanes.copy(), np.empty_like(lanes)
    add_streams(alone, streams)
    add_streams(lanes, streams, together, run_at_once, 2)
    assert np.array_equal(together, alone)
