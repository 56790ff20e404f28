"""Looks at the chain's head, and shows every new block to whoever plays a task.

One look at the head serves all tasks of a daemon; for each of them a new block costs one call more, and another one
where its members may differ.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Protocol

from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.head_watch import HeadWatch
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError
from omnilytics.peers.market import Member, TaskParams, TaskSnapshot

MAX_BACKOFF_SECONDS = 30.0


class Viewer(Protocol):
    """Who is shown new blocks."""

    def behind(self, head: Head) -> bool:
        """Whether it wants to be shown this head."""

    async def look(self, head: Head) -> int | None:
        """Looks at it: the block whose state it has seen now, if any. May raise ChainError, and is shown it again."""

    def reorganised(self) -> None:
        """Nothing that was read before holds: what it is shown next is of another branch."""


class TaskView:
    """One task as blocks show it: members are read again only when they may differ."""

    def __init__(self, chain: Chain, depth: int) -> None:
        """depth: blocks under the head whose state is believed."""
        self._chain = chain
        self._depth = depth
        self._params: TaskParams | None = None
        self._members: tuple[Member, ...] | None = None
        self._membership: tuple[object, ...] = ()
        # The head that was seen last.
        self.seen = b""
        self.members_changed = True

    async def read(self, task: int, head: Head) -> TaskSnapshot:
        """The task under this head. Raises ChainError, and has seen nothing then."""
        self._params = self._params or await self._chain.params(task)
        snapshot = await self._chain.snapshot(task, self._params, head, self._depth, self._members or ())
        state = snapshot.state
        membership = (state.status, state.phase, state.round, state.member_count, state.short, state.dissolved)
        if self._members is None or membership != self._membership or self.members_changed:
            self.members_changed = False
            self._members = await self._chain.members(task, snapshot.state_block)
            snapshot = replace(snapshot, members=self._members)
            self._membership = membership
        self.seen = head.hash
        return snapshot


class BlockWatch:
    """The loop that looks at the head."""

    def __init__(self, chain: Chain, heads: HeadWatch, poll_seconds: float, log: Logger) -> None:
        self._chain = chain
        self._heads = heads
        self._poll_seconds = poll_seconds
        self._log = log
        self._look_again = asyncio.Event()
        self._begun = asyncio.Event()
        self._viewers: list[Viewer] = []
        # The head that was shown last.
        self._seen: Head | None = None
        # Who could not look while others could: how many turns it is passed over, and after the next failure.
        self._resting: dict[Viewer, tuple[int, int]] = {}
        self._most_turns = max(1, int(MAX_BACKOFF_SECONDS / poll_seconds))
        # The newest block whose state anybody has been shown.
        self.seen_block = 0

    def add(self, viewer: Viewer) -> None:
        """From now on it is shown new blocks."""
        self._viewers.append(viewer)
        self._begun.set()

    def remove(self, viewer: Viewer) -> None:
        """It is shown nothing more."""
        self._viewers.remove(viewer)
        self._resting.pop(viewer, None)

    def look_again(self) -> None:
        """Something has happened on the chain: the head is looked at now."""
        self._look_again.set()

    async def run(self) -> None:
        """Until cancelled; nothing is asked before there is a viewer."""
        await self._begun.wait()
        pause = self._poll_seconds
        while True:
            try:
                head = await self._chain.head()
                self._heads.observe(head)
                behind = [viewer for viewer in self._viewers if viewer.behind(head) and not self._rests(viewer)]
                if behind and await self._heads.confirmed(head):
                    if self._seen is not None and not await self._heads.continues(head, self._seen):
                        # The other branch may have drawn other groups, and look the same in everything else.
                        for viewer in self._viewers:
                            viewer.reorganised()
                    await self._show(head, behind)
                    self._seen = head
                pause = self._heads.pause(self._poll_seconds)
            except ChainError as error:
                self._log("rpc.error", str(error), "warning", code=error.code)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
            self._look_again.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look_again.wait()

    async def _show(self, head: Head, viewers: list[Viewer]) -> None:
        """Everybody at once. Who fails alone is passed over for a while: its task is in trouble, and not the RPC.

        Raises ChainError where nobody at all could look.
        """
        outcomes = await asyncio.gather(*(viewer.look(head) for viewer in viewers), return_exceptions=True)
        errors = {}
        for viewer, outcome in zip(viewers, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                self._resting.pop(viewer, None)
            elif isinstance(outcome, ChainError):
                errors[viewer] = outcome
            else:
                raise outcome
        self.seen_block = max((seen for seen in outcomes if isinstance(seen, int)), default=self.seen_block)
        if errors and len(errors) == len(self._viewers):
            raise next(iter(errors.values()))
        for viewer, error in errors.items():
            _, turns = self._resting.get(viewer, (0, 1))
            self._resting[viewer] = turns, min(2 * turns, self._most_turns)
            self._log("rpc.error", str(error), "warning", code=error.code)

    def _rests(self, viewer: Viewer) -> bool:
        left, turns = self._resting.get(viewer, (0, 1))
        if left:
            self._resting[viewer] = left - 1, turns
        return left > 0
