"""`scripts/secret-head-figures`: what the secret-head protection costs, and how its selections stand up to poison.

In one process: digits, owners' statistics quantised as on the chain, groups of three, every row used once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.feature_map import FeatureMap, MapShape, RandomFeatures, Trunk
from omnilytics.daemon.protection.group_choice import hold_out_choice
from omnilytics.daemon.protection.ridge import DEFAULT_REGULARISER, Moments, moment_count
from omnilytics.daemon.protection.secret_head import SecretHeadModel, SecretHeadOwner, least_group_rows
from omnilytics.daemon.protection.sides import Learned
from omnilytics.daemon.training.data import Dataset, dirichlet_split, load_digits, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import Momentum
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.quantise import dequantise, quantise

Floats = NDArray[np.float64]

GROUP_SIZE = 3
SHAPES = ("trunk:32", "trunk:64", "random:64", "random:128", "random:256", "random:512")
MEMBER_WIDTHS = (32, 64, 128)
ATTACKER_ROWS = 50
VALIDATION_ROWS = 100
SELECTIONS = ("all", "krum", "hold-out", "hold-out by accuracy")


@dataclass(frozen=True)
class Market:
    """Owners' rows, the model owner's validation rows and the test rows, all scaled, and how they were scaled."""

    owners: list[Dataset]
    validation: Dataset
    test: Dataset
    scaling: FeatureScaling


def market(seed: int, owner_count: int, skew: float) -> Market:
    """Digits: a fifth to test with, 100 rows that are the model owner's, the rest split over the owners."""
    rng = np.random.default_rng(seed)
    rest, test = split_holdout(load_digits(), 0.2, rng)
    order = rng.permutation(rest.row_count)
    own, shared = rest.take(order[:VALIDATION_ROWS]), rest.take(order[VALIDATION_ROWS:])
    scaling = FeatureScaling.fit(own.features)

    def scaled(rows: Dataset) -> Dataset:
        return Dataset(scaling.apply(rows.features), rows.labels, rows.classes)

    shared = scaled(shared)
    parts = dirichlet_split(shared.labels, owner_count, skew, rng)
    return Market([shared.take(rng.permutation(part)) for part in parts], scaled(own), scaled(test), scaling)


Poison = Callable[[SecretHeadOwner, Floats, np.random.Generator], Floats]


def noise(owner: SecretHeadOwner, honest: Floats, rng: np.random.Generator) -> Floats:
    """Uniform over what clipping lets through."""
    return rng.uniform(-1.0, 1.0, owner.value_count)


def sign_flip(owner: SecretHeadOwner, honest: Floats, rng: np.random.Generator) -> Floats:
    """The statistic's opposite."""
    return -honest


def scale(owner: SecretHeadOwner, honest: Floats, rng: np.random.Generator) -> Floats:
    """Ten times the statistic."""
    return 10.0 * honest


def label_flip(owner: SecretHeadOwner, honest: Floats, rng: np.random.Generator) -> Floats:
    """Class y is taught as class_count - 1 - y."""
    moments = Moments.from_statistic(honest, owner.shape.width, owner.class_count)
    return Moments(moments.gram, moments.cross[:, ::-1]).statistic()


def label_flip_hard(owner: SecretHeadOwner, honest: Floats, rng: np.random.Generator) -> Floats:
    """The same with b three times as large: rows that say what no row can."""
    moments = Moments.from_statistic(honest, owner.shape.width, owner.class_count)
    return Moments(moments.gram, 3.0 * moments.cross[:, ::-1]).statistic()


POISONS: dict[str, Poison] = {
    "noise": noise,
    "scale x10": scale,
    "sign flip": sign_flip,
    "label flip": label_flip,
    "label flip, b x3": label_flip_hard,
}


def magnitude(lane_bits: int) -> int:
    """The largest q_max for the group size."""
    return ((1 << (lane_bits - 2)) - 1) // GROUP_SIZE


def group_means(
    owner: SecretHeadOwner,
    model: SecretHeadModel,
    batches: list[Dataset],
    poison: Poison | None,
    poisoned_groups: int,
    lane_bits: int,
    rng: np.random.Generator,
) -> dict[int, Floats]:
    """Every group's mean statistic, through quantise (lane_bits 0: exact). The first groups are poisoned."""
    published = owner.read(model.publish(model.begin(), 0, bytes(32)), 0)
    means = {}
    for group in range(len(batches) // GROUP_SIZE):
        posted = []
        for batch in batches[group * GROUP_SIZE : (group + 1) * GROUP_SIZE]:
            values = owner.statistic(published, batch.features, batch.labels)
            if poison and group < poisoned_groups:
                values = poison(owner, values, rng)
            if lane_bits:
                q_max = magnitude(lane_bits)
                values = dequantise(quantise(values, owner.clip, q_max, rng.random(len(values))), owner.clip, q_max)
            posted.append(values)
        means[group] = np.mean(posted, axis=0)
    return means


def rounds(owners: list[Dataset], rows: int) -> Iterator[list[Dataset]]:
    """As many rounds as the poorest owner has batches of so many rows; every owner spreads all its rows over them."""
    count = max(1, min(owner.row_count for owner in owners) // rows)
    for number in range(count):
        yield [owner.take(np.arange(number, owner.row_count, count)) for owner in owners]


def choose_by_accuracy(
    model: SecretHeadModel, learned: Learned, means: dict[int, Floats], rows: Dataset
) -> tuple[int, ...]:
    """Hold-out selection with the other criterion, which the protection does not offer."""
    width, classes = model.feature_map.shape.width, model.class_count
    count = moment_count(width, classes)
    before = Moments.from_statistic(np.frombuffer(learned.memory, dtype="<f8", offset=9)[:count], width, classes)
    moments = {group: Moments.from_statistic(values, width, classes) for group, values in means.items()}
    mapped = model.feature_map.apply(rows.features)
    return hold_out_choice(before, moments, mapped, rows.labels, 2, False, model.regulariser, by_accuracy=True)


def make_map(chain: Market, shape: str, seed: int) -> FeatureMap:
    """Random features, or the hidden layers of a network that the model owner trained on its 100 rows (100 steps)."""
    kind = MapShape.parse(shape)
    if kind.kind == "random":
        drawn = hashlib.sha256(f"map {seed}".encode()).digest()
        return RandomFeatures(chain.scaling.column_count, kind.width, drawn)
    rows = chain.validation
    model = Model(Architecture(kind.widths), rows.column_count, len(rows.classes))
    rng = np.random.default_rng(2000 + seed)
    weights, optimiser = model.init(rng), Momentum(0.1)
    state = optimiser.initial_state(model.value_count)
    for _ in range(100):
        blurred = rows.features + rng.normal(0.0, 0.3, rows.features.shape)
        state, weights = optimiser.step(state, weights, model.gradient(weights, blurred, rows.labels))
    return Trunk.fit(model, weights, rows)


def members_told(seed: int, width: int, share: float) -> float:
    """How often, of a row inside a group's sum of share * w rows and one outside, the sum's leverages tell which is in:
    in percent, 50 is guessing. Below w rows the distance to the rows' span is asked instead. See least_group_rows.
    """
    data = load_digits()
    feature_map = RandomFeatures(data.column_count, width, hashlib.sha256(f"map {seed}".encode()).digest())
    order = np.random.default_rng(seed).permutation(data.row_count)
    count = round(share * (width + 1))
    mapped = feature_map.apply(FeatureScaling.fit(data.features[:200]).apply(data.features))[order]
    inside, outside = mapped[:count], mapped[count : count + 300]
    eigenvalues, vectors = np.linalg.eigh(inside.T @ inside)
    held = eigenvalues > 1e-9 * eigenvalues[-1]
    weights = 1.0 / np.maximum(eigenvalues, 1e-9 * eigenvalues[-1]) if held.all() else (~held).astype(np.float64)
    levers = [((rows @ vectors) ** 2) @ weights for rows in (inside, outside)]
    return float(100 * (levers[0][:, None] < levers[1][None, :]).mean())


def accuracy(
    seed: int,
    shape: str,
    lane_bits: int,
    rows: int,
    poison: Poison | None = None,
    poisoned_groups: int = 0,
    selection: str = "all",
    skew: float = 1000.0,
    least_class_rows: int = 2,
    regulariser: float = DEFAULT_REGULARISER,
) -> float:
    """Accuracy in percent after all rounds, over 21 owners in 7 groups."""
    chain = market(seed, 21, skew)
    feature_map = make_map(chain, shape, seed)
    classes = len(chain.test.classes)
    validation = chain.validation if selection == "hold-out" else None
    model = SecretHeadModel(feature_map, classes, chain.scaling, validation, regulariser)
    owner = SecretHeadOwner(feature_map.shape, feature_map.inputs, classes, least_class_rows)
    rng = np.random.default_rng(1000 + seed)
    learned: Learned = model.begin()
    for batches in rounds(chain.owners, rows):
        means = group_means(owner, model, batches, poison, poisoned_groups, lane_bits, rng)
        if selection == "all":
            groups = tuple(means)
        elif selection == "hold-out by accuracy":
            groups = choose_by_accuracy(model, learned, means, chain.validation)
        else:
            groups = model.choose(learned, bytes(32), means, 2, False)
        learned = model.learn(learned, bytes(32), np.mean([means[group] for group in groups], axis=0))
    return 100 * model.accuracy(learned, chain.test)


def attacker_accuracy(seed: int, shape: str) -> float:
    """What an owner makes of the map and 50 rows of its own, in percent."""
    chain = market(seed, 21, 1000.0)
    feature_map = make_map(chain, shape, seed)
    rows = chain.validation.take(np.arange(ATTACKER_ROWS))
    head = Moments.of_rows(feature_map.apply(rows.features), rows.labels, len(rows.classes)).solve()
    return float(100 * ((feature_map.apply(chain.test.features) @ head).argmax(axis=1) == chain.test.labels).mean())


def mean(figures: Iterable[float]) -> str:
    """In percent, one digit."""
    return f"{float(np.mean(list(figures))):.1f} %"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=int, default=6, show_default=True)
@click.option("--rows", type=int, default=32, show_default=True, help="Least rows of a batch.")
def main(seeds: int, rows: int) -> None:
    """Print tables, in Markdown, of the secret-head protection's figures on digits."""
    each = range(seeds)
    click.echo("| map | values | rows a group must have | exact | 16 bits | attacker with 50 rows |")
    click.echo("|---|---|---|---|---|---|")
    for shape in SHAPES:
        kind = MapShape.parse(shape)
        cells = [
            f"{SecretHeadOwner(kind, 64, 10).value_count:,}",
            f"{least_group_rows(64, kind.width, 10):,}",
            mean(accuracy(seed, shape, 0, rows) for seed in each),
            mean(accuracy(seed, shape, 16, rows) for seed in each),
            mean(attacker_accuracy(seed, shape) for seed in each),
        ]
        click.echo(f"| {shape} | " + " | ".join(cells) + " |")

    click.echo("\n| 2 of 7 groups poisoned, random:128 | skew | " + " | ".join(SELECTIONS) + " |")
    click.echo("|---|---|" + "---|" * len(SELECTIONS))
    for skew in (1000.0, 1.0):
        for words, poison in ({"nothing": None} | POISONS).items():
            cells = [
                mean(accuracy(seed, "random:128", 16, rows, poison, 2, way, skew) for seed in each)
                for way in SELECTIONS
            ]
            click.echo(f"| {words} | {skew:g} | " + " | ".join(cells) + " |")

    click.echo("\n| rows of a class below which it is left out, batches of all rows | skew 1000 | skew 1 |")
    click.echo("|---|---|---|")
    for least in (1, 2, 3):
        cells = [
            mean(accuracy(seed, "random:128", 16, 1000, None, 0, "all", skew, least) for seed in each)
            for skew in (1000.0, 1.0)
        ]
        click.echo(f"| {least} | " + " | ".join(cells) + " |")

    shapes = ("random:64", "random:128", "random:512")
    click.echo("\n| regulariser | " + " | ".join(shapes) + " |\n|---|---|---|---|")
    for share in (0.1, 0.01, 0.001):
        cells = [mean(accuracy(seed, shape, 16, rows, regulariser=share) for seed in each) for shape in shapes]
        click.echo(f"| {share:g} | " + " | ".join(cells) + " |")

    click.echo("\n| rows of a group over w | " + " | ".join(f"random:{width}" for width in MEMBER_WIDTHS) + " |")
    click.echo("|---|" + "---|" * len(MEMBER_WIDTHS))
    for share in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        cells = [mean(members_told(seed, width, share) for seed in each) for width in MEMBER_WIDTHS]
        click.echo(f"| {share:g} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(prog_name="scripts/secret-head-figures")
