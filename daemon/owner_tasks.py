"""An owner's tasks, several at once: goes on with what was joined, and keeps looking for the next.

Each task is played by a part of its own, in one process with one account. The parts share what there is once: chain,
broker, journal, transactions. Of a round they share nothing: keys, seeds, nonces and batches are a task's own. A task
that fails does not touch the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from omnilytics.daemon.block_watch import MAX_BACKOFF_SECONDS
from omnilytics.daemon.chain import Head
from omnilytics.daemon.ending import end_tasks
from omnilytics.daemon.node import Node
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.task_finder import AcceptedTask, TaskFinder
from omnilytics.peers.errors import ChainError, OmniLyticsError
from omnilytics.peers.hashing import blake2b_keyed

# Pauses before a joined task that has failed is taken up again: somebody may have mended what was wrong.
RETRY_SECONDS = 30.0
MAX_RETRY_SECONDS = 900.0
# The same while the chain cannot be read.
RPC_RETRY_SECONDS = 0.5


class OwnerTasks:
    """Plays an owner's tasks."""

    def __init__(
        self,
        node: Node,
        choices: OwnerChoices,
        joins_more: bool,
        named: int | None = None,
        part_class: type[OwnerPart] = OwnerPart,
    ) -> None:
        """joins_more: whether new tasks are looked for, for ever, up to the policy's most_tasks at once; without it
        the one that is named, and those that were joined before, are played to their end."""
        self._node = node
        self._choices = choices
        self._joins_more = joins_more
        self._named = named
        self._part_class = part_class
        self._finder = TaskFinder(node, choices)
        self._playing: dict[int, asyncio.Task[None]] = {}
        # Tasks of an earlier life whose terms are not read yet: what they may still take cannot be counted.
        self._unread: set[int] = set()
        # A new block, or the end of a task: a reason to look again.
        self._news = asyncio.Event()
        self._seen = b""

    @property
    def finder(self) -> TaskFinder:
        """Who looks for tasks, and knows what stands open."""
        return self._finder

    @property
    def played(self) -> tuple[int, ...]:
        """The tasks that are played now, or will be taken up again."""
        return tuple(self._playing)

    def look_again(self) -> None:
        """Something that the finder goes by has changed: the owner's word, say."""
        self._news.set()

    async def play(self) -> None:
        """Until it is cancelled; without new tasks to look for, until the joined ones are over.

        Raises what is no single task's trouble.
        """
        joined = self._node.journal.unfinished_tasks()
        if self._named in joined:
            self._named = None
        self._unread.update(joined)
        for task in joined:
            self._begin(task, None)
        self._node.blocks.add(self)
        try:
            while self._joins_more or self._playing or self._named is not None:
                if self._named is not None and not self._unread:
                    self._begin(self._named, None)
                    self._named = None
                await self._news.wait()
                self._news.clear()
                for task, playing in list(self._playing.items()):
                    if playing.done():
                        del self._playing[task]
                        # What a part does not expect is a bug, and ends the daemon.
                        playing.result()
                if self._joins_more and not self._unread:
                    await self._join_more()
        finally:
            await end_tasks(self._playing.values())
            self._node.blocks.remove(self)

    async def _join_more(self) -> None:
        """Joins what fits, while there is a place; and lists what stands open in any case."""
        try:
            while len(self._playing) < self._choices.policy.most_tasks:
                found = await self._finder.look()
                if found is None:
                    return
                self._begin(found.offer.task, found)
            await self._finder.look(pick=False)
        except ChainError as error:
            self._node.log("rpc.error", str(error), "warning", code=error.code)

    def _begin(self, task: int, found: AcceptedTask | None) -> None:
        if found is not None:
            # Before its part does, so that the next look knows of it.
            self._choices.active[task] = found.offer
        playing = asyncio.create_task(self._play(task, found))
        self._playing[task] = playing
        playing.add_done_callback(lambda _: self.look_again())

    async def _play(self, task: int, found: AcceptedTask | None) -> None:
        """Plays one task to its end, taking it up again after what only people can mend: a stake hangs on it."""
        node, pause, rpc_pause = self._node, RETRY_SECONDS, RPC_RETRY_SECONDS
        try:
            while True:
                try:
                    await self._play_once(task, found)
                    break
                except ChainError as error:
                    node.log("rpc.error", str(error), "warning", code=error.code, task=task)
                    await asyncio.sleep(rpc_pause)
                    rpc_pause = min(2 * rpc_pause, MAX_BACKOFF_SECONDS)
                except OmniLyticsError as error:
                    node.log("task.failed", str(error), "error", code=error.code, task=task, help=error.help)
                    if not node.journal.joins(task):
                        break
                    self._unread.discard(task)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, MAX_RETRY_SECONDS)
                found = None
            if node.journal.joins(task):
                node.journal.finish_task(task)
        finally:
            self._unread.discard(task)
            self._choices.active.pop(task, None)

    async def _play_once(self, task: int, found: AcceptedTask | None) -> None:
        """Until there is nothing left to do for this task. Raises OmniLyticsError."""
        choices = self._choices
        accepted = found if found is not None else await self._finder.accept(task)
        own = replace(choices, batch_entropy=batch_entropy_of(task, choices.batch_entropy))
        part = self._part_class(self._node, task, own)
        part.take(accepted)
        self._unread.discard(task)
        self.look_again()
        await self._node.play(part, prepared=True)

    # ------------------------------------------------------- the block watch's viewer

    def behind(self, head: Head) -> bool:
        """Whether this head is new."""
        return self._joins_more and head.hash != self._seen

    async def look(self, head: Head) -> None:
        """A new block can have a new task in it."""
        self._seen = head.hash
        self._news.set()

    def reorganised(self) -> None:
        """What stands open is read anew at every look."""


def batch_entropy_of(task: int, entropy: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """A task's own entropy of batches, 32 bytes a round, also where all of it comes from one seed."""
    return lambda number: blake2b_keyed(task.to_bytes(32, "big"), key=entropy(number), person=b"omnilytics-task")
