"""One part in play: its own queue of events, so that no two of its steps ever overlap, and its own view of its task.

A daemon that plays several tasks has one of these for each: a step that waits for the chain holds back its own task's
events and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from omnilytics.daemon.block_watch import TaskView
from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.events import Event, Part, PresenceChanged, SnapshotSeen, TimePassed
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError

# A message has at most 512 bytes: the queues of all parts never hold more than some megabytes of them.
MAX_WAITING_EVENTS = 10_000


class PartRunner:
    """Hands a part its events, one after the other."""

    def __init__(
        self,
        part: Part,
        chain: Chain,
        depth: int,
        log: Logger,
        step: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """step: entered for each step of the part, so that one that never ends is noticed."""
        self.part = part
        self._step = step
        self.view = TaskView(chain, depth)
        self._log = log
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tick_waits = False

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return self._events.qsize()

    def put(self, event: Event) -> None:
        """Queues an event of our own making."""
        self._events.put_nowait(event)

    def tick(self) -> None:
        """Says that time has passed, unless that waits to be heard already: a part can take long to prepare."""
        if not self._tick_waits:
            self._tick_waits = True
            self.put(TimePassed())

    def hear(self, event: Arrived | PresenceChanged, runners: int = 1) -> bool:
        """Queues what the broker says; False in a flood, where it is dropped: what matters is sent again.

        runners: how many share the memory for what waits.
        """
        if self.waiting >= MAX_WAITING_EVENTS // runners:
            return False
        self.put(event)
        return True

    async def play(self) -> None:
        """Until the part is finished. Raises what only people can mend."""
        while not self.part.finished:
            await self.handle(await self._events.get())

    async def handle_waiting(self) -> None:
        """Handles what waits now, and nothing that comes later."""
        for _ in range(self.waiting):
            await self.handle(self._events.get_nowait())

    async def handle(self, event: Event) -> None:
        """One event."""
        if isinstance(event, TimePassed):
            self._tick_waits = False
        try:
            with self._step():
                await self.part.handle(event)
        except ChainError as error:
            # Duties are looked at again with the next block; nothing is lost but time.
            self._log("rpc.error", str(error), "warning", code=error.code, task=self.part.task_id)

    # ------------------------------------------------------- the block watch's viewer

    def behind(self, head: Head) -> bool:
        """Whether its task is known and this head new."""
        return self.part.task_id is not None and head.hash != self.view.seen

    async def look(self, head: Head) -> int | None:
        """Queues a snapshot of the task."""
        assert self.part.task_id is not None
        snapshot = await self.view.read(self.part.task_id, head)
        self.put(SnapshotSeen(snapshot))
        return snapshot.state_block

    def reorganised(self) -> None:
        """Members are read again."""
        self.view.members_changed = True
