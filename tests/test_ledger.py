"""The privacy ledger's questions; how it is kept is in test_journal.py, when it is written in test_owner.py."""

from __future__ import annotations

from dataclasses import replace

from omnilytics.daemon.ledger import Exposure, Ledger, Mechanism, Promise, kind_of
from omnilytics.daemon.spec import TaskSpec

SPEC = TaskSpec("softmax", 4, ("no", "yes"), 1.0, 16)
ALICE, BOB = bytes([1]) * 20, bytes([2]) * 20


def entry(task: int, number: int, whom: bytes = ALICE, batch: int = 16, rows: int = 64, noise: float = 0.0) -> Exposure:
    mechanism = Mechanism(noise, batch, rows)
    return Exposure(task, number, bytes(20), whom, "softmax", kind_of(SPEC), 3, "envelope", mechanism)


LEDGER = Ledger.of(
    [entry(1, 1), entry(1, 2), entry(2, 1, BOB), entry(3, 1, noise=1.0), entry(3, 4, batch=8, rows=8, noise=1.0)]
)


def test_rounds_are_counted_by_model_owner_and_by_task() -> None:
    assert (LEDGER.rounds(ALICE), LEDGER.rounds(BOB), LEDGER.rounds(bytes(20))) == (4, 1, 0)
    assert (LEDGER.rounds(ALICE, besides=3), LEDGER.rounds(BOB, besides=2)) == (2, 0)
    assert [LEDGER.rounds_of(task) for task in (1, 2, 3, 4)] == [2, 1, 2, 0]


def test_similar_tasks_are_those_of_one_kind_and_one_model_owner() -> None:
    kind = kind_of(SPEC)
    assert (LEDGER.similar_tasks(ALICE, kind), LEDGER.similar_tasks(BOB, kind)) == (2, 1)
    assert LEDGER.similar_tasks(ALICE, kind, besides=3) == 1
    assert LEDGER.similar_tasks(ALICE, kind_of(replace(SPEC, feature_count=5))) == 0


def test_a_kind_is_the_model_columns_and_classes_whatever_the_terms() -> None:
    assert kind_of(replace(SPEC, clip=2.0, batch_size=3)) == kind_of(SPEC)
    different = [
        replace(SPEC, architecture="mlp:4"),
        replace(SPEC, feature_count=5),
        replace(SPEC, classes=("yes", "no")),
        replace(SPEC, classes=("no", "yes", "")),
        replace(SPEC, classes=('no", "yes',)),
    ]
    assert len({kind_of(spec) for spec in (SPEC, *different)}) == 6


def test_a_rows_exposure_is_its_share_of_the_batches() -> None:
    assert LEDGER.row_exposure(ALICE) == 0.25 + 0.25 + 0.25 + 1.0
    assert LEDGER.row_exposure(ALICE, besides=3) == 0.5
    assert LEDGER.row_exposure(bytes(20)) == 0.0


def test_mechanisms_are_counted_over_all_tasks() -> None:
    assert LEDGER.mechanisms == {Mechanism(0.0, 16, 64): 3, Mechanism(1.0, 16, 64): 1, Mechanism(1.0, 8, 8): 1}
    assert Ledger().mechanisms == {}


def test_promises_count_as_posted_but_for_the_tasks_own_rounds() -> None:
    """Of task 1, of which two rounds are posted, three more; and a task 4 of which nothing is."""
    kind, how = kind_of(SPEC), Mechanism(0.0, 16, 64)
    promises = [Promise(1, 3, ALICE, kind, how), Promise(4, 10**12, ALICE, kind, how)]
    both = replace(LEDGER, promises=tuple(promises))
    assert both.rounds(ALICE) == 4 + 3 + 10**12 and both.rounds(ALICE, besides=4) == 7
    assert both.rounds(BOB) == 1
    assert both.similar_tasks(ALICE, kind) == 3 and both.similar_tasks(ALICE, kind, besides=1) == 2
    assert both.row_exposure(ALICE, besides=4) == 1.75 + 0.75
    assert both.mechanisms[how] == 3 + 3 + 10**12
    assert both.rounds_of(1) == 2
