"""The envelope: the model travels encrypted, and every registered owner of the task reads it.

Owners post their trainer's gradient at the published weights: of the cross-entropy, where the trainer is a built-in
one. Any trainer will do, because nothing is asked of its gradients but that they may be averaged. The envelope keeps
the model from everybody but them, and nothing from them: what they train on they can keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omnilytics.daemon.protection.sides import Floats, Labels, Learned, Published, krum_choice
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.optimisers import Optimiser, OptimiserState
from omnilytics.daemon.training.payload import ModelPayload, as_published, decode_payload, encode_payload
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.daemon.training.trainers import TaskTrainer

PROMISE = "the model is hidden from outsiders, not from you: owners read it and post one averaged gradient a round"


@dataclass(frozen=True)
class EnvelopeOwner:
    """Posts the mean gradient at the published weights."""

    model: TaskTrainer

    @property
    def value_count(self) -> int:
        """The model's."""
        return self.model.value_count

    @property
    def class_count(self) -> int:
        """The model's."""
        return self.model.class_count

    def read(self, plaintext: bytes, round_number: int) -> ModelPayload:
        """The published model. Raises ModelMismatchError."""
        return decode_payload(plaintext, self.model, round_number)

    def statistic(self, published: Published, features: Floats, labels: Labels) -> Floats:
        """The gradient, float64[d]."""
        assert isinstance(published, ModelPayload)
        return self.model.gradient(published.weights, features, labels)


@dataclass(frozen=True)
class EnvelopeModel:
    """Publishes the weights and steps them with an optimiser; memory is the optimiser's state."""

    model: TaskTrainer
    optimiser: Optimiser
    initial_weights: Floats = field(repr=False)
    scaling: FeatureScaling = field(repr=False)

    def begin(self) -> Learned:
        """The first weights."""
        return Learned(self.initial_weights, self.optimiser.initial_state(len(self.initial_weights)).to_bytes())

    def publish(self, learned: Learned, round_number: int, entropy: bytes) -> bytes:
        """The weights, rounded to float32."""
        return encode_payload(ModelPayload.of(self.model, learned.weights, self.scaling, round_number))

    def choose(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], faulty: int, strict: bool
    ) -> tuple[int, ...]:
        """Multi-Krum over the gradients."""
        return krum_choice(means, faulty, strict)

    def trust(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], selected: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The selected groups."""
        return selected

    def learn(self, learned: Learned, entropy: bytes, average: Floats) -> Learned:
        """One step of the optimiser."""
        state = OptimiserState.from_bytes(learned.memory)
        after, weights = self.optimiser.step(state, learned.weights, average)
        return Learned(weights, after.to_bytes())

    def accuracy(self, learned: Learned, rows: Dataset) -> float:
        """Of the weights as they are published."""
        return float((self.model.predict(as_published(learned.weights), rows.features) == rows.labels).mean())
