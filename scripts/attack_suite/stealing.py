"""Promise 1: what a registered owner makes of what it reads, under every protection, beside what it can do alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from omnilytics.daemon.protection.perturbed import PerturbedModel, PublishedPerturbation
from omnilytics.daemon.protection.secret_head import PublishedMap
from omnilytics.daemon.protection.sides import Floats
from omnilytics.daemon.training import squared_error
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.payload import as_published
from scripts.attack_suite.defences import gas_of_round
from scripts.attack_suite.market import Outcome, Scene, Setting, choose_all, make_scene, merged, play
from scripts.attack_suite.tables import said_seeds, spread
from scripts.pages import table
from tests.adversaries.thief import (
    Disguise,
    best_alone,
    best_learnt,
    canonical_hidden,
    gamma_from_labels,
    gamma_from_noise_alone,
    gammas_from_rounds,
    projected,
    with_constant,
)

OWN_ROWS = 50
LAST_ROUNDS = 4

COLLUDERS = (1, 3, 9)

#: By attack: the stolen model's accuracy, and the best that the same rows give without anything of the market.
Stolen = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Thief:
    """One owner in its task: rows of its own, and everything it read."""

    scene: Scene
    outcome: Outcome
    rows: Dataset
    alone: float

    @property
    def test(self) -> Dataset:
        """The rows that the model owner measures with."""
        return self.scene.design.test

    def right(self, scores: Floats) -> float:
        """Accuracy of scores on the test rows."""
        return float((scores.argmax(axis=1) == self.test.labels).mean())


def make_thief(setting: Setting, seed: int) -> Thief:
    """A thief with OWN_ROWS labelled rows, of the whole market's distribution."""
    scene = make_scene(setting, seed)
    rows = merged(scene.owners)
    drawn = np.random.default_rng([seed, 2]).permutation(rows.row_count)[:OWN_ROWS]
    own = rows.take(drawn)
    return Thief(scene, play(scene), own, best_alone(own, scene.design.test, seed))


def steal_envelope(thief: Thief) -> Stolen:
    """The model is there to be read."""
    return {"use as is": (thief.outcome.accuracy, thief.alone)}


def steal_perturbed(thief: Thief) -> Stolen:
    """Everything known against the perturbation of Yang et al., the weakest first."""
    disguises = [Disguise(shown) for shown in thief.outcome.published if isinstance(shown, PublishedPerturbation)]
    last, test, rows = disguises[-1], thief.test.features, thief.rows
    one = rows.take(np.array([0]))
    recent = disguises[-LAST_ROUNDS:]
    generator = np.random.default_rng([thief.scene.seed, 3])
    gammas = gammas_from_rounds(recent, rows.column_count, generator)
    combined = np.mean([d.without(float(g), test) for d, g in zip(recent, gammas, strict=True)], axis=0)
    hidden = [with_constant(last.hidden(part)) for part in (rows.features, test)]
    one_gamma = gamma_from_labels(last, one.features, one.labels)
    gamma = gamma_from_labels(last, rows.features, rows.labels)
    found = {
        "use as is": thief.right(last.scores(test)),
        f"new head on its hidden outputs, {OWN_ROWS} rows": best_learnt(rows, thief.test, *hidden),
        "gamma from one labelled row": thief.right(last.without(one_gamma, test)),
        f"gamma from {OWN_ROWS} labelled rows": thief.right(last.without(gamma, test)),
        f"gamma from {OWN_ROWS} unlabelled rows": thief.right(
            last.without(gamma_from_noise_alone(last, rows.features), test)
        ),
        "project off the noise's direction, no rows": thief.right(projected(last, test)),
        f"{LAST_ROUNDS} rounds combined, no rows": thief.right(combined),
    }
    return {words: (accuracy, thief.alone) for words, accuracy in found.items()}


def steal_secret_head(thief: Thief, colluders: Sequence[int] = COLLUDERS) -> Stolen:
    """A map and no head: the thief learns a head of its own, from its rows or those of owners that collude."""
    published, test = thief.outcome.published[0], thief.test
    assert isinstance(published, PublishedMap)
    apply, owners = published.feature_map.apply, thief.scene.owners
    mapped_test = apply(test.features)

    def head(rows: Dataset) -> float:
        return best_learnt(rows, test, apply(rows.features), mapped_test)

    found = {f"new head on the map, {OWN_ROWS} rows": (head(thief.rows), thief.alone)}
    for count in colluders:
        rows = merged(owners[:count])
        words = f"the same, all rows of {count} owner{'s' if count > 1 else ''}"
        found[words] = (head(rows), best_alone(rows, test, thief.scene.seed))
    return found


STEAL: dict[str, Callable[[Thief], Stolen]] = {
    "envelope": steal_envelope,
    "perturbed": steal_perturbed,
    "secret-head": steal_secret_head,
}


def stealing_table(settings: Sequence[Setting], seeds: Sequence[int], say: Callable[[str], None]) -> str:
    """Every attack on every setting: accuracy of the stolen model, and points over the thief's best alone."""
    rows = []
    for setting in settings:
        thieves = [make_thief(setting, seed) for seed in seeds]
        stolen = [STEAL[setting.protection](thief) for thief in thieves]
        market = spread([100 * thief.outcome.accuracy for thief in thieves])
        for words in stolen[0]:
            found, alone = (100 * np.array([figures[words] for figures in stolen])).T
            name = f"{setting.protection}, {setting.architecture}"
            cells = [setting.data, name, words, spread(found), market, spread(alone), spread(found - alone, sign=True)]
            rows.append(cells)
            say(" | ".join(cells))
    head = ["data", "protection", "attack", "stolen model, %", "market's model, %", "thief alone, %", "gain, points"]
    return said_seeds(seeds) + table(head, rows)


def width_table(settings: Sequence[Setting], seeds: Sequence[int], say: Callable[[str], None]) -> str:
    """What to choose under secret-head: accuracy, gas, rows that a group needs, what the map is worth to a thief."""
    rows = []
    for setting in settings:
        thieves = [make_thief(setting, seed) for seed in seeds]
        spec = thieves[0].scene.design.spec
        batches = [thief.scene.batch(owner, 1).row_count for thief in thieves for owner in range(setting.owners)]
        gains = []
        for thief in thieves:
            stolen, alone = next(iter(steal_secret_head(thief, ()).values()))
            gains.append(100 * (stolen - alone))
        rows.append(
            [
                setting.architecture,
                str(setting.rounds),
                spread([100 * thief.outcome.accuracy for thief in thieves]),
                f"{spec.side.value_count:,}",
                f"{setting.rounds * gas_of_round(setting, spec.side.value_count, on_chain=False) / 1e6:.1f}",
                str(spec.least_group_rows),
                str(min(batches) * setting.group_size),
                spread(gains, sign=True),
            ]
        )
        say(" | ".join(rows[-1]))
    head = ["map", "rounds", "accuracy, %", "values", "gas of all rounds, M", "rows that a group needs", "rows it has"]
    return said_seeds(seeds) + table([*head, "gain of a thief with 50 rows, points"], rows)


def canonical_error(setting: Setting, seed: int) -> float:
    """How far the published first layer, its units scaled to length 1, is from the model's own: relative error."""
    scene = make_scene(setting, seed)
    outcome = play(scene)
    shown, side = outcome.published[-1], scene.design.side
    assert isinstance(shown, PublishedPerturbation) and isinstance(side, PerturbedModel)
    # What the last round was published from is one step before what was learned: play without it.
    before = play(replace(scene, setting=replace(setting, rounds=setting.rounds - 1)))
    true = canonical_hidden(side.model, before.learned.weights)
    return float(np.linalg.norm(canonical_hidden(side.model, shown.payload.weights) - true) / np.linalg.norm(true))


def plain_squared_error(scene: Scene) -> float:
    """Accuracy of training with the same batches, first weights and steps, without perturbation, lanes or selection."""
    side = scene.design.side
    assert isinstance(side, PerturbedModel)
    weights, state = side.weights.copy(), side.optimiser.initial_state(side.model.value_count)
    for number in range(1, scene.setting.rounds + 1):
        at = as_published(weights)
        batches = [scene.batch(owner, number) for owner in range(len(scene.owners))]
        gradients = [squared_error.gradient(side.model, at, batch.features, batch.labels) for batch in batches]
        state, weights = side.optimiser.step(state, weights, np.mean(gradients, axis=0))
    return side.model.accuracy(as_published(weights), scene.design.test.features, scene.design.test.labels)


def fidelity_table(settings: Sequence[Setting], seeds: Sequence[int], say: Callable[[str], None]) -> str:
    """What the perturbation costs: plain training with squared error beside the market, with and without selection."""
    rows = []
    for setting in settings:
        plain, averaged, market, errors = [], [], [], []
        for seed in seeds:
            scene = make_scene(setting, seed)
            plain.append(100 * plain_squared_error(scene))
            averaged.append(100 * play(scene, choose=choose_all).accuracy)
            market.append(100 * play(scene).accuracy)
            errors.append(canonical_error(setting, seed))
        away = [value - other for value, other in zip(averaged, plain, strict=True)]
        rows.append(
            [
                setting.data,
                setting.architecture,
                spread(plain),
                spread(averaged),
                spread(away, sign=True),
                spread(market),
                f"{max(errors):.0e}",
            ]
        )
        say(" | ".join(rows[-1]))
    return said_seeds(seeds) + table(
        [
            "data",
            "model",
            "plain, %",
            "perturbed, all groups, %",
            "points",
            "perturbed, the model owner's choice, %",
            "error of the hidden units that an owner reads, scaled to length 1",
        ],
        rows,
    )
