"""`scripts/testbed`: a whole market on this machine, on real data, from nothing to everybody paid.

Exit codes: 0 done; 2 wrong options; 130 interrupted; others: see `omnilytics --help`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from omnilytics.peers.errors import OmniLyticsError
from scripts.launcher.options import TestbedOptions, parse_kill
from scripts.launcher.run import run_testbed
from scripts.launcher.tables import report
from scripts.processes import ProcessError, cancelled_by_signals
from scripts.toolchain import ROOT
from tests.adversaries.poisons import POISONS, parse_poison

_KINDS = ", ".join(POISONS)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--owners", type=int, default=TestbedOptions.owners, show_default=True, help="Data owners, a process each."
)
@click.option("--group-size", type=int, default=TestbedOptions.group_size, show_default=True, help="Owners in a group.")
@click.option(
    "--faulty",
    type=int,
    default=TestbedOptions.faulty,
    show_default=True,
    help="Poisoned groups that Multi-Krum tolerates.",
)
@click.option("--rounds", type=int, help="Default: 1 under secret-head, where all rows go into it, otherwise 20.")
@click.option(
    "--protection",
    type=click.Choice(["secret-head", "perturbed", "envelope"]),
    default=TestbedOptions.protection,
    show_default=True,
    help="What the model is hidden from, and how: docs/security.md.",
)
@click.option(
    "--features",
    type=click.IntRange(1, 4096),
    metavar="WIDTH",
    help="secret-head: random features (default: as many as the owners' rows can hide behind).",
)
@click.option(
    "--model", default=TestbedOptions.model, show_default=True, help="softmax, or mlp:64,32 with other widths too."
)
@click.option("--data", type=click.Path(path_type=Path), help=".npz (X, y) or .csv instead of scikit-learn's digits.")
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv.")
@click.option(
    "--skew",
    type=float,
    default=TestbedOptions.skew,
    show_default=True,
    help="Dirichlet: the smaller, the more uneven.",
)
@click.option(
    "--seed",
    type=int,
    default=TestbedOptions.seed,
    show_default=True,
    help="For the split, the weights and the batches.",
)
@click.option("--batch-size", type=int, help="Rows of an owner's batch.")
@click.option("--optimiser", help="As momentum:RATE,DECAY or sgd:RATE.")
@click.option("--lane-bits", type=click.Choice(["8", "16", "32"]), help="Default: 32 under perturbed, otherwise 16.")
@click.option("--strict", is_flag=True, help="Select G - f - 2 groups instead of G - f.")
@click.option(
    "--delivery",
    type=click.Choice(["chain", "broker"]),
    default="chain",
    show_default=True,
    help="How vectors reach the model owner: posted, or over the broker.",
)
@click.option(
    "--rate", type=int, default=TestbedOptions.rate, show_default=True, metavar="WEI", help="For an owner and round."
)
@click.option("--poison", metavar="KIND:COUNT", help=f"So many whole groups are hostile: {_KINDS}.")
@click.option("--poison-owners", metavar="KIND:COUNT", help="So many single owners are hostile.")
@click.option(
    "--kill",
    multiple=True,
    metavar="WHO@WHEN[:ROUND]",
    help="model@settle or owner@post; in round 3, or the last. Several owner@post kill several owners.",
)
@click.option(
    "--chaos", type=float, default=0.0, help="In every round kill this share of the owners and start them again."
)
@click.option(
    "--drop-broker", type=float, default=0.0, metavar="SECONDS", help="Cut the broker off in round 2, or the last."
)
@click.option(
    "--reorg", type=int, default=0, metavar="DEPTH", help="Reorganise so many blocks away in round 2, or the last."
)
@click.option("--verify", is_flag=True, help="Compare every decrypted sum with the owners' own quantised updates.")
@click.option("--broker", default=TestbedOptions.broker, show_default=True, metavar="embedded|mosquitto|bridged|URL")
@click.option(
    "--broker-security",
    type=click.Choice(["none", "tls"]),
    default=TestbedOptions.broker_security,
    show_default=True,
    help="tls: certificates, and topics for each participant alone. docs/deploy.md.",
)
@click.option("--chain", metavar="URL", help="Another Ethereum RPC instead of a local anvil; needs --key-file.")
@click.option("--key-file", type=click.Path(path_type=Path), help="Private key that pays on that chain.")
@click.option(
    "--depth", type=int, default=TestbedOptions.depth, show_default=True, help="Blocks between commit and post."
)
@click.option(
    "--finality-depth",
    type=int,
    default=TestbedOptions.finality_depth,
    show_default=True,
    help="Blocks that daemons stay behind.",
)
@click.option(
    "--block-seconds",
    type=int,
    default=TestbedOptions.block_seconds,
    show_default=True,
    help="Slowest block time to allow for.",
)
@click.option(
    "--block-time",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Local blocks come so often and at no other time, as on public networks. Default: also at transactions.",
)
@click.option(
    "--fee-jump",
    type=click.IntRange(min=0),
    default=0,
    metavar="GWEI",
    help="The local chain's base fee jumps to this in the posts of round 2, or the last.",
)
@click.option(
    "--phase-seconds", type=int, help="Deadline of each phase (default 60; 30 with --kill, which waits for it)."
)
@click.option("--runs", type=click.Path(path_type=Path), default=ROOT / "runs", help="Where run folders go.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json on standard output.")
def main(runs: Path, as_json: bool, **chosen: Any) -> None:
    """Run a market of data owners on this machine and show what happened.

    \b
    scripts/testbed                               18 owners, one round, digits; nobody but the model owner sees a model
    scripts/testbed --protection envelope         20 rounds on a model that owners see; the contract selects
    scripts/testbed --poison noise:1              one whole group posts noise
    scripts/testbed --kill model@settle           the model owner vanishes; owners are paid all the same
    scripts/testbed --owners 30 --group-size 5 --model mlp:64,32
    scripts/testbed --data table.csv --label outcome
    """
    try:
        options = _options(**chosen)
        options.check()
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
        # Two testbeds may start in the same second.
        code = asyncio.run(_run(options, runs / f"{stamp}-{os.getpid()}", as_json))
    except OmniLyticsError as error:
        click.echo(f"scripts/testbed: {error.message}\n  {error.help}", err=True)
        code = error.exit_code
    except ProcessError as error:
        click.echo(f"scripts/testbed: {error}", err=True)
        code = 1
    sys.exit(code)


def _options(
    poison: str | None,
    poison_owners: str | None,
    kill: tuple[str, ...],
    lane_bits: str | None,
    phase_seconds: int | None,
    rounds: int | None,
    protection: str,
    **rest: Any,
) -> TestbedOptions:
    if rounds is None:
        rounds = TestbedOptions.rounds if protection == "secret-head" else 20
    return TestbedOptions(
        poison=parse_poison(poison) if poison else None,
        poison_owners=parse_poison(poison_owners) if poison_owners else None,
        kills=tuple(parse_kill(text, rounds) for text in kill),
        lane_bits=int(lane_bits or (32 if protection == "perturbed" else TestbedOptions.lane_bits)),
        rounds=rounds,
        protection=protection,
        phase_seconds=phase_seconds or (30 if kill else 60),
        **rest,
    )


async def _run(options: TestbedOptions, folder: Path, as_json: bool) -> int:
    with cancelled_by_signals() as received:
        try:
            summary = await run_testbed(options, folder)
        except asyncio.CancelledError:
            if not received:
                raise
            click.echo("\ninterrupted; every process is stopped", err=True)
            return 130
    for line in report(summary):
        click.echo(line, err=as_json)
    click.echo(f"{folder / 'summary.json'}, summary.png and logs/ beside it", err=as_json)
    if as_json:
        click.echo(json.dumps(summary))
    return 0


if __name__ == "__main__":
    main(prog_name="scripts/testbed")
