"""`scripts/privacy-cost`: what local clipping and noise cost in accuracy, and what epsilon they buy, in one process.

The figures of docs/privacy.md are written by it. Training is that of daemon/training/reference.py: the market's own
batches and steps, without quantising, masks or Krum.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np

from omnilytics.daemon.accounting import epsilon_of
from omnilytics.daemon.ledger import Mechanism
from omnilytics.daemon.protection.envelope import EnvelopeModel, EnvelopeOwner
from omnilytics.daemon.training.batch import DEFAULT_BATCH_SIZE, choose_batch
from omnilytics.daemon.training.data import Dataset, dirichlet_split, load_digits, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import default_optimiser
from omnilytics.daemon.training.private import NormalSource, PrivacyOptions, private_gradient
from omnilytics.daemon.training.reference import train_plain
from omnilytics.daemon.training.scaling import FeatureScaling
from scripts.toolchain import ROOT

PAGE = ROOT / "docs" / "privacy.md"
FIRST, LAST = "<!-- figures: written by scripts/privacy-cost -->", "<!-- end of figures -->"
MULTIPLIERS = (0.0, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0)
GROUP_SIZE = 3
SKEW = 10.0


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    clip_norm: float
    noise_multiplier: float
    rounds: int = 20
    owners: int = 18
    batch_size: int = DEFAULT_BATCH_SIZE
    delta: float = 1e-5


@dataclass(frozen=True)
class Cost:
    """One run: the last accuracy, a fraction of 1, and the owners' epsilons, the smallest and the largest."""

    accuracy: float
    epsilons: tuple[float, float]


def _normals(seed: int, owner: int) -> NormalSource:
    # Only here: figures must be the same tomorrow. An owner's daemon draws from the operating system.
    generator = np.random.default_rng([seed, owner])
    return lambda count: generator.standard_normal(count)


def measure(setting: Setting, seed: int) -> Cost:
    """Trains softmax regression on digits among owners who all clip and add noise."""
    generator = np.random.default_rng(seed)
    rest, held = split_holdout(load_digits(), 0.2, generator)
    scaling = FeatureScaling.fit(held.features)

    def scaled(rows: Dataset) -> Dataset:
        return Dataset(scaling.apply(rows.features), rows.labels, rows.classes)

    shares = dirichlet_split(rest.labels, setting.owners, SKEW, generator)
    data = [scaled(rest.take(share)) for share in shares]
    model = Model(Architecture(), rest.column_count, len(rest.classes))
    options = PrivacyOptions(setting.noise_multiplier, setting.clip_norm, setting.delta)
    private = {owner: private_gradient(options, _normals(seed, owner)) for owner in range(setting.owners)}
    groups = [list(range(first, first + GROUP_SIZE)) for first in range(0, setting.owners, GROUP_SIZE)]
    model_side = EnvelopeModel(model, default_optimiser(Architecture()), model.init(generator), scaling)

    def entropy(number: int, owner: int) -> bytes:
        return f"{seed}/{number}/{owner}".encode()

    run = train_plain(
        EnvelopeOwner(model),
        model_side,
        data,
        scaled(held),
        [groups] * setting.rounds,
        entropy,
        lambda number, owner: choose_batch(data[owner].row_count, setting.batch_size, entropy(number, owner)),
        1.0,
        private if options.active else None,
    )
    spent = [_epsilon(setting, rows.row_count) for rows in data]
    return Cost(run.accuracies[-1], (min(spent), max(spent)))


def _epsilon(setting: Setting, rows: int) -> float:
    mechanism = Mechanism(setting.noise_multiplier, min(rows, setting.batch_size), rows)
    return epsilon_of({mechanism: setting.rounds}, setting.delta)


def line(setting: Setting, costs: Sequence[Cost], plain: float) -> str:
    """A setting as a line of the table; `plain` is the mean accuracy without clip and noise."""
    found = [cost.accuracy for cost in costs]
    mean, least = statistics.fmean(found), min(found)
    lowest = min(cost.epsilons[0] for cost in costs)
    highest = max(cost.epsilons[1] for cost in costs)
    told = f"{lowest:.1f}" if f"{lowest:.1f}" == f"{highest:.1f}" else f"{lowest:.1f} to {highest:.1f}"
    told = "no bound" if highest == float("inf") else told
    clip = f"{setting.clip_norm:g}" if setting.clip_norm else "off"
    return (
        f"| {setting.batch_size} | {clip} | {setting.noise_multiplier:g} | {100 * mean:.2f} % | {100 * least:.2f} % "
        f"| {100 * (mean - plain):+.2f} | {told} |"
    )


def table(settings: Sequence[Setting], seeds: int) -> list[str]:
    """The table's lines; the first setting is the one that the others are compared with."""
    lines = [
        "| batch | clip_norm | noise_multiplier | accuracy, mean | worst | points to off | epsilon |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = 0.0
    for number, setting in enumerate(settings):
        costs = [measure(setting, seed) for seed in range(seeds)]
        if number == 0:
            plain = statistics.fmean(cost.accuracy for cost in costs)
        lines.append(line(setting, costs, plain))
        click.echo(lines[-1], err=True)
    return lines


def rewritten(text: str, block: str) -> str:
    """The page with its figures replaced. Raises ValueError where it has no place for them."""
    before, rest = text.split(FIRST)
    _, after = rest.split(LAST)
    return f"{before}{FIRST}\n\n{block}\n\n{LAST}{after}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="Runs a line.")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--clip-norm", "clips", type=float, multiple=True, default=(2.0,), show_default=True)
@click.option("--batch-size", "batches", type=int, multiple=True, default=(64, 16), show_default=True)
@click.option("--write", is_flag=True, help="Write the table into docs/privacy.md.")
def main(seeds: int, rounds: int, clips: tuple[float, ...], batches: tuple[int, ...], write: bool) -> None:
    """Measure on digits (softmax, 18 owners) what local clipping and noise cost, and what epsilon they buy."""
    settings = [Setting(0.0, 0.0, rounds, batch_size=batches[0])]
    settings += [
        Setting(clip, noise, rounds, batch_size=batch) for batch in batches for clip in clips for noise in MULTIPLIERS
    ]
    lines = table(settings, seeds)
    arguments = " ".join(sys.argv[1:])
    command = f"scripts/privacy-cost {arguments}".strip()
    head = f"Written by `{command}`: {rounds} rounds, {seeds} runs a line."
    block = head + "\n\n" + "\n".join(lines)
    click.echo(block)
    if write:
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), block), encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="scripts/privacy-cost")
