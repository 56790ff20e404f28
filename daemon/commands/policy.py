"""omnilytics policy: what this folder's daemon would join, and why not."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option, network_options, settings_from
from omnilytics.daemon.config import Settings, load_settings

if TYPE_CHECKING:
    from omnilytics.daemon.policy import Objection

# The exit code of a refusal: that of the error with which the daemon would end.
_REFUSED = 2


@click.group()
def policy() -> None:
    """The owner's consent: [policy] in the folder's config.toml."""


@policy.command()
@home_option
@json_option
def show(home: Path, as_json: bool) -> None:
    """Show the policy in force, and which of it is default.

    \b
    Example: omnilytics policy show --home ./alice
    """
    from omnilytics.daemon.policy import meanings, read_policy
    from omnilytics.daemon.training.private import read_privacy

    settings = load_settings(home, {})
    table, privacy_table = settings.table("policy"), settings.table("privacy")
    chosen, privacy = read_policy(table), read_privacy(privacy_table)
    if as_json:
        said = {
            "policy": _entries(vars(chosen), table),
            "privacy": _entries(vars(privacy), privacy_table),
        }
        emit("policy show", said, True, "")
        return
    told = meanings()
    for name, value in vars(chosen).items():
        click.echo(f"{name:<31} {_toml(value):<20} {'' if name in table else '(default)':<10} {told[name]}")
    noise = f"noise_multiplier {privacy.noise_multiplier:g}, clip_norm {privacy.clip_norm:g}, delta {privacy.delta:g}"
    click.echo(f"local noise: {noise if privacy.active else 'off'}")


def _entries(values: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no infinity: no limit is null.
    return {
        name: {"value": None if value == float("inf") else value, "default": name not in table}
        for name, value in values.items()
    }


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        json.dumps(list(value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


@policy.command()
@network_options
@click.option("--task", type=click.IntRange(1, 2**63 - 1), required=True, help="The task in question.")
@click.option(
    "--data", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE|NAME", help="Own rows (default: enough)."
)
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv.")
@click.option("--max-stake", type=int, metavar="WEI", help="As for owner run.")
@json_option
def check(
    task: int, data: Path | None, label: str | None, max_stake: int | None, as_json: bool, **options: Any
) -> None:
    """Say whether this folder's daemon would join a task, and why not; exit code 2 where it would not.

    Nothing is sent, and the task may be over.

    \b
    Example: omnilytics policy check --home ./alice --chain http://127.0.0.1:8545 \\
                 --market 0x5FbD... --task 7 --data rows.npz
    """
    settings, _ = settings_from(options)
    found = asyncio.run(_objections(settings, task, data, label, max_stake))
    if as_json:
        reasons = [{"key": objection.key, "reason": objection.reason} for objection in found]
        emit("policy check", {"task": task, "joins": not found, "reasons": reasons}, True, "")
        sys.exit(_REFUSED if found else 0)
    if found:
        raise found[0].error()
    click.echo(f"task {task} would be joined")


async def _objections(
    settings: Settings, task: int, data: Path | None, label: str | None, max_stake: int | None
) -> list[Objection]:
    from omnilytics.daemon.chain import Chain
    from omnilytics.daemon.commands.ledger import read_ledger
    from omnilytics.daemon.data_registry import choose, read_registry
    from omnilytics.daemon.policy import Offer, objections
    from omnilytics.daemon.run import owner_policy
    from omnilytics.daemon.spec import decode_spec
    from omnilytics.daemon.training.data import read_dataset
    from omnilytics.daemon.training.private import read_privacy
    from omnilytics.daemon.training.trainers import allow

    chosen, privacy = owner_policy(settings, max_stake), read_privacy(settings.table("privacy"))
    allow(chosen.trainers)
    rows = None
    if data is not None:
        source = choose(read_registry(settings.table("data"), settings.home), data, label)
        rows = read_dataset(source.file, source.label).row_count
    chain = Chain(settings.chain_url, settings.market_address)
    try:
        await chain.connect(settings.chain_id)
        head = await chain.head()
        spec, model_owner = await chain.created_task(task, head.number)
        params = await chain.params(task)
    finally:
        await chain.close()
    offer = Offer(task, model_owner, decode_spec(spec), params, rows, privacy.noise_multiplier, privacy.delta)
    return list(objections(chosen, offer, read_ledger(settings.journal_path)))
