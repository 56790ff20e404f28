"""The pictures of docs/attacks.md: small PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from scripts.attack_suite.inversion import PICTURES, Recovered
from scripts.attack_suite.market import Scene
from tests.adversaries.reconstruction import correlations, matched

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Floats = NDArray[np.float64]

SHOWN = 10
SIDE = 8
GROUP = 3


def pictures(
    folder: Path, recovered: Mapping[str, Sequence[Recovered]], counts: Sequence[int], scene: Scene
) -> list[Path]:
    """For every kind of sum one file: digits of one owner above, below them what was made of sums over more owners."""
    scaling, written = scene.design.scaling, []
    for name, results in recovered.items():
        wanted = _shown(results, scene)
        figure, axes = plt.subplots(len(counts) + 2, len(wanted), figsize=(0.55 * len(wanted) + 1.4, 3.8))
        # What the attacker had anyway, of the sum over a whole group of three.
        whole = results[counts.index(GROUP)]
        lines = [wanted, _matches(whole, whole.before, wanted)]
        lines += [_matches(result, result.found, wanted) for result in results]
        names = ["original", "had anyway", *(f"{n} owners" for n in counts)]
        for line, (rows, words) in enumerate(zip(lines, names, strict=True)):
            for place, row in enumerate(rows):
                axis = axes[line, place]
                axis.imshow(np.clip(row * scaling.scale + scaling.mean, 0, 16).reshape(SIDE, SIDE), cmap="gray_r")
                axis.set_xticks([])
                axis.set_yticks([])
            axes[line, 0].set_ylabel(words.replace("1 owners", "1 owner"), rotation=0, ha="right", va="center", size=8)
        figure.suptitle(PICTURES[name][2], size=9)
        path = folder / f"attack-{name}.png"
        figure.savefig(path, dpi=70, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
        written.append(path)
    return written


def _shown(results: Sequence[Recovered], scene: Scene) -> Floats:
    """Rows of the first owner that are in all of the sums, of as many classes as it has."""
    least = min(result.rows.row_count // count for result, count in zip(results, _counts(results), strict=True))
    rows = scene.owners[0].take(np.arange(least))
    _, first = np.unique(rows.labels, return_index=True)
    rest = np.setdiff1d(np.arange(least), first)
    result: Floats = rows.features[np.concatenate([first, rest])[:SHOWN]]
    return result


def _counts(results: Sequence[Recovered]) -> list[int]:
    """A bound on the owners in each sum: the first has one."""
    one = results[0].rows.row_count
    return [max(1, -(-result.rows.row_count // one)) for result in results]


def _matches(result: Recovered, guess: Floats, wanted: Floats) -> Floats:
    """What is in a guess of all of the sum's rows for each of the wanted ones."""
    _, match = matched(result.rows.features, guess)
    where = correlations(wanted, result.rows.features).argmax(axis=1)
    found: Floats = guess[match[where]]
    return found
