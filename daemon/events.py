"""What a participant's part is told, one event at a time, and what it has to offer for that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from omnilytics.daemon.broker import Arrived
from omnilytics.peers.market import TaskSnapshot


@dataclass(frozen=True)
class SnapshotSeen:
    """The task as a new block shows it."""

    snapshot: TaskSnapshot


@dataclass(frozen=True)
class PresenceChanged:
    """The broker says that somebody is there, or has gone."""

    address: bytes
    online: bool


@dataclass(frozen=True)
class TimePassed:
    """Time has passed."""


@dataclass(frozen=True)
class WorkDone:
    """Work that ran outside the event loop has ended; `proceed` goes on with its result."""

    proceed: Callable[[], Awaitable[None]]


Event = SnapshotSeen | Arrived | PresenceChanged | TimePassed | WorkDone


class Part(Protocol):
    """What a participant plays in one task: the model owner's part or a data owner's."""

    task_id: int | None

    async def prepare(self) -> None:
        """Before anything else: find or create the task."""

    async def handle(self, event: Event) -> None:
        """One event."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do, for ever."""
