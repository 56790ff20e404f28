"""One testbed run: coordinator, participants, following, summary; and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from omnilytics.daemon.commands.model import run as model_command
from omnilytics.daemon.log import show
from omnilytics.daemon.protection.sides import StatisticFunction
from omnilytics.daemon.run import ModelOptions
from omnilytics.peers.errors import OmniLyticsError
from scripts.launcher.chaos import Chaos, CutableProxy, outcomes, through_proxy
from scripts.launcher.follow import LogReader, Progress, Record, progress_to_stderr
from scripts.launcher.funding import fund_accounts
from scripts.launcher.options import TestbedOptions
from scripts.launcher.participants import (
    Cast,
    Participant,
    addresses,
    ask_for_certificates,
    fill_in,
    install_certificates,
    load_data,
    model_arguments,
    network_arguments,
    thin_sums,
    write_participants,
)
from scripts.launcher.plot import plot_summary
from scripts.launcher.summary import ChainFacts, Story, build_summary, plain_accuracy, read_chain, verify_sums
from scripts.processes import ManagedProcess, Supervisor, clean_environment
from scripts.toolchain import ROOT
from tests.adversaries.poisons import drawn_groups, hostile_groups

READY_SECONDS = 90.0
POLL_SECONDS = 0.2


class RunFailedError(OmniLyticsError):
    """A participant failed in a way that the run was not meant to have."""

    code = "testbed"


async def run_testbed(
    options: TestbedOptions,
    folder: Path,
    before_end: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
    started: Callable[[list[ManagedProcess]], None] = lambda processes: None,
) -> dict[str, Any]:
    """Runs a market in `folder` and returns its summary, which is also written there.

    before_end is called with the coordinator's description while chain and broker are still up; started with the
    coordinator, the model owner and the owners, once all of them are started.
    """
    began = time.monotonic()
    folder.mkdir(parents=True)
    (folder / "logs").mkdir()
    async with Supervisor() as supervisor, contextlib.AsyncExitStack() as stack:
        click.echo(f"{options.owners} data owners, folder {folder}", err=True)
        data = await asyncio.to_thread(load_data, options)
        options = fill_in(options, data[0])
        if lacking := thin_sums(options, data[0]):
            click.echo(
                f"warning: a group's sums lack {lacking} rows to hide single ones from the model owner; "
                "the owners are told to allow it",
                err=True,
            )
        cast = await asyncio.to_thread(write_participants, options, folder, data)
        requests = []
        if options.broker_security == "tls":
            requests = await asyncio.to_thread(ask_for_certificates, cast)
        market = await start_coordinator(supervisor, options, folder, cast, requests)
        if options.broker_security == "tls":
            await asyncio.to_thread(install_certificates, cast, Path(market["broker_authority"]))
        if options.chain is not None:
            assert options.key_file is not None
            await asyncio.to_thread(fund_accounts, options, market["rpc_url"], cast)
        readers = _link_logs(folder, cast)
        names = {show(person.address): person.name for person in (cast.model, *cast.owners)}
        progress = progress_to_stderr(options.rounds, names)
        progress.status("starting the daemons")
        proxy = None
        if options.drop_broker:
            broker = urlsplit(market["broker_url"])
            proxy = await stack.enter_async_context(CutableProxy(str(broker.hostname), broker.port or 1883).serve())
            url = through_proxy(market["broker_url"], proxy.port)
            market = {**market, "broker_url": url, "broker_urls": [url]}
        processes = await _start_daemons(supervisor, options, folder, cast, market)
        started(list(supervisor.processes))

        async def restart(person: Participant) -> ManagedProcess:
            return (await start_participant(supervisor, options, folder, person, market))[1]

        chaos = Chaos(
            options,
            {owner.name: owner for owner in cast.owners},
            processes,
            restart,
            proxy,
            market["rpc_url"],
            progress.line,
        )
        stack.push_async_callback(chaos.stop)
        records = await _follow(options, processes, readers, progress, chaos)
        if options.kills:
            # What died comes back when all is over: an owner for the rest of its stake, a model owner for
            # its refund and for the rounds that it has paid for and not decrypted yet.
            returned = {}
            for person in _killed(options, cast):
                progress.line(f"{person.name} is started again, to collect what is its own")
                name, process = await start_participant(supervisor, options, folder, person.revived(), market)
                returned[name] = process
            records += await _follow(options, returned, readers, progress)
        story = Story(records)
        created = story.of_model("task.created")
        if not created:
            raise RunFailedError("the model owner created no task", help=f"see {folder}/logs/model.jsonl")
        facts = await read_chain(market["rpc_url"], bytes.fromhex(market["market"][2:]), created[0]["task"], cast)
        if before_end is not None:
            await before_end(market)
    progress.status("training the same in one process")
    summary = await asyncio.to_thread(_summarise, options, facts, cast, story, time.monotonic() - began)
    if chaos.mishaps:
        summary["mishaps"] = outcomes(chaos.mishaps, records, facts.state.round)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    await asyncio.to_thread(plot_summary, summary, folder / "summary.png")
    progress.line("")
    return summary


async def start_coordinator(
    supervisor: Supervisor, options: TestbedOptions, folder: Path, cast: Cast, requests: list[Path]
) -> dict[str, Any]:
    """Chain, broker and market; where they are. Everybody in the cast has ether on a chain of its own."""
    argv: list[str | Path] = [sys.executable, "-m", "scripts.coordinator_main", "--json", "--exit-with-parent"]
    argv += [f"--state={folder / 'market'}", f"--broker={options.broker}"]
    argv += [f"--broker-security={options.broker_security}", *(f"--admit={path}" for path in requests)]
    if options.chain is not None:
        argv += [f"--chain={options.chain}", f"--key-file={options.key_file}"]
    else:
        argv += [f"--fund={address}" for address in addresses(cast)]
        if options.block_time is not None:
            argv += [f"--block-time={options.block_time}", "--interval-blocks"]
    process = await supervisor.start(
        "coordinator",
        argv,
        log=folder / "logs" / "coordinator.log",
        stdout=folder / "logs" / "coordinator.out",
        cwd=ROOT,
    )
    return await process.wait_event("ready", timeout=READY_SECONDS)


def _link_logs(folder: Path, cast: Cast) -> list[LogReader]:
    """Each participant logs into its own folder; logs/ shows them all in one place."""
    readers = []
    for person in (cast.model, *cast.owners):
        path = folder / "logs" / f"{person.name}.jsonl"
        path.symlink_to(Path("..") / person.home.relative_to(folder) / "log.jsonl")
        readers.append(LogReader(person.name, path))
    return readers


async def _start_daemons(
    supervisor: Supervisor, options: TestbedOptions, folder: Path, cast: Cast, market: dict[str, Any]
) -> dict[str, ManagedProcess]:
    # The model owner first: the owners find its task on the chain.
    return dict(
        [await start_participant(supervisor, options, folder, person, market) for person in (cast.model, *cast.owners)]
    )


async def start_participant(
    supervisor: Supervisor, options: TestbedOptions, folder: Path, person: Participant, market: dict[str, Any]
) -> tuple[str, ManagedProcess]:
    """A daemon: its name and its process."""
    # One thread each: dozens of daemons share few cores, and a BLAS that starts a thread a core in each of
    # them only makes them wait for each other.
    environment = clean_environment({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    argv = [*person.command, *network_arguments(options, person.home, market)]
    log = folder / "logs" / f"{person.name}.out"
    return person.name, await supervisor.start(person.name, argv, log=log, env=environment, cwd=ROOT)


def _killed(options: TestbedOptions, cast: Cast) -> list[Participant]:
    """Who is killed in this run."""
    roles = {kill.role for kill in options.kills}
    return [*([cast.model] if "model" in roles else []), *(cast.owners[index] for index in options.killed_owners)]


async def _follow(
    options: TestbedOptions,
    processes: dict[str, ManagedProcess],
    readers: Sequence[LogReader],
    progress: Progress,
    chaos: Chaos | None = None,
) -> list[tuple[str, Record]]:
    """Reads the logs until all daemons have ended. Raises RunFailedError when one fails that was not to be killed."""
    records: list[tuple[str, Record]] = []
    while True:
        running = [process for process in processes.values() if process.returncode is None]
        for reader in readers:
            for record in reader.new_records():
                records.append((reader.name, record))
                progress.see(reader.name, record)
                if chaos is not None:
                    chaos.see(reader.name, record)
        for name, process in list(processes.items()):
            # SIGKILL is how an adversary of ours dies; nothing else ends so.
            if process.returncode not in (None, 0) and not (
                (options.kills or options.chaos) and process.returncode == -signal.SIGKILL
            ):
                tail = process.log.read_text(encoding="utf-8", errors="replace").splitlines()[-6:]
                raise RunFailedError(
                    f"{name} ended with code {process.returncode}: {' | '.join(tail) or 'no words'}",
                    help=f"see {process.log} and the .jsonl beside it",
                )
        if not running and not (chaos is not None and chaos.busy):
            return records
        await asyncio.sleep(POLL_SECONDS)


def _summarise(
    options: TestbedOptions, facts: ChainFacts, cast: Cast, story: Story, wall_seconds: float
) -> dict[str, Any]:
    poisoned: dict[int, StatisticFunction] = {}
    groups = drawn_groups(facts.members, facts.params.group_size)
    killed = [cast.owners[index].address for index in options.killed_owners]
    hostile = hostile_groups(groups, options.poison.count, killed) if options.poison is not None else set()
    for index, owner in enumerate(cast.owners):
        if options.poison_owners is not None and index < options.poison_owners.count:
            poisoned[index] = options.poison_owners.function
        elif options.poison is not None and groups.get(owner.address) in hostile:
            poisoned[index] = options.poison.function
    context = model_command.make_context(
        "run", model_arguments(options, cast.model.home / "data.npz"), resilient_parsing=False
    )
    names = ModelOptions.__dataclass_fields__
    model_options = ModelOptions(**{name: context.params[name] for name in names})
    plain = plain_accuracy(options, model_options, facts, cast, story, poisoned)
    verified = options.verify and verify_sums(facts, cast, story)[0]
    addresses_of_poisoned = {cast.owners[index].address for index in poisoned}
    return build_summary(options, facts, cast, story, addresses_of_poisoned, plain, verified, wall_seconds)
