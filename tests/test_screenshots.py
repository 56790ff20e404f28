"""The scripts beside the monitor: which moment is drawn, pictures that stay small, logs as large as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnilytics.peers.errors import ConfigurationError
from scripts.monitor_speed_main import write_logs
from scripts.screenshots_main import MOST_BYTES, shrink, telling_moment, view_until
from tests.monitor_logs import START, MadeUpMarket
from tests.monitor_views import STORY


def test_the_moment_that_is_drawn_is_when_somebody_is_waited_for(tmp_path: Path) -> None:
    STORY.files(tmp_path)
    whole = view_until(tmp_path, float("inf"))
    moment = telling_moment(whole)
    # Round 2 begins 13 s after the start, and settles 3 s later.
    assert moment == START + 13 + 3 - 1
    (task,) = view_until(tmp_path, moment)["tasks"]
    assert (task["round"], task["phase"], task["waiting"]["for"]) == (2, "post", ["owner-17"])


def test_of_a_run_without_trouble_the_end_is_drawn(tmp_path: Path) -> None:
    MadeUpMarket().files(tmp_path)
    whole = view_until(tmp_path, float("inf"))
    assert telling_moment(whole) == whole["at_s"]


def test_pictures_lose_their_empty_foot_and_stay_small(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGB", (300, 400), (250, 250, 250))
    image.paste((10, 20, 200), (50, 50, 200, 150))
    image.save(path)
    shrink(path)
    small = Image.open(path)
    assert small.size == (300, 170)
    assert small.convert("RGB").getpixel((100, 100)) == (10, 20, 200)
    noise = np.random.default_rng(1).integers(0, 256, (1200, 1200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    with pytest.raises(ConfigurationError, match=f"more than {MOST_BYTES} bytes"):
        shrink(path)


def test_logs_for_measuring_are_as_large_as_asked_and_all_records(tmp_path: Path) -> None:
    written = write_logs(tmp_path, 1, 9)
    files = list((tmp_path / "logs").iterdir())
    assert len(files) == 10
    assert 1_000_000 <= written < 1_010_000 and sum(path.stat().st_size for path in files) == written
    assert view_until(tmp_path, float("inf"))["honesty"]["bad_lines"] == 0
