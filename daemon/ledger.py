"""The privacy ledger: what this participant's rows have given to whom, as the journal keeps it. Pure.

One entry a round whose masked vector was posted. It holds counts, never rows: how many rows were in the batch,
of how many; who asked; under which protection; and how much noise the owner's own update carried.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from omnilytics.daemon.spec import TaskSpec
from omnilytics.peers.hashing import keccak


@dataclass(frozen=True)
class Mechanism:
    """How a round's update was made private, as an accountant sees it.

    noise_multiplier is the noise's standard deviation in the sum of clipped gradients over the clip's norm, 0 for
    no noise; batch_rows of rows were drawn without replacement; secret_batch says whether nobody else can know which.
    """

    noise_multiplier: float
    batch_rows: int
    rows: int
    secret_batch: bool = True


@dataclass(frozen=True)
class Exposure:
    """One round's entry. Addresses and the kind's digest are bytes; epsilon is what had been spent with this round,
    over all rounds with noise, at delta; None without noise."""

    task: int
    round: int
    market: bytes
    model_owner: bytes
    architecture: str
    kind: bytes
    group_size: int
    protection: str
    mechanism: Mechanism
    clip_norm: float = 0.0
    delta: float = 0.0
    epsilon: float | None = None


def kind_of(spec: TaskSpec) -> bytes:
    """32 bytes, equal for tasks that train the same model on the same columns and classes, whatever their terms."""
    return keccak(json.dumps([spec.architecture, spec.feature_count, spec.classes]).encode())


@dataclass(frozen=True)
class Promise:
    """Rounds of a task that is played at the same time and that are not posted yet."""

    task: int
    rounds: int
    model_owner: bytes
    kind: bytes
    mechanism: Mechanism


@dataclass(frozen=True)
class Ledger:
    """All entries, in any order, and what a policy asks of them.

    Promises count as if they were posted: what two tasks may take together must hold when both have taken it.
    """

    exposures: tuple[Exposure, ...] = ()
    promises: tuple[Promise, ...] = ()

    @classmethod
    def of(cls, exposures: Iterable[Exposure], promises: Iterable[Promise] = ()) -> Ledger:
        """The ledger with these entries, and these promises."""
        return cls(tuple(exposures), tuple(promises))

    @property
    def mechanisms(self) -> Counter[Mechanism]:
        """How often each mechanism was used, over all tasks: rows are the same whoever asks."""
        used = Counter(exposure.mechanism for exposure in self.exposures)
        for promise in self.promises:
            used[promise.mechanism] += promise.rounds
        return used

    def rounds(self, model_owner: bytes, besides: int | None = None) -> int:
        """Rounds posted to one model owner, those of the task `besides` left out."""
        promised = sum(promise.rounds for promise in self._promised_to(model_owner, besides))
        return len(self._given_to(model_owner, besides)) + promised

    def rounds_of(self, task: int) -> int:
        """Rounds posted in one task."""
        return sum(exposure.task == task for exposure in self.exposures)

    def similar_tasks(self, model_owner: bytes, kind: bytes, besides: int | None = None) -> int:
        """Tasks of one kind that were posted to for one model owner, the task `besides` left out."""
        given = {entry.task for entry in self._given_to(model_owner, besides) if entry.kind == kind}
        return len(given | {entry.task for entry in self._promised_to(model_owner, besides) if entry.kind == kind})

    def row_exposure(self, model_owner: bytes, besides: int | None = None) -> float:
        """In how many rounds posted to one model owner a row was, on average over all draws of the batches."""
        used = Counter(entry.mechanism for entry in self._given_to(model_owner, besides))
        for promise in self._promised_to(model_owner, besides):
            used[promise.mechanism] += promise.rounds
        return float(sum((count * Fraction(each.batch_rows, each.rows) for each, count in used.items()), Fraction(0)))

    def _given_to(self, model_owner: bytes, besides: int | None) -> list[Exposure]:
        return [entry for entry in self.exposures if entry.model_owner == model_owner and entry.task != besides]

    def _promised_to(self, model_owner: bytes, besides: int | None) -> list[Promise]:
        return [entry for entry in self.promises if entry.model_owner == model_owner and entry.task != besides]
