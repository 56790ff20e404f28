"""The model as the model owner publishes it each round: the plaintext inside the envelope.

    magic "OLMP" (4) ‖ version 1 (1) ‖ header length (4, big endian) ‖ header ‖ weights ‖ mean ‖ scale

The header is JSON in ASCII with sorted keys and no spaces: architecture, class_count, feature_count, round.
weights (d values), mean and scale (feature_count values each) are little-endian float32. What is fixed for
the whole task (class names, clip, batch size) stands in the task's description on the chain, not here.

Everybody computes on the weights as published, that is rounded to float32 (`as_published`). A payload has
exactly one encoding.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.daemon.training.trainers import TaskTrainer
from omnilytics.peers.errors import ModelMismatchError, ParameterError

MAGIC = b"OLMP"
VERSION = 1
MAX_HEADER_BYTES = 1024

_PREFIX = struct.Struct(">4sBI")
_KEYS = {"architecture", "class_count", "feature_count", "round"}


def as_published(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights rounded to float32, as float64[d] again: what everybody computes on.

    Beyond float32's range they become infinite, which `ModelPayload` refuses.
    """
    with np.errstate(over="ignore"):
        return weights.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class ModelPayload:
    """A published model: weights float64[d] that float32 holds exactly, and the task's scaling.

    Build it with `of`, which rounds. Raises ParameterError when the parts do not fit each other, a weight
    is not finite or not rounded, or the round is negative.
    """

    model: TaskTrainer
    weights: NDArray[np.float64]
    scaling: FeatureScaling
    round: int

    @classmethod
    def of(
        cls, model: TaskTrainer, weights: NDArray[np.float64], scaling: FeatureScaling, round_number: int
    ) -> ModelPayload:
        """The payload of these weights (float64[d], any precision), rounded. Raises as the class does."""
        return cls(model, as_published(weights), scaling, round_number)

    def __post_init__(self) -> None:
        count = self.model.value_count
        if self.round < 0:
            raise ParameterError(f"round {self.round} is negative")
        if self.weights.shape != (count,):
            raise ParameterError(f"weights have {self.weights.size} values, {self.model} needs {count}")
        wrong = np.flatnonzero(~np.isfinite(self.weights))
        if len(wrong):
            name = "NaN" if math.isnan(self.weights[wrong[0]]) else "infinite"
            raise ParameterError(f"weight {wrong[0]} is {name}")
        if not np.array_equal(as_published(self.weights), self.weights):
            raise ParameterError("weights are not rounded to float32; use ModelPayload.of")
        if self.scaling.column_count != self.model.feature_count:
            raise ParameterError(
                f"scaling has {self.scaling.column_count} columns, the model {self.model.feature_count}"
            )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the weights' bytes, 32 bytes: equal for equal weights, whatever the round.

        Negative zero counts as zero.
        """
        return hashlib.sha256((self.weights + 0.0).astype("<f4").tobytes()).digest()


def encode_payload(payload: ModelPayload) -> bytes:
    """The bytes to publish."""
    model = payload.model
    header = json.dumps(
        {
            "architecture": model.describe(),
            "class_count": model.class_count,
            "feature_count": model.feature_count,
            "round": payload.round,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode("ascii")
    arrays = (payload.weights, payload.scaling.mean, payload.scaling.scale)
    body = b"".join(array.astype("<f4").tobytes() for array in arrays)
    return _PREFIX.pack(MAGIC, VERSION, len(header)) + header + body


def decode_payload(data: bytes, model: TaskTrainer, round_number: int) -> ModelPayload:
    """Read a published model, strictly: `model` and `round_number` are what the task on the chain says.

    Raises ModelMismatchError for anything but bytes that `encode_payload` writes for that model and round:
    another magic or version, a header with missing, unknown or mistyped fields, another architecture, a
    wrong size, a weight or scaling that is not finite. The owner then does not train on it.
    """
    if len(data) < _PREFIX.size or data[:4] != MAGIC:
        raise ModelMismatchError("model payload: the first bytes are not a model's")
    _, version, header_length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise ModelMismatchError(f"model payload has version {version}; this program reads version {VERSION}")
    start = _PREFIX.size + header_length
    if header_length > MAX_HEADER_BYTES or start > len(data):
        raise ModelMismatchError(f"model payload: header of {header_length} bytes in {len(data)} bytes")
    architecture, class_count, feature_count, said_round = _read_header(data[_PREFIX.size : start])
    if (architecture, class_count, feature_count) != (model.describe(), model.class_count, model.feature_count):
        # A stranger's text: no escape sequences, no end of lines.
        shown = architecture if architecture.isprintable() else repr(architecture)
        said = f"{shown} of {feature_count} features and {class_count} classes"
        raise ModelMismatchError(f"model payload is a {said}, the task's is a {model}")
    if said_round != round_number:
        raise ModelMismatchError(f"model payload is of round {said_round}, not {round_number}")
    count, columns = model.value_count, model.feature_count
    if len(data) != start + 4 * (count + 2 * columns):
        raise ModelMismatchError(
            f"model payload has {len(data)} bytes, its header asks for {start + 4 * (count + 2 * columns)}"
        )
    values = np.frombuffer(data, dtype="<f4", offset=start).astype(np.float64)
    try:
        scaling = FeatureScaling(values[count : count + columns], values[count + columns :])
        payload = ModelPayload(model, values[:count], scaling, round_number)
    except ParameterError as error:
        raise ModelMismatchError(f"model payload: {error.message}; not training") from None
    if encode_payload(payload) != data:
        raise ModelMismatchError("model payload is not in its one encoding")
    return payload


def _read_header(raw: bytes) -> tuple[str, int, int, int]:
    """Architecture, class count, feature count and round, as the header says them."""
    try:
        fields = json.loads(raw.decode("ascii"))
    except (ValueError, RecursionError):
        raise ModelMismatchError("model payload: header is not JSON") from None
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        raise ModelMismatchError("model payload: header has missing or unknown fields")
    architecture, *numbers = (fields[name] for name in sorted(_KEYS))
    if not isinstance(architecture, str) or not all(type(number) is int for number in numbers):
        raise ModelMismatchError("model payload: a field of the header has the wrong type")
    class_count, feature_count, round_number = numbers
    return architecture, class_count, feature_count, round_number
