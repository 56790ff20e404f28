"""HOME/health.json: how the daemon is, for whoever may not ask it: container engines, scripts, cron.

A daemon whose loop hangs cannot answer, but its file grows old, and that is the answer.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnilytics.daemon.health import Health
from omnilytics.peers.errors import ConfigurationError

HEALTH_NAME = "health.json"
VERSION = 1
# Written when something changes, and this often in any case.
WRITE_SECONDS = 15.0
# Older than this it is of a daemon that hangs: some writes were missed.
STALE_SECONDS = 60.0
_MOST_BYTES = 65_536


class HealthFile:
    """Writes the file. A disk that takes nothing is not the health's business: the journal says so."""

    def __init__(self, path: Path | None, wall: Callable[[], float]) -> None:
        """path: None writes nothing; wall: Unix seconds."""
        self._path, self._wall = path, wall
        self._last: tuple[Health, float] | None = None

    def write(self, verdict: Health) -> None:
        """Brings the file up to date, if it is not."""
        now = self._wall()
        if self._path is None or (
            self._last is not None and self._last[0] == verdict and abs(now - self._last[1]) < WRITE_SECONDS
        ):
            return
        self._last = verdict, now
        said = {
            "v": VERSION,
            "at": round(now, 1),
            "pid": os.getpid(),
            "live": verdict.live,
            "ready": verdict.ready,
            "reasons": list(verdict.reasons),
            "notes": list(verdict.notes),
        }
        fresh = self._path.with_name(f"{HEALTH_NAME}.new")
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps(said) + "\n", encoding="utf-8")
            fresh.replace(self._path)

    def remove(self) -> None:
        """There is no daemon any more."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def read_health(home: Path, runs: bool, now: float) -> Health:
    """How the folder's daemon is at `now` (Unix seconds); runs: whether somebody holds the folder's lock.

    Raises ConfigurationError for a file of a newer version.
    """
    if not runs:
        return Health(False, False, (f"no daemon runs in {home}",))
    try:
        with (home / HEALTH_NAME).open(encoding="utf-8") as file:
            said: Any = json.loads(file.read(_MOST_BYTES))
        at, live, ready = float(said["at"]), said["live"] is True, said["ready"] is True
        reasons, notes = (tuple(map(str, said[name])) for name in ("reasons", "notes"))
        version = int(said["v"])
    except FileNotFoundError:
        return Health(True, False, ("starting",))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Health(False, False, (f"{home / HEALTH_NAME} cannot be read",))
    if version > VERSION:
        raise ConfigurationError(
            f"{home / HEALTH_NAME} is of version {version}; this program knows {VERSION}", help="upgrade the program"
        )
    if now - at > STALE_SECONDS:
        return Health(False, False, (f"the daemon has not said how it is for {now - at:.0f} s",))
    return Health(live, ready, reasons, notes)
