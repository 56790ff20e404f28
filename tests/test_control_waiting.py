"""For whom a task waits, in words, in every phase, and what a daemon says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from omnilytics.daemon.control.report import task_report, waiting_for
from omnilytics.peers.market import MemberStatus, RoundPhase, TaskStatus
from tests.market_views import MODEL_OWNER, PARAMS, address, member, seated, snapshot, state

COMMITTED, POSTED = 1, 2


def playing(**flags: int) -> Any:
    """Nine owners, those named by their number with flags of round 2."""
    return tuple(member(number, flags=flags.get(f"o{number}", 0), round_number=2) for number in range(9))


def test_while_owners_join_nobody_in_particular_is_late() -> None:
    found = waiting_for(snapshot(state(status=TaskStatus.JOINING), seated(4)))
    assert found == ("4 of 9 owners joined", [])


def test_who_has_not_revealed_is_late() -> None:
    members = (*seated(2), member(7, status=MemberStatus.JOINED))
    found = waiting_for(snapshot(state(status=TaskStatus.REVEALING), members))
    assert found == ("2 of 3 owners revealed", [address(7)])


def test_who_has_not_committed_is_late_unless_its_group_sits_out() -> None:
    members = playing(o0=COMMITTED, o1=COMMITTED, o3=COMMITTED)
    seen = state(phase=RoundPhase.COMMIT, round=2, sat_out=0b100)
    found = waiting_for(snapshot(seen, members))
    assert found == ("3 of 9 owners committed", [address(number) for number in (2, 4, 5)])


def test_who_has_committed_and_not_posted_is_late() -> None:
    members = playing(**{f"o{number}": COMMITTED | POSTED for number in range(5)})
    seen = state(phase=RoundPhase.POST, round=2, committed=0b011)
    found = waiting_for(snapshot(seen, members))
    assert found == ("5 of 6 owners posted", [address(5)])


@pytest.mark.parametrize("selects", [False, True])
def test_who_settles_is_the_contracts_choice_or_the_model_owner(selects: bool) -> None:
    params = replace(PARAMS, model_selection=selects)
    seen = snapshot(state(phase=RoundPhase.SETTLE, round=2, complete=0b111, next_chunk=1), params=params)
    found = waiting_for(seen)
    if selects:
        assert found == ("the model owner selects groups", [MODEL_OWNER])
    else:
        assert found == (f"chunk 1 of {params.chunk_count} to settle", [seen.settler().account])


def test_between_rounds_the_model_owner_is_waited_for() -> None:
    found = waiting_for(snapshot(state(round=1)))
    assert found == ("the model owner opens round 2 of 2", [MODEL_OWNER])
    assert waiting_for(snapshot(state(status=TaskStatus.DRAWING))) == ("the groups are drawn", [])


@pytest.mark.parametrize("status", [TaskStatus.ENDED, TaskStatus.CANCELLED])
def test_nothing_is_waited_for_when_it_is_over(status: TaskStatus) -> None:
    over = snapshot(state(status=status))
    assert waiting_for(over) == ("", [])
    told = task_report(over, MODEL_OWNER, 0, None)
    assert (told["waiting"], told["deadline"], told["left_s"]) == (None, None, None)


def test_words_have_the_time_that_is_left_and_never_less_than_none() -> None:
    seen = snapshot(state(status=TaskStatus.JOINING, phase_end=1000), seated(3))
    assert task_report(seen, MODEL_OWNER, 958, None)["waiting"] == "waiting: 3 of 9 owners joined, 42 s left"
    assert task_report(seen, MODEL_OWNER, 2000, None)["left_s"] == 0
