"""Owners that follow the protocol to the letter and post a bad statistic.

Each poison is a statistic function with the signature of omnilytics.daemon.protection.sides.honest_statistic:
(owner's side, what is published, scaled features float64[rows, columns], labels int64[rows], clip, generator) ->
float64[d]. A poisoned owner clips and quantises what it gets, as everybody does. `POISONS` names them all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnilytics.daemon.protection.sides import Floats, Labels, OwnerSide, Published, StatisticFunction
from omnilytics.peers.errors import ParameterError
from omnilytics.peers.market import NO_SEAT, Member
from tests.adversaries.quiet_poisons import QUIET_POISONS


def noise(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """Uniform over everything that clipping lets through: the loudest nonsense."""
    return generator.uniform(-clip, clip, side.value_count)


def label_flip(
    side: OwnerSide,
    published: Published,
    features: Floats,
    labels: Labels,
    clip: float,
    generator: np.random.Generator,
) -> Floats:
    """The honest statistic of dishonest labels: class y is taught as class_count - 1 - y."""
    return side.statistic(published, features, side.class_count - 1 - labels)


def multiplied(factor: float) -> StatisticFunction:
    """The honest statistic times `factor`."""

    def poison(
        side: OwnerSide,
        published: Published,
        features: Floats,
        labels: Labels,
        clip: float,
        generator: np.random.Generator,
    ) -> Floats:
        return factor * side.statistic(published, features, labels)

    return poison


POISONS: dict[str, StatisticFunction] = {
    "noise": noise,
    "scale": multiplied(10.0),
    "sign-flip": multiplied(-1.0),
    "sign-flip-3": multiplied(-3.0),
    "label-flip": label_flip,
    **QUIET_POISONS,
}


@dataclass(frozen=True)
class PoisonOrder:
    """So many groups, or single owners, of one kind: what --poison and --poison-owners say."""

    kind: str
    count: int

    @property
    def function(self) -> StatisticFunction:
        """The statistic function of the poisoned."""
        return POISONS[self.kind]


def parse_poison(text: str) -> PoisonOrder:
    """Read "KIND:COUNT", as in "noise:2". Raises ParameterError, in words for the user."""
    kind, _, count = text.partition(":")
    if kind not in POISONS:
        raise ParameterError(f"unknown poison {kind!r}; use one of {', '.join(POISONS)}")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", count):
        raise ParameterError(f"poison {text!r} needs a count of at least 1, as in {kind}:1")
    return PoisonOrder(kind, int(count))


def hostile_groups(groups: Mapping[bytes, int], count: int, spared: Collection[bytes] = ()) -> set[int]:
    """Which of the drawn groups are hostile: the first `count`, those that hold nobody spared before others; -1: all.

    groups: the group of every account that was drawn, as drawn_groups has it. A hostile group whose member is
    killed drops out of the rounds, and then there is nothing to see of its poison; so the killed are spared.
    """
    if count == -1:
        return set(groups.values())
    taken = {groups[account] for account in spared if account in groups}
    return set(sorted(set(groups.values()), key=lambda group: (group in taken, group))[:count])


def drawn_groups(members: Sequence[Member], group_size: int) -> dict[bytes, int]:
    """The group of every account that was drawn into one, whatever became of it since."""
    return {member.account: member.seat // group_size for member in members if member.seat != NO_SEAT}
