"""Second moments of rows, and the linear head that they determine: ridge regression (Hoerl and Kennard, 1970)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omnilytics.peers.errors import ParameterError, VectorError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

#: The ridge, as a share of the mean eigenvalue of G: as good as any tried on digits from 64 to 512 features
#: (scripts/secret-head-figures), and far above what rounding to 16 bits adds to any eigenvalue.
DEFAULT_REGULARISER = 0.01


def moment_count(width: int, class_count: int) -> int:
    """Values of a statistic, for maps of `width` units: w (w + 1) / 2 + w C with w = width + 1."""
    w = width + 1
    return w * (w + 1) // 2 + w * class_count


def check_labels(labels: Labels, rows: int, class_count: int) -> None:
    """Raises ParameterError for no rows, for another number of labels, and for labels out of range."""
    if labels.shape != (rows,):
        raise ParameterError(f"{rows} rows of features but labels of shape {labels.shape}")
    if rows == 0:
        raise ParameterError("a batch has 0 rows")
    if labels.min() < 0 or labels.max() >= class_count:
        raise ParameterError(f"a label is outside 0..{class_count - 1}")


@dataclass(frozen=True)
class Moments:
    """gram: G = mean phi phi^T, float64[w, w], symmetric; cross: b = mean phi t^T, float64[w, classes]."""

    gram: Floats = field(repr=False)
    cross: Floats = field(repr=False)

    @classmethod
    def of_rows(cls, mapped: Floats, labels: Labels, class_count: int) -> Moments:
        """The means over rows. mapped: float64[rows, w]; labels: int64[rows].

        Raises ParameterError for no rows, for shapes that do not fit, and for labels out of range.
        """
        check_labels(labels, len(mapped), class_count)
        targets = np.eye(class_count)[labels]
        return cls(mapped.T @ mapped / len(mapped), mapped.T @ targets / len(mapped))

    @classmethod
    def from_statistic(cls, values: Floats, width: int, class_count: int) -> Moments:
        """Read back what `statistic` wrote, float64[d]. Raises VectorError for another length, or values that are
        not finite.
        """
        if values.shape != (moment_count(width, class_count),):
            raise VectorError(f"statistic has {values.size} values, task needs {moment_count(width, class_count)}")
        if not np.isfinite(values).all():
            raise VectorError(f"statistic value {int(np.argmin(np.isfinite(values)))} is not finite")
        w = width + 1
        upper = np.triu_indices(w)
        gram = np.empty((w, w))
        gram[upper] = values[: len(upper[0])]
        gram.T[upper] = values[: len(upper[0])]
        return cls(gram, values[len(upper[0]) :].reshape(w, class_count).copy())

    def statistic(self) -> Floats:
        """The upper triangle of G, row-major with the diagonal, then b, row-major: float64[d]."""
        return np.concatenate([self.gram[np.triu_indices(len(self.gram))], self.cross.ravel()])

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross)

    def gradient(self, head: Floats) -> Floats:
        """Gradient G W - b of half the mean squared error at the head W, float64[w, classes]."""
        return self.gram @ head - self.cross

    def solve(self, regulariser: float = DEFAULT_REGULARISER) -> Floats:
        """The W, float64[w, classes], with (G + r I) W = b, r = regulariser * trace(G) / w.

        Equal for any positive multiple of the moments, so sums of rounds need no division. Quantisation can leave G
        with eigenvalues below 0, rows fewer than w with eigenvalues of 0, a poisoner with anything. Where an
        eigenvalue of G + r I is below r / 2, G is replaced by the nearest matrix without negative eigenvalues
        (Higham, 1988), so that none of the system is below r. Zeros where trace(G) is not above 0. O(w^3).
        """
        w = len(self.gram)
        ridge = regulariser * float(np.trace(self.gram)) / w
        if not ridge > 0.0:
            return np.zeros_like(self.cross)
        system = self.gram + ridge * np.eye(w)
        try:
            np.linalg.cholesky(system - ridge / 2 * np.eye(w))
        except np.linalg.LinAlgError:
            eigenvalues, vectors = np.linalg.eigh(self.gram)
            inverse = 1.0 / (np.maximum(eigenvalues, 0.0) + ridge)
            return np.asarray(vectors @ (inverse[:, None] * (vectors.T @ self.cross)), dtype=np.float64)
        return np.asarray(np.linalg.solve(system, self.cross), dtype=np.float64)
