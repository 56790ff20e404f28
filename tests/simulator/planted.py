"""Bugs planted on purpose: each one is a slip that a daemon could have, and that the invariants must catch.

None of this is in the product; `planted` puts a bug in for the time of one scenario.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast
from unittest import mock

from omnilytics.daemon import owner_play as owner_module
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.node import Event, SnapshotSeen
from omnilytics.daemon.owner import OwnerPart
from omnilytics.peers import commitment, masking, prg
from omnilytics.peers.market import RoundPhase, TaskStatus
from omnilytics.peers.owner_round import OwnerRound
from tests.simulator import disk
from tests.simulator.evm import Evm
from tests.simulator.life import Rates
from tests.simulator.plan import Plan, make_plan
from tests.simulator.scenario import Report, run_scenario


class _SkippedSync(disk.FaultyJournal):
    """Keeps vectors in memory and calls that durable."""

    def store_vector(self, task: int, round_number: int, stored: StoredVector) -> None:
        self._kept = {**getattr(self, "_kept", {}), (task, round_number): stored}

    def vector(self, task: int, round_number: int) -> StoredVector | None:
        kept: dict[tuple[int, int], StoredVector] = getattr(self, "_kept", {})
        return kept.get((task, round_number)) or super().vector(task, round_number)


class _Forgetful(disk.FaultyJournal):
    """Begins a round again after a restart, and puts a second vector in the place of the first."""

    def claim_round(self, task: int, round_number: int, ctx: bytes) -> bool:
        super().claim_round(task, round_number, ctx)
        return True

    def vector(self, task: int, round_number: int) -> StoredVector | None:
        return super().vector(task, round_number) if getattr(self, "_wrote", False) else None

    def store_vector(self, task: int, round_number: int, stored: StoredVector) -> None:
        self._wrote = True
        self._write("DELETE FROM vectors WHERE task = ? AND round = ?", task, round_number)
        super().store_vector(task, round_number, stored)


def _context_left_out(ctx: bytes, group: int, lower: bytes, higher: bytes) -> bytes:
    return prg.pair_context(bytes(32), group, lower, higher)


def _leaf_off_by_one(vector: bytes, chunk_words: int, ctx: bytes, seat: int) -> list[bytes]:
    tag, link = commitment.tag(ctx, seat), commitment.terminal(ctx, seat)
    found = [link]
    for index, piece in reversed(list(enumerate(commitment.chunks(vector, chunk_words), 1))):
        link = commitment.link(tag, index, link, piece)
        found.insert(0, link)
    return found


def _impatient(state: OwnerRound) -> tuple[bytes, ...]:
    """Waits for hellos only, not for acknowledgements."""
    mates = tuple(peer.address for _, peer in state.mates if peer.address not in state.hellos)
    return mates if state.model_key is not None else (*mates, state.model_owner.address)


_honest_handle = OwnerPart.handle


async def _posts_at_once(self: OwnerPart, event: Event) -> None:
    """Posts as soon as its own commitment is on the chain."""
    if isinstance(event, SnapshotSeen):
        snapshot = event.snapshot
        me = snapshot.member(self._node.me)
        committing = snapshot.state.status is TaskStatus.RUNNING and snapshot.state.phase is RoundPhase.COMMIT
        if committing and me is not None and me.committed_in(snapshot.state.round):
            await self.post_vector(snapshot, snapshot.state.round)
    await _honest_handle(self, event)


def _no_check_of_masks(lanes: Any, ctx: bytes, group: int, position: int, pairs: Any, pad: bytes, **more: Any) -> Any:
    """Leaves one mate's mask out."""
    index = more.get("pad_index", position)
    masked = lanes.copy()
    streams = [pair.stream(ctx, group) for pair in pairs[1:]]
    prg.add_streams(masked, [*streams, (pad, prg.PAD, prg.pad_context(ctx, index), False)])
    return masked


@dataclass(frozen=True)
class Bug:
    """A planted bug: what it changes, under which faults it shows, and which invariant is the first to break."""

    name: str
    caught_by: str | tuple[str, ...]
    rates: Rates = field(default_factory=Rates)
    journal_class: type[disk.FaultyJournal] = disk.FaultyJournal
    target: Any = None
    attribute: str = ""
    replacement: Any = None


BUGS = (
    Bug("the vector is not synced before its root is committed", "journal first", journal_class=_SkippedSync),
    Bug(
        "the context is left out of the masks",
        "a root is that of the masked vector",
        target=masking,
        attribute="pair_context",
        replacement=_context_left_out,
    ),
    Bug(
        "commits before all mates have acknowledged",
        "no commitment before all mates hold the seeds",
        Rates(message_drop=0.3, message_delay=0.2),
        target=OwnerRound,
        attribute="missing",
        replacement=_impatient,
    ),
    Bug(
        "posts before all have committed",
        "no post before all have committed",
        Rates(message_drop=0.4),
        target=OwnerPart,
        attribute="handle",
        replacement=_posts_at_once,
    ),
    Bug(
        "makes a second vector after a restart",
        ("never two vectors for one round and owner", "one seed a pair and round"),
        Rates(crash_after_write=0.02, kill=0.2),
        journal_class=_Forgetful,
    ),
    Bug(
        "the index of a leaf is off by one",
        "a root is that of the masked vector",
        target=owner_module,
        attribute="links",
        replacement=_leaf_off_by_one,
    ),
    Bug(
        "one mate's mask is left out",
        "a root is that of the masked vector",
        target=owner_module,
        attribute="mask_vector",
        replacement=_no_check_of_masks,
    ),
)


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The bug is in the code until the block is left."""
    if bug.target is None:
        yield
        return
    with mock.patch.object(bug.target, bug.attribute, bug.replacement):
        yield


def plan_for(bug: Bug, seed: int, number: int) -> Plan:
    """A scenario without other faults than the bug needs to show."""
    plan = make_plan(seed, number, "calm")
    params = plan.params
    return replace(
        plan,
        profile="planted",
        rates=bug.rates,
        owner_count=params.group_size * params.max_groups,
        planted=bug.name,
    )


def hunt(bug: Bug, seed: int, scenarios: int = 6) -> Report:
    """Plays scenarios with the bug until it is caught, or gives the last report."""
    report: Report | None = None
    with planted(bug):
        for number in range(scenarios):
            evm = Evm()
            try:
                report = run_scenario(
                    plan_for(bug, seed, number), evm, Counter(), journal_class=cast(Any, bug.journal_class)
                )
            finally:
                evm.close()
            if report.violations:
                break
    assert report is not None
    return report
