"""An event loop whose clock jumps to the next timer: waiting takes no time, and the order is always the same."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import selectors
from collections.abc import Callable
from typing import Any, TypeVar

from tests.simulator.life import CrashedError

_T = TypeVar("_T")


class StuckError(AssertionError):
    """Nobody will ever do anything again, and somebody still waits."""


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: what would be a pause moves the clock."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise StuckError("nothing is scheduled any more, and the scenario is not over")
        if timeout > 0:
            self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio on a virtual clock. Work for threads is done in the loop's own, after a pause that the seed chooses."""

    def __init__(self, entropy: random.Random) -> None:
        selector = _JumpingSelector()
        super().__init__(selector)
        selector.loop = self
        self.now = 0.0
        self._clock_resolution = 1e-6
        self._entropy = entropy
        # Called when a task ends with an exception that nobody will look at.
        self.set_exception_handler(self._unhandled)
        self.unhandled: list[str] = []

    def time(self) -> float:
        """Seconds since the scenario began."""
        return self.now

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
