"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_PAUSE_SECONDS = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and returns when all have ended; their results and errors are not looked at.

    One cancel is not always enough: until Python 3.12 asyncio.wait_for, which libraries use, forgets a
    cancellation that comes in the moment in which what it waits for is done, and the task goes on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_PAUSE_SECONDS)
