"""How a model owner that selects by itself chooses groups from the moments that they posted.

Two ways. Multi-Krum needs nothing but the statistics, and trusts that most groups look alike. Hold-out selection
(in the manner of Zeno; Xie et al., ICML 2019) asks the model owner's own rows which groups make the model worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.ridge import Moments
from omnilytics.daemon.protection.sides import krum_choice
from omnilytics.peers.errors import ParameterError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

#: Beyond so many sets of groups, or so many operations (sets * w^3), one group after the other is left out in place of
#: trying all sets: less than a second either way up to 128 features, some seconds at 512.
MOST_SETS = 256
MOST_OPERATIONS = 1 << 30


#: The share of the error by which leaving a group out must lower it to be worth its rows.
WORTH_LEAVING = 0.01

#: Largest inconsistency of honest moments, ten times and more what rounding to 16 bits leaves.
CONSISTENT = 0.01


def inconsistency(moments: Moments) -> float:
    """How far moments are from those of any rows at all.

    The last value of every mapped row is 1 and so is the sum of its one-hot target: G's last value is 1, its last
    column the sum of b's columns. The larger of the distance from the first and the root mean square from the second.
    """
    gap = moments.gram[:, -1] - moments.cross.sum(axis=1)
    return max(abs(float(moments.gram[-1, -1]) - 1.0), float(np.sqrt(np.mean(gap**2))))


def inconsistent_groups(means: Mapping[int, Moments], most: int) -> set[int]:
    """The groups that are certainly faulty, at most `most` of them: the worst, lower numbers among equals.

    A poisoner that knows this is consistent. It costs nothing, and finds what can be found without any doubt, such as
    statistics of the wrong sign or zeros, which hold-out selection does not mind because they do no harm.
    """
    measured = {group: inconsistency(moments) for group, moments in means.items()}
    wrong = sorted((group for group in means if not measured[group] <= CONSISTENT), key=lambda g: (-measured[g], g))
    return set(wrong[:most])


def scaled_krum_choice(means: Mapping[int, Moments], faulty: int, strict: bool) -> tuple[int, ...]:
    """Multi-Krum on moments, with each of the two blocks divided by its own spread.

    Squared distances are those of G (Frobenius) over their median over all pairs of groups, plus the same of b: so the
    many values of G do not drown b, which is all that flipped labels change. Where owners' labels are skewed that is
    not enough, and hold-out selection is far better: scripts/secret-head-figures. Groups that are certainly faulty go
    first. Raises ParameterError below 2 * faulty + 3 groups.
    """
    groups = sorted(means)
    _require_groups(len(groups), faulty)
    certain = inconsistent_groups(means, faulty)
    groups = [group for group in groups if group not in certain]
    faulty -= len(certain)
    blocks = [[means[group].gram.ravel() for group in groups], [means[group].cross.ravel() for group in groups]]
    scaled = []
    for block in blocks:
        squares = [float(np.sum((a - b) ** 2)) for a, b in combinations(block, 2)]
        middle = float(np.median(squares)) if squares else 0.0
        scaled.append([values / math.sqrt(middle or 1.0) for values in block])
    return krum_choice(
        {group: np.concatenate([g, b]) for group, g, b in zip(groups, *scaled, strict=True)}, faulty, strict
    )


def hold_out_choice(
    before: Moments,
    means: Mapping[int, Moments],
    mapped: Floats,
    labels: Labels,
    faulty: int,
    strict: bool,
    regulariser: float,
    by_accuracy: bool = False,
) -> tuple[int, ...]:
    """The groups without which the head does best on rows of the model owner's own. Ascending.

    Groups that are certainly faulty go first. Of every set of G' - faulty groups (strict: G' - faulty - 2) that is
    left, the head is solved from the moments `before` this
    round plus the set's mean, and its squared error on `mapped` (float64[rows, w]) with `labels` compared; the
    smallest wins, the first in the order of itertools.combinations among equals. With too many sets
    (MOST_SETS, MOST_OPERATIONS) groups are left out one at a time, the best to leave out first. A set costs one
    O(w^3) solution: at most MOST_SETS, or G' * (faulty + 2), of them.

    Squared error, because accuracy (`by_accuracy`) is coarse and mostly ties: scripts/secret-head-figures compares.
    Raises ParameterError below 2 * faulty + 3 groups.
    """
    _require_groups(len(means), faulty)
    certain = inconsistent_groups(means, faulty)
    groups = [group for group in sorted(means) if group not in certain]
    left_out = faulty - len(certain) + (2 if strict else 0)

    def error(chosen: Sequence[int]) -> float:
        return _error(before, means, chosen, mapped, labels, regulariser, by_accuracy)

    sets = math.comb(len(groups), left_out)
    if sets <= MOST_SETS and sets * len(before.gram) ** 3 <= MOST_OPERATIONS:
        return min(combinations(groups, len(groups) - left_out), key=error)
    kept = tuple(groups)
    for _ in range(left_out):
        kept = min((tuple(group for group in kept if group != candidate) for candidate in kept), key=error)
    return kept


def good_groups(
    before: Moments, means: Mapping[int, Moments], mapped: Floats, labels: Labels, regulariser: float
) -> tuple[int, ...]:
    """The groups to learn from, whatever their number: none that is certainly faulty, and none without which the error
    on the model owner's own rows falls by WORTH_LEAVING or more. At least one, ascending.

    Leaves out one group at a time, the one that does most harm first: O(groups^2) solutions. Unlike a choice of
    G' - f groups it neither learns from poison because more than f groups are poisoned, nor throws good rows away.
    """
    kept = [group for group in sorted(means) if inconsistency(means[group]) <= CONSISTENT] or sorted(means)
    now = _error(before, means, kept, mapped, labels, regulariser)
    while len(kept) > 1:
        without = {out: [group for group in kept if group != out] for out in kept}
        errors = {out: _error(before, means, rest, mapped, labels, regulariser) for out, rest in without.items()}
        worst = min(errors, key=lambda group: (errors[group], group))
        if errors[worst] > (1.0 - WORTH_LEAVING) * now:
            break
        kept, now = without[worst], errors[worst]
    return tuple(kept)


def _error(
    before: Moments,
    means: Mapping[int, Moments],
    chosen: Sequence[int],
    mapped: Floats,
    labels: Labels,
    regulariser: float,
    by_accuracy: bool = False,
) -> float:
    """Of the head solved from the moments before and the mean of the chosen groups', on own rows: mean squared error
    over scores, or the share of rows that it gets wrong."""
    gram, cross = before.gram.copy(), before.cross.copy()
    for group in chosen:
        gram += means[group].gram / len(chosen)
        cross += means[group].cross / len(chosen)
    scores = mapped @ Moments(gram, cross).solve(regulariser)
    if by_accuracy:
        return float((scores.argmax(axis=1) != labels).mean())
    return float(np.mean((scores - np.eye(cross.shape[1])[labels]) ** 2))


def _require_groups(count: int, faulty: int) -> None:
    if faulty < 0 or count < 2 * faulty + 3:
        raise ParameterError(f"{count} groups cannot tolerate f={faulty}; need {2 * faulty + 3}")
