"""Whether a daemon lives and is ready, with reasons: a pure function of facts, for service managers and people.

Live: its own loop turns; only a restart helps one that does not. Ready: it could play a round now; what it waits for
comes back by itself (an RPC, a broker, blocks) or is somebody's to mend (disk, money, an old folder), so a
restart is no cure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# One step of a part: many calls of the chain, each with a deadline, and never all of them at once.
BUSY_SECONDS = 300.0
# A journal needs this to go on; see docs/reliability.md.
LEAST_DISK_BYTES = 64 * 1024 * 1024
# A queue of transactions that moves this slowly is worth a word, not more: a fee above the cap is waited out.
SLOW_TRANSACTION_SECONDS = 180.0
# Troubles that a daemon says once in its log when they begin (and once more when they end), in which it does not play.
BLOCKING = ("rpc.unconfirmed", "rpc.disagreement", "chain.stalled", "safe-mode")
# Those that only deserve a word.
WORTH_A_WORD = ("clock.skew", "stake.short", "balance.low", "fee.high")


@dataclass(frozen=True)
class HealthFacts:
    """What is known of a daemon now; times in seconds."""

    # Whether the chain has been reached in this life, and it is the right one.
    connected: bool
    broker_connected: bool
    # Since a new head was seen; None before the first.
    head_age: float | None = None
    # How long the step lasts that the part is in; 0 between steps.
    busy_seconds: float = 0.0
    # Orders waiting or on their way, and how long nothing of them has been mined.
    tx_pending: int = 0
    tx_waiting_seconds: float = 0.0
    # Free bytes where the folder is; None where nobody can say.
    disk_free: int | None = None
    # Events of BLOCKING and WORTH_A_WORD that stand, each with its words.
    standing: Mapping[str, str] = field(default_factory=dict)
    # What it waits for, where its part says so.
    waiting: str = ""
    stopping: bool = False


@dataclass(frozen=True)
class Health:
    """The verdict. `reasons` are why it is not ready, most important first; `notes` do not keep it from playing."""

    live: bool
    ready: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    # What it waits for, where its part says so.
    waiting: str = ""

    @property
    def status(self) -> str:
        """One line for people."""
        head = "ready" if self.ready else "not ready" if self.live else "not alive"
        told = "; ".join(filter(None, (*self.reasons, *self.notes, self.waiting)))
        return f"{head}: {told}" if told else head


def health(facts: HealthFacts) -> Health:
    """Judges the facts; the same facts, the same verdict."""
    live = facts.busy_seconds < BUSY_SECONDS
    reasons = []
    if not live:
        reasons.append(f"one step has been going on for {facts.busy_seconds:.0f} s")
    if facts.stopping:
        reasons.append("stopping")
    if not facts.connected:
        reasons.append("waiting for the chain: the RPC has not answered yet")
    elif facts.head_age is None:
        reasons.append("waiting for the first block")
    if facts.connected and not facts.broker_connected:
        reasons.append("waiting for the broker: not connected")
    reasons += [facts.standing[event] for event in BLOCKING if event in facts.standing]
    if facts.disk_free is not None and facts.disk_free < LEAST_DISK_BYTES:
        reasons.append(f"only {facts.disk_free // 2**20} MB free; need {LEAST_DISK_BYTES // 2**20} MB")
    notes = [facts.standing[event] for event in WORTH_A_WORD if event in facts.standing]
    if facts.tx_pending and facts.tx_waiting_seconds >= SLOW_TRANSACTION_SECONDS:
        notes.append(f"{facts.tx_pending} transactions wait, none mined for {facts.tx_waiting_seconds:.0f} s")
    return Health(live, not reasons, tuple(reasons), tuple(notes), facts.waiting)
