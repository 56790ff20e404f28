"""The perturbed protection: owners train on weights that were scaled and shifted, and report what undoes it.

The arithmetic is in perturbation.py; here are the payload and the two sides. A statistic is a report, each tensor of it
divided by a power of two that the model owner publishes for the round, so that one clip of 1.0 serves all tensors and
their lanes of 32 bits are used well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.perturbation import Secret, check_model, perturb, recover, report, tensor_sizes
from omnilytics.daemon.protection.sides import Learned, Published, krum_choice
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.optimisers import Optimiser, OptimiserState
from omnilytics.daemon.training.payload import ModelPayload, as_published, decode_payload, encode_payload
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.daemon.training.squared_error import default_optimiser
from omnilytics.peers.errors import ModelMismatchError, ParameterError, VectorError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

MAGIC = b"OLPB"
VERSION = 1
LOSS = "squared-error"

#: Scales are 2^-96 to 2^96, directions at most 16 in magnitude.
MAX_EXPONENT = 96
MAX_DIRECTION = 16.0

#: The scale of a tensor over the largest value that batches of SCALE_ROWS rows of the sample give, before rounding up
#: to a power of two. Generous: it costs 3 of 28 bits, and a value beyond the scale is cut, which bends the gradient.
SCALE_HEADROOM = 8.0
SCALE_ROWS = 8
SCALE_BATCHES = 64

GROUP_ROWS_FACTOR = 4


def least_group_rows(model: Model) -> int:
    """Rows that a group must have in a round: 4 * min(width of the last hidden layer, width of the one before + 1).

    In beta, the last hidden layer's tensor is the mean over rows of alpha z (outer) u, z the outputs before it with the
    constant of the biases, u the 0-1 vector of the units that are on: a matrix of that shape, with one term of rank 1 a
    row. With no more rows than its smaller side its column or row space is spanned by single rows' vectors, and any
    candidate can be tested against the span; 0-1 vectors in a span can even be found. The factor leaves room, since
    at as many rows as dimensions leverages still tell members from others: see secret_head.least_group_rows.
    """
    check_model(model)
    widths = (model.feature_count, *model.architecture.hidden)
    return GROUP_ROWS_FACTOR * min(widths[-1], widths[-2] + 1)


@dataclass(frozen=True)
class PublishedPerturbation:
    """A round's perturbed weights and scaling (`payload`), direction a, float64[classes] that float32 holds, and
    exponents, int64[tensors]: tensor k of a report is divided by 2^exponents[k].

    Raises ParameterError when the parts do not fit, or are out of bounds.
    """

    payload: ModelPayload
    direction: Floats
    exponents: Labels

    def __post_init__(self) -> None:
        model = self.model
        check_model(model)
        if self.direction.shape != (model.class_count,):
            raise ParameterError(f"a direction of {self.direction.size} values, {model} needs {model.class_count}")
        wrong = np.flatnonzero(~(np.abs(self.direction) <= MAX_DIRECTION))
        if len(wrong):
            raise ParameterError(f"value {wrong[0]} of the direction is not a number up to {MAX_DIRECTION:.0f}")
        if not np.array_equal(as_published(self.direction), self.direction):
            raise ParameterError("the direction is not rounded to float32")
        if self.exponents.shape != (len(tensor_sizes(model)),):
            raise ParameterError(f"{self.exponents.size} scales, {model} needs {len(tensor_sizes(model))}")
        if np.abs(self.exponents).max() > MAX_EXPONENT:
            raise ParameterError(f"a scale is not in 2^-{MAX_EXPONENT} to 2^{MAX_EXPONENT}")

    @property
    def model(self) -> Model:
        """The network whose weights are perturbed; catalogue.py lets no other trainer in."""
        model = self.payload.model
        assert isinstance(model, Model)
        return model

    @property
    def scaling(self) -> FeatureScaling:
        """The task's scaling of features."""
        return self.payload.scaling

    @property
    def scales(self) -> Floats:
        """What a report's values are divided by, float64[statistic's values]."""
        return np.repeat(np.exp2(self.exponents.astype(np.float64)), tensor_sizes(self.model))

    @property
    def digest(self) -> bytes:
        """SHA-256 of weights, scaling, direction and scales, whatever the round. Negative zeros count as zeros."""
        arrays = (self.payload.weights, self.scaling.mean, self.scaling.scale, self.direction)
        values = b"".join((array + 0.0).astype("<f4").tobytes() for array in arrays)
        return hashlib.sha256(values + self.exponents.astype("<i1").tobytes()).digest()


def encode_perturbation(published: PublishedPerturbation) -> bytes:
    """The bytes to publish.

        magic "OLPB" (4) ‖ version 1 (1) ‖ direction ‖ exponents ‖ model payload

    direction: little-endian float32, one a class; exponents: signed bytes, one a tensor of a report (tensor_sizes);
    model payload: as in training/payload.py, with the perturbed weights.
    """
    head = published.direction.astype("<f4").tobytes() + published.exponents.astype("<i1").tobytes()
    return MAGIC + bytes([VERSION]) + head + encode_payload(published.payload)


def decode_perturbation(data: bytes, model: Model, round_number: int) -> PublishedPerturbation:
    """Read a published perturbation, strictly. Raises ModelMismatchError for anything but bytes that
    `encode_perturbation` writes for that model and round. The owner then does not train on it.
    """
    if data[:4] != MAGIC:
        raise ModelMismatchError("perturbed model: the first bytes are not a perturbed model's")
    if data[4:5] != bytes([VERSION]):
        raise ModelMismatchError(f"perturbed model is not of version {VERSION}, which this program reads")
    middle = 5 + 4 * model.class_count
    start = middle + len(tensor_sizes(model))
    if len(data) < start:
        raise ModelMismatchError(f"perturbed model has {len(data)} bytes, which is too few")
    payload = decode_payload(data[start:], model, round_number)
    direction = np.frombuffer(data[5:middle], dtype="<f4").astype(np.float64)
    exponents = np.frombuffer(data[middle:start], dtype="<i1").astype(np.int64)
    try:
        return PublishedPerturbation(payload, direction, exponents)
    except ParameterError as error:
        raise ModelMismatchError(f"perturbed model: {error.message}; not training") from None


@dataclass(frozen=True)
class PerturbedOwner:
    """A data owner's side of the perturbation.

    What it hides: the weights as such, from a reader who does not try. What it does not hide: the model, from an owner
    that does. The published weights give the model's scores up to one unknown number, gamma, and gamma is the slope of
    the published scores on alpha a: an owner without a single row, who feeds the network noise, has the model to within
    half a point of accuracy (scripts/perturbed-figures). Nor does it hide from the model owner the sums over a group,
    which are more of them than a gradient: sigma and beta give rows of small groups away, hence least_group_rows.
    Whoever is not a registered owner sees nothing, by the envelope. Use secret-head where the model has to stay
    secret. Compared as they are posted, statistics of poisoned groups look like others, since g is mostly gamma sigma:
    so every group has pads of its own, and the model owner selects after recovering the gradients.

    Raises ParameterError for a model without hidden layers, and for any loss but squared error: with cross-entropy the
    error of the scores is not linear in alpha v, no report of three sums undoes it, and training fails.
    """

    #: Rows may be drawn anew in every round.
    fresh_rows: ClassVar[bool] = False
    #: Statistics are divided by published scales.
    clip: ClassVar[float] = 1.0
    #: In 16 bits little is left of a gradient that lies under a signal some times as loud.
    least_lane_bits: ClassVar[int] = 32
    #: A round's weights are published once: see Published.digest.
    same_every_round: ClassVar[bool] = False
    promise: ClassVar[str] = (
        "perturbed: outsiders see nothing; owners see disguised weights, from which an owner that tries recovers "
        "nearly the whole model; the model owner sees sums over your whole group, more of them than one gradient"
    )

    model: Model
    loss: str = LOSS

    def __post_init__(self) -> None:
        check_model(self.model)
        if self.loss != LOSS:
            raise ParameterError(
                f"the perturbed protection cannot train with {self.loss}: only the squared error's gradient is "
                "recovered exactly from what owners report",
                help="train with squared-error, or choose another protection",
            )

    @property
    def value_count(self) -> int:
        """About three times the model's values: g, sigma and beta, the last layer's once and as a vector."""
        return sum(tensor_sizes(self.model))

    @property
    def class_count(self) -> int:
        """Classes of the task."""
        return self.model.class_count

    def read(self, plaintext: bytes, round_number: int) -> PublishedPerturbation:
        """See OwnerSide.read."""
        return decode_perturbation(plaintext, self.model, round_number)

    def statistic(self, published: Published, features: Floats, labels: Labels) -> Floats:
        """The mean report over the rows, each tensor over its scale: float64[value_count], honest values in [-1, 1].

        Raises ParameterError for shapes and labels that do not fit.
        """
        if not isinstance(published, PublishedPerturbation):
            raise ParameterError("a perturbed statistic needs what a perturbed payload holds")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is never posted
            means = report(self.model, published.payload.weights, published.direction, features, labels)
        statistic: Floats = means / published.scales
        return statistic


@dataclass(frozen=True)
class PerturbedModel:
    """The model owner's side of the perturbation: see PerturbedOwner for what is hidden from whom.

    weights: the first, float64[d]; optimiser: takes the recovered gradients of the mean of half the squared error;
    sample: rows of the model owner's own, scaled, on which the loudness of gamma and the scales of tensors are chosen.
    Learned.weights are the model's, unperturbed; Learned.memory is the optimiser's state. r and gamma follow from a
    round's entropy and are never stored. Raises ParameterError when the parts do not fit.
    """

    model: Model
    weights: Floats = field(repr=False)
    optimiser: Optimiser
    scaling: FeatureScaling
    sample: Dataset = field(repr=False)

    def __post_init__(self) -> None:
        PerturbedOwner(self.model)
        ModelPayload.of(self.model, self.weights, self.scaling, 0)
        if self.sample.column_count != self.model.feature_count or len(self.sample.classes) != self.model.class_count:
            raise ParameterError("the model owner's sample does not have the task's columns and classes")

    def begin(self) -> Learned:
        """The first weights and the optimiser's first state."""
        return Learned(self.weights.copy(), self.optimiser.initial_state(self.model.value_count).to_bytes())

    def publish(self, learned: Learned, round_number: int, entropy: bytes) -> bytes:
        """The perturbed weights, the direction and the scales of the round. Raises ParameterError for weights that
        are no longer finite: training diverged.
        """
        return encode_perturbation(self._round(learned, round_number, entropy)[1])

    def choose(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], faulty: int, strict: bool
    ) -> tuple[int, ...]:
        """Multi-Krum on the recovered gradients, where nothing loud hides differences. See ModelSide.choose."""
        secret, published = self._round(learned, 0, entropy)
        gradients = {group: self._recover(secret, published, values) for group, values in means.items()}
        return krum_choice(gradients, faulty, strict)

    def trust(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], selected: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The selected groups."""
        return selected

    def learn(self, learned: Learned, entropy: bytes, average: Floats) -> Learned:
        """One step of the optimiser along the recovered gradient.

        Raises VectorError for an average that does not fit, and when the new weights are not finite.
        """
        secret, published = self._round(learned, 0, entropy)
        state = OptimiserState.from_bytes(learned.memory)
        state, weights = self.optimiser.step(state, learned.weights, self._recover(secret, published, average))
        if not np.isfinite(as_published(weights)).all():
            raise VectorError(
                "training diverged: a weight is not finite",
                help=f"lower the optimiser's rate; squared error trains with {default_optimiser().describe()}",
            )
        return Learned(weights, state.to_bytes())

    def gradient(self, learned: Learned, entropy: bytes, average: Floats) -> Floats:
        """The recovered gradient, float64[d], of the round with this entropy."""
        return self._recover(*self._round(learned, 0, entropy), average)

    def accuracy(self, learned: Learned, rows: Dataset) -> float:
        """Fraction of rows (features scaled) that the unperturbed model, rounded to float32, gets right."""
        return self.model.accuracy(as_published(learned.weights), rows.features, rows.labels)

    def _recover(self, secret: Secret, published: PublishedPerturbation, means: Floats) -> Floats:
        if means.shape != published.scales.shape:
            raise VectorError(f"statistic has {means.size} values, task needs {published.scales.size}")
        if not np.isfinite(means).all():
            raise VectorError(f"statistic value {int(np.argmin(np.isfinite(means)))} is not finite")
        return recover(self.model, secret, means * published.scales)

    def _round(self, learned: Learned, round_number: int, entropy: bytes) -> tuple[Secret, PublishedPerturbation]:
        """The round's secret and what is published of it: the same in every call."""
        secret = Secret.draw(self.model, learned.weights, self.sample.features, entropy)
        perturbed = perturb(self.model, learned.weights, secret)
        payload = ModelPayload.of(self.model, perturbed, self.scaling, round_number)
        exponents = self._exponents(payload.weights, secret.direction)
        return secret, PublishedPerturbation(payload, secret.direction, exponents)

    def _exponents(self, perturbed: Floats, direction: Floats) -> Labels:
        """For every tensor, the power of two that honest values stay below: batches of mixed rows and of one class."""
        by_class = np.argsort(self.sample.labels, kind="stable")
        rows = [*_batches(np.arange(self.sample.row_count)), *_batches(by_class)]
        largest = np.zeros(len(tensor_sizes(self.model)))
        starts = np.cumsum([0, *tensor_sizes(self.model)[:-1]])
        for batch in rows:
            features, labels = self.sample.features[batch], self.sample.labels[batch]
            values = np.abs(report(self.model, perturbed, direction, features, labels))
            largest = np.maximum(largest, np.maximum.reduceat(values, starts))
        exponents = np.frexp(SCALE_HEADROOM * np.maximum(largest, 2.0**-40))[1].astype(np.int64)
        return np.clip(exponents, -MAX_EXPONENT, MAX_EXPONENT)


def _batches(order: Labels) -> list[Labels]:
    """At most SCALE_BATCHES batches of at most SCALE_ROWS rows, spread over the whole order."""
    batches = [order[start : start + SCALE_ROWS] for start in range(0, len(order), SCALE_ROWS)]
    return batches[:: -(-len(batches) // SCALE_BATCHES)]
