"""Model owner's daemons that harm: one dies once a round's vectors are posted, before anything is settled; one does not
hear the vectors that some owners hand over.

Run as `python -m tests.adversaries.model [--die-in-round N] [--ignore-owners N] [options of omnilytics model run]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.cli import main_with
from omnilytics.daemon.commands.model import run as honest_run
from omnilytics.daemon.commands.options import settings_from
from omnilytics.daemon.model import ModelPart
from omnilytics.daemon.node import Event, SnapshotSeen
from omnilytics.daemon.run import ModelOptions, run_model
from omnilytics.peers.market import RoundPhase, TaskStatus
from tests.adversaries import kill_own_process


def vanishing_part(die_in_round: int, die: Callable[[], None] = kill_own_process) -> type[ModelPart]:
    """A model owner's part that is gone, as by kill -9, when it sees a round's settle phase, or its end."""

    class VanishingPart(ModelPart):
        async def handle(self, event: Event) -> None:
            if isinstance(event, SnapshotSeen):
                state = event.snapshot.state
                posted = state.phase in (RoundPhase.SETTLE, RoundPhase.IDLE) and state.round == die_in_round
                if state.status is TaskStatus.RUNNING and (posted or state.round > die_in_round):
                    self._node.log("adversary.dies", "killed before settling", round=state.round)
                    die()
            await super().handle(event)

    return VanishingPart


def deaf_part(count: int, honest: type[ModelPart] = ModelPart) -> type[ModelPart]:
    """Hears nothing of the owners in the first `count` seats while vectors are handed over."""

    class DeafPart(honest):  # type: ignore[misc, valid-type]
        async def handle(self, event: Event) -> None:
            if isinstance(event, Arrived) and self._snapshot is not None:
                seats = self._snapshot.seated()
                ignored = {seats[seat].account for seat in range(count) if seat in seats}
                if self._snapshot.state.phase is not RoundPhase.COMMIT and event.sender in ignored:
                    return
            await super().handle(event)

    return DeafPart


def run(die_in_round: int | None, ignore_owners: int, **options: Any) -> None:
    """Run a hostile model owner."""
    settings, password_file = settings_from(options)
    part = vanishing_part(die_in_round) if die_in_round is not None else ModelPart
    run_model(settings, password_file, ModelOptions(**options), part_class=deaf_part(ignore_owners, part))


command = click.Command(
    "model",
    callback=run,
    params=[
        *honest_run.params,
        click.Option(["--die-in-round"], type=int),
        click.Option(["--ignore-owners"], type=int, default=0),
    ],
)

if __name__ == "__main__":
    main_with(command)
