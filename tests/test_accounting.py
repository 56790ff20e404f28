"""Epsilon: against closed forms, never below what composition allows, and honest about what has no bound."""

from __future__ import annotations

import math
import sys
from unittest import mock

import pytest

from omnilytics.daemon import accounting
from omnilytics.daemon.accounting import epsilon_of, load_library
from omnilytics.daemon.ledger import Mechanism
from omnilytics.peers.errors import ConfigurationError

DELTA = 1e-5


def delta_of_gaussian(mu: float, epsilon: float) -> float:
    """delta of a Gaussian mechanism whose sensitivity is mu standard deviations (Balle and Wang, ICML 2018)."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2.0)) / 2.0

    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (2.0, 20), (4.0, 20), (8.0, 3), (30.0, 500)])
def test_full_batches_compose_as_one_gaussian_of_twice_the_sensitivity(noise: float, rounds: int) -> None:
    epsilon = epsilon_of({Mechanism(noise, 64, 64): rounds}, DELTA)
    # Replacing a row moves the sum by 2 S, and the noise is z S: mu = 2 / z a round.
    assert delta_of_gaussian(2.0 / noise * math.sqrt(rounds), epsilon) == pytest.approx(DELTA, rel=1e-3)


def test_different_rounds_compose_by_their_squares() -> None:
    mixed = epsilon_of({Mechanism(3.0, 8, 8): 9, Mechanism(4.0, 64, 64): 16}, DELTA)
    # 9 (2/3)^2 + 16 (2/4)^2 = 8 = 2 (2/1)^2
    assert mixed == pytest.approx(epsilon_of({Mechanism(1.0, 8, 8): 2}, DELTA), rel=1e-6)


def test_secret_small_batches_are_worth_something_and_known_ones_nothing() -> None:
    full = epsilon_of({Mechanism(2.0, 800, 800): 20}, DELTA)
    secret = epsilon_of({Mechanism(2.0, 8, 800): 20}, DELTA)
    assert secret < full / 10
    assert epsilon_of({Mechanism(2.0, 8, 800, secret_batch=False): 20}, DELTA) == full


def test_secret_batches_never_cost_anything() -> None:
    """The bound for subsampling is the looser one for large batches; then the other holds."""
    for batch in (40, 64, 79):
        assert epsilon_of({Mechanism(1.0, batch, 80): 20}, DELTA) <= epsilon_of({Mechanism(1.0, 80, 80): 20}, DELTA)


def test_known_and_secret_batches_together_cost_at_least_the_known_ones() -> None:
    known, secret = Mechanism(3.0, 8, 800, secret_batch=False), Mechanism(3.0, 8, 800)
    both = epsilon_of({known: 5, secret: 5}, DELTA)
    assert epsilon_of({known: 5}, DELTA) < both < epsilon_of({known: 10}, DELTA)


def test_epsilon_grows_with_rounds_and_shrinks_with_noise() -> None:
    by_rounds = [epsilon_of({Mechanism(4.0, 16, 80): rounds}, DELTA) for rounds in (1, 2, 5, 20, 100)]
    assert by_rounds == sorted(by_rounds) and len(set(by_rounds)) == 5
    by_noise = [epsilon_of({Mechanism(noise, 16, 80): 20}, DELTA) for noise in (0.3, 1.0, 4.0, 16.0)]
    assert by_noise == sorted(by_noise, reverse=True) and len(set(by_noise)) == 4


def test_our_orders_lose_little_against_the_librarys() -> None:
    counts = {Mechanism(2.0, 8, 800): 20}
    library = load_library()
    accountant = library.rdp.RdpAccountant(neighboring_relation=library.NeighboringRelation.REPLACE_ONE)
    event = library.SampledWithoutReplacementDpEvent(800, 8, library.GaussianDpEvent(1.0))
    accountant.compose(event, 20)
    theirs = accountant.get_epsilon(DELTA)
    assert theirs <= epsilon_of(counts, DELTA) <= 1.02 * theirs


def test_nothing_costs_nothing_and_no_noise_has_no_bound() -> None:
    assert epsilon_of({}, DELTA) == 0.0
    assert epsilon_of({Mechanism(1.0, 8, 8): 0}, DELTA) == 0.0
    assert epsilon_of({Mechanism(0.0, 8, 80): 1}, DELTA) == math.inf
    assert epsilon_of({Mechanism(9.0, 8, 80): 5, Mechanism(0.0, 8, 80): 1}, DELTA) == math.inf


def test_without_the_library_the_cure_is_told() -> None:
    with (
        mock.patch.dict(sys.modules, {"dp_accounting": None}),
        pytest.raises(ConfigurationError, match="dp-accounting") as caught,
    ):
        accounting.load_library()
    assert "omnilytics[privacy]" in caught.value.help
    assert caught.value.exit_code == 2
