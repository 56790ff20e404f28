"""From a model owner's wishes and its own rows to a task: what owners are told, and the model owner's side of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.catalogue import protection_named
from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.protection.sides import ModelSide
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.batch import DEFAULT_BATCH_SIZE
from omnilytics.daemon.training.clip import suggest_clip
from omnilytics.daemon.training.data import Dataset, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import default_optimiser, parse_optimiser
from omnilytics.daemon.training.scaling import FeatureScaling

# Of the model owner's rows, the share that selects groups where the model owner does; the rest measures accuracy.
VALIDATION_FRACTION = 0.5


@dataclass(frozen=True)
class Wishes:
    """What a model owner asks for; None is chosen from its own rows.

    architecture as in TaskSpec; seed makes first weights and feature maps, so that a restarted daemon has the same.
    """

    architecture: str
    protection: str
    group_size: int
    lane_bits: int
    batch_size: int | None
    optimiser: str | None
    clip: float | None
    seed: int
    trunk: Path | None = None


@dataclass(frozen=True)
class TaskDesign:
    """A task's description, the model owner's side, and the rows (scaled) that measure its accuracy."""

    spec: TaskSpec
    side: ModelSide = field(repr=False)
    scaling: FeatureScaling = field(repr=False)
    test: Dataset = field(repr=False)


def design_task(wishes: Wishes, own: Dataset) -> TaskDesign:
    """Designs a task from the model owner's own rows alone.

    Raises ParameterError for what cannot be, DataError for rows that cannot serve.
    """
    own.check_trainable()
    means = protection_named(wishes.protection)
    scaling = FeatureScaling.fit(own.features)
    scaled = Dataset(scaling.apply(own.features), own.labels, own.classes)
    generator = np.random.default_rng(wishes.seed)
    test, validation = scaled, scaled
    if means.model_selection:
        # Rows that select groups would flatter the accuracy if they measured it too.
        test, validation = split_holdout(scaled, VALIDATION_FRACTION, np.random.default_rng(wishes.seed))
    side = _model_side(wishes, own, scaling, validation)
    # The description is complete but for the clip, which is measured with it.
    batch_size = wishes.batch_size or DEFAULT_BATCH_SIZE
    draft = TaskSpec(wishes.architecture, own.column_count, own.classes, 1.0, batch_size, wishes.protection)
    if wishes.batch_size is None and means.fresh_rows:
        batch_size = -(-draft.least_group_rows // wishes.group_size)
    clip = wishes.clip
    if clip is None:
        published = draft.side.read(side.publish(side.begin(), 1, bytes(32)), 1)
        clip = suggest_clip(draft.side, published, scaled, batch_size, generator, lane_bits=wishes.lane_bits)
    spec = TaskSpec(wishes.architecture, own.column_count, own.classes, clip, batch_size, wishes.protection)
    return TaskDesign(spec, side, scaling, test)


def _model_side(wishes: Wishes, own: Dataset, scaling: FeatureScaling, validation: Dataset) -> ModelSide:
    model = Model(Architecture.parse(wishes.architecture), own.column_count, len(own.classes))
    optimiser = parse_optimiser(wishes.optimiser) if wishes.optimiser else default_optimiser(model.architecture)
    return EnvelopeModel(model, optimiser, initial_weights(model, wishes.seed), scaling)


def initial_weights(model: Model, seed: int) -> NDArray[np.float64]:
    """The first weights, float64[d]."""
    return model.init(np.random.default_rng(seed))
