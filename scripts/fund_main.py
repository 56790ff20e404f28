"""`scripts/fund`: ether for accounts on the local chain of a running `scripts/coordinator`.

Exit codes: 0 given; 1 no coordinator runs, or its chain does not answer or is nobody's to print money on; 2 wrong
options.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from scripts.chain_process import ChainUnreachableError, RpcError, rpc_call
from scripts.coordinator_main import FUNDED_ETHER
from scripts.toolchain import ROOT


def running_coordinator(folders: list[Path]) -> dict[str, Any] | None:
    """What market.json says in the newest of these folders whose coordinator still runs."""
    files = [folder / "market.json" for folder in folders if (folder / "market.json").is_file()]
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            os.kill(said["pid"], 0)
        except (OSError, ValueError, KeyError):
            continue
        return said
    return None


def give(rpc_url: str, address: str, ether: float) -> int:
    """Adds to an account's balance, which is returned, in wei. Raises RpcError where the chain is a real one."""
    balance = int(rpc_call(rpc_url, "eth_getBalance", address, "latest"), 16) + int(ether * 10**18)
    rpc_call(rpc_url, "anvil_setBalance", address, hex(balance))
    return balance


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option(
    "--ether", type=click.FloatRange(min=0, min_open=True), default=FUNDED_ETHER, show_default=True, help="For each."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The coordinator's folder (default: the newest running one in runs/).",
)
def main(addresses: tuple[str, ...], ether: float, state: Path | None) -> None:
    """Give accounts ether on the local chain that scripts/coordinator runs."""
    for address in addresses:
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", address):
            raise click.UsageError(f"{address} is no address")
    said = running_coordinator([state] if state is not None else list((ROOT / "runs").glob("coordinator-*")))
    if said is None:
        click.echo("scripts/fund: no coordinator runs; start one: scripts/coordinator", err=True)
        sys.exit(1)
    for address in addresses:
        try:
            balance = give(said["rpc_url"], address, ether)
        except (ChainUnreachableError, RpcError) as error:
            click.echo(f"scripts/fund: {error}", err=True)
            sys.exit(1)
        click.echo(f"{address} has {balance / 10**18:g} ether")


if __name__ == "__main__":
    main(prog_name="scripts/fund")
