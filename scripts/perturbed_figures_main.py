"""`scripts/perturbed-figures`: what the perturbed protection costs, and what an owner that tries makes of it.

In one process: digits, six owners in two groups of three, statistics quantised as on the chain in lanes of 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.perturbed import PerturbedModel, PerturbedOwner, PublishedPerturbation
from omnilytics.daemon.training import squared_error
from omnilytics.daemon.training.data import Dataset, load_digits, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.payload import as_published
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.quantise import clamp_sum, dequantise, quantise

Floats = NDArray[np.float64]

GROUP_SIZE = 3
OWNERS = 6
SAMPLE_ROWS = 100
Q_MAX = ((1 << 30) - 1) // GROUP_SIZE
ARCHITECTURES = ("mlp:16", "mlp:32", "mlp:64", "mlp:64,32")


@dataclass(frozen=True)
class Outcome:
    """Accuracies, fractions of 1: of the market's model, of plain training on the same batches, and of the model as two
    attackers see it in the last round's payload: without any row, and with one labelled row. largest: of all
    statistics' magnitudes, of which 1.0 is cut.
    """

    market: float
    plain: float
    without_rows: float
    with_one_row: float
    largest: float


def group_mean(statistics: list[Floats], rng: np.random.Generator) -> Floats:
    """A group's mean statistic as the model owner gets it from the ring."""
    total = np.zeros(len(statistics[0]), dtype=np.int64)
    for values in statistics:
        total += quantise(values, 1.0, Q_MAX, rng.random(len(values)))
    return dequantise(clamp_sum(total, len(statistics), Q_MAX), 1.0, Q_MAX) / len(statistics)


def attack(
    published: PublishedPerturbation, features: Floats, labels: NDArray[np.int64] | None, test: Dataset
) -> float:
    """Accuracy on `test` of the scores y' - gamma alpha a, for the gamma by least squares: of y' alone where there are
    no labels (as if y were nothing), of y' - t where there are. r need not be known: it changes no score.
    """
    model, weights = published.model, published.payload.weights

    def scores_and_alpha(rows: Floats) -> tuple[Floats, Floats]:
        last = squared_error.hidden_outputs(model.unflatten(weights), rows)[-1]
        return model.logits(weights, rows), (1.0 + last.sum(axis=1, keepdims=True)) * published.direction

    scores, covering = scores_and_alpha(features)
    targets = np.full(scores.shape, 1.0 / model.class_count) if labels is None else np.eye(model.class_count)[labels]
    gamma = float(np.sum(covering * (scores - targets)) / np.sum(covering**2))
    scores, covering = scores_and_alpha(test.features)
    return float(((scores - gamma * covering).argmax(axis=1) == test.labels).mean())


def run(architecture: str, seed: int, rounds: int, batch: int) -> Outcome:
    """Train in the market and plainly, on the same batches, from the same weights; then attack."""
    rng = np.random.default_rng(seed)
    rest, test = split_holdout(load_digits(), 0.2, rng)
    order = rng.permutation(rest.row_count)
    own, shared = rest.take(order[:SAMPLE_ROWS]), rest.take(order[SAMPLE_ROWS:])
    scaling = FeatureScaling.fit(own.features)
    own, shared, test = (Dataset(scaling.apply(d.features), d.labels, d.classes) for d in (own, shared, test))
    model = Model(Architecture.parse(architecture), shared.column_count, len(shared.classes))
    optimiser, flat = squared_error.default_optimiser(), squared_error.first_weights(model, rng)
    side, owner = PerturbedModel(model, flat, optimiser, scaling, own), PerturbedOwner(model)
    learned, state, largest = side.begin(), optimiser.initial_state(model.value_count), 0.0
    for number in range(rounds):
        entropy = rng.bytes(32)
        published = owner.read(side.publish(learned, number, entropy), number)
        batches = [shared.take(rng.choice(shared.row_count, batch, replace=False)) for _ in range(OWNERS)]
        statistics = [owner.statistic(published, rows.features, rows.labels) for rows in batches]
        largest = max(largest, *(float(np.abs(values).max()) for values in statistics))
        groups = [group_mean(statistics[start : start + 3], rng) for start in range(0, OWNERS, GROUP_SIZE)]
        learned = side.learn(learned, entropy, np.mean(groups, axis=0))
        now = as_published(flat)
        gradients = [squared_error.gradient(model, now, rows.features, rows.labels) for rows in batches]
        state, flat = optimiser.step(state, flat, np.mean(gradients, axis=0))
    published = owner.read(side.publish(learned, rounds, rng.bytes(32)), rounds)
    noise = np.clip(rng.normal(size=(2000, model.feature_count)), -4.0, 4.0)
    return Outcome(
        side.accuracy(learned, test),
        model.accuracy(as_published(flat), test.features, test.labels),
        attack(published, noise, None, test),
        attack(published, shared.features[:1], shared.labels[:1], test),
        largest,
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=int, default=6, show_default=True)
@click.option("--rounds", type=int, default=50, show_default=True)
@click.option("--batch", type=int, default=64, show_default=True, help="Rows of an owner's batch.")
def main(seeds: int, rounds: int, batch: int) -> None:
    """Print a table, in Markdown, of the perturbed protection's figures on digits: means over the seeds."""
    click.echo("| model | market | plain | attacker, no rows | attacker, one labelled row | largest value |")
    click.echo("|---|---|---|---|---|---|")
    for architecture in ARCHITECTURES:
        outcomes = [run(architecture, seed, rounds, batch) for seed in range(seeds)]
        columns = zip(*((o.market, o.plain, o.without_rows, o.with_one_row) for o in outcomes), strict=True)
        cells = [f"{100 * float(np.mean(column)):.1f} %" for column in columns]
        click.echo(f"| {architecture} | " + " | ".join(cells) + f" | {max(o.largest for o in outcomes):.2f} |")


if __name__ == "__main__":
    main(prog_name="scripts/perturbed-figures")
