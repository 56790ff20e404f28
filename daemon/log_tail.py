"""The newest lines of a log, kept in memory for who asks the running daemon: as they were written, secrets cut out.

A reader goes on from a cursor, "BOOT_ID:SEQ" of the last line that it has. One of another life of the daemon is a
restart: reading begins anew.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

KEPT_LINES = 1000
MAX_LINE_LETTERS = 4096


@dataclass(frozen=True)
class Reading:
    """Lines (records, oldest first), the cursor to go on from, and how many lines before them are not in memory."""

    lines: tuple[dict[str, Any], ...]
    cursor: str
    missed: int


class RecentLines:
    """What was logged last."""

    def __init__(self, boot_id: str, kept: int = KEPT_LINES) -> None:
        self._boot_id = boot_id
        self._lines: deque[tuple[int, int, str]] = deque(maxlen=kept)
        self._newest = 0

    def add(self, seq: int, rank: int, text: str) -> None:
        """A line that was written: its number, its level's rank, and its JSON. One that is too long loses its data."""
        if len(text) > MAX_LINE_LETTERS:
            line = json.loads(text)
            line.pop("data", None)
            line["msg"] = line["msg"][: MAX_LINE_LETTERS // 2]
            text = json.dumps(line, separators=(",", ":"))
        self._lines.append((seq, rank, text))
        self._newest = seq

    def read(self, cursor: str, least_rank: int, count: int) -> Reading:
        """Up to `count` lines of this level or above, oldest first: those after the cursor; without one, the newest."""
        boot_id, _, number = cursor.partition(":")
        known = boot_id == self._boot_id and number.isascii() and number.isdecimal()
        after = min(int(number[:18]), self._newest) if known else 0
        fitting = [line for line in self._lines if line[0] > after and line[1] >= least_rank]
        chosen = fitting[:count] if known else fitting[-count:]
        # What was looked at and is below the level is behind us, too.
        last = chosen[-1][0] if known and len(chosen) < len(fitting) else self._newest
        oldest = self._lines[0][0] if self._lines else self._newest + 1
        missed = max(0, oldest - after - 1) if known else 0
        return Reading(tuple(json.loads(text) for _, _, text in chosen), f"{self._boot_id}:{last}", missed)
