"""An event loop whose clock jumps to the next timer: waiting takes no time, and the order is always the same."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from tests.simulator.life import CrashedError

_T = TypeVar("_T")


class StuckError(AssertionError):
    """Nobody will ever do anything again, and somebody still waits."""


class _Step:
    """A callback that waits for its turn: what asyncio.Handle is, without its costly aids for debugging."""

    __slots__ = ("args", "callback", "context", "dead")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.dead = False

    def cancel(self) -> None:
        """It will not be called."""
        self.dead, self.callback, self.args = True, None, ()

    def cancelled(self) -> bool:
        """Whether it will not be called."""
        return self.dead


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio on a virtual clock. Work for threads is done in the loop's own, after a pause that the seed chooses.

    It asks no file for news and takes no lock: one turn is the base loop's turn without the system's select, and timers
    of the same moment fire in the order in which they were set.
    """

    def __init__(self, entropy: random.Random) -> None:
        super().__init__()
        self.now = 0.0
        self._entropy = entropy
        self._steps: deque[_Step] = deque()
        self._timers: list[tuple[float, int, _Step]] = []
        self._timers_set = 0
        # Called when a task ends with an exception that nobody will look at.
        self.set_exception_handler(self._unhandled)
        self.unhandled: list[str] = []

    def time(self) -> float:
        """Seconds since the scenario began."""
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Step:
        """In the next turn."""
        step = _Step(callback, args, context or contextvars.copy_context())
        self._steps.append(step)
        return step

    def call_soon_threadsafe(self, *args: Any, **more: Any) -> Any:  # type: ignore[override]
        """There are no threads."""
        return self.call_soon(*args, **more)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Step:
        """A timer, so many seconds from now."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Step:
        """A timer; those of one moment fire in the order in which they were set."""
        step = _Step(callback, args, context or contextvars.copy_context())
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, step))
        return step

    def _run_once(self) -> None:
        """Everything that is ready now; where nothing is, the clock jumps to the next timer."""
        steps, timers = self._steps, self._timers
        if not steps:
            while timers and timers[0][2].dead:
                heapq.heappop(timers)
            if not timers:
                raise StuckError("nothing is scheduled any more, and the scenario is not over")
            self.now = max(self.now, timers[0][0])
        until = self.now + 1e-6
        while timers and timers[0][0] < until:
            steps.append(heapq.heappop(timers)[2])
        for _ in range(len(steps)):
            step = steps.popleft()
            if step.callback is None:
                continue
            try:
                step.context.run(step.callback, *step.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001  (as the base loop does: a crash ends its task, not the loop)
                self.call_exception_handler({"message": "exception in a callback", "exception": error})

    def close(self) -> None:
        """Also forgets timers, and what hangs on them."""
        self._timers.clear()
        self._steps.clear()
        super().close()

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Does the work synchronously, a little later."""
        done: asyncio.Future[_T] = self.create_future()

        def work() -> None:
            if done.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001  (a simulated crash is no Exception, and must come out there)
                done.set_exception(error)
            else:
                done.set_result(result)

        self.call_later(self._entropy.uniform(0.001, 0.3), work)
        return done

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # A dead process leaves its tasks where they were.
        if error is None or isinstance(error, CrashedError):
            return
        self.unhandled.append(f"{context.get('message')}: {type(error).__name__}: {error}")
