"""omnilytics earnings and withdraw: what this participant has earned, and how it gets it without a daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.keys import stored_address
from omnilytics.daemon.commands.options import network_options, settings_from

if TYPE_CHECKING:
    from omnilytics.daemon.config import Settings
    from omnilytics.daemon.earnings import Earnings


@click.command()
@network_options
@click.option("--account", metavar="ADDRESS", help="Somebody else's (default: this folder's).")
@click.option("--offline", is_flag=True, help="Only what the journal knows: rounds posted, without a chain.")
@json_option
def earnings(account: str | None, offline: bool, as_json: bool, **options: Any) -> None:
    """Show what was paid, what was withdrawn and what can be withdrawn, by task, in wei, from the chain.

    The daemon may be running. No password is needed.

    \b
    Example: omnilytics earnings --home ./alice
    """
    settings, _ = settings_from(options)
    if offline:
        _offline(settings.journal_path, as_json)
        return
    from omnilytics.daemon.control.report import earnings_report

    address = account or stored_address(settings.keys_folder / "account.json")
    found = asyncio.run(_read(settings, parse_address("--account", address)))
    told = {"source": "chain", "account": "0x" + found.account.hex(), **earnings_report(found)}
    emit("earnings", told, as_json, "\n".join(_lines(found)))
    if not found.tasks:
        click.echo("this account has no task in this market", err=True)


def _offline(journal_path: Path, as_json: bool) -> None:
    from omnilytics.daemon.earnings import remembered

    known = remembered(journal_path)
    lines = [f"task {entry.task}: {entry.rounds} rounds posted" for entry in known]
    tasks = [{"task": entry.task, "rounds_posted": entry.rounds} for entry in known]
    emit("earnings", {"source": "journal", "tasks": tasks}, as_json, "\n".join(lines))
    click.echo("what was paid for them only the chain knows: leave --offline", err=True)


async def _read(settings: Settings, account: bytes) -> Earnings:
    from omnilytics.daemon.chain import Chain
    from omnilytics.daemon.earnings import read_earnings

    chain = Chain(settings.chain_url, settings.market_address)
    try:
        await chain.connect(settings.chain_id)
        return await read_earnings(chain, account, settings.finality_depth)
    finally:
        await chain.close()


def _lines(found: Earnings) -> list[str]:
    lines = []
    for entry in found.tasks:
        if entry.role == "model":
            lines.append(f"task {entry.task}, {entry.status}: this account's own")
            continue
        stake = f", {entry.staked} wei at stake" if entry.staked else ""
        lines.append(
            f"task {entry.task}, {entry.status}: {entry.paid_rounds} rounds paid, {entry.paid} wei, "
            f"{entry.withdrawn} withdrawn, {entry.withdrawable} can be withdrawn{stake}"
        )
    if found.credits:
        lines.append(f"credits (refunds, compensation, settlement): {found.credits} wei")
    lines.append(f"paid {found.paid} wei, withdrawn {found.withdrawn}, can be withdrawn {found.withdrawable}")
    return lines


@click.command()
@network_options
@click.option("--to", metavar="ADDRESS", help="Where the money goes (default: payout_address, else the own account).")
@click.option(
    "--wait-seconds", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Give up after so long."
)
@json_option
def withdraw(to: str | None, wait_seconds: float, as_json: bool, **options: Any) -> None:
    """Collect everything that the market owes to this folder's account.

    Pay, released stakes, and a model owner's refunds; what a deadline has set free, and nobody has poked, is among it.

    A running daemon withdraws by itself and holds the folder, because two senders would take each other's nonces:
    exit code 8 then. What an earlier life has sent is waited for first.

    \b
    Example: omnilytics withdraw --home ./alice --to 0x90F8bf6A479f320ead074411a4B0e7944Ea8c9C1
    """
    from omnilytics.daemon.earnings import withdraw as collect
    from omnilytics.daemon.home_lock import lock_home
    from omnilytics.daemon.keystore import load_keys, read_password
    from omnilytics.peers.errors import LockError

    settings, password_file = settings_from(options)
    receiver = parse_address("--to", to) if to is not None else settings.payout
    _ = settings.market_address, settings.chain_url
    keys = load_keys(settings.keys_folder, read_password(password_file))
    try:
        with lock_home(settings.home):
            done = asyncio.run(collect(settings, keys, receiver, wait_seconds))
    except LockError as error:
        raise LockError(
            error.message, help="a running daemon withdraws by itself whenever it is owed something; or stop it first"
        ) from error
    goes_to = "0x" + (receiver or keys.address).hex()
    answer: dict[str, Any] = {"amount_wei": 0, "fee_wei": 0, "to": goes_to, "block": None}
    if done is None:
        emit("withdraw", answer, as_json, "there is nothing to withdraw")
        return
    answer |= {"amount_wei": done.amount, "fee_wei": done.fee, "block": done.block}
    text = f"withdrew {done.amount} wei to {goes_to} in block {done.block}, for a fee of {done.fee} wei"
    emit("withdraw", answer, as_json, text)


def parse_address(option: str, text: str) -> bytes:
    """20 bytes. Raises ConfigurationError."""
    from omnilytics.peers.errors import ConfigurationError

    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        address = b""
    if len(address) != 20:
        raise ConfigurationError(f"{option} '{text}' is not an address", help="0x and 40 hex digits")
    return address
