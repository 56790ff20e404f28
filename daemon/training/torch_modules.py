"""PyTorch modules as trainers: gradients of the cross-entropy by autograd. The only module that imports torch.

Built in are small convolutional networks on square pictures, "torch:cnn:8,16" (widths of 3 x 3 convolutions, each
with a ReLU and a halving of the picture, then one linear layer), and "torch:mlp:64,32". A package of one's own makes a
trainer of any module with `ModuleTrainer`: docs/trainers.md. Everything is computed in float64 on the processor, with
the module in evaluation mode, so that there is no dropout and the same arguments give the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from omnilytics.daemon.training.models import Architecture
from omnilytics.daemon.training.trainers import MAX_VALUES, Tensors
from omnilytics.peers.errors import ParameterError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

#: Widest convolution that a task may ask for.
MAX_CHANNELS = 1024


class ModuleTrainer:
    """A module whose forward takes float64[rows, feature_count] to scores float64[rows, class_count].

    `make` builds the module; its parameters in the order of named_parameters are the flat vector, and `tensors` has
    their names, so that a module of the same kind loads what was trained with load_state_dict. Raises ParameterError
    for a module without parameters, and for one with floating-point buffers (the running means of batch
    normalisation, say): nothing would ever train them.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make
        # Shapes alone, without memory for the values: what is too large is refused before it exists.
        with torch.device("meta"):
            sketch = make()
        self._shapes: Tensors = tuple((name, tuple(value.shape)) for name, value in sketch.named_parameters())
        if any(value.is_floating_point() for value in sketch.buffers()):
            raise ParameterError(
                "the module has buffers, which no gradient trains", help="use group or layer normalisation instead"
            )
        if not 1 <= self.value_count <= MAX_VALUES:
            raise ParameterError(f"the module has {self.value_count} values; need 1 to {MAX_VALUES}")

    @property
    def value_count(self) -> int:
        """d."""
        return sum(math.prod(shape) for _, shape in self._shapes)

    def tensors(self) -> Tensors:
        """Names and shapes, as in the module's state_dict."""
        return self._shapes

    @cached_property
    def _module(self) -> nn.Module:
        module = self._make().double().eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return module

    def init(self, rng: np.random.Generator) -> Floats:
        """Weights of He's normal distribution by each tensor's inputs (a tensor's first axis is its outputs), biases
        and other tensors of one axis as the module makes them: zeros, or ones for a normalisation's scale.

        The values are drawn from `rng`, not by torch, whose generator is the whole process's.
        """
        parts: list[Floats] = []
        made = dict(self._module.named_parameters())
        for name, shape in self._shapes:
            if len(shape) > 1:
                parts.append(rng.normal(0.0, math.sqrt(2.0 / math.prod(shape[1:])), math.prod(shape)))
            else:
                constant = bool((made[name] == 1.0).all())
                parts.append(np.full(math.prod(shape), 1.0 if constant else 0.0))
        return np.concatenate(parts)

    def gradient(self, flat: Floats, features: Floats, labels: Labels) -> Floats:
        """Of the mean cross-entropy over the rows, float64[d]."""
        parameters = {name: value.requires_grad_() for name, value in self._parameters(flat).items()}
        scores = torch.func.functional_call(self._module, parameters, (_tensor(features),))
        loss = nn.functional.cross_entropy(scores, _tensor(labels))
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        parts = [
            np.zeros(value.numel()) if gradient is None else gradient.numpy().ravel()
            for value, gradient in zip(parameters.values(), found, strict=True)
        ]
        return np.concatenate(parts)

    def predict(self, flat: Floats, features: Floats) -> Labels:
        """The class with the largest score, int64[rows]; ties to the lower class."""
        with torch.no_grad():
            scores = torch.func.functional_call(self._module, self._parameters(flat), (_tensor(features),)).numpy()
        classes: Labels = scores.argmax(axis=1).astype(np.int64)
        return classes

    def _parameters(self, flat: Floats) -> dict[str, torch.Tensor]:
        # Copies, since the market's arrays are read-only.
        parameters, start = {}, 0
        for name, shape in self._shapes:
            end = start + math.prod(shape)
            parameters[name] = _tensor(flat[start:end]).reshape(shape)
            start = end
        return parameters


def _tensor(array: NDArray[np.float64] | NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(array.copy())


class ConvolutionalNetwork(nn.Module):
    """Convolutions of 3 x 3 with padding, a ReLU and a 2 x 2 maximum each, then one linear layer.

    The row's features are the pixels of a square picture of one colour, line by line.
    """

    def __init__(self, side: int, widths: tuple[int, ...], class_count: int) -> None:
        super().__init__()
        self.side = side
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1) for inputs, outputs in pairwise((1, *widths))
        )
        left = side >> len(widths)
        self.head = nn.Linear(widths[-1] * left * left, class_count)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores, [rows, classes]."""
        picture = features.reshape(-1, 1, self.side, self.side)
        for convolution in self.convolutions:
            picture = nn.functional.max_pool2d(torch.relu(convolution(picture)), 2)
        scores: torch.Tensor = self.head(picture.flatten(1))
        return scores


def trainer(architecture: str, feature_count: int, class_count: int) -> ModuleTrainer:
    """The trainer of "torch:cnn:WIDTHS" or "torch:mlp:WIDTHS". Raises ParameterError for what cannot be."""
    _, _, rest = architecture.partition(":")
    kind, colon, sizes = rest.partition(":")
    if kind not in ("cnn", "mlp") or not colon:
        raise ParameterError(
            f"unknown model {architecture!r}; use torch:cnn:WIDTH[,WIDTH...] or torch:mlp:WIDTH[,WIDTH...]",
            help="modules of your own come with a package: docs/trainers.md",
        )
    widths = Architecture.parse(f"mlp:{sizes}").hidden
    if kind == "mlp":
        return ModuleTrainer(lambda: _perceptron((feature_count, *widths, class_count)))
    side = math.isqrt(feature_count)
    if side * side != feature_count:
        raise ParameterError(
            f"{architecture!r} trains on square pictures, and {feature_count} columns are none",
            help="use torch:mlp:WIDTHS or mlp:WIDTHS for tables",
        )
    if side >> len(widths) < 1:
        raise ParameterError(
            f"{architecture!r} halves pictures of {side} x {side} more often than they can be", help="use fewer widths"
        )
    if max(widths) > MAX_CHANNELS:
        raise ParameterError(f"{architecture!r}: a convolution of {max(widths)} channels; at most {MAX_CHANNELS}")
    return ModuleTrainer(lambda: ConvolutionalNetwork(side, widths, class_count))


def _perceptron(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
