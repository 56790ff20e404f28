"""The market in one process: the product's own statistics, quantising, sums, selection and learning, without a chain.

The real market computes the same, integer for integer, which `scripts/testbed --verify` checks in every run; only
masks, which cancel, the groups' draw and payment are left out. So an attack can be tried a thousand times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.sides import (
    Floats,
    Learned,
    OwnerSide,
    Published,
    StatisticFunction,
    honest_statistic,
)
from omnilytics.daemon.task_design import TaskDesign, Wishes, design_task
from omnilytics.daemon.training.batch import choose_batch, fresh_batch
from omnilytics.daemon.training.data import Dataset, dirichlet_split, load_digits, split_holdout
from omnilytics.peers.errors import VectorError
from omnilytics.peers.krum import select, squared_distances
from omnilytics.peers.quantise import RingLayout, check_budget, dequantise, quantise, to_ring

HOLDOUT_FRACTION = 0.2


@dataclass(frozen=True)
class Setting:
    """One task's parameters: those of the testbed, under its names."""

    protection: str
    architecture: str
    rounds: int
    data: str = "digits"
    owners: int = 18
    group_size: int = 3
    faulty: int = 1
    skew: float = 10.0
    strict: bool = False
    batch_size: int | None = None
    optimiser: str | None = None
    clip: float | None = None

    @property
    def lane_bits(self) -> int:
        """The narrowest lanes that the protection can do with, of 16 and 32 bits."""
        return 32 if self.protection == "perturbed" else 16

    @property
    def max_magnitude(self) -> int:
        """The largest q_max for groups of this size."""
        return ((1 << (self.lane_bits - 2)) - 1) // self.group_size

    @property
    def groups(self) -> int:
        """Whole groups."""
        return self.owners // self.group_size


@dataclass(frozen=True)
class Scene:
    """A task and its participants. owners: scaled rows, in the order of their seats; own: the model owner's, scaled."""

    setting: Setting
    seed: int
    design: TaskDesign = field(repr=False)
    owners: tuple[Dataset, ...] = field(repr=False)
    own: Dataset = field(repr=False)

    def rows_of_group(self, group: int) -> Dataset:
        """All rows of a group's owners."""
        members = self.owners[group * self.setting.group_size : (group + 1) * self.setting.group_size]
        return merged(members)

    def batch(self, owner: int, round_number: int) -> Dataset:
        """What an owner computes on in a round, counted from 1."""
        rows, spec = self.owners[owner], self.design.spec
        entropy = hashlib.sha256(f"{self.seed} {owner}".encode()).digest()
        if spec.means.fresh_rows:
            return rows.take(fresh_batch(rows.row_count, self.setting.rounds, round_number, entropy))
        drawn = hashlib.sha256(entropy + round_number.to_bytes(4, "big")).digest()
        return rows.take(choose_batch(rows.row_count, spec.batch_size, drawn))


@dataclass(frozen=True)
class Outcome:
    """What came out: accuracy (a fraction), the last state, groups learnt from by round, and what was published and
    posted: group means, float64[d] each, by round."""

    accuracy: float
    learned: Learned = field(repr=False)
    selected: tuple[tuple[int, ...], ...]
    published: tuple[Published, ...] = field(repr=False)
    means: tuple[dict[int, Floats], ...] = field(repr=False)


Chooser = Callable[[Learned, bytes, Mapping[int, Floats]], tuple[int, ...]]


def merged(parts: tuple[Dataset, ...]) -> Dataset:
    """The rows of all parts."""
    features = np.vstack([part.features for part in parts])
    return Dataset(features, np.concatenate([part.labels for part in parts]), parts[0].classes)


def load(name: str) -> Dataset:
    """ "digits", or a table of scikit-learn's: "breast-cancer", "wine"."""
    if name == "digits":
        return load_digits()
    from sklearn import datasets  # slow to import

    bunch = {"breast-cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}[name]()
    classes = tuple(str(label) for label in range(len(bunch.target_names)))
    return Dataset(np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.int64), classes)


def make_scene(setting: Setting, seed: int) -> Scene:
    """Rows dealt out as in the testbed, then seats drawn at random."""
    generator = np.random.default_rng(seed)
    rest, held = split_holdout(load(setting.data), HOLDOUT_FRACTION, generator)
    parts = dirichlet_split(rest.labels, setting.owners, setting.skew, generator)
    check_budget(setting.group_size, setting.max_magnitude, setting.lane_bits)
    wishes = Wishes(
        setting.architecture,
        setting.protection,
        setting.group_size,
        setting.lane_bits,
        setting.batch_size,
        setting.optimiser,
        setting.clip,
        seed,
    )
    design = design_task(wishes, held)
    seats = generator.permutation(setting.owners)
    owners = tuple(_scaled(design, rest.take(parts[owner])) for owner in seats)
    return Scene(setting, seed, design, owners, _scaled(design, held))


def _scaled(design: TaskDesign, rows: Dataset) -> Dataset:
    return Dataset(design.scaling.apply(rows.features), rows.labels, rows.classes)


def round_entropy(seed: int, round_number: int) -> bytes:
    """The model owner's secret of a round."""
    return hashlib.sha256(f"round {seed} {round_number}".encode()).digest()


def play(
    scene: Scene,
    hostile: Mapping[int, StatisticFunction] | None = None,
    choose: Chooser | None = None,
    sides: Mapping[int, OwnerSide] | None = None,
) -> Outcome:
    """All rounds of a task. hostile: what owners (by seat) post in place of the honest statistic; choose: another way
    of selecting groups than the task's; sides: owners that compute otherwise.

    Without `choose` the contract's Multi-Krum selects on the ring sums, or the model owner, as the protection has it.
    """
    setting, design = scene.setting, scene.design
    spec, model = design.spec, design.side
    functions = hostile or {}
    generator = np.random.default_rng([scene.seed, 1])
    layout = RingLayout(spec.side.value_count, setting.lane_bits)
    learned = model.begin()
    selected, shown, posted = [], [], []
    for number in range(1, setting.rounds + 1):
        secret = round_entropy(scene.seed, number)
        published = spec.side.read(model.publish(learned, number, secret), number)
        sums = np.zeros((setting.groups, layout.value_count), dtype=np.int64)
        for owner in range(setting.groups * setting.group_size):
            batch, function = scene.batch(owner, number), functions.get(owner, honest_statistic)
            side = sides[owner] if sides else spec.side
            values = function(side, published, batch.features, batch.labels, spec.clip, generator)
            uniforms = generator.random(layout.value_count)
            sums[owner // setting.group_size] += quantise(values, spec.clip, setting.max_magnitude, uniforms)
        means = {
            group: dequantise(total, spec.clip, setting.max_magnitude) / setting.group_size
            for group, total in enumerate(sums)
        }
        if choose is not None:
            chosen = choose(learned, secret, means)
        elif spec.means.model_selection:
            named = model.choose(learned, secret, means, setting.faulty, setting.strict)
            chosen = model.trust(learned, secret, means, named)
        else:
            chosen = contract_choice(sums, layout, setting)
        # A step that leaves the numbers is refused by the model owner: it keeps the model that it had.
        with suppress(VectorError):
            learned = model.learn(learned, secret, np.mean([means[group] for group in chosen], axis=0))
        selected.append(chosen)
        shown.append(published)
        posted.append(means)
    accuracy = model.accuracy(learned, design.test)
    return Outcome(accuracy, learned, tuple(selected), tuple(shown), tuple(posted))


def contract_choice(sums: NDArray[np.int64], layout: RingLayout, setting: Setting) -> tuple[int, ...]:
    """What the contract selects, from the groups' ring sums."""
    distances = squared_distances([to_ring(total, layout) for total in sums], layout)
    return tuple(select(distances, setting.faulty, setting.strict))


def choose_all(learned: Learned, secret: bytes, means: Mapping[int, Floats]) -> tuple[int, ...]:
    """Plain averaging: no defence."""
    return tuple(sorted(means))
