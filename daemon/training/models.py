"""The models a task can train: softmax regression and ReLU networks, with cross-entropy.

A model's weights are one flat float64 vector of `value_count` values. Layer by layer, from the features to
the classes, it holds the layer's matrix of shape (inputs, outputs) in row-major order, then its biases of
shape (outputs,). Value 0 is thus the weight from feature 0 to output 0, value 1 from feature 0 to output 1.
A gradient has the same layout.

Everything here is pure: no file, clock or global randomness.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from omnilytics.peers.errors import ParameterError

MAX_HIDDEN_LAYERS = 8
MAX_LAYER_WIDTH = 65_536

# One spelling for one width, and short enough for int().
_WIDTH = r"(0|[1-9][0-9]{0,8})"
_SIZES = re.compile(f"{_WIDTH}(,{_WIDTH})*")


@dataclass(frozen=True)
class Architecture:
    """The shape of a model without its first and last width: `hidden` is () for softmax regression."""

    hidden: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read "softmax" or "mlp:64,32" (widths of the hidden layers, in order).

        Raises ParameterError, in words for the user, for anything else.
        """
        if text == "softmax":
            return cls()
        kind, colon, sizes = text.partition(":")
        if kind != "mlp":
            raise ParameterError(f"unknown model {text!r}; use softmax or mlp:WIDTH[,WIDTH...] as in mlp:64,32")
        if not colon or not _SIZES.fullmatch(sizes):
            raise ParameterError(f"model {text!r} needs the widths of its hidden layers, as in mlp:64,32")
        hidden = tuple(int(size) for size in sizes.split(","))
        if len(hidden) > MAX_HIDDEN_LAYERS:
            raise ParameterError(f"model {text!r} has {len(hidden)} hidden layers; at most {MAX_HIDDEN_LAYERS}")
        for width in hidden:
            if not 1 <= width <= MAX_LAYER_WIDTH:
                raise ParameterError(f"model {text!r}: layer width {width} is not in 1..{MAX_LAYER_WIDTH}")
        return cls(hidden)

    def describe(self) -> str:
        """The text that `parse` reads back to an equal architecture."""
        return "mlp:" + ",".join(str(width) for width in self.hidden) if self.hidden else "softmax"

    def layer_shapes(self, feature_count: int, class_count: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of every layer, from the features to the classes."""
        return list(pairwise((feature_count, *self.hidden, class_count)))

    def value_count(self, feature_count: int, class_count: int) -> int:
        """d, the length of the flat vector of weights."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.layer_shapes(feature_count, class_count))


@dataclass(frozen=True)
class Model:
    """An architecture with its feature count and class count; the weights are passed in.

    Raises ParameterError when built with no feature or fewer than two classes.
    """

    architecture: Architecture
    feature_count: int
    class_count: int

    def __post_init__(self) -> None:
        if self.feature_count < 1:
            raise ParameterError(f"a model needs at least 1 feature, not {self.feature_count}")
        if self.class_count < 2:
            raise ParameterError(f"a model needs at least 2 classes, not {self.class_count}")

    @property
    def value_count(self) -> int:
        """d, the length of the flat vector of weights."""
        return self.architecture.value_count(self.feature_count, self.class_count)

    def init(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """First weights, float64[d]: zeros for softmax; for a network He's (normal with variance
        2 / inputs) on hidden layers and 1 / inputs on the last, zero biases.
        """
        if not self.architecture.hidden:
            return np.zeros(self.value_count)
        shapes = self.architecture.layer_shapes(self.feature_count, self.class_count)
        parts: list[NDArray[np.float64]] = []
        for number, (inputs, outputs) in enumerate(shapes):
            variance = (2.0 if number < len(shapes) - 1 else 1.0) / inputs
            parts += [rng.normal(0.0, np.sqrt(variance), inputs * outputs), np.zeros(outputs)]
        return np.concatenate(parts)

    def unflatten(self, flat: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Views (matrix of shape (inputs, outputs), biases of shape (outputs,)) into `flat`, by layer.

        Raises ParameterError when `flat` has not exactly d values.
        """
        if flat.shape != (self.value_count,):
            raise ParameterError(f"weights have {flat.size} values, {self} needs {self.value_count}")
        layers = []
        start = 0
        for inputs, outputs in self.architecture.layer_shapes(self.feature_count, self.class_count):
            middle = start + inputs * outputs
            layers.append((flat[start:middle].reshape(inputs, outputs), flat[middle : middle + outputs]))
            start = middle + outputs
        return layers

    def logits(self, flat: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores before the softmax, float64[rows, classes]."""
        return self.activations(flat, features)[-1]

    def loss(self, flat: NDArray[np.float64], features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
        """Mean cross-entropy in nats over the rows."""
        self.check_rows(features, labels)
        log_shares = _log_softmax(self.logits(flat, features))
        return float(-log_shares[np.arange(len(labels)), labels].mean())

    def gradient(
        self, flat: NDArray[np.float64], features: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Gradient of the mean cross-entropy over the rows, float64[d].

        features: float64[rows, feature_count]; labels: int64[rows] in [0, class_count).
        Raises ParameterError when shapes do not fit or there is no row. The result is finite only if the
        inputs are; callers check before they post.
        """
        self.check_rows(features, labels)
        layers = self.unflatten(flat)
        activations = self.activations(flat, features)
        delta = np.exp(_log_softmax(activations[-1]))
        delta[np.arange(len(labels)), labels] -= 1.0
        delta /= len(labels)
        parts: list[NDArray[np.float64]] = []
        for number in range(len(layers) - 1, -1, -1):
            inputs = activations[number]
            parts += [delta.sum(axis=0), (inputs.T @ delta).ravel()]
            if number:
                delta = (delta @ layers[number][0].T) * (inputs > 0.0)
        return np.concatenate(parts[::-1])

    def predict(self, flat: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.int64]:
        """The likeliest class of each row, int64[rows]; ties to the lower class."""
        classes: NDArray[np.int64] = self.logits(flat, features).argmax(axis=1).astype(np.int64)
        return classes

    def accuracy(self, flat: NDArray[np.float64], features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
        """Fraction of rows whose class is predicted right, in [0, 1]."""
        self.check_rows(features, labels)
        return float((self.predict(flat, features) == labels).mean())

    def describe(self) -> str:
        """The architecture, as a task spells it."""
        return self.architecture.describe()

    def tensors(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of the parts of the flat vector, in its order: y = x @ kernel + bias, layer by layer."""
        parts: list[tuple[str, tuple[int, ...]]] = []
        for number, shape in enumerate(self.architecture.layer_shapes(self.feature_count, self.class_count)):
            parts += [(f"layers.{number}.kernel", shape), (f"layers.{number}.bias", shape[1:])]
        return tuple(parts)

    def __str__(self) -> str:
        return f"{self.architecture.describe()} of {self.feature_count} features and {self.class_count} classes"

    def activations(self, flat: NDArray[np.float64], features: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The features, each hidden layer's output and the logits."""
        if features.ndim != 2 or features.shape[1] != self.feature_count:
            raise ParameterError(f"features have shape {features.shape}, {self} needs (rows, {self.feature_count})")
        layers = self.unflatten(flat)
        activations = [features]
        for number, (matrix, biases) in enumerate(layers):
            output = activations[-1] @ matrix + biases
            activations.append(np.maximum(output, 0.0) if number < len(layers) - 1 else output)
        return activations

    def check_rows(self, features: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        if labels.ndim != 1 or len(labels) != len(features):
            raise ParameterError(f"{len(features)} rows of features but labels of shape {labels.shape}")
        if len(labels) == 0:
            raise ParameterError("a batch has 0 rows")
        if labels.min() < 0 or labels.max() >= self.class_count:
            raise ParameterError(f"a label is outside 0..{self.class_count - 1}")


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
