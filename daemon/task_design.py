"""From a model owner's wishes and its own rows to a task: what owners are told, and the model owner's side of it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace

import numpy as np

from omnilytics.daemon.protection.catalogue import check_trainer, protection_named
from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.protection.feature_map import FeatureMap, MapShape, RandomFeatures, Trunk
from omnilytics.daemon.protection.perturbation import check_model
from omnilytics.daemon.protection.perturbed import PerturbedModel
from omnilytics.daemon.protection.secret_head import SecretHeadModel
from omnilytics.daemon.protection.sides import ModelSide
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training import squared_error
from omnilytics.daemon.training.batch import DEFAULT_BATCH_SIZE
from omnilytics.daemon.training.clip import suggest_clip
from omnilytics.daemon.training.data import Dataset, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import Momentum, default_optimiser, parse_optimiser
from omnilytics.daemon.training.payload import as_published
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.daemon.training.trainers import trainer_for
from omnilytics.peers.errors import ParameterError

# Of the model owner's rows, the share that selects groups where the model owner does; the rest measures accuracy.
VALIDATION_FRACTION = 0.5
# Full-batch steps of a trunk on the model owner's rows.
TRUNK_STEPS = 100
# The learning rate for gradients of a trainer that nobody here knows.
INSTALLED_TRAINER_RATE = 0.1


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
    if wishes.lane_bits < means.least_lane_bits:
        raise ParameterError(
            f"protection {means.name} needs lanes of {means.least_lane_bits} bits or more, not {wishes.lane_bits}",
            help=f"--lane-bits {means.least_lane_bits}",
        )
    # Owners would refuse such a description, but only after it was paid for.
    if wishes.batch_size is not None and wishes.batch_size < 1:
        raise ParameterError(f"batch size {wishes.batch_size} is below 1", help="raise --batch-size")
    if wishes.clip is not None and not (math.isfinite(wishes.clip) and wishes.clip > 0):
        raise ParameterError(f"a clip of {wishes.clip} is not above 0", help="raise --clip, or leave it out")
    scaling = FeatureScaling.fit(own.features)
    scaled = Dataset(scaling.apply(own.features), own.labels, own.classes)
    test, validation = scaled, scaled
    if means.model_selection:
        # Rows that select groups would flatter the accuracy if they measured it too.
        test, validation = split_holdout(scaled, VALIDATION_FRACTION, np.random.default_rng(wishes.seed))
    # The description is complete but for the clip, which is measured with it.
    batch_size = wishes.batch_size or DEFAULT_BATCH_SIZE
    draft = TaskSpec(wishes.architecture, own.column_count, own.classes, 1.0, batch_size, wishes.protection)
    if wishes.batch_size is None:
        batch_size = max(0 if means.fresh_rows else batch_size, -(-draft.least_group_rows // wishes.group_size))
    side = _model_side(wishes, scaling, validation)
    clip = wishes.clip if means.clip is None else means.clip
    if clip is None:
        published = draft.side.read(side.publish(side.begin(), 1, bytes(32)), 1)
        generator = np.random.default_rng(wishes.seed)
        clip = suggest_clip(draft.side, published, scaled, batch_size, generator, lane_bits=wishes.lane_bits)
    return TaskDesign(replace(draft, clip=clip, batch_size=batch_size), side, scaling, test)


def _model_side(wishes: Wishes, scaling: FeatureScaling, validation: Dataset) -> ModelSide:
    columns, classes = validation.column_count, len(validation.classes)
    generator = np.random.default_rng(wishes.seed)
    if wishes.protection == "secret-head":
        feature_map = _feature_map(MapShape.parse(wishes.architecture), wishes, validation)
        return SecretHeadModel(feature_map, classes, scaling, validation)
    optimiser = parse_optimiser(wishes.optimiser) if wishes.optimiser else None
    if wishes.protection == "perturbed":
        check_trainer(wishes.protection, wishes.architecture)
        model = Model(Architecture.parse(wishes.architecture), columns, classes)
        check_model(model)
        weights = squared_error.first_weights(model, generator)
        return PerturbedModel(model, weights, optimiser or squared_error.default_optimiser(), scaling, validation)
    trainer = trainer_for(wishes.architecture, columns, classes)
    if optimiser is None:
        known = trainer.architecture if isinstance(trainer, Model) else None
        optimiser = default_optimiser(known) if known is not None else Momentum(INSTALLED_TRAINER_RATE)
    return EnvelopeModel(trainer, optimiser, trainer.init(generator), scaling)


def _feature_map(shape: MapShape, wishes: Wishes, own: Dataset) -> FeatureMap:
    """Random features of the seed, or the hidden layers of a network trained on the model owner's rows alone."""
    if shape.kind == "random":
        return RandomFeatures(own.column_count, shape.width, hashlib.sha256(f"map {wishes.seed}".encode()).digest())
    model = Model(Architecture(shape.widths), own.column_count, len(own.classes))
    side = EnvelopeModel(
        model,
        default_optimiser(model.architecture),
        model.init(np.random.default_rng(wishes.seed)),
        FeatureScaling.fit(own.features),
    )
    learned = side.begin()
    for _ in range(TRUNK_STEPS):
        at = as_published(learned.weights)
        learned = side.learn(learned, b"", model.gradient(at, own.features, own.labels))
    return Trunk.fit(model, learned.weights, own)
