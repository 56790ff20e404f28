"""One market, two model owners, and owners that play both tasks at once: each in one daemon, with one account."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon.journal import Journal
from omnilytics.daemon.log import show
from omnilytics.daemon.monitor.panels import describe
from omnilytics.daemon.monitor.sources import LogSources
from omnilytics.daemon.monitor.watch import Watch
from omnilytics.peers.market import TaskStatus
from scripts.launcher.follow import LogReader, Record
from scripts.launcher.options import TestbedOptions
from scripts.launcher.participants import Cast, Participant, addresses, load_data, network_arguments, write_participants
from scripts.launcher.summary import ChainFacts, Story, read_chain, verify_sums
from scripts.processes import ManagedProcess, Supervisor, clean_environment
from scripts.toolchain import ROOT

OPTIONS = TestbedOptions(protection="envelope", owners=9, faulty=0, rounds=2, seed=1, leak_secrets=True)
PATIENCE = 240.0


class Logs:
    """Everybody's log, in one folder."""

    def __init__(self, folder: Path, people: list[Participant]) -> None:
        folder.mkdir()
        self.records: list[tuple[str, Record]] = []
        self._readers = []
        for person in people:
            path = folder / f"{person.name}.jsonl"
            path.symlink_to(person.home / "log.jsonl")
            self._readers.append(LogReader(person.name, path))

    def read(self) -> list[tuple[str, Record]]:
        """What is new."""
        fresh = [(reader.name, record) for reader in self._readers for record in reader.new_records()]
        self.records += fresh
        return fresh

    async def follow(self, processes: dict[str, ManagedProcess]) -> AsyncIterator[tuple[str, Record]]:
        """Records as they come. Raises AssertionError when somebody fails, or nothing comes of it for too long."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for each in self.read():
                    yield each
                failed = {name: process.returncode for name, process in processes.items() if process.returncode}
                assert not failed, failed
                await asyncio.sleep(0.1)

    def of(self, name: str, event: str) -> list[Record]:
        """One participant's records of one event."""
        return [record for who, record in self.records if who == name and record["event"] == event]


@dataclass
class Run:
    """What is left of it: who played, the logs, and the chain's last word on both tasks."""

    folder: Path
    # The owners with the first model owner, and with the second.
    casts: list[Cast]
    facts: list[ChainFacts]
    logs: Logs
    exit_codes: dict[str, int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return asyncio.run(_run(tmp_path_factory.mktemp("two tasks")))


async def _run(folder: Path) -> Run:
    data = await asyncio.to_thread(load_data, OPTIONS)
    first = await asyncio.to_thread(write_participants, OPTIONS, folder, data)
    other = await asyncio.to_thread(write_participants, replace(OPTIONS, seed=2), folder / "second", data)
    # Whoever finds its tasks by itself stays until it is told to go.
    owners = [replace(owner, command=[*owner.command, "--max-tasks=2"]) for owner in first.owners]
    models = [first.model, replace(other.model, name="model-2")]
    logs = Logs(folder / "logs", [*models, *owners])
    async with Supervisor() as supervisor:
        everybody = [*addresses(first), show(other.model.address)]
        market = await _coordinator(supervisor, folder, everybody)

        async def start(person: Participant) -> ManagedProcess:
            environment = clean_environment({"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
            argv = [*person.command, *network_arguments(OPTIONS, person.home, market)]
            log = folder / "logs" / f"{person.name}.out"
            return await supervisor.start(person.name, argv, log=log, env=environment, cwd=ROOT)

        processes = {person.name: await start(person) for person in [*models, *owners]}
        # One of them dies with two tasks on its hands, and goes on with both.
        clumsy = owners[0]
        joined: set[int] = set()
        async for name, record in logs.follow(processes):
            if name == clumsy.name and record["event"] == "tx.mined" and record["data"]["function"] == "join":
                joined.add(record["task"])
                if len(joined) == 2:
                    break
        processes[clumsy.name].kill_group()
        await processes[clumsy.name].wait()
        processes[clumsy.name] = await start(clumsy)
        done = Counter[str]()
        async for name, record in logs.follow(processes):
            done[name] += record["event"] == "task.done"
            if all(done[owner.name] == 2 for owner in owners) and all(done[model.name] for model in models):
                break
        codes = {model.name: await processes[model.name].wait() for model in models}
        codes |= {owner.name: await processes[owner.name].stop() for owner in owners}
        casts = [replace(first, model=model) for model in models]
        created = [logs.of(model.name, "task.created")[0]["task"] for model in models]
        where = market["rpc_url"], bytes.fromhex(market["market"][2:])
        facts = [await read_chain(*where, task, cast) for task, cast in zip(created, casts, strict=True)]
    logs.read()
    return Run(folder, casts, facts, logs, codes)


async def _coordinator(supervisor: Supervisor, folder: Path, funded: list[str]) -> dict[str, Any]:
    argv = [sys.executable, "-m", "scripts.coordinator_main", "--json", "--exit-with-parent"]
    argv += [f"--state={folder / 'market'}", *(f"--fund={address}" for address in funded)]
    logs = folder / "logs"
    process = await supervisor.start(
        "coordinator", argv, log=logs / "coordinator.log", stdout=logs / "coordinator.out", cwd=ROOT
    )
    return await process.wait_event("ready", timeout=90)


# --------------------------------------------------------------------------- what came of it


def test_every_owner_is_paid_for_both_tasks_and_nobody_is_owed_anything(run: Run) -> None:
    assert len({facts.task for facts in run.facts}) == 2
    for facts in run.facts:
        state = facts.state
        assert (state.status, state.round, state.group_count) == (TaskStatus.ENDED, OPTIONS.rounds, 3)
        assert facts.paid_rounds[:3] == [OPTIONS.rounds] * 3
        assert state.paid == 9 * OPTIONS.rounds * OPTIONS.rate
        assert state.escrow == state.paid + state.settlement_paid + state.refunded and state.locked == 0
        assert state.stakes_in == state.stakes_out > 0 and state.slashed == 0
        assert set(facts.withdrawable.values()) == {0}
    assert set(run.exit_codes.values()) == {0}


def test_both_tasks_sums_are_those_of_the_owners_updates(run: Run) -> None:
    for cast, facts in zip(run.casts, run.facts, strict=True):
        records = [("model", record) for name, record in run.logs.records if name == cast.model.name]
        assert verify_sums(facts, cast, Story(records)) == (True, 3 * OPTIONS.rounds)


def test_both_tasks_were_joined_and_played_in_one_life_that_only_a_signal_ended(run: Run) -> None:
    for owner in run.casts[0].owners:
        begun = run.logs.of(owner.name, "round.begin")
        assert Counter(record["task"] for record in begun) == {facts.task: OPTIONS.rounds for facts in run.facts}
        assert len({record["boot_id"] for record in begun}) == 1
        # All that it ever joined was joined before anything was over.
        done = [record["ts"] for record in run.logs.of(owner.name, "task.done")]
        joined = [r["ts"] for r in run.logs.of(owner.name, "tx.mined") if r["data"]["function"] == "join"]
        assert len(joined) == len(done) == 2 and max(joined) < min(done)
        (told,) = run.logs.of(owner.name, "daemon.exit")
        assert told["data"] == {"reason": "signal"}


def test_whoever_died_with_two_tasks_went_on_with_both_and_joined_none_twice(run: Run) -> None:
    clumsy = run.casts[0].owners[0].name
    lives = [record["boot_id"] for record in run.logs.of(clumsy, "daemon.ready")]
    assert len(set(lives)) == 2
    joins = [record for record in run.logs.of(clumsy, "tx.mined") if record["data"]["function"] == "join"]
    assert sorted(record["task"] for record in joins) == sorted(facts.task for facts in run.facts)
    reveals = [record for record in run.logs.of(clumsy, "tx.mined") if record["data"]["function"] == "reveal"]
    assert {record["boot_id"] for record in reveals} == {lives[1]} and len(reveals) == 2


def test_no_secret_of_one_task_is_ever_that_of_the_other(run: Run) -> None:
    """Pair seeds, ephemeral keys, pads and model keys: all of them are of one task and one round."""
    pairs: dict[str, set[tuple[str, frozenset[str]]]] = {}
    others: dict[str, set[tuple[str, str]]] = {}
    nonces = set()
    for owner in run.casts[0].owners:
        leaked = [json.loads(line) for line in (owner.home / "leak.jsonl").read_text().splitlines()]
        assert len({each["ctx"] for each in leaked}) == len(leaked) == 2 * OPTIONS.rounds
        for each in leaked:
            me = each["address"]
            for mate, seed in each["pair_seeds"].items():
                pairs.setdefault(seed, set()).add((each["ctx"], frozenset((me, mate))))
            others.setdefault(each["ephemeral_secret"], set()).add((each["ctx"], me))
            others.setdefault(each["pad_seed"], set()).add((each["ctx"], str(each["position"])))
            others.setdefault(each["model_key"], set()).add((each["ctx"], "model"))
        with contextlib.closing(Journal(owner.home / "journal.sqlite")) as journal:
            assert journal.unfinished_tasks() == []
            nonces |= {journal.nonce(facts.task, bytes(32)) for facts in run.facts}
            stored = [journal.vector(facts.task, number) for facts in run.facts for number in (1, 2)]
            roots = {each.root for each in stored if each is not None}
            assert len(roots) == 4
    assert len(nonces) == 18 and bytes(32) not in nonces
    # Nine pairs in each round of each task, and each seed is one pair's in one context.
    assert len(pairs) == 2 * OPTIONS.rounds * 9
    assert {len(whose) for whose in pairs.values()} == {len(whose) for whose in others.values()} == {1}


def test_the_monitor_tells_both_tasks_from_the_same_logs(run: Run) -> None:
    sources, watch = LogSources.named([str(run.folder / "logs")]), Watch()
    watch.take(sources.new_records())
    now = watch.market.last_ts
    view = describe(watch, now, watch.look(now), sources.files)
    assert view["alerts"] == []
    told = {task["task"]: task for task in view["tasks"]}
    assert told.keys() == {facts.task for facts in run.facts}
    names = {show(owner.address) for owner in run.casts[0].owners}
    for facts in run.facts:
        task, money = told[facts.task], told[facts.task]["money"]
        assert [row["paid"] for row in task["funnel"]] == [9] * OPTIONS.rounds
        assert money["conserved"] is True
        assert (money["escrow_wei"], money["paid_wei"]) == (facts.state.escrow, facts.state.paid)
        earned = {owner["peer"]: owner["earned_wei"] for owner in money["owners"]}
        assert earned == {name: OPTIONS.rounds * OPTIONS.rate for name in names}
