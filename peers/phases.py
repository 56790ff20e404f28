"""The one table of what a task and a round go through: the contract's phases and a round at an owner.

docs/protocol.md draws its state diagrams from this table (scripts/draw-phases), and the
owner's machine moves only along it: a move that the table lacks is a bug and raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class OwnerStage(Enum):
    """Where a data owner stands in one round."""

    SEEDING = "seeding"
    MASKING = "masking"
    COMMITTING = "committing"
    COMMITTED = "committed"
    SAT_OUT = "sat-out"


class ModelStage(Enum):
    """Where the model owner stands in one round."""

    DELIVERING = "delivering"
    WATCHING = "watching"


class Cause(Enum):
    """Why a stage ends."""

    ALL_AGREED = "every mate's hello and acknowledgement is in, the model is checked, the update is quantised"
    MASKED = "the masked vector is computed"
    CONFIRMED = "the chain shows the commitment"
    GAVE_UP = "a mate is away, the model does not check, or time is short"
    CLOSED = "the commit phase closed"
    ALL_DELIVERED = "every owner acknowledged the model key"


OWNER_MOVES: dict[tuple[OwnerStage, Cause], OwnerStage] = {
    (OwnerStage.SEEDING, Cause.ALL_AGREED): OwnerStage.MASKING,
    (OwnerStage.SEEDING, Cause.GAVE_UP): OwnerStage.SAT_OUT,
    (OwnerStage.SEEDING, Cause.CLOSED): OwnerStage.SAT_OUT,
    (OwnerStage.MASKING, Cause.MASKED): OwnerStage.COMMITTING,
    (OwnerStage.MASKING, Cause.CLOSED): OwnerStage.SAT_OUT,
    (OwnerStage.COMMITTING, Cause.CONFIRMED): OwnerStage.COMMITTED,
    # The transaction did not make it in time: the vector dies with the round.
    (OwnerStage.COMMITTING, Cause.CLOSED): OwnerStage.SAT_OUT,
}

MODEL_MOVES: dict[tuple[ModelStage, Cause], ModelStage] = {
    (ModelStage.DELIVERING, Cause.ALL_DELIVERED): ModelStage.WATCHING,
    (ModelStage.DELIVERING, Cause.CLOSED): ModelStage.WATCHING,
}


@dataclass(frozen=True)
class Phase:
    """A state of the contract: when it ends, at the latest when, and what comes next."""

    name: str
    ends_when: str
    deadline: str
    next: tuple[str, ...]


CONTRACT_PHASES: tuple[Phase, ...] = (
    Phase("Joining", "all seats are taken", "joinSeconds", ("Revealing",)),
    Phase("Revealing", "all nonces are revealed", "revealSeconds", ("Drawing",)),
    Phase("Drawing", "the draw block has a hash", "", ("Idle", "Cancelled")),
    Phase("Idle", "the model owner opens a round", "openSeconds, then an empty round", ("Commit", "Ended")),
    Phase("Commit", "every playable group has committed or sat out", "commitSeconds", ("Post", "Idle (void)")),
    Phase("Post", "all members of committed groups have posted", "postSeconds", ("Settle", "Idle (too few)")),
    Phase(
        "Settle",
        "the last chunk is settled: Multi-Krum, pay; or the model owner names the groups",
        "settleSeconds",
        ("Idle", "Idle (late)", "Ended"),
    ),
)
