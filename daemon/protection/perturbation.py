"""The perturbation of ReLU networks by Yang et al. (arXiv 2002.09843), its report and its inverse: the arithmetic.

Of weights W(l) and biases b(l), layer l = 1..L, the model owner publishes

    W'(l)_ji = W(l)_ji r(l)_i / r(l-1)_j,    b'(l)_i = b(l)_i r(l)_i,    r(0) = r(L) = 1,

and adds v_i = gamma a_i to column i of the last matrix and to bias i. r, gamma: secret; a: public. On any row the last
hidden outputs z' are r(L-1) z, the scores y' = y + alpha v, with alpha = 1 + sum of z'.

With squared error, F = 1/2 |y - t|^2 = 1/2 |y' - alpha v - t|^2, and so the gradient to the published weights is

    grad' F = g - gamma sigma + nu beta,    nu = sum v_i^2,
    g = grad' 1/2 |y' - t|^2,
    sigma = sum_i a_i (alpha grad' y'_i + (y'_i - t_i) grad' alpha),    beta = alpha grad' alpha.

An owner computes the means of g, sigma and beta from what is public. By the chain rule, grad F = R o grad' F, R the
factor of each weight. In the last layer grad' alpha = 0 and sigma is the product of (mean alpha z', mean alpha) and a:
the vector is sent. All of it is linear in the rows' reports, so it survives sums; and exact, since r are powers of two.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.squared_error import hidden_gradient, hidden_outputs, one_hot
from omnilytics.peers.errors import ParameterError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

#: How much louder alpha v is than the scores that it covers. More covers no better and costs precision.
STRENGTH = 4.0


def check_model(model: Model) -> None:
    """Raises ParameterError for a model that cannot be perturbed: one without hidden layers."""
    if not model.architecture.hidden:
        raise ParameterError(
            "the perturbed protection needs a network with hidden ReLU layers: without any, nothing scales away, and "
            "what is published of softmax is the model plus one known direction",
            help="use a model such as mlp:32, or the secret-head protection",
        )


def hidden_count(model: Model) -> int:
    """Values of the hidden layers."""
    return model.value_count - (model.architecture.hidden[-1] + 1) * model.class_count


def tensor_sizes(model: Model) -> list[int]:
    """Lengths of a report's tensors in their order, each with a scale of its own.

    g: matrix and biases of every layer; sigma: of the hidden layers, then the last layer's vector (last hidden width
    + 1); beta: of the hidden layers.
    """
    shapes = model.architecture.layer_shapes(model.feature_count, model.class_count)
    layers = [size for inputs, outputs in shapes for size in (inputs * outputs, outputs)]
    return [*layers, *layers[:-2], shapes[-1][0] + 1, *layers[:-2]]


@dataclass(frozen=True)
class Secret:
    """A round's secret: r by hidden layer, float64[width] each, powers of two; gamma. direction: a, public."""

    factors: tuple[Floats, ...] = field(repr=False)
    gamma: float = field(repr=False)
    direction: Floats = field(repr=False)

    @classmethod
    def draw(cls, model: Model, flat: Floats, sample: Floats, entropy: bytes) -> Secret:
        """From 32 bytes: r in 1/4, 1/2, 1, 2; a normal, rounded to float32; gamma of either sign, such that alpha v is
        about STRENGTH times the scores (or targets, if larger) on the sample, float64[rows, columns]. Raises
        ParameterError where the sample's activations are not finite.
        """
        check_model(model)
        hidden = model.architecture.hidden
        split = 16 * (model.class_count + 1)
        stream = hashlib.shake_256(b"omnilytics perturbation" + entropy).digest(split + sum(hidden))
        words = np.frombuffer(stream[:split], dtype="<u8")
        uniforms = ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53  # in (0, 1]
        first, second = uniforms[: model.class_count], uniforms[model.class_count : 2 * model.class_count]
        normal = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
        direction = normal.astype(np.float32).astype(np.float64)
        exponents = np.frombuffer(stream[split:], dtype=np.uint8).astype(np.int64) % 4 - 2
        factors = tuple(np.exp2(part.astype(np.float64)) for part in np.split(exponents, np.cumsum(hidden)[:-1]))
        bare = cls(factors, 0.0, direction)
        layers = model.unflatten(perturb(model, flat, bare))
        alpha = 1.0 + hidden_outputs(layers, sample)[-1].sum(axis=1)
        if not np.isfinite(alpha).all():
            raise ParameterError("the weights give outputs that are not finite on the sample")
        signal = max(_rms(model.logits(flat, sample)), math.sqrt(1.0 / model.class_count))
        # To a power of two: what is measured decides coarsely, so that its last bits decide nothing.
        size = math.frexp(STRENGTH * signal / (_rms(alpha) * max(_rms(direction), 1e-3)))[1] - 1
        return cls(factors, math.copysign(math.ldexp(1.0 + uniforms[-2], size), uniforms[-1] - 0.5), direction)


def factor_of_weights(model: Model, secret: Secret) -> Floats:
    """R, float64[d]: what each weight is multiplied by."""
    sides = [np.ones(model.feature_count), *secret.factors, np.ones(model.class_count)]
    parts: list[Floats] = []
    for before, after in pairwise(sides):
        parts += [np.outer(1.0 / before, after).ravel(), after]
    return np.concatenate(parts)


def perturb(model: Model, flat: Floats, secret: Secret) -> Floats:
    """The weights to publish, float64[d], not rounded."""
    perturbed = flat * factor_of_weights(model, secret)
    matrix, biases = model.unflatten(perturbed)[-1]
    matrix += secret.gamma * secret.direction
    biases += secret.gamma * secret.direction
    return perturbed


def restore(model: Model, perturbed: Floats, secret: Secret) -> Floats:
    """The weights that published ones stand for, float64[d]: the inverse of `perturb`."""
    flat = perturbed.copy()
    matrix, biases = model.unflatten(flat)[-1]
    matrix -= secret.gamma * secret.direction
    biases -= secret.gamma * secret.direction
    restored: Floats = flat / factor_of_weights(model, secret)
    return restored


def report(model: Model, perturbed: Floats, direction: Floats, features: Floats, labels: Labels) -> Floats:
    """An owner's means over its rows of g, sigma and beta, in the order of `tensor_sizes`; not scaled.

    perturbed: float64[d]; direction: a, float64[classes]. Raises ParameterError when shapes do not fit or there is no
    row. Finite only if the inputs are.
    """
    if features.ndim != 2 or features.shape[1] != model.feature_count:
        raise ParameterError(f"features have shape {features.shape}, {model} needs (rows, {model.feature_count})")
    rows = len(features)
    targets = one_hot(labels, rows, model.class_count)
    layers = model.unflatten(perturbed)
    outputs = hidden_outputs(layers, features)
    (matrix, biases), last = layers[-1], outputs[-1]
    alpha = 1.0 + last.sum(axis=1, keepdims=True)
    error = last @ matrix + biases - targets
    error_part = hidden_gradient(layers, outputs, error @ matrix.T / rows)
    # To the last hidden outputs, grad y'_i is column i of the matrix and grad alpha is 1.
    sigma_delta = alpha * (matrix @ direction) + error @ direction[:, None]
    sigma_part = hidden_gradient(layers, outputs, sigma_delta / rows)
    beta_part = hidden_gradient(layers, outputs, np.broadcast_to(alpha / rows, last.shape))
    last_vector = np.append((alpha * last).mean(axis=0), alpha.mean())
    return np.concatenate(
        [*error_part, (last.T @ error).ravel() / rows, error.mean(axis=0), *sigma_part, last_vector, *beta_part]
    )


def recover(model: Model, secret: Secret, means: Floats) -> Floats:
    """The gradient of half the mean squared error to the weights themselves, float64[d], from means of reports."""
    d, hidden, width = model.value_count, hidden_count(model), model.architecture.hidden[-1]
    g, rest = means[:d], means[d:]
    sigma_hidden, vector, beta = rest[:hidden], rest[hidden : hidden + width + 1], rest[hidden + width + 1 :]
    nu = secret.gamma**2 * float(secret.direction @ secret.direction)
    last = np.outer(vector, secret.direction)  # rows: hidden outputs, then the constant that biases stand on
    sigma = np.concatenate([sigma_hidden, last.ravel()])
    published = g - secret.gamma * sigma
    published[:hidden] += nu * beta
    gradient: Floats = factor_of_weights(model, secret) * published
    return gradient


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))
