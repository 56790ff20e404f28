"""What a daemon writes down of itself, and what it is worth when it grows old."""

import json
from pathlib import Path

import pytest

from omnilytics.daemon.health import Health
from omnilytics.daemon.health_file import HEALTH_NAME, STALE_SECONDS, WRITE_SECONDS, HealthFile, read_health
from omnilytics.peers.errors import ConfigurationError

WELL = Health(True, True, (), ("task 3: commit",))
ILL = Health(True, False, ("waiting for the broker: not connected",))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_written_is_read(tmp_path: Path, clock: Clock) -> None:
    file = HealthFile(tmp_path / HEALTH_NAME, clock)
    for verdict in (WELL, ILL, WELL):
        file.write(verdict)
        assert read_health(tmp_path, True, clock.now) == verdict
    assert [path.name for path in tmp_path.iterdir()] == [HEALTH_NAME]
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_it_is_written_when_it_changes_and_now_and_then(tmp_path: Path, clock: Clock) -> None:
    file = HealthFile(tmp_path / HEALTH_NAME, clock)

    def written_at() -> float:
        return float(json.loads((tmp_path / HEALTH_NAME).read_text())["at"])

    file.write(WELL)
    clock.now += WRITE_SECONDS - 1
    file.write(WELL)
    assert written_at() == 1000.0
    file.write(ILL)
    assert written_at() == clock.now
    clock.now += WRITE_SECONDS
    file.write(ILL)
    assert written_at() == clock.now


def test_one_that_hangs_or_was_killed_is_not_alive(tmp_path: Path, clock: Clock) -> None:
    HealthFile(tmp_path / HEALTH_NAME, clock).write(WELL)
    assert read_health(tmp_path, True, clock.now + STALE_SECONDS).live
    hung = read_health(tmp_path, True, clock.now + STALE_SECONDS + 5)
    assert (hung.live, hung.ready) == (False, False)
    assert "for 65 s" in hung.reasons[0]
    killed = read_health(tmp_path, False, clock.now)
    assert not killed.live and "no daemon runs" in killed.reasons[0]


def test_one_that_has_not_written_yet_is_starting(tmp_path: Path) -> None:
    assert read_health(tmp_path, True, 0.0) == Health(True, False, ("starting",))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v":1,"at":"x"}', "[" * 60_000, '{"v":1,"at":1,"live":true}'])
def test_what_cannot_be_read_is_not_alive(tmp_path: Path, text: str) -> None:
    (tmp_path / HEALTH_NAME).write_text(text)
    assert not read_health(tmp_path, True, 1.0).live


def test_a_newer_version_is_refused(tmp_path: Path, clock: Clock) -> None:
    HealthFile(tmp_path / HEALTH_NAME, clock).write(WELL)
    said = json.loads((tmp_path / HEALTH_NAME).read_text()) | {"v": 2}
    (tmp_path / HEALTH_NAME).write_text(json.dumps(said))
    with pytest.raises(ConfigurationError, match="of version 2"):
        read_health(tmp_path, True, clock.now)


def test_a_disk_that_takes_nothing_and_no_path_are_passed_over(tmp_path: Path, clock: Clock) -> None:
    HealthFile(tmp_path / "nowhere" / HEALTH_NAME, clock).write(WELL)
    HealthFile(None, clock).write(WELL)
    HealthFile(None, clock).remove()
    assert list(tmp_path.iterdir()) == []
