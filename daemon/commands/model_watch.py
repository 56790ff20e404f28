"""omnilytics model watch: a task, one line a round."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import network_options, settings_from

if TYPE_CHECKING:
    from omnilytics.daemon.config import Settings


@click.command()
@network_options
@click.argument("task", type=click.IntRange(1, 2**63 - 1), required=False)
@click.option("--once", is_flag=True, help="Show it as it is now, and leave.")
@json_option
def watch(task: int | None, once: bool, as_json: bool, **options: Any) -> None:
    """Watch a task: accuracy, selected groups and pay of each round, and who is waited for.

    \b
    TASK is the one of this folder where it is left out. Accuracy is known for tasks of this folder alone: it
    is in its log. It ends with the task. With --json every change is one object a line.

    \b
    Example: omnilytics model watch 7 --home ./model --once
    """
    from omnilytics.daemon.commands.model_fetch import task_of

    settings, _ = settings_from(options)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(settings, task if task is not None else task_of(settings), once, as_json))


async def _watch(settings: Settings, task: int, once: bool, as_json: bool) -> None:
    from omnilytics.daemon.chain import Chain
    from omnilytics.daemon.task_watch import HEADER, TaskView, TaskWatch, without_countdown
    from omnilytics.peers.errors import ChainError

    chain = Chain(settings.chain_url, settings.market_address)
    shown: TaskView | None = None
    told = ""
    try:
        await chain.connect(settings.chain_id)
        watching = TaskWatch(chain, task, settings.log_path)
        while True:
            try:
                view = await watching.look()
            except ChainError as error:
                if once or shown is None:
                    raise
                click.echo(f"{error.message}; trying again", err=True)
                view = shown
            if as_json:
                if shown is None or without_countdown(view) != without_countdown(shown):
                    emit("model watch", view.as_json(), True, "")
            else:
                if shown is None:
                    click.echo(HEADER)
                known = {row.round: row for row in shown.rows} if shown is not None else {}
                for row in view.rows:
                    # A line that got its accuracy after it was shown is shown again.
                    if known.get(row.round) != row:
                        click.echo(row.line(view.rounds))
                # The countdown alone is no news.
                news = without_countdown(view).waiting_line()
                if news != told:
                    click.echo(view.waiting_line(), err=True)
                told = news
            shown = view
            if once or view.over:
                return
            await asyncio.sleep(max(settings.poll_seconds, 0.2))
    finally:
        await chain.close()
