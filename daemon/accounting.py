"""Epsilon of the noise that an owner adds to its own updates: the only user of dp-accounting.

The guarantee is (epsilon, delta)-differential privacy for one row of one owner against everybody who sees the
owner's updates, mates and model owner together. Neighbouring data sets have one row *replaced* by another. Each
round draws a batch of fixed size without replacement, clips every row's gradient to the norm S and adds Gaussian
noise to the sum. Replacing a row moves that sum by up to 2 S, so that a noise multiplier of z (noise over S) counts
as z / 2.

Two bounds hold, and the smaller is told. The noise alone, as if the adversary knew every batch: rounds compose
exactly, as one Gaussian mechanism (Balle and Wang, ICML 2018; Dong, Roth and Su, arXiv 1905.02383). And what
secret batches add, by Renyi differential privacy of subsampling without replacement (Wang, Balle and
Kasiviswanathan, AISTATS 2019, arXiv 1808.00087). Rounds are counted when they are posted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omnilytics.daemon.ledger import Mechanism
from omnilytics.peers.errors import ConfigurationError

#: Orders of the Renyi divergence: those of the library cost seconds for some hundredths of epsilon.
ORDERS = (*(1.0 + step / 4 for step in range(1, 8)), *range(3, 33), 36, 40, 48, 56, 64, 96, 128, 192, 256)


def load_library() -> Any:
    """dp-accounting. Takes seconds the first time. Raises ConfigurationError where it is not installed."""
    try:
        import dp_accounting
    except ImportError as error:
        raise ConfigurationError(
            "local noise needs the package dp-accounting, to know what it is worth",
            help="pip install 'omnilytics[privacy]', or remove the table [privacy]",
        ) from error
    return dp_accounting


def epsilon_of(rounds: Mapping[Mechanism, int], delta: float) -> float:
    """Epsilon at `delta` of all these rounds together, `rounds` counting how often each mechanism was used.

    0.0 for no round, infinite when a round had no noise. Raises ConfigurationError without the library.
    """
    counts = tuple(sorted(((each, count) for each, count in rounds.items() if count), key=repr))
    if not counts:
        return 0.0
    if any(each.noise_multiplier <= 0.0 for each, _ in counts):
        return math.inf
    return _epsilon(counts, delta)


@lru_cache(maxsize=256)
def _epsilon(counts: tuple[tuple[Mechanism, int], ...], delta: float) -> float:
    library = load_library()
    inverse_variance = sum(count * (2.0 / each.noise_multiplier) ** 2 for each, count in counts)
    bounds = [float(library.get_epsilon_gaussian(1.0 / math.sqrt(inverse_variance), delta))]
    if any(each.secret_batch and each.batch_rows < each.rows for each, _ in counts):
        accountant = library.rdp.RdpAccountant(ORDERS, library.NeighboringRelation.REPLACE_ONE)
        for each, count in counts:
            event = library.GaussianDpEvent(each.noise_multiplier / 2.0)
            if each.secret_batch and each.batch_rows < each.rows:
                event = library.SampledWithoutReplacementDpEvent(each.rows, each.batch_rows, event)
            accountant.compose(event, count)
        bounds.append(float(accountant.get_epsilon(delta)))
    return min(bounds)
