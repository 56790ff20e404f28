"""The protections that a task can name, and what each of them means for its parameters.

What an owner must know before it joins is here: what is promised, who selects, whether its rows are used once only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omnilytics.daemon.protection import envelope
from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.protection.sides import OwnerSide
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.peers.errors import ParameterError


@dataclass(frozen=True)
class Protection:
    """What a task gets with a protection's name.

    promise: one line for owners. model_selection: the model owner selects, and each group has pads of its own.
    fresh_rows: every row is used in one round only. same_model_once: owners refuse the same published values twice.
    owner_side: of (architecture, feature count, class count), raising ParameterError for what it cannot be.
    least_group_rows: of the same; fewer rows in a group's sum would give single rows away.
    """

    name: str
    promise: str
    model_selection: bool
    fresh_rows: bool
    same_model_once: bool
    owner_side: Callable[[str, int, int], OwnerSide]
    least_group_rows: Callable[[str, int, int], int]


def _envelope_owner(architecture: str, feature_count: int, class_count: int) -> OwnerSide:
    return EnvelopeOwner(Model(Architecture.parse(architecture), feature_count, class_count))


PROTECTIONS = {
    protection.name: protection
    for protection in (
        Protection(
            "envelope",
            envelope.PROMISE,
            model_selection=False,
            fresh_rows=False,
            same_model_once=True,
            owner_side=_envelope_owner,
            least_group_rows=lambda architecture, feature_count, class_count: 1,
        ),
    )
}


def protection_named(name: object) -> Protection:
    """The protection of that name. Raises ParameterError."""
    if not isinstance(name, str) or name not in PROTECTIONS:
        raise ParameterError(f"unknown protection {name!r}; use one of {', '.join(PROTECTIONS)}")
    return PROTECTIONS[name]
