"""How much of a flood is logged: the first lines of each kind, then how many more there were, less and less often.

Strangers can make a daemon drop messages as fast as a network carries them; its log must not fill the disk with that.
Lines are told apart by reason and sender. Both may be invented without end, so only so many are told apart at a time,
and all beyond are counted together. Nothing is left out of the counts: lines written and counts told add up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Lines of a kind that are written as they come.
FIRST_LINES = 5
# Then a summary, after twice the time each time.
SUMMARY_SECONDS = 60.0
MAX_SUMMARY_SECONDS = 3600.0
# A kind that was quiet for so long is news again.
FORGET_SECONDS = 3600.0
# Kinds that are told apart: more than a group has mates that can go wrong in a few ways.
MAX_KINDS = 64
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Kind:
    """What lines have in common: the reason without its numbers, and who is said to have caused it."""

    reason: str
    sender: bytes | None


# What does not fit any more.
OTHERS = Kind("messages of other reasons or senders", None)


@dataclass
class _Held:
    """What is known of a kind. Times are seconds of the caller's clock."""

    level: str
    seen_at: float
    pause: float = SUMMARY_SECONDS
    written: int = 0
    withheld: int = 0
    summary_at: float = 0.0


@dataclass(frozen=True)
class Summary:
    """So many lines of a kind were not written since the last that was."""

    kind: Kind
    level: str
    count: int


class Flood:
    """Which lines of an event that strangers can cause are written. Time comes with every call."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, _Held] = {}

    def admits(self, reason: str, sender: bytes | None, level: str, now: float) -> bool:
        """Whether a line is written; if not, it is counted for a summary."""
        kind = Kind(_NUMBER.sub("#", reason), sender)
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            self._forget(now)
            if len(self._kinds) >= MAX_KINDS:
                kind = OTHERS
        held = self._kinds.setdefault(kind, _Held(level, now))
        held.seen_at = now
        if held.written < FIRST_LINES and kind is not OTHERS:
            held.written += 1
            return True
        if not held.summary_at:
            held.summary_at = now + held.pause
        held.withheld += 1
        return False

    def summaries(self, now: float, at_once: bool = False) -> Iterator[Summary]:
        """What is due to be told by now; `at_once` everything that is not told yet."""
        for kind, held in self._kinds.items():
            if held.withheld and (at_once or now >= held.summary_at):
                yield Summary(kind, held.level, held.withheld)
                held.withheld = 0
                held.pause = min(2 * held.pause, MAX_SUMMARY_SECONDS)
                held.summary_at = now + held.pause

    def _forget(self, now: float) -> None:
        """Makes room: kinds that were quiet for long and have nothing to tell."""
        quiet = [
            kind
            for kind, held in self._kinds.items()
            if not held.withheld and now - held.seen_at >= FORGET_SECONDS and kind is not OTHERS
        ]
        for kind in quiet:
            del self._kinds[kind]
