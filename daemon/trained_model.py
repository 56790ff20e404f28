"""What a model owner has in the end, apart from files: everything that turns raw rows into classes. Pure.

`design_record` is what has to be remembered of a task's design from its beginning, besides the weights of the journal;
`TrainedModel` is both together. Weights are the model owner's secret: they are in no repr.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.protection.feature_map import FeatureMap, MapShape, decode_map
from omnilytics.daemon.protection.perturbed import PerturbedModel
from omnilytics.daemon.protection.secret_head import SecretHeadModel
from omnilytics.daemon.protection.sides import ModelSide
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.payload import as_published
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.daemon.training.trainers import TaskTrainer, trainer_for
from omnilytics.peers.errors import DataError, JournalError, ParameterError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class TrainedModel:
    """A model that predicts on its own.

    weights: under secret-head the head, float64[(width + 1) * classes]; otherwise the trainer's, float64[d], rounded
    to float32 as they were published. feature_map: under secret-head only. round is the last that was taken in of
    `rounds`; accuracy is a fraction of 1 on the model owner's own held-out rows, None where it is not known. Raises
    ParameterError where the parts do not fit.
    """

    architecture: str
    protection: str
    classes: tuple[str, ...]
    scaling: FeatureScaling = field(repr=False)
    weights: Floats = field(repr=False)
    feature_map: FeatureMap | None = field(default=None, repr=False)
    task: int = 0
    round: int = 0
    rounds: int | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        if (self.feature_map is None) != (self.protection != "secret-head"):
            raise ParameterError(f"a model of protection {self.protection} and its feature map do not fit")
        if self.feature_map is not None and self.feature_map.inputs != self.feature_count:
            raise ParameterError("the feature map and the scaling are of different columns")
        if len(self.classes) < 2:
            raise ParameterError(f"a model needs at least 2 classes, not {len(self.classes)}")
        count = self.weight_count
        if self.weights.shape != (count,):
            raise ParameterError(f"weights have {self.weights.size} values, {self.architecture} needs {count}")
        if not np.isfinite(self.weights).all():
            raise ParameterError(f"weight {int(np.argmin(np.isfinite(self.weights)))} is not finite")

    @property
    def feature_count(self) -> int:
        """Columns of a row."""
        return self.scaling.column_count

    @property
    def weight_count(self) -> int:
        """Values of `weights`."""
        if self.feature_map is not None:
            return (self.feature_map.shape.width + 1) * len(self.classes)
        return self.trainer.value_count

    @property
    def trainer(self) -> TaskTrainer:
        """What computes its scores; not under secret-head. Raises ParameterError where it may not be loaded here."""
        return trainer_for(self.architecture, self.feature_count, len(self.classes))

    def predict(self, features: Floats) -> Labels:
        """Indices of classes, int64[rows], of raw rows float64[rows, columns], as the model owner measured them.

        Raises DataError for another number of columns.
        """
        if features.ndim != 2 or features.shape[1] != self.feature_count:
            raise DataError(
                f"dataset has {features.shape[-1]} feature columns, the model needs {self.feature_count}",
                help="check that columns are those, and in the order, that the model was trained on",
            )
        scaled = self.scaling.apply(features)
        if self.feature_map is None:
            return self.trainer.predict(self.weights, scaled)
        head = self.weights.reshape(-1, len(self.classes))
        classes: Labels = (self.feature_map.apply(scaled) @ head).argmax(axis=1).astype(np.int64)
        return classes

    def named(self, indices: Labels) -> list[str]:
        """The classes' names."""
        return [self.classes[index] for index in indices]


def design_record(spec: TaskSpec, side: ModelSide) -> bytes:
    """What `recall` needs of a task's design, as JSON: nothing of it is more secret than what owners read."""
    if not isinstance(side, (EnvelopeModel, PerturbedModel, SecretHeadModel)):
        raise ParameterError(f"there is no record of a {type(side).__name__}")
    fields: dict[str, Any] = {
        "v": 1,
        "architecture": spec.architecture,
        "protection": spec.protection,
        "classes": list(spec.classes),
        "mean": _packed(side.scaling.mean),
        "scale": _packed(side.scaling.scale),
    }
    if isinstance(side, SecretHeadModel):
        fields["map"] = base64.b64encode(side.feature_map.encode()).decode()
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def recall(record: bytes, weights: Floats, task: int, round_number: int) -> TrainedModel:
    """The model of a record and of the weights (float64, unrounded) that a journal holds after a round.

    Raises JournalError for a record that cannot be read, ParameterError where the weights do not fit it.
    """
    try:
        said = json.loads(record)
        if said["v"] != 1:
            raise ValueError("of another version")
        scaling = FeatureScaling(_unpacked(said["mean"]), _unpacked(said["scale"]))
        feature_map = None
        if "map" in said:
            shape = MapShape.parse(said["architecture"])
            feature_map = decode_map(shape, scaling.column_count, base64.b64decode(said["map"], validate=True))
        used = weights if feature_map is not None else as_published(weights)
        return TrainedModel(
            said["architecture"],
            said["protection"],
            tuple(said["classes"]),
            scaling,
            np.array(used, dtype=np.float64),
            feature_map,
            task,
            round_number,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JournalError(
            f"the journal's record of task {task} cannot be read: {error}",
            help="upgrade the program, or restore the journal from a backup",
        ) from error


def with_results(model: TrainedModel, rounds: int | None, accuracy: float | None) -> TrainedModel:
    """The same model, and what is known of how it came about."""
    return replace(model, rounds=rounds, accuracy=accuracy)


def right_share(model: TrainedModel, found: Labels, labels: Sequence[str]) -> float:
    """The fraction of rows whose class, by name, was predicted."""
    return float(np.mean([name == label for name, label in zip(model.named(found), labels, strict=True)]))


def _packed(values: Floats) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
