"""`scripts/coordinator`: a local chain and broker with the market deployed, until it is stopped.

Exit codes: 0 stopped by SIGTERM, SIGINT, SIGHUP or the end of its parent; 1 something did not start or ended by
itself; 2 wrong options.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from omnilytics.peers.errors import OmniLyticsError
from omnilytics.peers.messages import run_identifier
from scripts.broker_process import Broker, BrokerSecurity, BrokerUnreachableError, start_broker
from scripts.chain_process import Chain, ChainUnreachableError, RpcError, rpc_call, start_anvil
from scripts.deployment import (
    ARTIFACT,
    Deployment,
    DeploymentError,
    deploy,
    find_market,
    read_artifact,
    read_key,
)
from scripts.processes import ManagedProcess, ProcessError, cancelled_by_signals, die_with_parent
from scripts.toolchain import ROOT, MissingProgramError

FUNDED_ETHER = 1000


class StoppedError(Exception):
    """A part of the coordinator ended by itself."""


@dataclass(frozen=True)
class Options:
    """The command line; `chain` is None for a chain of our own."""

    chain: str | None
    market: str | None
    key_file: Path | None
    broker: str
    broker_security: str
    admit: tuple[Path, ...]
    block_time: float
    interval_blocks: bool
    accounts: int
    fund: tuple[str, ...]
    state: Path
    as_json: bool
    exit_with_parent: bool
    artifact: Path


def say(text: str) -> None:
    """Text for people: always on stderr."""
    click.echo(text, err=True)


async def coordinate(options: Options) -> None:
    """Starts everything, says so, and waits. Returns only by an exception: cancelled, or something ended."""
    artifact = read_artifact(options.artifact)
    key = read_key(options.key_file) if options.key_file else None
    options.state.mkdir(parents=True, exist_ok=True)
    description_file = options.state / "market.json"
    description_file.unlink(missing_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        chain: Chain | None = None
        watched: list[ManagedProcess] = []
        if options.chain is None:
            anvil = start_anvil(
                options.state,
                block_time=options.block_time,
                accounts=options.accounts,
                interval_only=options.interval_blocks,
            )
            chain = await stack.enter_async_context(anvil)
            watched.append(chain.process)
            key = key or chain.private_keys[0]
        rpc_url = chain.rpc_url if chain else str(options.chain)
        # A broker that is there already is looked for before money is spent on the deployment.
        broker = None
        if options.broker_security == "none":
            broker = await stack.enter_async_context(start_broker(options.broker, options.state))

        if options.market is not None:
            deployment = await asyncio.to_thread(find_market, rpc_url, options.market, artifact)
        else:
            assert key is not None
            deployment = await asyncio.to_thread(deploy, rpc_url, artifact, key)
        if broker is None:
            # It is for this market alone, so it must know it.
            security = await asyncio.to_thread(secure_broker, options, deployment)
            broker = await stack.enter_async_context(start_broker(options.broker, options.state, security))
        watched += broker.processes
        for address in options.fund:
            await asyncio.to_thread(rpc_call, rpc_url, "anvil_setBalance", address, hex(FUNDED_ETHER * 10**18))

        description = describe(options, chain, broker, deployment)
        write_private(description_file, json.dumps(description, indent=2) + "\n")
        introduce(options, broker, deployment, description)
        if options.as_json:
            click.echo(json.dumps({"event": "ready", **description}))
            sys.stdout.flush()
        await wait_for_end(watched)


def describe(options: Options, chain: Chain | None, broker: Broker, deployment: Deployment) -> dict[str, Any]:
    """What launchers read, from stdout or from market.json."""
    return {
        "v": 1,
        "rpc_url": chain.rpc_url if chain else options.chain,
        "websocket_url": chain.websocket_url if chain else None,
        "chain_id": deployment.chain_id,
        "genesis_hash": deployment.genesis_hash,
        "market": deployment.market,
        "deploy_block": deployment.block,
        "deploy_gas": deployment.gas,
        "broker_url": broker.url,
        # More than one where brokers are bridged: participants may connect to any of them.
        "broker_urls": broker.urls,
        "broker": broker.kind,
        # Where secured: the authority's folder, with ca.pem and what was admitted.
        "broker_authority": str(authority_folder(options).resolve()) if options.broker_security == "tls" else None,
        # Every anvil's own, worth nothing elsewhere. A key of a real chain stays in its file.
        "funding_key": chain.private_keys[0] if chain else None,
        "block_time": options.block_time if chain else None,
        "state": str(options.state.resolve()),
        "pid": os.getpid(),
        "pids": {
            "anvil": chain.process.pid if chain else None,
            "mosquitto": broker.process.pid if broker.process else None,
        },
    }


def authority_folder(options: Options) -> Path:
    """Of the broker that we secure."""
    return options.state / "broker-authority"


def secure_broker(options: Options, deployment: Deployment) -> BrokerSecurity:
    """An authority, found again in the folder or made, that has admitted who asks; and the market's run."""
    from datetime import UTC, datetime

    from omnilytics.daemon.broker_request import read_request
    from scripts.broker_authority import create_authority, open_authority

    folder, now = authority_folder(options), datetime.now(UTC)
    known = (folder / "ca-key.pem").exists()
    authority = open_authority(folder) if known else create_authority(folder, ["127.0.0.1", "localhost"], now)
    for path in options.admit:
        authority.admit(read_request(path.read_text(encoding="utf-8")), now)
    market, genesis = (bytes.fromhex(text.removeprefix("0x")) for text in (deployment.market, deployment.genesis_hash))
    return BrokerSecurity(authority, run_identifier(deployment.chain_id, market, genesis))


def introduce(options: Options, broker: Broker, deployment: Deployment, description: dict[str, Any]) -> None:
    """Tells people what runs and how to use it."""
    rhythm = f", a block every {options.block_time:g} s and at every transaction" if options.block_time else ""
    say("")
    say(f"chain   {description['rpc_url']}  (chain id {deployment.chain_id}{'' if options.chain else rhythm})")
    placed = f"deployed in block {deployment.block}" if deployment.block is not None else "was there already"
    say(f"market  {deployment.market}  ({placed})")
    say(f"broker  {broker.printable_url}  ({broker.kind})")
    if broker.other is not None:
        say(f"        {broker.other.printable_url}  (bridged with it: participants may use either)")
    if options.broker_security == "tls":
        say(
            f"        wants client certificates: scripts/broker-admit sign --folder {authority_folder(options)} REQUEST"
        )
    say(f"folder  {options.state}  (market.json, logs)")
    for address in options.fund:
        say(f"funded  {address}  ({FUNDED_ETHER} ether)")
    say("")
    say("Daemons are started with:")
    say(
        f"  --chain {description['rpc_url']} --chain-id {deployment.chain_id}"
        f" --market {deployment.market} --broker {broker.printable_url}"
    )
    if description["funding_key"] and not options.fund:
        say(f"Their accounts get ether with: scripts/fund ADDRESS (each {FUNDED_ETHER} ether)")
    say("Ctrl-C stops it.")


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600 in one step: a reader sees all of it or none."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
    fresh.replace(path)


async def wait_for_end(watched: list[ManagedProcess]) -> None:
    """Waits until a process of ours ends, which none should."""
    if not watched:
        await asyncio.Event().wait()
    async with contextlib.AsyncExitStack() as stack:
        tasks = {asyncio.create_task(process.wait()): process for process in watched}
        for task in tasks:
            stack.callback(task.cancel)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = tasks[done.pop()]
        raise StoppedError(f"{ended.name} ended by itself with code {ended.returncode}; its log: {ended.log}")


def exit_with_parent() -> None:
    """SIGTERM to us when our parent ends, or closes the pipe that is our stdin (which works on every system)."""
    parent = os.getppid()
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
    mode = os.fstat(0).st_mode
    # Other kinds of stdin say nothing about the parent: /dev/null is at its end from the start.
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):

        def wait_for_eof() -> None:
            while os.read(0, 4096):
                pass
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait_for_eof, daemon=True).start()


async def run(options: Options) -> int:
    with cancelled_by_signals() as received:
        if options.exit_with_parent:
            exit_with_parent()
        try:
            await coordinate(options)
        except asyncio.CancelledError:
            if not received:
                raise
            say("stopped")
            return 0
        except (
            MissingProgramError,
            ProcessError,
            BrokerUnreachableError,
            OmniLyticsError,
            ChainUnreachableError,
            RpcError,
            DeploymentError,
            StoppedError,
        ) as error:
            say(f"scripts/coordinator: {error}")
            return 1
    return 0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--chain", metavar="URL", help="Use this Ethereum RPC instead of a local anvil.")
@click.option("--market", metavar="ADDRESS", help="Use this market contract instead of deploying one.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private key (hex) of the account that pays for the deployment; needed with --chain without --market.",
)
@click.option(
    "--broker",
    default="embedded",
    show_default=True,
    metavar="embedded|mosquitto|bridged|URL",
    help="MQTT broker; bridged: two Mosquittos; the address of a running one as mqtt://host:port.",
)
@click.option(
    "--broker-security",
    type=click.Choice(["none", "tls"]),
    default="none",
    show_default=True,
    help="tls: TLS, client certificates, and topics for each participant alone. docs/deploy.md.",
)
@click.option(
    "--admit",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="REQUEST",
    help="With tls: certify who made this request (omnilytics broker request); may be given more than once.",
)
@click.option(
    "--block-time",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The local chain adds a block this often, besides one a transaction; 0: only at transactions.",
)
@click.option(
    "--interval-blocks", is_flag=True, help="Only at --block-time, not at transactions: as public networks do."
)
@click.option(
    "--accounts",
    type=click.IntRange(min=1, max=10_000),
    default=10,
    show_default=True,
    help="Accounts with ether and well-known keys on the local chain.",
)
@click.option(
    "--fund",
    multiple=True,
    metavar="ADDRESS",
    help=f"Give this account {FUNDED_ETHER} ether on the local chain; may be given more than once.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for market.json and logs (default: runs/coordinator-TIME).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line on stdout once all is ready.")
@click.option("--exit-with-parent", is_flag=True, help="Stop when the parent process ends or closes our stdin, a pipe.")
@click.option(
    "--artifact",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ARTIFACT,
    help="The compiled market (default: contracts/artifacts/Market.json).",
)
def main(
    chain: str | None, market: str | None, key_file: Path | None, fund: tuple[str, ...], state: Path | None, **rest: Any
) -> None:
    """Start a local chain and broker, deploy the market, and keep them until Ctrl-C.

    For people who start daemons by hand. Everything is on free ports of 127.0.0.1.
    """
    if chain and not market and not key_file:
        raise click.UsageError("--chain needs --key-file FILE (who pays for the deployment) or --market ADDRESS")
    if market and not chain:
        raise click.UsageError("--market needs --chain: a new local chain has no contract yet")
    if rest["broker_security"] == "tls" and rest["broker"] not in ("embedded", "mosquitto", "bridged"):
        raise click.UsageError("--broker-security tls is for a broker of our own; for others see docs/deploy.md")
    if rest["admit"] and rest["broker_security"] != "tls":
        raise click.UsageError("--admit is for --broker-security tls")
    if rest["interval_blocks"] and (chain or not rest["block_time"]):
        raise click.UsageError("--interval-blocks needs a local chain and a --block-time")
    for address in fund:
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", address):
            raise click.UsageError(f"--fund: {address} is no address")
    if fund and chain:
        raise click.UsageError("--fund works on the local chain only")
    if state is None:
        state = ROOT / "runs" / time.strftime(f"coordinator-%Y%m%d-%H%M%S-{os.getpid()}")
    sys.exit(asyncio.run(run(Options(chain=chain, market=market, key_file=key_file, fund=fund, state=state, **rest))))


if __name__ == "__main__":
    main(prog_name="scripts/coordinator")
