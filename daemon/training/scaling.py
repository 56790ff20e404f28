"""The scaling of features that a task fixes, so that raw pixels and table columns of any unit train well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnilytics.peers.errors import ParameterError

#: Scaled features are cut to [-FEATURE_LIMIT, FEATURE_LIMIT]: a column that was nearly constant in the
#: model owner's sample cannot explode at an owner whose rows differ.
FEATURE_LIMIT = 4.0

#: A column's scale is at least this share of its range in the sample. A pixel lit in one row of 360 has a
#: standard deviation of a nineteenth of its value; without the floor that row would stand out 19-fold.
RANGE_SHARE = 0.1


@dataclass(frozen=True)
class FeatureScaling:
    """scaled = cut((x - mean) / scale): mean and scale are float64[columns] that float32 holds exactly.

    They travel as float32; rounding them where they are made keeps both sides' arithmetic the same.
    Raises ParameterError when the arrays do not fit each other, are not finite, or a scale is not positive.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise ParameterError(f"scaling: mean has shape {self.mean.shape}, scale {self.scale.shape}")
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            wrong = np.flatnonzero(~np.isfinite(values))
            if len(wrong):
                raise ParameterError(f"scaling: {name} of column {wrong[0] + 1} is not finite")
        wrong = np.flatnonzero(self.scale <= 0.0)
        if len(wrong):
            raise ParameterError(f"scaling: scale of column {wrong[0] + 1} is not positive")

    @property
    def column_count(self) -> int:
        """How many features a row must have."""
        return len(self.mean)

    @classmethod
    def fit(cls, features: NDArray[np.float64]) -> FeatureScaling:
        """Standardise every column by the model owner's own sample, float64[rows, columns].

        scale = max(standard deviation, a tenth of the range); a column constant in the sample, which says
        nothing about its scale, gets max(1, |value|). Raises ParameterError for a sample without rows or
        with values that float32 cannot hold.
        """
        if features.ndim != 2 or features.shape[0] == 0:
            raise ParameterError("the model owner's sample has 0 rows; the scaling of features needs some")
        mean = features.mean(axis=0)
        spread = np.maximum(features.std(axis=0), RANGE_SHARE * np.ptp(features, axis=0))
        magnitude = np.maximum(np.abs(features).max(axis=0), np.finfo(np.float32).tiny)
        scale = np.where(spread > 1e-6 * magnitude, spread, np.maximum(1.0, magnitude))
        with np.errstate(over="ignore"):
            return cls(mean.astype(np.float32).astype(np.float64), scale.astype(np.float32).astype(np.float64))

    def apply(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scaled copy of float64[rows, columns]. Raises ParameterError for another column count."""
        if features.ndim != 2 or features.shape[1] != self.column_count:
            raise ParameterError(f"features have {features.shape[-1]} columns, the task has {self.column_count}")
        scaled: NDArray[np.float64] = np.clip((features - self.mean) / self.scale, -FEATURE_LIMIT, FEATURE_LIMIT)
        return scaled
