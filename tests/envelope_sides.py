"""The envelope's two sides around a model, for tests that scale their features themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.envelope import EnvelopeModel, EnvelopeOwner
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.optimisers import Optimiser, Sgd
from omnilytics.daemon.training.payload import ModelPayload
from omnilytics.daemon.training.scaling import FeatureScaling


def no_scaling(columns: int) -> FeatureScaling:
    return FeatureScaling(np.zeros(columns), np.ones(columns))


def payload_of(model: Model, weights: NDArray[np.float64], round_number: int = 1) -> ModelPayload:
    return ModelPayload.of(model, weights, no_scaling(model.feature_count), round_number)


def sides(
    model: Model, weights: NDArray[np.float64], optimiser: Optimiser | None = None
) -> tuple[EnvelopeOwner, EnvelopeModel]:
    return EnvelopeOwner(model), EnvelopeModel(model, optimiser or Sgd(0.5), weights, no_scaling(model.feature_count))


def model_of(owner_side: object) -> Model:
    assert isinstance(owner_side, EnvelopeOwner) and isinstance(owner_side.model, Model)
    return owner_side.model
