"""What a daemon makes of signals, at every moment of its life: SIGTERM and SIGINT end it in order, with exit code 0.

Three times of a life differ: before the event loop turns (libraries are loaded, keys are decrypted) there is nothing
to end in order; while it turns, the loop is told; afterwards the process ends anyway. Elsewhere than in the main
thread, where Python takes no handlers, nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)
# Without a handler each of these kills.
_OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def _handlers(
    wanted: Mapping[signal.Signals, Callable[[int, FrameType | None], None] | signal.Handlers],
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Signals to end leave with exit code 0, wherever we are; others are passed over."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    with _handlers(dict.fromkeys(ENDING, leave) | dict.fromkeys(_OTHERS, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def told_to(loop: asyncio.AbstractEventLoop, actions: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Signals call these within the loop."""

    def tell(number: int, _frame: FrameType | None) -> None:
        # A loop that is closed has nothing to end any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(actions[signal.Signals(number)])

    with _handlers(dict.fromkeys(actions, tell)):
        yield


def pass_over_endings() -> None:
    """From now on signals to end change nothing: the process is about to end, and its exit code is decided."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
