"""The feature maps of the secret-head protection: what the model owner publishes in place of a model.

A map takes a row's scaled features to width + 1 values in [0, 1]: ReLU units, cut at 1, and a constant 1 at the end.
Since every value is in [0, 1], so is every product of two, every mean of such products, and one clip of 1.0 serves
all tasks. Few values of scaled features reach the cut.

Two kinds, described by a shape: "random:256" (random features of a seed; Rahimi and Recht, NIPS 2008) and
"trunk:64,32" (hidden ReLU layers that the model owner trained on rows of its own).

How alike owners' maps must be: only to the precision of quantisation (steps of 1 / 5,461 in lanes of 16 bits), since
every owner sees only its own values and sums of integers are exact whatever went into them. So the words of a seed
are fixed bit by bit (SHAKE-256), while log, cos and the matrix product may differ in their last bits between
machines: by about 1e-15, a hundred-billionth of a step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.peers.errors import ParameterError

Floats = NDArray[np.float64]

SEED_BYTES = 32
MIN_WIDTH, MAX_WIDTH = 2, 1024
#: Values of a random map's matrix: a task cannot make an owner compute more, whatever it says.
MAX_MATRIX_VALUES = 1 << 22
#: Largest magnitude of a trunk's weight: nine layers of the widest kind stay far from float64's range.
MAX_TRUNK_WEIGHT = 2.0**20

#: Standard deviation of a random unit's bias, and how many of them it is at most. Without the limit a model owner could
#: try seeds until some unit is lit by hardly any row, and read such a row off its unit's sums.
BIAS_SPREAD = 0.5
BIAS_LIMIT = 2.0
#: The value before the ReLU that the cut maps to 1, where scaled features give units of standard deviation about 1.
RANDOM_CUT = 3.0


@dataclass(frozen=True)
class MapShape:
    """What a task's description says of its map: the kind and the widths of its layers.

    kind: "random", with one width, or "trunk", with those of its hidden layers in order. Raises ParameterError for
    anything else, and for a last width that is not in MIN_WIDTH..MAX_WIDTH.
    """

    kind: str
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("random", "trunk"):
            raise ParameterError(f"unknown feature map {self.kind!r}; use random:WIDTH or trunk:WIDTH[,WIDTH...]")
        if not self.widths or (self.kind == "random" and len(self.widths) > 1):
            raise ParameterError(f"a {self.kind} feature map cannot have {len(self.widths)} widths")
        if not MIN_WIDTH <= self.width <= MAX_WIDTH:
            raise ParameterError(
                f"feature map {self.describe()}: width {self.width} is not in {MIN_WIDTH}..{MAX_WIDTH}"
            )

    @classmethod
    def parse(cls, text: str) -> MapShape:
        """Read "random:256" or "trunk:64,32". Raises ParameterError, in words for the user, for anything else."""
        kind, colon, sizes = text.partition(":")
        if kind not in ("random", "trunk") or not colon:
            raise ParameterError(f"unknown feature map {text!r}; use random:WIDTH or trunk:WIDTH[,WIDTH...]")
        return cls(kind, Architecture.parse(f"mlp:{sizes}").hidden)

    def describe(self) -> str:
        """The text that `parse` reads back to an equal shape."""
        return f"{self.kind}:" + ",".join(str(width) for width in self.widths)

    @property
    def width(self) -> int:
        """Units of the last layer; the map has one value more, the constant."""
        return self.widths[-1]

    def byte_count(self, inputs: int) -> int:
        """Length of `FeatureMap.encode` for rows of `inputs` features."""
        return (
            SEED_BYTES if self.kind == "random" else 4 * Architecture(self.widths[:-1]).value_count(inputs, self.width)
        )


class FeatureMap(Protocol):
    """A published map."""

    @property
    def shape(self) -> MapShape:
        """Its kind and widths."""

    @property
    def inputs(self) -> int:
        """Features of a row."""

    def apply(self, features: Floats) -> Floats:
        """float64[rows, inputs], scaled, to float64[rows, width + 1], all in [0, 1], the last column 1.

        Raises ParameterError for another column count.
        """

    def encode(self) -> bytes:
        """The map's bytes in a payload, which `decode_map` reads back for the same shape and inputs."""


@dataclass(frozen=True)
class RandomFeatures:
    """phi(x) = (min(relu(x A + b) / cut, 1), 1), A and b random by a seed of 32 bytes.

    A is [inputs, width]: blocks of `inputs` columns (the last of fewer), each the orthonormal part of a matrix of
    normal values (QR decomposition with a positive diagonal; Yu et al., Orthogonal Random Features, NIPS 2016: better
    than independent columns where they are few). b is [width], normal of standard deviation BIAS_SPREAD, cut at
    BIAS_LIMIT of them. The normals are the Box-Muller transform of numbers with 53 bits from SHAKE-256 of the seed;
    those of A come first, block by block, row by row. Raises ParameterError for a seed of another length or sizes out
    of bounds.
    """

    inputs: int
    width: int
    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ParameterError(f"the seed of random features has {len(self.seed)} bytes; need {SEED_BYTES}")
        if self.inputs < 1:
            raise ParameterError(f"a feature map needs at least 1 feature, not {self.inputs}")
        values = (self.inputs + 1) * MapShape("random", (self.width,)).width
        if values > MAX_MATRIX_VALUES:
            raise ParameterError(f"random features of {values} values; at most {MAX_MATRIX_VALUES}")

    @property
    def shape(self) -> MapShape:
        """ "random" and the width."""
        return MapShape("random", (self.width,))

    def apply(self, features: Floats) -> Floats:
        """See FeatureMap."""
        matrix, biases = self.layer
        return _units((_checked(features, self.inputs) @ matrix + biases) / RANDOM_CUT)

    @property
    def layer(self) -> tuple[Floats, Floats]:
        """A, float64[inputs, width], and b, float64[width]."""
        return _random_layer(self.inputs, self.width, self.seed)

    def encode(self) -> bytes:
        """The seed."""
        return self.seed


@dataclass(frozen=True)
class Trunk:
    """phi(x) = (min(h(x), 1), 1), h the last of the model owner's own hidden ReLU layers.

    shape: of kind "trunk"; weights: float64 that float32 holds exactly, in the layout of training/models.py with the
    last hidden layer as the output. Build it with `fit`, which rounds, and scales the last layer so that the sample's
    activations stay below 1. Raises ParameterError for weights that do not fit the shape, are not finite, not rounded
    or beyond MAX_TRUNK_WEIGHT.
    """

    inputs: int
    shape: MapShape
    weights: Floats = field(repr=False)

    def __post_init__(self) -> None:
        if self.shape.kind != "trunk":
            raise ParameterError(f"a trunk cannot have the shape {self.shape.describe()}")
        count = _trunk_model(self.shape, self.inputs).value_count
        if self.weights.shape != (count,):
            raise ParameterError(f"the trunk has {self.weights.size} weights, {self.shape.describe()} needs {count}")
        # Not finite fails the comparison as well.
        wrong = np.flatnonzero(~(np.abs(self.weights) <= MAX_TRUNK_WEIGHT))
        if len(wrong):
            raise ParameterError(f"weight {wrong[0]} of the trunk is not a number up to {MAX_TRUNK_WEIGHT:.0f}")
        if not np.array_equal(self.weights.astype(np.float32).astype(np.float64), self.weights):
            raise ParameterError("the trunk's weights are not rounded to float32; use Trunk.fit")

    @classmethod
    def fit(cls, model: Model, weights: Floats, sample: Dataset) -> Trunk:
        """The hidden layers of a trained network, each last unit divided by its largest activation on the sample
        (ReLU units can be scaled freely; a unit that is silent there is left as it is).

        weights: float64[d] of `model`; sample: the model owner's rows, scaled. Raises ParameterError for a model
        without hidden layers, and as the class does.
        """
        hidden = model.architecture.hidden
        if not hidden:
            raise ParameterError("a model without hidden layers has no trunk; use random features")
        shape = MapShape("trunk", hidden)
        trunk = _trunk_model(shape, model.feature_count)
        values = weights[: trunk.value_count].copy()
        matrix, biases = trunk.unflatten(values)[-1]
        largest = np.maximum(trunk.logits(values, sample.features), 0.0).max(axis=0)
        largest[largest == 0.0] = 1.0
        matrix /= largest
        biases /= largest
        with np.errstate(over="ignore"):
            return cls(model.feature_count, shape, values.astype(np.float32).astype(np.float64))

    @staticmethod
    def layers(shape: MapShape, inputs: int) -> Model:
        """A trunk's layers, as a model whose classes are the last hidden units."""
        return _trunk_model(shape, inputs)

    @property
    def model(self) -> Model:
        """This trunk's."""
        return _trunk_model(self.shape, self.inputs)

    def apply(self, features: Floats) -> Floats:
        """See FeatureMap."""
        return _units(self.model.logits(self.weights, _checked(features, self.inputs)))

    def encode(self) -> bytes:
        """The weights as little-endian float32, negative zeros as zeros."""
        return (self.weights + 0.0).astype("<f4").tobytes()


def decode_map(shape: MapShape, inputs: int, data: bytes) -> FeatureMap:
    """Read what `encode` wrote. Raises ParameterError for another length, and as the maps do."""
    if len(data) != shape.byte_count(inputs):
        raise ParameterError(f"feature map {shape.describe()} has {len(data)} bytes, not {shape.byte_count(inputs)}")
    if shape.kind == "random":
        return RandomFeatures(inputs, shape.width, data)
    return Trunk(inputs, shape, np.frombuffer(data, dtype="<f4").astype(np.float64))


def _trunk_model(shape: MapShape, inputs: int) -> Model:
    """The trunk as a model whose classes are the last hidden units."""
    return Model(Architecture(shape.widths[:-1]), inputs, shape.width)


def _checked(features: Floats, inputs: int) -> Floats:
    if features.ndim != 2 or features.shape[1] != inputs:
        raise ParameterError(f"features have shape {features.shape}, the map needs (rows, {inputs})")
    return features


def _units(values: Floats) -> Floats:
    return np.hstack([np.clip(values, 0.0, 1.0), np.ones((len(values), 1))])


@lru_cache(maxsize=4)
def _random_layer(inputs: int, width: int, seed: bytes) -> tuple[Floats, Floats]:
    normals = _normals(seed, (inputs + 1) * width)
    blocks = []
    for start in range(0, width, inputs):
        columns = min(inputs, width - start)
        square = normals[start * inputs : (start + columns) * inputs].reshape(inputs, columns)
        orthonormal, upper = np.linalg.qr(square)
        # With this sign the decomposition is unique: libraries differ in theirs.
        blocks.append(orthonormal * np.where(np.diag(upper) < 0.0, -1.0, 1.0))
    biases = BIAS_SPREAD * np.clip(normals[inputs * width :], -BIAS_LIMIT, BIAS_LIMIT)
    return np.hstack(blocks), biases


def _normals(seed: bytes, count: int) -> Floats:
    """`count` independent standard normal values (Box and Muller, 1958), the same everywhere up to the last bits."""
    half = (count + 1) // 2
    words = np.frombuffer(hashlib.shake_256(b"omnilytics random features" + seed).digest(16 * half), dtype="<u8")
    uniforms = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    radius, angle = np.sqrt(-2.0 * np.log1p(-uniforms[:half])), 2.0 * np.pi * uniforms[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
