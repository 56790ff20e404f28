"""How costs grow: power laws fitted to what was measured, with how far the measurements lie from them, and plots.

A fit is a straight line through logarithms (least squares): cost = factor * x ^ exponent. `spread` is the largest ratio
between a measurement and the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.pages import table

Point = tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """cost = factor * x ^ exponent, and the largest ratio of a point to it, or of it to a point."""

    factor: float
    exponent: float
    spread: float

    def at(self, x: float) -> float:
        """The line's value."""
        return self.factor * math.pow(x, self.exponent)


def fit(points: Sequence[Point]) -> Fit:
    """Raises ValueError for fewer than two different x, or for values that have no logarithm."""
    if len({x for x, _ in points}) < 2 or any(x <= 0 or y <= 0 for x, y in points):
        raise ValueError("a line needs two points, and logarithms positive numbers")
    logarithms = np.log(np.asarray(points, dtype=np.float64))
    exponent, constant = np.polyfit(logarithms[:, 0], logarithms[:, 1], 1)
    residuals = logarithms[:, 1] - (exponent * logarithms[:, 0] + constant)
    return Fit(math.exp(constant), float(exponent), math.exp(float(np.abs(residuals).max())))


@dataclass(frozen=True)
class Law:
    """One cost against one quantity, everything else held."""

    cost: str
    unit: str
    against: str
    held: str
    points: tuple[Point, ...]

    @property
    def fit(self) -> Fit:
        """See fit."""
        return fit(self.points)


def laws(sections: Mapping[str, Any]) -> list[Law]:
    """What the figures of the other sections say of growth; costs with fewer than three points are left out."""
    found: list[Law] = []
    cells = sections.get("rounds", {}).get("cells", [])
    if cells:
        found += _round_laws(cells)
    gas = [
        cell
        for cell in sections.get("gas", {}).get("cells", [])
        if cell["lane_bits"] == 16 and not cell.get("poisoned")
    ]
    small = [cell for cell in gas if cell["group_size"] == 3]
    by_values = tuple((cell["values"], cell["round"] * cell["values"]) for cell in small if cell["groups"] == 6)
    by_groups = tuple(
        (cell["groups"] * cell["group_size"], cell["round"] * cell["values"] * cell["groups"] * cell["group_size"])
        for cell in small
        if cell["values"] == 10_000
    )
    found.append(Law("gas of a round, an owner", "gas", "values", "18 owners", by_values))
    found.append(Law("gas of a round, all owners", "gas", "owners", "10,000 values", by_groups))
    masks = sections.get("masks", {}).get("cells", [])
    most = max((cell["neighbours"] for cell in masks), default=0)
    found.append(
        Law(
            "masking, 16-bit lanes", "ms", "values", f"{most} mates",
            tuple((cell["values"], cell["ms"]["ours16"]) for cell in masks if cell["neighbours"] == most),
        )
    )  # fmt: skip
    largest = max((cell["values"] for cell in masks), default=0)
    found.append(
        Law(
            "masking, 16-bit lanes", "ms", "mates", f"{largest:,} values",
            tuple((cell["neighbours"], cell["ms"]["ours16"]) for cell in masks if cell["values"] == largest),
        )
    )  # fmt: skip
    return [law for law in found if len({x for x, _ in law.points}) >= 3]


def _round_laws(cells: Sequence[Mapping[str, Any]]) -> list[Law]:
    broker = cells[0]["broker"]
    least = min(cell["values"] for cell in cells)
    by_owners = [cell for cell in cells if cell["broker"] == broker and cell["values"] == least]
    by_values = [cell for cell in cells if cell["broker"] == broker and cell["owners"] == 30]

    def law(cost: str, unit: str, against: str, chosen: list[Mapping[str, Any]], read: Any) -> Law:
        held = f"{least:,} values" if against == "owners" else "30 owners"
        return Law(cost, unit, against, held, tuple((float(cell[against]), float(read(cell))) for cell in chosen))

    return [
        law(cost, unit, against, chosen, read)
        for cost, unit, read in (
            ("a round", "s", lambda cell: cell["seconds"]),
            ("processor time of all owners, a round", "s", lambda cell: cell["cpu"]["owners"]),
            ("processor time of one owner, a round", "s", lambda cell: cell["cpu"]["owners"] / cell["owners"]),
            ("processor time of the chain, a round", "s", lambda cell: cell["cpu"]["chain"]),
            ("an owner's journal, a round", "bytes", lambda cell: cell["disk"]["owner journal"]),
            ("an owner's log, a round", "bytes", lambda cell: cell["disk"]["owner log"]),
            ("the model owner's journal, a round", "bytes", lambda cell: cell["disk"]["model journal"]),
        )
        for against, chosen in (("owners", by_owners), ("values", by_values))
    ]


def laws_table(found: Sequence[Law]) -> str:
    """In Markdown: each law at its smallest and largest point, and how it grows."""
    head = ["cost", "against", "held", "measured from", "to", "grows as", "largest deviation"]
    rows = []
    for law in found:
        (x0, y0), (x1, y1) = min(law.points), max(law.points)
        fitted = law.fit
        rows.append(
            [
                law.cost,
                law.against,
                law.held,
                f"{number(y0)} {law.unit} at {x0:,.0f}",
                f"{number(y1)} {law.unit} at {x1:,.0f}",
                f"{law.against}^{fitted.exponent:.2f}",
                f"{100 * (fitted.spread - 1):.0f} %",
            ]
        )
    return table(head, rows)


def number(value: float) -> str:
    """Three digits, or whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# ------------------------------------------------------------------------------ plots


def plot_laws(found: Sequence[Law], path: Path) -> None:
    """A PNG: a panel for each quantity that costs are measured against, logarithmic both ways, the fits dashed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((law.against, law.unit) for law in found))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5 * columns, 3.6 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (against, unit) in zip(axes.flat, panels, strict=False):
        for law in (law for law in found if (law.against, law.unit) == (against, unit)):
            xs, ys = zip(*sorted(law.points), strict=True)
            fitted = law.fit
            (line,) = axis.plot(xs, ys, "o", label=f"{law.cost}: {against}^{fitted.exponent:.2f}")
            axis.plot(xs, [fitted.at(x) for x in xs], "--", color=line.get_color())
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(against)
        axis.set_ylabel(unit)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def plot_rounds(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A PNG: for each measured task a bar of a round's phases."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [f"{cell['owners']} owners\n{cell['values']:,} values\n{cell['broker']}" for cell in cells]
    figure, axis = plt.subplots(figsize=(1.1 * len(cells) + 3, 4.2), layout="constrained")
    bottom = np.zeros(len(cells))
    for phase in cells[0]["phases"]:
        heights = np.array([cell["phases"][phase] for cell in cells])
        axis.bar(names, heights, bottom=bottom, label=phase)
        bottom += heights
    axis.set_ylabel("seconds of a round")
    axis.tick_params(axis="x", labelsize=7)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
