"""Promise 2 under the perturbed protection: single rows out of a group's g, sigma and beta."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from omnilytics.daemon.protection.perturbation import hidden_count, report
from omnilytics.daemon.protection.perturbed import PerturbedOwner, PublishedPerturbation, least_group_rows
from omnilytics.daemon.protection.sides import Floats
from omnilytics.daemon.training.models import Model
from scripts.attack_suite.inversion import ALIKE, SAME, best_matches, rounded
from scripts.attack_suite.market import Setting, make_scene, merged
from scripts.attack_suite.tables import said_seeds, spread
from scripts.pages import table


def rows_from_reports(model: Model, means: Floats) -> Floats:
    """Candidates for rows, float64[3 * first width, columns]: a unit's tensor of a sum over its bias's is a weighted
    mean of the rows that turn the unit on, and a row itself where it is alone in that. means as from `report`."""
    hidden = hidden_count(model)
    starts = (0, model.value_count, len(means) - hidden)  # g, sigma, beta: each begins with the first layer
    found = []
    for start in starts:
        part = np.concatenate([means[start : start + hidden], np.zeros(model.value_count - hidden)])
        matrix, biases = model.unflatten(part)[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append((matrix / biases).T)
    return np.nan_to_num(np.concatenate(found), nan=0.0, posinf=0.0, neginf=0.0)


def members_told(model: Model, means: Floats, inside: Floats, outside: Floats) -> float:
    """Share of pairs, in percent, in which a row of the sum lies nearer than another to the span of beta's tensor of
    the last hidden layer; 50 is guessing. For networks of one hidden layer, where rows themselves make that tensor."""
    beta = means[len(means) - hidden_count(model) :]
    matrix, biases = model.unflatten(np.concatenate([beta, np.zeros(model.value_count - len(beta))]))[0]
    left, values, _ = np.linalg.svd(np.vstack([matrix, biases]), full_matrices=False)
    span = left[:, : min(len(inside), int((values > 1e-6 * values[0]).sum()))]

    def distance(rows: Floats) -> Floats:
        lifted = np.hstack([rows, np.ones((len(rows), 1))])
        rest = lifted - lifted @ span @ span.T
        shares: Floats = np.linalg.norm(rest, axis=1) / np.linalg.norm(lifted, axis=1)
        return shares

    return 100.0 * float((distance(inside)[:, None] < distance(outside)[None, :]).mean())


def reports_table(counts: Sequence[int], seeds: Sequence[int], say: Callable[[str], None]) -> str:
    """Rows in a group's sum against what the model owner makes of the sum, for mlp:32 on digits."""
    lines = []
    for count in counts:
        alike, same, told = [], [], []
        for seed in seeds:
            scene = make_scene(Setting("perturbed", "mlp:32", 1), seed)
            generator = np.random.default_rng([seed, count])
            side, model_side = scene.design.spec.side, scene.design.side
            assert isinstance(side, PerturbedOwner)
            model = side.model
            read = side.read(model_side.publish(model_side.begin(), 1, bytes(32)), 1)
            assert isinstance(read, PublishedPerturbation)
            pool = merged(tuple(scene.owners[:6]))
            order = generator.permutation(pool.row_count)
            rows, others = pool.take(order[:count]), pool.take(order[count : count + 100])
            means = report(model, read.payload.weights, read.direction, rows.features, rows.labels)
            means = rounded(means / read.scales, 1.0, 3, generator, lane_bits=32) * read.scales
            best = best_matches(rows.features, rows_from_reports(model, means))
            alike.append(100 * float((best > ALIKE).mean()))
            same.append(100 * float((best > SAME).mean()))
            told.append(members_told(model, means, rows.features, others.features))
        allowed = "yes" if count >= least_group_rows(model) else "no"
        lines.append([str(count), allowed, spread(alike, 0), spread(same, 0), spread(told, 0)])
        say(" | ".join(lines[-1]))
    head = [
        "rows in the sum",
        "owners accept",
        f"rows over {ALIKE}, %",
        f"over {SAME}, %",
        "members told from others, %",
    ]
    return said_seeds(seeds) + table(head, lines)
