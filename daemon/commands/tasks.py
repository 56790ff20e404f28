"""omnilytics tasks: what the market offers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option, network_options, settings_from

if TYPE_CHECKING:
    from omnilytics.daemon.chain import Chain
    from omnilytics.daemon.config import Settings

_Answer = TypeVar("_Answer")


class _ListsByDefault(click.Group):
    """`omnilytics tasks` alone, or with options, lists."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        asked = arguments[:1]
        if not asked or (asked[0].startswith("-") and asked[0] not in context.help_option_names):
            arguments = ["list", *arguments]
        return super().parse_args(context, arguments)


@click.group(cls=_ListsByDefault)
def tasks() -> None:
    """The market's tasks; without a command they are listed."""


@tasks.command("list")
@network_options
@json_option
def list_(as_json: bool, **options: Any) -> None:
    """List the tasks of the market: status, terms, what they train.

    \b
    Example: omnilytics tasks list --chain http://127.0.0.1:8545 --market 0x5FbD...
    """
    settings, _ = settings_from(options)
    found = asyncio.run(_read_all(settings))
    lines = [line for task in found for line in _lines(task)]
    emit("tasks list", {"tasks": found}, as_json, "\n".join(lines))
    if not found and not as_json:
        click.echo("no tasks yet", err=True)


@tasks.command()
@network_options
@click.argument("task", type=click.IntRange(1, 2**63 - 1))
@json_option
def show(task: int, as_json: bool, **options: Any) -> None:
    """Show everything that the chain says of one task: its terms, money, and owners by group.

    \b
    Example: omnilytics tasks show 7 --chain http://127.0.0.1:8545 --market 0x5FbD...
    """
    settings, _ = settings_from(options)
    found = asyncio.run(_read_one(settings, task))
    lines = _lines(found)
    lines += [f"     model owner {found['model_owner']}"]
    lines += [f"     {name:<22} {value}" for name, value in (found["params"] | found["money"]).items()]
    for owner in found["owners"]:
        group = "no group" if owner["group"] is None else f"group {owner['group']}"
        lines.append(f"     {owner['account']} {owner['status']:<9} {group}, stake {owner['stake_wei']} wei")
    emit("tasks show", found, as_json, "\n".join(lines))


@tasks.command()
@home_option
@click.argument("task", type=click.IntRange(1, 2**63 - 1))
@json_option
def accept(home: Path, task: int, as_json: bool) -> None:
    """Say yes to an open task: with ask_first under [policy] it is joined then, if data and policy allow it.

    The running daemon is asked, and keeps the word; exit code 3 when none runs on the folder. `tasks refuse` takes it
    back as long as the task is not joined.

    \b
    Example: omnilytics tasks accept 7 --home ./alice
    """
    _decide("accept", home, task, as_json)


@tasks.command()
@home_option
@click.argument("task", type=click.IntRange(1, 2**63 - 1))
@json_option
def refuse(home: Path, task: int, as_json: bool) -> None:
    """Say no to an open task: it is never joined, also not by name.

    The running daemon is asked, and keeps the word; exit code 3 when none runs on the folder.

    \b
    Example: omnilytics tasks refuse 7 --home ./alice
    """
    _decide("refuse", home, task, as_json)


def _decide(method: str, home: Path, task: int, as_json: bool) -> None:
    from omnilytics.daemon.control.client import ControlClient

    with ControlClient(home) as daemon:
        told = daemon.ask(method, task=task)
    emit(f"tasks {method}", told, as_json, f"task {told['task']}: {told['decision']}")


def _lines(task: dict[str, Any]) -> list[str]:
    return [
        f"{task['task']:>4} {task['status']:<10} round {task['round']} of {task['rounds']}, "
        f"{task['members']} owners, {task['rate_wei']} wei a round, stake {task['stake_wei']} wei, "
        f"{_printable(task['spec'])}",
        f"     {task['protection']}",
    ]


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


async def _read_all(settings: Settings) -> list[dict[str, Any]]:
    async def read(chain: Chain) -> list[dict[str, Any]]:
        head = await chain.head()
        return [await _read(chain, task, head.number) for task in range(1, await chain.task_count() + 1)]

    return await _with_chain(settings, read)


async def _read_one(settings: Settings, task: int) -> dict[str, Any]:
    async def read(chain: Chain) -> dict[str, Any]:
        from omnilytics.daemon.market_log import MONEY

        found = await _read(chain, task, (await chain.head()).number)
        state, params = await chain.state(task), await chain.params(task)
        _, model_owner = await chain.created_task(task, (await chain.head()).number)
        owners = [
            {
                "account": "0x" + member.account.hex(),
                "status": member.status.name.lower(),
                "group": member.seat // params.group_size
                if member.seat // params.group_size < state.group_count
                else None,
                "stake_wei": member.stake,
            }
            for member in await chain.members(task)
        ]
        terms = {
            name: "0x" + value.hex() if isinstance(value, bytes) else value for name, value in asdict(params).items()
        }
        money = {f"{name}_wei": getattr(state, name) for name in MONEY}
        more = {
            "model_owner": "0x" + model_owner.hex(),
            "phase": state.phase.name.lower(),
            "phase_end": state.phase_end,
        }
        return found | more | {"params": terms, "money": money, "owners": owners}

    return await _with_chain(settings, read)


async def _with_chain(settings: Settings, read: Callable[[Chain], Awaitable[_Answer]]) -> _Answer:
    from omnilytics.daemon.chain import Chain

    chain = Chain(settings.chain_url, settings.market_address)
    try:
        await chain.connect(settings.chain_id)
        return await read(chain)
    finally:
        await chain.close()


async def _read(chain: Chain, task: int, until: int) -> dict[str, Any]:
    state, params = await chain.state(task), await chain.params(task)
    spec, _ = await chain.created_task(task, until)
    return {
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
