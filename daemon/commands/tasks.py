"""omnilytics tasks: what the market offers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from omnilytics.daemon.commands.options import network_options, settings_from


@click.command()
@network_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def tasks(as_json: bool, **options: Any) -> None:
    """List the tasks of the market: status, terms, what they train.

    \b
    Example: omnilytics tasks --chain http://127.0.0.1:8545 --market 0x5FbD...
    """
    settings, _ = settings_from(options)
    found = asyncio.run(_read(settings))
    if as_json:
        click.echo(json.dumps({"schema": 1, "tasks": found}))
        return
    for task in found:
        click.echo(
            f"{task['task']:>4} {task['status']:<10} round {task['round']} of {task['rounds']}, "
            f"{task['members']} owners, {task['rate_wei']} wei a round, stake {task['stake_wei']} wei, "
            f"{_printable(task['spec'])}"
        )
        click.echo(f"     {task['protection']}")
    if not found:
        click.echo("no tasks yet", err=True)


def _printable(text: str) -> str:
    """A stranger's text for a terminal: no escape sequences, no end of lines."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _protection(spec: bytes) -> str:
    """What the task promises to owners, or why nobody should join it: our own words, never a stranger's."""
    from omnilytics.daemon.spec import decode_spec
    from omnilytics.peers.errors import ParameterError

    try:
        return decode_spec(spec).means.promise
    except ParameterError:
        return "its description cannot be used: do not join it"


async def _read(settings: Any) -> list[dict[str, Any]]:
    from omnilytics.daemon.chain import Chain

    chain = Chain(settings.chain_url, settings.market_address)
    try:
        await chain.connect(settings.chain_id)
        head = await chain.head()
        found = []
        for task in range(1, await chain.task_count() + 1):
            state, params = await chain.state(task), await chain.params(task)
            spec, _ = await chain.created_task(task, head.number)
            found.append(
                {
                    "task": task,
                    "status": state.status.name.lower(),
                    "round": state.round,
                    "rounds": params.rounds,
                    "members": state.member_count,
                    "rate_wei": params.rate,
                    "stake_wei": params.stake,
                    "spec": spec.decode(errors="replace"),
                    "protection": _protection(spec),
                }
            )
        return found
    finally:
        await chain.close()
