"""The parts of the suite, and how they get into docs/attacks.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.attack_suite import inversion, poisoning, reports, stealing
from scripts.attack_suite.defences import ENVELOPE_DEFENCES, SECRET_HEAD_DEFENCES
from scripts.attack_suite.market import Setting
from scripts.pages import replace_part
from scripts.toolchain import ROOT

SCRIPT = "scripts/attack"
PAGE = ROOT / "docs" / "attacks.md"
IMAGES = ROOT / "docs" / "images"

SECRET_HEAD = Setting("secret-head", "random:96", 1)
ENVELOPE = Setting("envelope", "softmax", 20)
PERTURBED = Setting("perturbed", "mlp:32", 20)
WIDE = Setting("secret-head", "random:512", 1)
TABLE_SECRET_HEAD = Setting("secret-head", "random:32", 1, "breast-cancer")
TABLE_PERTURBED = Setting("perturbed", "mlp:16", 20, "breast-cancer")
TABLE_ENVELOPE = Setting("envelope", "softmax", 20, "breast-cancer")

CHOICES = tuple(
    Setting("secret-head", f"random:{width}", rounds)
    for width, rounds in ((32, 1), (64, 1), (96, 1), (96, 3), (128, 1), (256, 1), (512, 1))
)
STOLEN = (ENVELOPE, PERTURBED, SECRET_HEAD, WIDE, TABLE_ENVELOPE, TABLE_PERTURBED, TABLE_SECRET_HEAD)
#: The perturbed market takes seconds a run, so it sees fewer poisons.
SLOW_KINDS = ("noise", "scale", "sign-flip", "label-flip", "little")
LOUD = ("noise", "scale", "sign-flip-3", "label-flip", "one-label", "little", "backdoor")

Say = Callable[[str], None]
#: Name and text of a generated part of the page.
Part = tuple[str, str]


@dataclass(frozen=True)
class Amount:
    """How much of everything to run. seeds: of every cell; slow_seeds: where a cell takes seconds; steps: of an
    optimisation. `quick` is what a test can wait for; its figures mean nothing."""

    seeds: int
    slow_seeds: int
    steps: int
    quick: bool


def stealing_parts(amount: Amount, say: Say) -> Iterator[Part]:
    """Promise 1."""
    settings = STOLEN[-1:] if amount.quick else STOLEN
    yield "stealing", stealing.stealing_table(settings, range(amount.seeds), say)
    if not amount.quick:
        yield "widths", stealing.width_table(CHOICES, range(amount.seeds), say)
        yield "perturbed-fidelity", stealing.fidelity_table([PERTURBED, TABLE_PERTURBED], range(amount.seeds), say)


def poisoning_parts(amount: Amount, say: Say) -> Iterator[Part]:
    """Promise 3."""
    kinds = poisoning.FAST if amount.quick else tuple(poisoning.WORDS)
    many, few = range(amount.seeds), range(amount.slow_seeds)
    yield "poisoning-secret-head", poisoning.poison_table(SECRET_HEAD, many, kinds, say)
    if amount.quick:
        return
    yield "poisoning-secret-head-table", poisoning.poison_table(TABLE_SECRET_HEAD, many, kinds, say)
    yield "defences-secret-head", poisoning.defence_table(SECRET_HEAD_DEFENCES, SECRET_HEAD, many, LOUD, say)
    yield "poisoning-envelope", poisoning.poison_table(ENVELOPE, many, kinds, say)
    yield "defences-envelope", poisoning.defence_table(ENVELOPE_DEFENCES, ENVELOPE, many, poisoning.HARD, say)
    yield "poisoning-perturbed", poisoning.poison_table(PERTURBED, few, SLOW_KINDS, say)


def privacy_parts(amount: Amount, say: Say, images: Path | None) -> Iterator[Part]:
    """Promise 2. images: a folder for the pictures, None for none."""
    many, few = range(amount.seeds), range(amount.slow_seeds)
    yield "traps", inversion.trap_table((64,) if amount.quick else (64, 256, 1024), many, say)
    yield "reports", reports.reports_table((3,) if amount.quick else (3, 12, 30, 63, 126, 192, 378), many, say)
    yield "class-shares", inversion.class_shares_table(many, say)
    if amount.quick:
        cases: Sequence[inversion.Case] = (inversion.Case("a quick look", 32, 1),)
        yield "recovery", inversion.recovery_table(cases, few, amount.steps, say)
        return
    # One seed: that of the pictures.
    text, recovered = inversion.collusion_table(range(1), amount.steps, inversion.OWNER_COUNTS, say)
    yield "collusion", text
    if images is not None:
        from scripts.attack_suite.plots import pictures  # slow to import

        scene = inversion.scene_of(inversion.WIDTHS[0], 0)
        for path in pictures(images, recovered, inversion.OWNER_COUNTS, scene):
            say(str(path))
    yield "recovery", inversion.recovery_table(inversion.WIDTHS, few, amount.steps, say)


def write(part: Part, command: str, day: str) -> None:
    """Puts a part into the page, with its command and day."""
    name, text = part
    replace_part(PAGE, name, SCRIPT, f"`{command}`, {day}.\n\n{text}")
