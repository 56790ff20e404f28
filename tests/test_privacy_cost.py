"""scripts/privacy-cost: the figures of docs/privacy.md come from the daemon's own gradient and accounting."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from scripts.privacy_cost_main import FIRST, LAST, MULTIPLIERS, PAGE, Cost, Setting, _epsilon, line, measure, rewritten

OFF = Setting(0.0, 0.0, rounds=2, owners=9)


def test_a_wide_clip_without_noise_costs_nothing() -> None:
    off = measure(OFF, 1)
    assert measure(replace(OFF, clip_norm=1e6), 1).accuracy == off.accuracy
    assert off.epsilons == (math.inf, math.inf)


def test_noise_costs_accuracy_and_buys_epsilon_the_same_every_time() -> None:
    drowned = replace(OFF, clip_norm=2.0, noise_multiplier=100.0)
    found = measure(drowned, 1)
    assert found == measure(drowned, 1)
    assert found.accuracy < measure(OFF, 1).accuracy - 0.1
    assert 0.0 < found.epsilons[0] <= found.epsilons[1] < 1.0


def test_a_line_tells_means_the_worst_and_the_span_of_epsilon() -> None:
    costs = [Cost(0.90, (1.0, 1.5)), Cost(0.92, (0.75, 1.25))]
    assert line(Setting(2.0, 4.0), costs, 0.95) == "| 64 | 2 | 4 | 91.00 % | 90.00 % | -4.00 | 0.8 to 1.5 |"
    endless = [Cost(0.95, (math.inf, math.inf))]
    assert line(Setting(0.0, 0.0), endless, 0.95) == "| 64 | off | 0 | 95.00 % | 95.00 % | +0.00 | no bound |"
    assert line(Setting(2.0, 4.0), [Cost(0.9, (1.01, 1.02))], 0.9).endswith("| +0.00 | 1.0 |")


def test_the_page_keeps_all_but_its_figures() -> None:
    text = f"before\n{FIRST}\nold\n{LAST}\nafter"
    assert rewritten(text, "new") == f"before\n{FIRST}\n\nnew\n\n{LAST}\nafter"
    with pytest.raises(ValueError):
        rewritten("no place", "new")


def test_the_epsilons_on_the_page_are_those_of_today() -> None:
    """Accuracies take minutes; epsilon of owners whose batch is nearly all they have does not depend on their rows."""
    rows = [
        text.split(" | ") for text in PAGE.read_text(encoding="utf-8").splitlines() if text.startswith("| 64 | 2 |")
    ]
    assert [float(row[2]) for row in rows] == list(MULTIPLIERS)
    for row in rows[1:]:
        assert row[6] == f"{_epsilon(Setting(2.0, float(row[2])), 80):.1f} |"
