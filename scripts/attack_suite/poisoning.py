"""Promise 3: owners that post faulty statistics, within what the market tolerates and beyond it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnilytics.daemon.protection.sides import StatisticFunction
from omnilytics.daemon.training.data import Dataset
from scripts.attack_suite.defences import Defence, gas_of_round
from scripts.attack_suite.market import Outcome, Scene, Setting, choose_all, make_scene, play
from scripts.attack_suite.tables import said_seeds, spread
from scripts.pages import table
from tests.adversaries.poisons import POISONS
from tests.adversaries.quiet_poisons import TARGET_CLASS, for_one_owner, stamp

WORDS = {
    "noise": "noise over the whole clip",
    "scale": "scale x10",
    "sign-flip": "sign flip",
    "sign-flip-3": "sign flip x3",
    "label-flip": "label flip",
    "one-label": "every label the same",
    "little": "a little is enough",
    "inner-product": "inner product",
    "backdoor": "targeted backdoor",
    "idle": "free rider: zeros",
    "idle-random": "free rider: random",
    "replay": "free rider: replay",
}
HARD = ("sign-flip", "label-flip", "one-label", "little")
#: Points that a covered attack may cost.
COVERED = 2.0
FAST = ("noise", "label-flip", "backdoor")


@dataclass(frozen=True)
class Scope:
    """Who is hostile: that many owners in each of that many groups."""

    words: str
    groups: int
    owners: int

    def seats(self, setting: Setting) -> list[int]:
        """Seats of the hostile."""
        size = setting.group_size
        return [group * size + place for group in range(self.groups) for place in range(min(self.owners, size))]


ONE_OWNER = Scope("1 owner", 1, 1)
ONE_GROUP = Scope("1 whole group", 1, 1_000)
TWO_OWNERS = Scope("2 owners, 2 groups", 2, 1)
TWO_GROUPS = Scope("2 whole groups", 2, 1_000)
SCOPES = (ONE_OWNER, ONE_GROUP, TWO_OWNERS, TWO_GROUPS)


@dataclass(frozen=True)
class Poisoned:
    """points: accuracy less the clean run's, in points; chosen: share of rounds in which a hostile group was
    selected; triggered: share of stamped test rows taken for the target class, less the clean run's, in points."""

    points: float
    chosen: float
    triggered: float


def hostile_owners(kind: str, seats: Sequence[int]) -> dict[int, StatisticFunction]:
    """A poison for each of the seats."""
    return {seat: for_one_owner(POISONS[kind]) for seat in seats}


def trigger_rate(scene: Scene, outcome: Outcome) -> float:
    """Share of the test rows of other classes that are taken for the target class once they are stamped."""
    test = scene.design.test
    others = test.take(np.flatnonzero(test.labels != TARGET_CLASS))
    stamped = Dataset(stamp(others.features), np.full_like(others.labels, TARGET_CLASS), others.classes)
    return scene.design.side.accuracy(outcome.learned, stamped)


def compare(scene: Scene, clean: Outcome, dirty: Outcome, scope: Scope) -> Poisoned:
    """A poisoned run beside the clean one of the same seed."""
    hostile = set(range(scope.groups))
    chosen = float(np.mean([bool(hostile & set(groups)) for groups in dirty.selected]))
    triggered = trigger_rate(scene, dirty) - trigger_rate(scene, clean)
    return Poisoned(100 * (dirty.accuracy - clean.accuracy), chosen, 100 * triggered)


def cell(kind: str, results: Sequence[Poisoned]) -> str:
    """Points to clean; for a backdoor also how much more often its trigger works."""
    text = spread([result.points for result in results], sign=True)
    if kind == "backdoor":
        text += f"; trigger {spread([result.triggered for result in results], 0, sign=True)}"
    return text


def poison_table(setting: Setting, seeds: Sequence[int], kinds: Sequence[str], say: Callable[[str], None]) -> str:
    """All poisons on one setting: plain averaging, then the market's own selection, by who is hostile."""
    scenes = [make_scene(setting, seed) for seed in seeds]
    clean = [play(scene) for scene in scenes]
    clean_average = [play(scene, choose=choose_all) for scene in scenes]
    rows = []
    within, beyond = list[tuple[float, str, str]](), list[tuple[float, str, str]]()
    for kind in kinds:
        if kind == "replay" and setting.rounds == 1:
            continue  # nothing to replay
        undefended = [
            compare(s, c, play(s, hostile_owners(kind, ONE_GROUP.seats(setting)), choose_all), ONE_GROUP)
            for s, c in zip(scenes, clean_average, strict=True)
        ]
        cells = [WORDS[kind], cell(kind, undefended)]
        for scope in SCOPES:
            results = [
                compare(s, c, play(s, hostile_owners(kind, scope.seats(setting))), scope)
                for s, c in zip(scenes, clean, strict=True)
            ]
            chosen = f" ({100 * np.mean([result.chosen for result in results]):.0f} %)"
            cells.append(cell(kind, results) + chosen)
            points = float(np.mean([result.points for result in results]))
            (within if scope.groups <= setting.faulty else beyond).append((points, WORDS[kind], scope.words))
        rows.append(cells)
        say(" | ".join(cells))
    accuracies = spread([100 * outcome.accuracy for outcome in clean])
    average = spread([100 * outcome.accuracy for outcome in clean_average])
    head = ["poison", "no defence, " + ONE_GROUP.words, *(scope.words for scope in SCOPES)]
    said = (
        f"{setting.protection}, {setting.architecture}, {setting.data}: {setting.owners} owners in {setting.groups} "
        f"groups of {setting.group_size}, f = {setting.faulty}, skew {setting.skew:g}, rounds: {setting.rounds}, "
        f"seeds: {len(seeds)}. Clean: {accuracies} % with the market's selection, {average} % with plain averaging.\n"
    )
    return said + verdict(within, beyond) + "\n" + table(head, rows)


def verdict(within: Sequence[tuple[float, str, str]], beyond: Sequence[tuple[float, str, str]]) -> str:
    """In a sentence: the worst within f, and what beyond f costs more than COVERED points."""
    worst = min(within)
    said = f"Within f the worst is {worst[1]} by {worst[2]}: {worst[0]:+.1f} points. "
    late = [f"{words} by {scope} ({points:+.1f})" for points, words, scope in sorted(within) if points < -COVERED]
    if late:
        said += f"Below -{COVERED:g} points within f: {', '.join(late)}. "
    names = dict.fromkeys(words for points, words, _ in sorted(beyond) if points < -COVERED)
    return said + f"Below -{COVERED:g} points beyond f: {', '.join(names) or 'nothing'}.\n"


def defended(defence: Defence, scene: Scene, hostile: Mapping[int, StatisticFunction] | None = None) -> Outcome:
    """A run under a defence."""
    return play(scene, hostile, defence.chooser(scene), defence.sides(scene))


def defence_table(
    defences: Sequence[Defence],
    setting: Setting,
    seeds: Sequence[int],
    kinds: Sequence[str],
    say: Callable[[str], None],
) -> str:
    """The poisons that are hardest to see against other defences, with the gas of a round."""
    rows = []
    for defence in defences:
        chosen = defence.setting(setting)
        scenes = [make_scene(chosen, seed) for seed in seeds]

        clean = [defended(defence, scene) for scene in scenes]
        gas = gas_of_round(chosen, scenes[0].design.spec.side.value_count, defence.on_chain)
        cells = [defence.words, f"{gas / 1e6:.2f}", spread([100 * outcome.accuracy for outcome in clean])]
        for kind in kinds:
            parts = []
            for scope in (ONE_GROUP, TWO_OWNERS):
                results = [
                    compare(s, c, defended(defence, s, hostile_owners(kind, scope.seats(chosen))), scope)
                    for s, c in zip(scenes, clean, strict=True)
                ]
                parts.append(spread([result.points for result in results], sign=True))
            cells.append("; ".join(parts))
        rows.append(cells)
        say(" | ".join(cells))
    return said_seeds(seeds) + table(["defence", "gas a round, M", "clean, %", *(WORDS[kind] for kind in kinds)], rows)
