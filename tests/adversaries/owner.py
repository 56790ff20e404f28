"""A data owner's daemon that misbehaves: it poisons (always, or when its group is hostile), or dies at a moment.

Run as `python -m tests.adversaries.owner --home ... [options of omnilytics owner run] [adversary options]`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.cli import main_with
from omnilytics.daemon.commands.options import network_options, settings_from
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.run import OwnerOptions, run_owner
from omnilytics.daemon.training.update import GradientFunction, honest_gradient
from omnilytics.peers.market import TaskSnapshot
from tests.adversaries.poisons import POISONS


def adversarial_part(poison: str | None, hostile_groups: int, die_in_round: int | None) -> type[OwnerPart]:
    """An owner's part that poisons in groups below hostile_groups (the drawn groups are numbered from 0;
    -1: in every group) and that is gone, as by kill -9, before it would post in round die_in_round."""

    class AdversarialPart(OwnerPart):
        def gradient_function(self) -> GradientFunction:
            snapshot = self._snapshot_or_fail()
            me = snapshot.member(self._node.me)
            assert me is not None
            hostile = hostile_groups == -1 or snapshot.group_of(me) < hostile_groups
            return POISONS[poison] if poison is not None and hostile else honest_gradient

        async def post_vector(self, snapshot: TaskSnapshot, round_number: int) -> None:
            if round_number == die_in_round:
                self._node.log("adversary.dies", "killed between commit and post", round=round_number)
                os.kill(os.getpid(), signal.SIGKILL)
            await super().post_vector(snapshot, round_number)

    return AdversarialPart


@click.command()
@network_options
@click.option("--data", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--seed")
@click.option("--poison", type=click.Choice(sorted(POISONS)))
@click.option("--hostile-groups", type=int, default=-1)
@click.option("--die-in-round", type=int)
def run(
    data: Path,
    seed: str | None,
    poison: str | None,
    hostile_groups: int,
    die_in_round: int | None,
    **options: Any,
) -> None:
    """Run a hostile data owner."""
    settings, password_file = settings_from(options)
    part = adversarial_part(poison, hostile_groups, die_in_round)
    run_owner(settings, password_file, OwnerOptions(data, seed=seed), part_class=part)


if __name__ == "__main__":
    main_with(run)
