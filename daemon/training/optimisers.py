"""The model owner's step: pure functions of the state, the weights and the averaged gradient.

The market does not see the optimiser; a model owner may use any. The command line names these two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.models import Architecture
from omnilytics.peers.errors import ParameterError


@dataclass(frozen=True)
class OptimiserState:
    """What an optimiser carries from round to round: float64[d], zeros at first."""

    velocity: NDArray[np.float64]

    def to_bytes(self) -> bytes:
        """For the model owner's journal: little-endian float64."""
        return self.velocity.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> OptimiserState:
        """Read back what `to_bytes` wrote, bit for bit."""
        return cls(np.frombuffer(data, dtype="<f8").astype(np.float64))


class Optimiser(Protocol):
    """One step from an averaged gradient."""

    def initial_state(self, value_count: int) -> OptimiserState:
        """The state before the first step."""

    def step(
        self, state: OptimiserState, flat: NDArray[np.float64], gradient: NDArray[np.float64]
    ) -> tuple[OptimiserState, NDArray[np.float64]]:
        """The next state and the next weights, both new; float64[d]."""

    def describe(self) -> str:
        """The text that `parse_optimiser` reads back to an equal optimiser."""


@dataclass(frozen=True)
class Momentum:
    """Heavy ball: velocity = decay * velocity + gradient; weights -= learning_rate * velocity.

    Raises ParameterError unless learning_rate > 0 and 0 <= decay < 1.
    """

    learning_rate: float
    decay: float = 0.9

    def __post_init__(self) -> None:
        _check_learning_rate(self.learning_rate)
        if not 0.0 <= self.decay < 1.0:
            raise ParameterError(f"momentum decay {self.decay} is not in [0, 1)")

    def initial_state(self, value_count: int) -> OptimiserState:
        """Zero velocity."""
        return OptimiserState(np.zeros(value_count))

    def step(
        self, state: OptimiserState, flat: NDArray[np.float64], gradient: NDArray[np.float64]
    ) -> tuple[OptimiserState, NDArray[np.float64]]:
        """One heavy-ball step."""
        _check_shapes(state, flat, gradient)
        velocity = self.decay * state.velocity + gradient
        return OptimiserState(velocity), flat - self.learning_rate * velocity

    def describe(self) -> str:
        """As "momentum:0.5,0.9": learning rate and decay."""
        return f"momentum:{self.learning_rate!r},{self.decay!r}"


@dataclass(frozen=True)
class Sgd:
    """Plain gradient descent: weights -= learning_rate * gradient. Raises ParameterError unless it is > 0."""

    learning_rate: float

    def __post_init__(self) -> None:
        _check_learning_rate(self.learning_rate)

    def initial_state(self, value_count: int) -> OptimiserState:
        """Zeros, which stay zeros."""
        return OptimiserState(np.zeros(value_count))

    def step(
        self, state: OptimiserState, flat: NDArray[np.float64], gradient: NDArray[np.float64]
    ) -> tuple[OptimiserState, NDArray[np.float64]]:
        """One step downhill."""
        _check_shapes(state, flat, gradient)
        return state, flat - self.learning_rate * gradient

    def describe(self) -> str:
        """As "sgd:0.5"."""
        return f"sgd:{self.learning_rate!r}"


def _check_learning_rate(value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ParameterError(f"learning rate {value} is not above 0")


def _check_shapes(state: OptimiserState, flat: NDArray[np.float64], gradient: NDArray[np.float64]) -> None:
    if not state.velocity.shape == flat.shape == gradient.shape:
        raise ParameterError(
            f"gradient has {gradient.size} values, the model {flat.size}, the optimiser {state.velocity.size}"
        )


def default_optimiser(architecture: Architecture) -> Momentum:
    """The optimiser of the command line's defaults: 0.5 for softmax, 0.3 for networks, decay 0.9.

    Chosen on scaled features over digits, breast cancer and wine: half and twice these rates also train;
    at 0.8 deep networks diverge.
    """
    return Momentum(0.3 if architecture.hidden else 0.5)


def parse_optimiser(text: str) -> Optimiser:
    """Read "momentum:RATE[,DECAY]" or "sgd:RATE". Raises ParameterError, in words for the user."""
    kind, _, numbers = text.partition(":")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    match kind, values:
        case "momentum", [rate]:
            return Momentum(rate)
        case "momentum", [rate, decay]:
            return Momentum(rate, decay)
        case "sgd", [rate]:
            return Sgd(rate)
    raise ParameterError(f"unknown optimiser {text!r}; use momentum:RATE[,DECAY] or sgd:RATE, as in momentum:0.5")
