"""The faults that a campaign must fire, by name, and the table of how often each did.

Every kind of fault of `Rates`, every band of reorg depths, every absence and every role counts under a name of its own.
What daemons did about it (log events, journal writes) is counted, too, and has no least number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

from tests.simulator.ledger import REORG_BANDS, band_name
from tests.simulator.life import Rates
from tests.simulator.plan import MODEL_ROLES, MODEL_STEPS, OWNER_ROLES, STEPS

# So often each fault must fire in so many rounds.
LEAST, PER_ROUNDS = 100, 10_000

FAULTS = (
    *(entry.name.replace("_", " ") for entry in fields(Rates)),
    "message stopped by a partition",
    "transaction lost in a reorg",
    *(band_name(band) for band in REORG_BANDS),
    *(f"absence at {step}" for step in STEPS),
    *(f"absence of the model owner at {step}" for step in MODEL_STEPS),
    *(f"role: {role}" for role in OWNER_ROLES),
    *(f"role: model owner {role}" for role in MODEL_ROLES),
)


def least(rounds: int) -> int:
    """How often each fault must have fired after so many rounds."""
    return -(-LEAST * rounds // PER_ROUNDS)


def short_of(counters: Counter[str], rounds: int) -> list[str]:
    """The faults that fired less often than that."""
    return [name for name in FAULTS if counters[name] < least(rounds)]


def lines(counters: Counter[str], rounds: int) -> Iterator[str]:
    """The table: faults first, those that fell short marked, then what daemons did."""
    short = short_of(counters, rounds)
    yield "faults fired:"
    for name in sorted(FAULTS):
        yield f"{counters[name]:>10}  {name}{'  (too few)' if name in short else ''}"
    yield "what happened then:"
    for name in sorted(counters.keys() - set(FAULTS)):
        yield f"{counters[name]:>10}  {name}"
    wanted = f"{least(rounds)} times ({LEAST} in {PER_ROUNDS} rounds)"
    if short:
        yield f"{len(short)} of {len(FAULTS)} faults fired less than {wanted}"
    else:
        yield f"each of {len(FAULTS)} faults fired at least {wanted}"
