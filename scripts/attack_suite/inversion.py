"""Promise 2: what a model owner, with or without colluding owners, makes of sums over a group."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from omnilytics.daemon.protection.envelope import EnvelopeModel
from omnilytics.daemon.protection.feature_map import RandomFeatures
from omnilytics.daemon.protection.ridge import Moments, moment_count
from omnilytics.daemon.protection.secret_head import least_group_rows
from omnilytics.daemon.protection.sides import Floats, Labels
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.payload import as_published
from omnilytics.peers.quantise import dequantise, quantise
from scripts.attack_suite.market import Scene, Setting, make_scene, merged
from scripts.attack_suite.tables import said_seeds, spread
from scripts.pages import table
from tests.adversaries.reconstruction import (
    GradientSeen,
    MomentsSeen,
    Seen,
    Trap,
    drawn_like,
    fit_rows,
    matched,
    recover_rows,
)

ALIKE, SAME = 0.9, 0.98


@dataclass(frozen=True)
class Case:
    """A sum that the attacker holds. owners: whose rows are in it, after what colluders took out; share: of an owner's
    rows, in one round; looks: sums over the same rows (rounds of the envelope, tasks with new maps of secret-head);
    width: of the map, 0 for softmax regression under the envelope."""

    words: str
    width: int
    owners: int
    looks: int = 1
    share: float = 1.0


@dataclass(frozen=True)
class Recovered:
    """True rows, what the attacker had anyway, what it found; matched to the true ones, float64[rows, columns]."""

    numbers: float
    rows: Dataset = field(repr=False)
    before: Floats = field(repr=False)
    found: Floats = field(repr=False)

    def figures(self) -> list[list[float]]:
        """Share of rows over ALIKE and over SAME in percent, and the mean correlation; before, and found."""
        figures = []
        for guess in (self.before, self.found):
            alike, _ = matched(self.rows.features, guess)
            figures.append([100 * float((alike > ALIKE).mean()), 100 * float((alike > SAME).mean()), alike.mean()])
        return figures


def rounded(values: Floats, clip: float, owners: int, generator: np.random.Generator, lane_bits: int = 16) -> Floats:
    """A mean over owners as it comes out of the lanes: with the rounding errors of all."""
    q_max = ((1 << (lane_bits - 2)) - 1) // max(owners, 3)
    one = [dequantise(quantise(values, clip, q_max, generator.random(len(values))), clip, q_max) for _ in range(owners)]
    return np.asarray(np.mean(one, axis=0), dtype=np.float64)


def rounding_noise(clip: float, owners: int) -> float:
    """Standard deviation of `rounded`'s error, of a value."""
    return float(clip * max(owners, 3) / ((1 << 14) - 1) / np.sqrt(6.0 * owners))


def owners_rows(scene: Scene, case: Case) -> Dataset:
    """The rows in the sum, by class: as many of each owner."""
    count = int(case.share * min(owner.row_count for owner in scene.owners[: case.owners]))
    rows = merged(tuple(owner.take(np.arange(count)) for owner in scene.owners[: case.owners]))
    return rows.take(np.argsort(rows.labels, kind="stable"))


def attack(case: Case, scene: Scene, steps: int) -> Recovered:
    """Posts the case's sums, and seeks their rows in two ways; the better one counts, as if the attacker could tell."""
    generator = np.random.default_rng([scene.seed, 4])
    rows = owners_rows(scene, case)
    if case.width:
        seen, noise, numbers = _moments(case, rows, generator)
    else:
        seen, noise, numbers = _gradients(case, scene, rows, generator)
    guesses = [
        recover_rows(seen, rows.labels, scene.own, noise, generator, steps),
        fit_rows(seen, rows.labels, scene.own, generator, 3 * steps),
    ]
    found = max(guesses, key=lambda guess: float(matched(rows.features, guess)[0].mean()))
    before = drawn_like(rows.labels, scene.own, np.random.default_rng([scene.seed, 5]))
    return Recovered(numbers / rows.features.size, rows, before, found)


def _moments(case: Case, rows: Dataset, generator: np.random.Generator) -> tuple[list[Seen], float, int]:
    classes, columns = len(rows.classes), rows.column_count
    seen: list[Seen] = []
    for look in range(case.looks):
        seed = hashlib.sha256(f"map {generator.integers(1 << 32)} {look}".encode()).digest()
        feature_map = RandomFeatures(columns, case.width, seed)
        values = Moments.of_rows(feature_map.apply(rows.features), rows.labels, classes).statistic()
        posted = rounded(values, 1.0, case.owners, generator)
        seen.append(MomentsSeen(feature_map, Moments.from_statistic(posted, case.width, classes)))
    return seen, rounding_noise(1.0, case.owners), case.looks * moment_count(case.width, classes)


def _gradients(
    case: Case, scene: Scene, rows: Dataset, generator: np.random.Generator
) -> tuple[list[Seen], float, int]:
    """All owners post whole-batch gradients in every round; the attacker sees its group's."""
    side, clip = scene.design.side, scene.design.spec.clip
    assert isinstance(side, EnvelopeModel) and isinstance(side.model, Model)
    everybody, seen = merged(scene.owners), list[Seen]()
    weights, state = side.initial_weights, side.optimiser.initial_state(side.model.value_count)
    for _ in range(case.looks):
        at = as_published(weights)
        posted = rounded(side.model.gradient(at, rows.features, rows.labels), clip, case.owners, generator)
        seen.append(GradientSeen(side.model, at, posted))
        step = side.model.gradient(at, everybody.features, everybody.labels)
        state, weights = side.optimiser.step(state, weights, step)
    return seen, rounding_noise(clip, case.owners), case.looks * side.model.value_count


WIDTHS = (
    Case("64 features, a group of 3, all rows", 64, 3),
    Case("96 features, a group of 3, all rows", 96, 3),
    Case("128 features, a group of 3, all rows", 128, 3),
    Case("256 features, a group of 3, all rows", 256, 3),
    Case("64 features, a third of the rows (3 rounds)", 64, 3, 1, 1 / 3),
    Case("96 features, a third of the rows (3 rounds)", 96, 3, 1, 1 / 3),
    Case("128 features, a third of the rows (3 rounds)", 128, 3, 1, 1 / 3),
    Case("64 features, 2 tasks over the same rows", 64, 3, 2),
    Case("64 features, 4 tasks over the same rows", 64, 3, 4),
    Case("envelope, softmax, 1 round", 0, 3),
    Case("envelope, softmax, 20 rounds of the same rows", 0, 3, 20),
)
PICTURES = {
    "secret-head-96": (96, 1, "secret-head, 96 features, about as wide as owners accept"),
    "secret-head-256": (256, 1, "secret-head, 256 features: too wide for these groups: owners refuse it"),
    "envelope-20": (0, 20, "envelope, softmax, 20 rounds of the same rows"),
}
OWNER_COUNTS = (1, 2, 3, 5)
HEAD = [
    "rows in the sum",
    "numbers out per number in",
    f"had anyway: over {ALIKE} / over {SAME} / mean correlation",
    f"found: over {ALIKE} / over {SAME} / mean correlation",
]


def allowed(case: Case, rows: Dataset) -> str:
    """Whether owners accept so thin a sum."""
    if not case.width:
        return "yes"
    return "yes" if rows.row_count >= least_group_rows(rows.column_count, case.width, len(rows.classes)) else "no"


def _cells(results: Sequence[Recovered]) -> list[str]:
    figures = np.mean([result.figures() for result in results], axis=0)
    rows = spread([float(result.rows.row_count) for result in results[:1]], 0)
    shown = [f"{alike:.0f} % / {same:.0f} % / {mean:.2f}" for alike, same, mean in figures]
    return [rows, f"{np.mean([result.numbers for result in results]):.2f}", *shown]


def scene_of(case: Case, seed: int) -> Scene:
    """Digits, dealt out to 18 owners."""
    return make_scene(Setting("envelope", "softmax", 1), seed)


def recovery_table(cases: Sequence[Case], seeds: Sequence[int], steps: int, say: Callable[[str], None]) -> str:
    """Rows recovered from a whole group's sum."""
    lines = []
    for case in cases:
        results = [attack(case, scene_of(case, seed), steps) for seed in seeds]
        lines.append([case.words, allowed(case, results[0].rows), *_cells(results)])
        say(" | ".join(lines[-1]))
    return said_seeds(seeds) + table(["what the model owner holds", "owners accept it", *HEAD], lines)


def collusion_table(
    seeds: Sequence[int], steps: int, counts: Sequence[int], say: Callable[[str], None]
) -> tuple[str, dict[str, list[Recovered]]]:
    """Sums over so many honest owners: of a group of n with n - 1 or fewer colluders, which take their part out. Also
    what the difference of two tasks gives where one owner left: a sum over that owner. And the first seed's rows."""
    lines, pictures = [], dict[str, list[Recovered]]()
    for name, (width, looks, words) in PICTURES.items():
        pictures[name] = []
        for count in counts:
            case = Case(words, width, count, looks)
            results = [attack(case, scene_of(case, seed), steps) for seed in seeds]
            pictures[name].append(results[0])
            lines.append([words, str(count), *_cells(results)])
            say(" | ".join(lines[-1]))
    return said_seeds(seeds) + table(["what is posted", "honest owners in the sum", *HEAD], lines), pictures


def trap_table(widths: Sequence[int], seeds: Sequence[int], say: Callable[[str], None]) -> str:
    """Hostile weights: a network that the model owner publishes to pull rows out of a group's sum of 192."""
    lines = []
    for width in widths:
        shares, same = [], []
        for seed in seeds:
            scene = make_scene(Setting("envelope", "softmax", 1), seed)
            rows = merged(tuple(owner.take(np.arange(min(64, owner.row_count))) for owner in scene.owners[:3]))
            generator = np.random.default_rng([seed, 6])
            model = Model(Architecture((width,)), rows.column_count, len(rows.classes))
            trap = Trap.of(model, scene.own, generator)
            gradient = model.gradient(as_published(trap.weights), rows.features, rows.labels)
            clip = 2.0 * float(np.abs(model.gradient(trap.weights, scene.own.features, scene.own.labels)).max())
            alike = best_matches(rows.features, trap.rows(rounded(gradient, clip, 3, generator)))
            shares.append(100 * float((alike > ALIKE).mean()))
            same.append(100 * float((alike > SAME).mean()))
        lines.append([f"mlp:{width}", str(rows.row_count), spread(shares, 0), spread(same, 0)])
        say(" | ".join(lines[-1]))
    return said_seeds(seeds) + table(
        ["hostile network", "rows in the sum", f"over {ALIKE}, %", f"over {SAME}, %"], lines
    )


def best_matches(rows: Floats, found: Floats) -> Floats:
    """Correlation of every row with its match, 0 for those that are left over."""
    from scipy.optimize import linear_sum_assignment

    from tests.adversaries.reconstruction import correlations

    pairs = correlations(rows, found)
    true, match = linear_sum_assignment(-pairs)
    result = np.zeros(len(rows))
    result[true] = pairs[true, match]
    return result


def class_shares_table(seeds: Sequence[int], say: Callable[[str], None]) -> str:
    """What differences between groups' b say of class shares where all groups have the same pads."""
    lines = []
    for skew in (0.5, 1.0, 10.0):
        guess, after, largest = [], [], []
        for seed in seeds:
            scene = make_scene(Setting("envelope", "softmax", 1, skew=skew), seed)
            shares = np.array([class_shares(scene.rows_of_group(group).labels, 10) for group in range(6)])
            even = np.full(10, 0.1)
            estimate = shares - shares.mean(axis=0) + even
            guess.append(100 * float(np.abs(shares - even).mean()))
            largest.append(100 * float(np.abs(shares - even).max()))
            after.append(100 * float(np.abs(estimate - shares).mean()))
        lines.append([f"{skew:g}", spread(guess), spread(largest), spread(after)])
        say(" | ".join(lines[-1]))
    head = ["skew", "guess: every share 10 %, error in points", "its largest error", "error with common pads"]
    return said_seeds(seeds) + table(head, lines)


def class_shares(labels: Labels, classes: int) -> Floats:
    """Share of each class, float64[classes]."""
    return np.bincount(labels, minlength=classes) / len(labels)
