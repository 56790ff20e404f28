"""A task that forgets a cancellation is ended all the same."""

import asyncio

from omnilytics.daemon.ending import end_tasks


async def _forgetful(times: int) -> None:
    for _ in range(times):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue
    await asyncio.sleep(3600)


async def _failing() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        raise ValueError("while it was being cancelled")


async def test_all_tasks_have_ended_whatever_they_do_with_a_cancellation() -> None:
    tasks = [asyncio.create_task(work) for work in (_forgetful(0), _forgetful(2), _failing(), asyncio.sleep(0))]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end_tasks(tasks)
    assert all(task.done() for task in tasks)
    assert isinstance(tasks[2].exception(), ValueError)


async def test_nothing_to_end_is_fine() -> None:
    await end_tasks([])
