"""A data owner's daemon that misbehaves: it poisons (always, or when its group is hostile), dies at a moment, or
gives all its secrets away.

Run as `python -m tests.adversaries.owner --home ... [options of omnilytics owner run] [adversary options]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.cli import main_with
from omnilytics.daemon.commands.options import network_options, settings_from
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.protection.sides import StatisticFunction, honest_statistic
from omnilytics.daemon.run import OwnerOptions, run_owner
from omnilytics.peers.market import TaskSnapshot
from omnilytics.peers.owner_round import MaskVector, OwnerEffect, OwnerRound
from tests.adversaries import kill_own_process
from tests.adversaries.poisons import POISONS, drawn_groups, hostile_groups


def adversarial_part(
    poison: str | None,
    hostile_count: int,
    die_in_round: int | None,
    leak: Path | None = None,
    die: Callable[[], None] = kill_own_process,
    spared: Collection[bytes] = (),
) -> type[OwnerPart]:
    """An owner's part that poisons in the first hostile_count groups (-1: in every group), those that hold none of
    the spared accounts first, that is gone, as by kill -9, before it would post in round die_in_round, and that
    writes the secrets of every round to the file `leak`, a JSON object a line, and tries to log them too."""

    class AdversarialPart(OwnerPart):
        def statistic_function(self) -> StatisticFunction:
            snapshot = self._snapshot_or_fail()
            me = snapshot.member(self._node.me)
            assert me is not None
            groups = drawn_groups(snapshot.members, snapshot.params.group_size)
            hostile = groups[me.account] in hostile_groups(groups, hostile_count, spared)
            return POISONS[poison] if poison is not None and hostile else honest_statistic

        def _die_in(self, round_number: int) -> None:
            if round_number == die_in_round:
                self._node.log("adversary.dies", "killed between commit and post", round=round_number)
                die()

        async def deliver_vector(self, snapshot: TaskSnapshot, round_number: int) -> None:
            self._die_in(round_number)
            await super().deliver_vector(snapshot, round_number)

        async def post_vector(self, snapshot: TaskSnapshot, round_number: int) -> None:
            self._die_in(round_number)
            await super().post_vector(snapshot, round_number)

        async def _perform(self, effects: list[OwnerEffect]) -> None:
            for effect in effects:
                if leak is not None and isinstance(effect, MaskVector) and self._round is not None:
                    with leak.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(secrets_of(self._round, effect)) + "\n")
            await super()._perform(effects)
            for effect in effects:
                if leak is not None and isinstance(effect, MaskVector) and self._round is not None:
                    self._babble(self._round, effect)

        def _babble(self, round_: OwnerRound, effect: MaskVector) -> None:
            """Tries to log every secret of the round, as words, bytes and values: the log must not let it."""
            known = secrets_of(round_, effect)
            names = ("registered_secret", "ephemeral_secret", "model_key", "pad_seed")
            told = [*(known[name] for name in names), *known["pair_seeds"].values()]
            raw = [bytes.fromhex(secret) for secret in told]
            self._node.log(
                "adversary.babbles",
                " ".join(told),
                task=self._task,
                round=round_.opening.round,
                tx=raw[0],
                code=told[1].upper(),
                planted=len(told),
                in_bytes=raw,
                in_words=[repr(secret) for secret in raw],
                by_name=known["pair_seeds"],
            )

    return AdversarialPart


def secrets_of(round_: OwnerRound, effect: MaskVector) -> dict[str, Any]:
    """Everything secret that an owner knows in a round but its update."""
    return {
        "address": round_.keys.address.hex(),
        "round": round_.opening.round,
        "ctx": round_.opening.ctx.hex(),
        "group": round_.group,
        "position": round_.position,
        "registered_secret": round_.keys.registered.secret.hex(),
        "ephemeral_secret": round_.keys.ephemeral.secret.hex(),
        "model_key": (round_.model_key or b"").hex(),
        "pad_seed": effect.pad_seed.hex(),
        "pair_seeds": {pair.mate_address.hex(): pair.seed.hex() for pair in effect.pairs},
        "positions": {pair.mate_address.hex(): pair.mate_position for pair in effect.pairs},
    }


@click.command()
@network_options
@click.option("--data", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--seed")
@click.option("--restore-stake", is_flag=True)
@click.option("--allow-thin-sums", is_flag=True)
@click.option("--max-tasks", type=int)
@click.option("--poison", type=click.Choice(sorted(POISONS)))
@click.option("--hostile-groups", type=int, default=-1)
@click.option("--spare", multiple=True, metavar="ADDRESS")
@click.option("--die-in-round", type=int)
@click.option("--leak", type=click.Path(path_type=Path, dir_okay=False))
def run(
    data: Path,
    seed: str | None,
    restore_stake: bool,
    allow_thin_sums: bool,
    max_tasks: int | None,
    poison: str | None,
    hostile_groups: int,
    spare: tuple[str, ...],
    die_in_round: int | None,
    leak: Path | None,
    **options: Any,
) -> None:
    """Run a hostile data owner."""
    settings, password_file = settings_from(options)
    spared = [bytes.fromhex(address.removeprefix("0x")) for address in spare]
    part = adversarial_part(poison, hostile_groups, die_in_round, leak, spared=spared)
    chosen = OwnerOptions(
        data, seed=seed, restore_stake=restore_stake, allow_thin_sums=allow_thin_sums, max_tasks=max_tasks
    )
    run_owner(settings, password_file, chosen, part_class=part)


if __name__ == "__main__":
    main_with(run)
