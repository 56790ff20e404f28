"""The simulator's short run: scenarios of every kind, replays, planted bugs. The long run is scripts/simulate."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address

from omnilytics.daemon.keystore import Keys
from omnilytics.peers.errors import ParameterError
from omnilytics.peers.keys import BoxIdentity
from tests.simulator.campaign import Tally, campaign, play
from tests.simulator.fault_table import FAULTS, lines, short_of
from tests.simulator.life import Rates
from tests.simulator.plan import PROFILES, make_plan, small_plan
from tests.simulator.planted import BUGS, Bug, hunt
from tests.simulator.results import Results
from tests.simulator.signing import QuickKeys
from tests.simulator.virtual_time import StuckError, VirtualLoop


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_breaks(profile: str) -> None:
    """A scenario of every kind; every invariant holds."""
    report = play(small_plan(7, profile))
    assert report.violations == [], report.plan.describe()
    assert report.checks > 0


def test_a_replay_is_the_same_to_the_last_block() -> None:
    """Blocks, outcomes and the virtual clock of a scenario with every kind of fault come out again."""
    plan = small_plan(8, "everything")
    first, second = play(plan), play(plan)
    assert first.digest == second.digest
    assert (first.blocks, first.transactions, first.checks) == (second.blocks, second.transactions, second.checks)


def test_seeds_differ() -> None:
    """Another seed or number is another scenario."""
    assert make_plan(1, 0) == make_plan(1, 0)
    assert make_plan(1, 0) != make_plan(2, 0)
    assert make_plan(1, 0).params != make_plan(1, 10).params


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    """By the invariant that it breaks, and by no accident of another."""
    report = hunt(bug, seed=3)
    assert report.violations, f"{bug.name} was not noticed"
    assert report.violations[0].startswith(bug.caught_by)


# ------------------------------------------------------------------------- campaigns


def _told(tally: Tally) -> tuple[object, ...]:
    return tally.scenarios, tally.rounds, tally.checks, tally.blocks, tally.transactions, tally.counters


def test_a_campaign_is_the_same_in_one_go_in_parts_and_in_several_processes(tmp_path: Path) -> None:
    """Counted in the order of the scenarios' numbers; what a file of results holds is not played again."""
    numbers = range(29, 32)
    *_, (_, alone) = campaign(3, None, numbers)
    kept = tmp_path / "results.jsonl"
    *_, (_, part) = campaign(3, None, numbers[:1], results=kept)
    assert part.scenarios == 1
    *_, (last, whole) = campaign(3, None, numbers, jobs=2, results=kept)
    assert _told(whole) == _told(alone)
    assert last.plan == make_plan(3, 31)
    assert [json.loads(line)["number"] for line in kept.read_text().splitlines()] == [29, 30, 31]
    before = kept.stat().st_mtime_ns
    *_, (_, again) = campaign(3, None, numbers, results=kept)
    assert _told(again) == _told(alone)
    assert kept.stat().st_mtime_ns == before


def test_a_campaign_ends_at_its_rounds_and_at_a_violation(tmp_path: Path) -> None:
    """Neither a round more than the scenario that reached them, nor anything after a violation."""
    path = tmp_path / "results.jsonl"
    said = {"seed": 1, "outcomes": {}, "checks": 1, "seconds": 1.0, "blocks": 1, "transactions": 1, "digest": ""}
    with path.open("w") as file:
        for number in range(4):
            line = said | {"number": number, "rounds": 5, "counters": {}, "violations": ["x"] if number == 2 else []}
            file.write(json.dumps(line) + "\n")
    assert [tally.rounds for _, tally in campaign(1, 10, results=path)] == [5, 10]
    assert [report.plan.number for report, _ in campaign(1, 1000, range(4), results=path)] == [0, 1, 2]
    assert len(list(campaign(1, None, range(4), keep_going=True, results=path))) == 4


def test_results_of_another_seed_or_no_results_are_refused(tmp_path: Path) -> None:
    """Never are two campaigns mixed."""
    path = tmp_path / "results.jsonl"
    path.write_text('{"seed": 2, "number": 1}\n')
    with pytest.raises(ParameterError, match="seed 2, not 1"):
        Results(path, 1)
    path.write_text("{}\n")
    with pytest.raises(ParameterError, match="line 1"):
        Results(path, 1)


def test_the_table_says_which_faults_fired_too_seldom() -> None:
    """A hundred times in ten thousand rounds, each."""
    counters = Counter(dict.fromkeys(FAULTS, 100)) + Counter({"journal writes": 7})
    assert short_of(counters, 10_000) == []
    assert (
        list(lines(counters, 10_000))[-1]
        == f"each of {len(FAULTS)} faults fired at least 100 times (100 in 10000 rounds)"
    )
    counters["kill"] = 99
    assert short_of(counters, 10_000) == ["kill"]
    told = list(lines(counters, 10_000))
    assert "        99  kill  (too few)" in told
    assert "         7  journal writes" in told
    assert short_of(counters, 9_900) == []


def test_every_fault_of_the_table_is_planned_for() -> None:
    """By its rate, as an absence or as a role, in some scenario of a short campaign."""
    planned: set[str] = set()
    for number in range(1500):
        plan = make_plan(5, number)
        planned |= {entry.name.replace("_", " ") for entry in fields(Rates) if getattr(plan.rates, entry.name)}
        planned |= {f"role: {role}" for role, _ in plan.roles.values()}
        planned |= {f"role: model owner {plan.model_role[0]}"} if plan.model_role else set()
        for index, absences in plan.absences.items():
            planned |= {f"absence {'of the model owner ' if index < 0 else ''}at {a.step}" for a in absences}
    # What follows from others: reorgs by depth, what a reorg loses, what a partition stops.
    missing = {name for name in FAULTS if name not in planned}
    assert all(name.startswith(("reorg of depth", "transaction lost in", "message stopped")) for name in missing), (
        missing
    )


def test_quick_signatures_are_the_products() -> None:
    """The same bytes and hashes, for short and long numbers and data."""
    entropy = random.Random(2)
    account, box = Account.from_key(entropy.randbytes(32)), BoxIdentity.from_entropy(entropy.randbytes(32))
    real, quick = Keys(account, box), QuickKeys(account, box)
    assert quick.address == real.address
    for size in (0, 1, 55, 56, 300):
        transaction = {
            "type": 2,
            "chainId": 31337,
            "to": to_checksum_address("0x" + entropy.randbytes(20).hex()),
            "data": entropy.randbytes(size),
            "value": entropy.randrange(2) * 10**18,
            "nonce": entropy.randrange(300),
            "gas": entropy.randrange(21_000, 10**7),
            "maxFeePerGas": entropy.randrange(10**12),
            "maxPriorityFeePerGas": entropy.randrange(2) * 10**9,
        }
        assert quick.sign(transaction) == real.sign(transaction)


# ------------------------------------------------------------------------ virtual time


def test_the_clock_jumps_and_timers_of_one_moment_keep_their_order() -> None:
    """Cancelled timers never fire; what is due is done before the clock moves on."""
    loop = VirtualLoop(random.Random(1))
    said: list[tuple[float, str]] = []

    async def story() -> None:
        for name in ("a", "b", "c"):
            loop.call_later(5.0, lambda name=name: said.append((loop.time(), name)))
        loop.call_later(4.0, lambda: said.append((loop.time(), "never"))).cancel()
        loop.call_soon(lambda: said.append((loop.time(), "now")))
        await asyncio.sleep(7.0)

    try:
        loop.run_until_complete(story())
        assert said == [(0.0, "now"), (5.0, "a"), (5.0, "b"), (5.0, "c")]
        assert loop.time() == 7.0
        with pytest.raises(StuckError):
            loop.run_until_complete(asyncio.Event().wait())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
