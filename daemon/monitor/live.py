"""The loop of a live monitor: read what is new, look for alerts, draw, listen for keys. Never busy, never behind."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import FrameType
from typing import Any, TextIO

from omnilytics.daemon.monitor.panels import describe
from omnilytics.daemon.monitor.records import Record
from omnilytics.daemon.monitor.sources import LogSources
from omnilytics.daemon.monitor.terminal import PAGES, Place, Terminal, shown_task
from omnilytics.daemon.monitor.watch import Watch

FRAME_SECONDS = 0.5
# While a large log is caught up with, a frame is drawn after so many records.
RECORDS_A_FRAME = 20_000
# A screen has no room for more, and a frame no time.
NEWEST_ROUNDS = 100
_PIPE_ROOM = 50_000
_ARROWS = {"\x1b[A": "k", "\x1b[B": "j", "\x1b[5~": "K", "\x1b[6~": "J"}


class Keyboard:
    """Keys one by one, without an echo; no keys at all where there is no terminal to read from."""

    def __init__(self) -> None:
        self._handle: int | None = None
        self._before: list[Any] | None = None

    def __enter__(self) -> Keyboard:
        with contextlib.suppress(OSError, termios.error):
            # Not standard input: logs may come from there.
            self._handle = os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK)
            self._before = termios.tcgetattr(self._handle)
            tty.setcbreak(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            if self._before is not None:
                termios.tcsetattr(self._handle, termios.TCSADRAIN, self._before)
            os.close(self._handle)

    def wait(self, seconds: float) -> str:
        """The next key within so many seconds, or nothing."""
        if self._handle is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._handle], [], [], seconds)
        if not ready:
            return ""
        try:
            typed = os.read(self._handle, 32).decode(errors="ignore")
        except OSError:
            return ""
        # A terminal that has gone says nothing, for ever.
        return _ARROWS.get(typed, typed[:1]) or "q"


def press(key: str, place: Place, view: dict[str, Any]) -> bool:
    """Moves the place by a key; False when it says quit."""
    if key in ("q", "Q", "\x03"):
        return False
    if any(key == page for page, _, _ in PAGES):
        place.page, place.scroll = key, 0
    elif key in ("j", "J", "k", "K"):
        step = {"j": 1, "J": 10, "k": -1, "K": -10}[key]
        place.scroll = max(0, place.scroll + step)
    elif key in ("t", "\t"):
        numbers = [task["task"] for task in view["tasks"]]
        shown = shown_task(view, place.task)
        if shown is not None:
            place.task = numbers[(numbers.index(shown["task"]) + 1) % len(numbers)]
            place.scroll = 0
    return True


def _pump(records: Iterable[tuple[str, Record]], into: queue.Queue[tuple[str, Record]]) -> None:
    for item in records:
        into.put(item)


def _arrived(pipe: queue.Queue[tuple[str, Record]], most: int) -> Iterator[tuple[str, Record]]:
    with contextlib.suppress(queue.Empty):
        for _ in range(most):
            yield pipe.get_nowait()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_live(
    sources: LogSources,
    watch: Watch,
    publish: Callable[[dict[str, Any]], None],
    out: TextIO | None,
    task: int | None = None,
    wall: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Until q, SIGTERM or SIGINT: the last view. out: where the screen is drawn, None for nowhere; publish gets every
    view (for an exporter)."""
    pipe: queue.Queue[tuple[str, Record]] = queue.Queue(_PIPE_ROOM)
    threading.Thread(target=_pump, args=(sources.piped(), pipe), daemon=True).start()
    place = Place(task=task)
    fresh = sources.new_records()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals())
        keyboard = stack.enter_context(Keyboard() if out is not None else contextlib.nullcontext())
        terminal = stack.enter_context(Terminal(out)) if out is not None else None
        while True:
            count = watch.take(islice(fresh, RECORDS_A_FRAME))
            count += watch.take(_arrived(pipe, RECORDS_A_FRAME))
            if count < RECORDS_A_FRAME:
                fresh = sources.new_records()
            now = wall()
            view = describe(watch, now, watch.look(now), sources.files, NEWEST_ROUNDS)
            publish(view)
            if terminal is not None:
                terminal.draw(view, place)
            pause = 0.0 if count >= RECORDS_A_FRAME else FRAME_SECONDS
            if keyboard is not None:
                if not press(keyboard.wait(pause), place, view):
                    return view
            else:
                stop.wait(pause)
            if stop.is_set():
                return view


def screen_to() -> TextIO | None:
    """Where a screen can be drawn: standard output, where it is a terminal."""
    return sys.stdout if sys.stdout.isatty() else None
