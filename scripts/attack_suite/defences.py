"""Defences that a market of masked vectors can have, and what they cost in gas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from omnilytics.daemon.protection.envelope import EnvelopeModel, EnvelopeOwner
from omnilytics.daemon.protection.secret_head import SecretHeadModel
from omnilytics.daemon.protection.sides import Floats, Labels, Learned, OwnerSide, Published, krum_choice
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.payload import as_published
from omnilytics.peers.quantise import RingLayout
from scripts.attack_suite.market import Chooser, Scene, Setting, make_scene
from scripts.toolchain import ROOT

SNAPSHOT = ROOT / "contracts" / "snapshots" / "market.json"
DECAY = 0.9


@dataclass
class MomentumOwner:
    """An owner that posts the running mean of its gradients in place of the last one (Karimireddy et al., arXiv
    2012.10333): honest vectors then differ less, so what hides among them must be quieter. One object an owner."""

    side: OwnerSide
    mean: Floats | None = field(default=None, repr=False)

    @property
    def value_count(self) -> int:
        """The side's."""
        return self.side.value_count

    @property
    def class_count(self) -> int:
        """The side's."""
        return self.side.class_count

    def read(self, plaintext: bytes, round_number: int) -> Published:
        """The side's."""
        return self.side.read(plaintext, round_number)

    def statistic(self, published: Published, features: Floats, labels: Labels) -> Floats:
        """The running mean, from zero: with plain steps at ten times the rate the model owner's momentum, exactly."""
        fresh = self.side.statistic(published, features, labels)
        before = np.zeros_like(fresh) if self.mean is None else self.mean
        self.mean = DECAY * before + (1.0 - DECAY) * fresh
        return self.mean


def hold_out_chooser(scene: Scene) -> Chooser:
    """The model owner drops the f groups whose step does its own rows the least good (Zeno; Xie et al., ICML 2019)."""
    side = scene.design.side
    assert isinstance(side, EnvelopeModel) and isinstance(side.model, Model)
    rows, model, faulty = scene.own, side.model, scene.setting.faulty

    def choose(learned: Learned, secret: bytes, means: Mapping[int, Floats]) -> tuple[int, ...]:
        at = as_published(learned.weights)
        loss = {g: model.loss(at - 0.5 * mean, rows.features, rows.labels) for g, mean in means.items()}
        return tuple(sorted(sorted(means, key=lambda group: (loss[group], group))[: len(means) - faulty]))

    return choose


@dataclass(frozen=True)
class Defence:
    """A way to run the envelope's market. setting: from the default; the rest as in market.play; on_chain: the
    contract selects."""

    words: str
    setting: Callable[[Setting], Setting] = lambda setting: setting
    chooser: Callable[[Scene], Chooser | None] = lambda scene: None
    sides: Callable[[Scene], Mapping[int, OwnerSide] | None] = lambda scene: None
    on_chain: bool = True


def _momentum_sides(scene: Scene) -> dict[int, OwnerSide]:
    side = scene.design.spec.side
    assert isinstance(side, EnvelopeOwner)
    return {owner: MomentumOwner(side) for owner in range(len(scene.owners))}


def _tight_clip(setting: Setting) -> Setting:
    # A third of the model owner's choice is the largest honest value at the first weights.
    return replace(setting, clip=float(f"{make_scene(setting, 0).design.spec.clip / 3.0:.2g}"))


ENVELOPE_DEFENCES = (
    Defence("Multi-Krum, as it is", lambda setting: setting),
    Defence("Multi-Krum, strict (m = G - f - 2)", lambda setting: replace(setting, strict=True)),
    Defence("Multi-Krum, a third of the clip", _tight_clip),
    # Plain steps on running means: ten times the rate, as a momentum of 0.9 adds up to.
    Defence(
        "Multi-Krum, momentum at owners",
        lambda setting: replace(setting, optimiser="sgd:5.0"),
        sides=_momentum_sides,
    ),
    Defence("Multi-Krum, 27 owners in 9 groups, f = 3", lambda setting: replace(setting, owners=27, faulty=3)),
    Defence("hold-out by the model owner", chooser=hold_out_chooser, on_chain=False),
)


def _secret_head(scene: Scene) -> SecretHeadModel:
    side = scene.design.side
    assert isinstance(side, SecretHeadModel)
    return side


def hold_out_only_chooser(scene: Scene) -> Chooser:
    """Secret-head: the model owner learns from all groups that it names, good or not."""
    side, setting = _secret_head(scene), scene.setting
    return lambda learned, secret, means: side.choose(learned, secret, means, setting.faulty, setting.strict)


def scaled_krum_chooser(scene: Scene) -> Chooser:
    """Secret-head: the model owner's Multi-Krum, G and b each over its own spread."""
    side, setting = replace(_secret_head(scene), selection="krum"), scene.setting
    return lambda learned, secret, means: side.choose(learned, secret, means, setting.faulty, setting.strict)


def plain_krum_chooser(scene: Scene) -> Chooser:
    """Secret-head: Multi-Krum on the statistics as they are, which is what a contract would compute."""
    setting = scene.setting
    return lambda learned, secret, means: krum_choice(means, setting.faulty, setting.strict)


SECRET_HEAD_DEFENCES = (
    Defence("as it is: learns from the groups that do its own rows no harm", on_chain=False),
    Defence("hold-out drops f groups, learns from all others", chooser=hold_out_only_chooser, on_chain=False),
    Defence("Multi-Krum by the model owner, G and b scaled", chooser=scaled_krum_chooser, on_chain=False),
    Defence("Multi-Krum as on the contract, common pads", chooser=plain_krum_chooser),
    Defence(
        "as it is, 27 owners in 9 groups, f = 3", lambda setting: replace(setting, owners=27, faulty=3), on_chain=False
    ),
)


def gas_of_round(setting: Setting, value_count: int, on_chain: bool) -> int:
    """Gas of a round's commits, posts and settlement, from the contract's own gas snapshot: bytes of calldata and of
    settlement at the measured price of the shape with the nearest number of groups. Without selection on the contract
    nothing is settled there."""
    prices = {name: int(gas) for name, gas in json.loads(SNAPSHOT.read_text(encoding="utf-8")).items()}
    size = RingLayout(value_count, setting.lane_bits).byte_count
    per_byte = (prices["post 100,000 bytes"] - prices["post 20,000 bytes"]) / 80_000
    fixed = prices["post 20,000 bytes"] - 20_000 * per_byte
    owners = setting.groups * setting.group_size
    total = owners * (prices["commit, round 2"] + fixed + size * per_byte)
    if on_chain:
        total += owners * size * _settle_price(prices, setting.groups)
    return round(total)


def _settle_price(prices: Mapping[str, int], groups: int) -> float:
    """Gas for settling a byte of one owner, in the cheapest measured shape of the nearest number of groups."""
    by_groups: dict[int, list[float]] = {}
    for name, gas in prices.items():
        found = re.fullmatch(r"settle 1/\d+ G=(\d+) n=(\d+) b=16 words=(\d+)", name)
        if found:
            count, size, words = map(int, found.groups())
            by_groups.setdefault(count, []).append(gas / (count * size * words * 32))
    nearest = min(by_groups, key=lambda count: (abs(count - groups), count))
    return float(np.min(by_groups[nearest]))
