"""What many tasks cost: a hundred open ones on one contract, and one owner's daemon that plays twenty.

Open tasks are looked at by every owner that waits for one it may join. Tasks that are played share an owner's
processor, its account and its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from eth_account import Account

from omnilytics.daemon.chain import Chain
from omnilytics.daemon.keystore import Keys, create_keys
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_offer import Terms, Timing, make_offer
from omnilytics.peers.keys import BoxIdentity
from scripts.bench_suite.process_figures import cpu_seconds
from scripts.bench_suite.rounds import PATIENCE, Say, read_logs, set_environment
from scripts.broker_process import start_broker
from scripts.chain_process import Chain as Anvil
from scripts.chain_process import start_anvil
from scripts.deployment import deploy, read_artifact
from scripts.idle_figures_main import PROGRAM
from scripts.launcher.follow import LogReader, Record
from scripts.launcher.options import TestbedOptions
from scripts.launcher.participants import Cast, load_data, write_participants
from scripts.launcher.run import start_coordinator, start_participant
from scripts.pages import table
from scripts.processes import ManagedProcess, Supervisor

COUNTS = (1, 10, 100)
PLAYED = (1, 5, 20)
IDLE_SECONDS = 10.0
_LONG = 10**6
_GAS_LIMIT, _PRICE, _TIP = 2**24 - 1, 200 * 10**9, 10**9
_DEADLINE = 300.0


@dataclass(frozen=True)
class OpenTasks:
    """So many open tasks. Milliseconds of single calls; seconds of processor time of an owner that may join none."""

    count: int
    create_gas: int
    state_ms: float
    first_terms_ms: float
    last_terms_ms: float
    found_s: float
    found_cpu_s: float
    idle_cpu_share: float


@dataclass(frozen=True)
class PlayedTasks:
    """So many tasks at once, played by the same owners. Seconds; processor time is one owner's, of a task's round."""

    count: int
    rounds: int
    selected: int
    seconds: float
    owner_cpu_ms: float
    transactions: int


# ------------------------------------------------------------------------- open tasks


async def open_tasks(folder: Path, counts: Sequence[int], say: Say) -> list[OpenTasks]:
    """One market with more and more open tasks; at each count an owner comes that has no data for any of them."""
    folder.mkdir(parents=True)
    np.savez(folder / "other.npz", X=np.random.default_rng(1).normal(size=(400, 5)), y=np.arange(400) % 2)
    results: list[OpenTasks] = []
    async with start_anvil(folder / "chain") as anvil, start_broker("embedded", folder / "broker") as broker:
        deployed = await asyncio.to_thread(deploy, anvil.rpc_url, read_artifact(), anvil.private_keys[0])
        chain = Chain(anvil.rpc_url, bytes.fromhex(deployed.market[2:]))
        await chain.connect()
        try:
            creator = _Creator(anvil, chain)
            for count in counts:
                say(f"{count} open tasks")
                gas = [await creator.create() for _ in range(len(creator.gas), count)]
                async with Supervisor() as supervisor:
                    results.append(
                        await _looked_at(
                            chain, anvil, supervisor, folder, broker.url, count, gas[-1] if gas else creator.gas[-1]
                        )
                    )
        finally:
            await chain.close()
    return results


class _Creator:
    """A model owner without a daemon."""

    def __init__(self, anvil: Anvil, chain: Chain) -> None:
        self._chain = chain
        self._keys = Keys(Account.from_key(anvil.private_keys[1]), BoxIdentity.from_entropy(bytes(31) + b"\x01"))
        self._nonce = 0
        self.gas: list[int] = []

    async def create(self) -> int:
        """One more task; what it cost."""
        chain = self._chain
        spec = TaskSpec("softmax", 64, tuple("0123456789"), 1.0, 200)
        offer = await make_offer(
            chain, spec, Terms(2, 3, 3, 0, 16), Timing(_LONG, _LONG, _LONG, _LONG, _LONG, _LONG, 60)
        )
        reward, pot = await chain.escrow_required(offer.params)
        data = chain.encode("createTask", offer.contract_params(), self._keys.box.public, spec.encode())
        call = chain.transaction(data, reward + pot, self._nonce, _GAS_LIMIT, _PRICE, _TIP)
        raw, tx_hash = self._keys.sign(call)
        await chain.send_raw(raw)
        async with asyncio.timeout(60):
            while (receipt := await chain.receipt(tx_hash)) is None:  # noqa: ASYNC110 (no event tells of a block)
                await asyncio.sleep(0.005)
        if not receipt.succeeded:
            await chain.estimate(self._keys.address, data, reward + pot)
        self._nonce += 1
        self.gas.append(receipt.gas_used)
        return receipt.gas_used


async def _looked_at(
    chain: Chain, anvil: Anvil, supervisor: Supervisor, folder: Path, broker: str, count: int, gas: int
) -> OpenTasks:
    head = await chain.head()
    state = await _median_ms(lambda: chain.state(count))
    first = await _median_ms(lambda: chain.created_task(1, head.number))
    last = await _median_ms(lambda: chain.created_task(count, head.number))
    home = folder / f"owner-{count}"
    home.mkdir()
    (home / "password").write_text("bench\n")
    (home / "password").chmod(0o400)
    await anvil.call("anvil_setBalance", create_keys(home / "keys", "bench", light=True).account.address, hex(10**20))
    argv: list[str | Path] = [
        *PROGRAM, "owner", "run", "--data", folder / "other.npz", "--home", home, "--chain", chain.url,
        "--market", "0x" + chain.market.hex(), "--broker", broker,
    ]  # fmt: skip
    owner = await supervisor.start(home.name, argv, log=folder / f"{home.name}.txt", events=home / "log.jsonl")
    await owner.wait_event("daemon.ready", timeout=60)
    began, cpu = time.perf_counter(), cpu_seconds(owner.pid)
    refused: set[int] = set()

    def see(line: str) -> bool | None:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if record["event"] == "task.refused":
                refused.add(record["task"])
        return True if len(refused) == count else None

    await owner.wait_line(see, what=f"a word on {count} tasks", timeout=_DEADLINE)
    found, found_cpu = time.perf_counter() - began, cpu_seconds(owner.pid) - cpu
    cpu = cpu_seconds(owner.pid)
    await asyncio.sleep(IDLE_SECONDS)
    idle = (cpu_seconds(owner.pid) - cpu) / IDLE_SECONDS
    await owner.stop()
    return OpenTasks(count, gas, state, first, last, found, found_cpu, idle)


async def _median_ms(call: Callable[[], Awaitable[Any]], turns: int = 15) -> float:
    taken = []
    for _ in range(turns):
        began = time.perf_counter()
        await call()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


# ------------------------------------------------------------------------ played tasks


async def played_tasks(folder: Path, count: int, rounds: int = 2) -> PlayedTasks:
    """So many model owners, and nine owners that play all of their tasks. Raises TimeoutError after minutes."""
    options = TestbedOptions(
        protection="envelope", owners=9, faulty=0, rounds=rounds, batch_size=16, phase_seconds=1800, join_seconds=1800
    )
    data = await asyncio.to_thread(load_data, options)
    casts = [
        await asyncio.to_thread(write_participants, replace(options, seed=number), folder / f"cast-{number}", data)
        for number in range(count)
    ]
    models = [replace(cast.model, name=f"model-{number}") for number, cast in enumerate(casts)]
    owners = [replace(owner, command=[*owner.command, f"--max-tasks={count}", "--stay"]) for owner in casts[0].owners]
    everybody = Cast(models[0], [*owners, *models[1:]], casts[0].owner_data, casts[0].model_data)
    (folder / "logs").mkdir()
    readers = []
    for person in (*models, *owners):
        path = folder / "logs" / f"{person.name}.jsonl"
        path.symlink_to(person.home / "log.jsonl")
        readers.append(LogReader(person.name, path))
    with set_environment(PATIENCE):
        async with Supervisor() as supervisor:
            market = await start_coordinator(supervisor, options, folder, everybody, [])
            processes = dict(
                [await start_participant(supervisor, options, folder, person, market) for person in (*models, *owners)]
            )
            players = [processes[owner.name].pid for owner in owners]
            async with asyncio.timeout(_DEADLINE + 20 * count):
                began = await _until(readers, processes, "daemon.ready", {person.name for person in (*models, *owners)})
                cpu = sum(map(cpu_seconds, players))
                ended = await _until(readers, processes, "task.ended", {model.name for model in models})
                cpu = sum(map(cpu_seconds, players)) - cpu
    records = read_logs(folder)
    done = [record for _, record in records if record["event"] == "round.done"]
    sent = [r for who, r in records if r["event"] == "tx.mined" and who.startswith("owner")]
    return PlayedTasks(
        count,
        len(done),
        sum(record["data"]["outcome"] == "selected" for record in done),
        ended - began,
        1000 * cpu / (len(owners) * max(1, len(done))),
        len(sent),
    )


def _reached(record: Record, event: str) -> bool:
    if event == "task.ended":
        return record["event"] == "phase.enter" and record.get("phase") == "ended"
    return bool(record["event"] == event)


async def _until(
    readers: Sequence[LogReader], processes: dict[str, ManagedProcess], event: str, names: set[str]
) -> float:
    """When all of these have logged an event. Raises RuntimeError where somebody fails meanwhile."""
    waited = set(names)
    while True:
        for reader in readers:
            for record in reader.new_records():
                if _reached(record, event):
                    waited.discard(reader.name)
        if not waited:
            return time.perf_counter()
        failed = {name: process.returncode for name, process in processes.items() if process.returncode}
        if failed:
            raise RuntimeError(f"ended early: {failed}")
        await asyncio.sleep(0.1)


# ---------------------------------------------------------------------------- tables


def open_table(results: Sequence[OpenTasks]) -> str:
    """In Markdown."""
    head = [
        "open tasks", "createTask, gas", "a task's state, ms", "the first one's terms, ms", "the last one's",
        "an owner has looked at all, s", "its processor time, s", "afterwards, of a processor",
    ]  # fmt: skip
    rows = [
        [
            str(each.count),
            f"{each.create_gas:,}",
            f"{each.state_ms:.1f}",
            f"{each.first_terms_ms:.1f}",
            f"{each.last_terms_ms:.1f}",
            f"{each.found_s:.2f}",
            f"{each.found_cpu_s:.2f}",
            f"{100 * each.idle_cpu_share:.1f} %",
        ]
        for each in results
    ]
    return table(head, rows)


def played_table(results: Sequence[PlayedTasks]) -> str:
    """In Markdown."""
    head = [
        "tasks at once", "rounds", "selected", "all over, s", "a task's round, s", "an owner's processor time, ms",
        "owners' transactions",
    ]  # fmt: skip
    rows = [
        [
            str(each.count),
            str(each.rounds),
            str(each.selected),
            f"{each.seconds:.1f}",
            f"{each.seconds / max(1, each.rounds):.2f}",
            f"{each.owner_cpu_ms:.0f}",
            str(each.transactions),
        ]
        for each in results
    ]
    return table(head, rows)
