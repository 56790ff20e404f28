"""The simulator's short run: scenarios of every kind, replays, planted bugs. The long run is scripts/simulate."""

from __future__ import annotations

import pytest

from tests.simulator.campaign import play
from tests.simulator.plan import PROFILES, make_plan, small_plan
from tests.simulator.planted import BUGS, Bug, hunt


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
