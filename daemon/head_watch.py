"""Whether the chain that we look at can be believed: it moves, its clock is like ours, and a second RPC agrees."""

from __future__ import annotations

from collections.abc import Callable

from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.log import Logger
from omnilytics.peers.errors import ChainError


class HeadWatch:
    """Looks at every head before it is acted on, and says once what is wrong, and once when it is well again."""

    def __init__(
        self,
        chain: Chain,
        second: Chain | None,
        depth: int,
        stall_seconds: float,
        skew_seconds: float,
        log: Logger,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """depth: blocks under the head that are acted on; clock: monotonic seconds; wall: Unix seconds."""
        self._chain = chain
        self._second = second
        self._depth = depth
        self._stall_seconds = stall_seconds
        self._skew_seconds = skew_seconds
        self._log = log
        self._clock = clock
        self._wall = wall
        self._newest = b""
        self._moved_at = clock()
        # Of the newest head, for the heartbeat; None before the first.
        self.number: int | None = None
        self.time: int | None = None
        self.skew: float | None = None
        self._wrong: set[str] = set()

    def observe(self, head: Head) -> None:
        """Every head, new or not."""
        now = self._clock()
        if head.hash != self._newest:
            self._newest, self._moved_at = head.hash, now
            skew = head.time - self._wall()
            self.number, self.time, self.skew = head.number, head.time, round(skew, 1)
            self._say(
                "clock.skew",
                abs(skew) > self._skew_seconds,
                f"the chain's clock and ours differ by {skew:.0f} s; deadlines are the chain's",
            )
        stood = now - self._moved_at
        self._say("chain.stalled", stood > self._stall_seconds, f"no new block for {stood:.0f} s; waiting")

    def age(self) -> float | None:
        """Seconds since a new head was seen; None before the first."""
        return round(self._clock() - self._moved_at, 1) if self.number is not None else None

    async def confirmed(self, head: Head) -> bool:
        """False while a second RPC, where there is one, does not show the same block, or does not answer.

        Raises ChainError when the first does not.
        """
        if self._second is None:
            return True
        number = max(0, head.number - self._depth)
        ours = head.hash if number == head.number else await self._chain.block_hash(number)
        try:
            theirs: bytes | None = await self._second.block_hash(number)
        except ChainError:
            theirs = None
        self._say(
            "rpc.unconfirmed", theirs is None, f"the second RPC does not show block {number}; doing nothing meanwhile"
        )
        self._say(
            "rpc.disagreement",
            theirs is not None and theirs != ours,
            f"the two RPCs show different blocks {number}; doing nothing meanwhile",
        )
        return theirs == ours

    async def continues(self, head: Head, earlier: Head) -> bool:
        """Whether the chain of `head` contains `earlier`: False after a reorg, when nothing read before holds.

        Raises ChainError when the RPC does not answer.
        """
        if head.hash == earlier.hash or head.parent == earlier.hash:
            return True
        return head.number > earlier.number and await self._chain.block_hash(earlier.number) == earlier.hash

    def _say(self, event: str, wrong: bool, text: str) -> None:
        if wrong and event not in self._wrong:
            self._wrong.add(event)
            self._log(event, text, "warning", code=ChainError.code)
        elif not wrong and event in self._wrong:
            self._wrong.discard(event)
            self._log(f"{event}.over", "well again")
