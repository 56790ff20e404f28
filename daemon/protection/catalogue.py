"""The protections that a task can name, and what each of them means for its parameters.

What an owner must know before it joins is here: what is promised, who selects, whether its rows are used once only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omnilytics.daemon.protection import envelope, perturbed, secret_head
from omnilytics.daemon.protection.envelope import EnvelopeOwner
from omnilytics.daemon.protection.feature_map import MapShape
from omnilytics.daemon.protection.perturbed import PerturbedOwner
from omnilytics.daemon.protection.secret_head import SecretHeadOwner
from omnilytics.daemon.protection.sides import OwnerSide
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.trainers import BUILT_IN, trainer_for, trainer_name
from omnilytics.peers.errors import ParameterError


@dataclass(frozen=True)
class Protection:
    """What a task gets with a protection's name.

    promise: one line for owners. model_selection: the model owner selects, and each group has pads of its own.
    any_trainer: owners post gradients of whatever trainer the task names.
    fresh_rows: every row is used in one round only. same_model_once: owners refuse the same published values twice.
    clip: of every task, None where the model owner chooses it. least_lane_bits: lanes narrower than these are useless.
    The following take (architecture, feature count, class count) and raise ParameterError for what cannot be.
    owner_side: what owners compute; a fourth argument says whether its owner accepts that sums of few rows give single
    ones away. least_group_rows: how many rows a group's sum must hold so that they do not.
    """

    name: str
    promise: str
    model_selection: bool
    any_trainer: bool
    fresh_rows: bool
    same_model_once: bool
    clip: float | None
    least_lane_bits: int
    owner_side: Callable[[str, int, int, bool], OwnerSide]
    least_group_rows: Callable[[str, int, int], int]


def check_trainer(protection: str, architecture: str) -> None:
    """Raises ParameterError where a protection cannot take its gradients from the trainer that is named."""
    name = trainer_name(architecture)
    if name in BUILT_IN or protection == "envelope":
        return
    reasons = {
        "perturbed": "what owners report is worked out layer by layer, for mlp:WIDTH,.. alone",
        "secret-head": "its statistic is that of a linear head on a feature map, not a trainer's gradient",
    }
    raise ParameterError(
        f"protection {protection} cannot train {architecture!r}: {reasons[protection]}",
        help="use --protection envelope, or a model of softmax or mlp",
    )


def _network(protection: str, architecture: str, feature_count: int, class_count: int) -> Model:
    check_trainer(protection, architecture)
    return Model(Architecture.parse(architecture), feature_count, class_count)


def _secret_head_owner(architecture: str, feature_count: int, class_count: int, thin_sums: bool) -> OwnerSide:
    shape = MapShape.parse(architecture)
    if feature_count < 1:
        raise ParameterError(f"a feature map needs at least 1 feature, not {feature_count}")
    careful = secret_head.least_class_rows(feature_count, shape.width)
    least = secret_head.DEFAULT_LEAST_CLASS_ROWS if thin_sums else careful
    return SecretHeadOwner(shape, feature_count, class_count, least)


def _secret_head_rows(architecture: str, feature_count: int, class_count: int) -> int:
    return secret_head.least_group_rows(feature_count, MapShape.parse(architecture).width, class_count)


PROTECTIONS = {
    protection.name: protection
    for protection in (
        Protection(
            "envelope",
            envelope.PROMISE,
            model_selection=False,
            any_trainer=True,
            fresh_rows=False,
            same_model_once=True,
            clip=None,
            least_lane_bits=8,
            owner_side=lambda *of: EnvelopeOwner(trainer_for(*of[:3])),
            least_group_rows=lambda *shape: 1,
        ),
        Protection(
            "perturbed",
            PerturbedOwner.promise,
            model_selection=True,
            any_trainer=False,
            fresh_rows=PerturbedOwner.fresh_rows,
            same_model_once=True,
            clip=PerturbedOwner.clip,
            least_lane_bits=PerturbedOwner.least_lane_bits,
            owner_side=lambda *of: PerturbedOwner(_network("perturbed", *of[:3])),
            least_group_rows=lambda *shape: perturbed.least_group_rows(_network("perturbed", *shape)),
        ),
        Protection(
            "secret-head",
            SecretHeadOwner.promise,
            model_selection=True,
            any_trainer=False,
            fresh_rows=SecretHeadOwner.fresh_rows,
            same_model_once=False,
            clip=SecretHeadOwner.clip,
            least_lane_bits=SecretHeadOwner.least_lane_bits,
            owner_side=_secret_head_owner,
            least_group_rows=_secret_head_rows,
        ),
    )
}


def protection_named(name: object) -> Protection:
    """The protection of that name. Raises ParameterError."""
    if not isinstance(name, str) or name not in PROTECTIONS:
        raise ParameterError(f"unknown protection {name!r}; use one of {', '.join(PROTECTIONS)}")
    return PROTECTIONS[name]
