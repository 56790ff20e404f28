"""The table of phases: complete, without dead ends, and the contract's own."""

import pytest

from omnilytics.peers.market import RoundPhase, TaskStatus
from omnilytics.peers.phases import CONTRACT_PHASES, MODEL_MOVES, OWNER_MOVES, Cause, ModelStage, OwnerStage

FINAL = {OwnerStage.COMMITTED, OwnerStage.SAT_OUT}


def reachable(start: object, moves: dict[tuple[object, Cause], object]) -> set[object]:
    seen = {start}
    while True:
        more = {after for (before, _), after in moves.items() if before in seen} - seen
        if not more:
            return seen
        seen |= more


def test_every_stage_is_reached_and_none_is_left_behind_by_the_close() -> None:
    assert reachable(OwnerStage.SEEDING, dict(OWNER_MOVES)) == set(OwnerStage)  # type: ignore[arg-type]
    assert reachable(ModelStage.DELIVERING, dict(MODEL_MOVES)) == set(ModelStage)  # type: ignore[arg-type]
    for stage in set(OwnerStage) - FINAL:
        assert OWNER_MOVES[stage, Cause.CLOSED] is OwnerStage.SAT_OUT


def test_nothing_follows_a_final_stage() -> None:
    assert not {before for before, _ in OWNER_MOVES} & FINAL
    assert ModelStage.WATCHING not in {before for before, _ in MODEL_MOVES}


def test_the_only_way_to_a_commitment_is_over_agreement_and_mask() -> None:
    """Two vectors are impossible: no move leads back."""
    assert [key for key, after in OWNER_MOVES.items() if after is OwnerStage.COMMITTED] == [
        (OwnerStage.COMMITTING, Cause.CONFIRMED)
    ]
    assert [key for key, after in OWNER_MOVES.items() if after is OwnerStage.COMMITTING] == [
        (OwnerStage.MASKING, Cause.MASKED)
    ]
    assert [key for key, after in OWNER_MOVES.items() if after is OwnerStage.MASKING] == [
        (OwnerStage.SEEDING, Cause.ALL_AGREED)
    ]
    assert OwnerStage.SEEDING not in OWNER_MOVES.values()


def test_who_has_masked_does_not_give_up_by_itself() -> None:
    assert {before for before, cause in OWNER_MOVES if cause is Cause.GAVE_UP} == {OwnerStage.SEEDING}


def test_the_contracts_phases_are_its_statuses_and_round_phases() -> None:
    names = {phase.name.upper() for phase in CONTRACT_PHASES}
    ended = {TaskStatus.NONE.name, TaskStatus.RUNNING.name, TaskStatus.ENDED.name, TaskStatus.CANCELLED.name}
    assert names == ({status.name for status in TaskStatus} - ended) | {phase.name for phase in RoundPhase}


@pytest.mark.parametrize("phase", CONTRACT_PHASES, ids=lambda phase: phase.name)
def test_every_next_phase_exists(phase: object) -> None:
    known = {entry.name for entry in CONTRACT_PHASES} | {"Ended", "Cancelled"}
    for following in phase.next:  # type: ignore[attr-defined]
        assert following.split(" (")[0] in known
