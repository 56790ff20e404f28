"""The table at the top of docs/performance.md: the figures that say most, each from the section that measured it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.pages import table

Sections = Mapping[str, Any]
_Row = list[str]
# Of each section the cell that is shown: what a market of some dozen owners and a middling model is.
GAS_CELL = {"values": 10_000, "groups": 6, "group_size": 3, "lane_bits": 16}
MASK_CELL = {"values": 1_000_000, "neighbours": 30}
ROUND_CELL = {"values": 10_000, "owners": 30}
START_OWNERS = 30


def summary_table(sections: Sections) -> str:
    """In Markdown; a section that was never measured has no rows."""
    head = ["what", "ours", "compared with", "it takes", "ratio", "measured by"]
    rows: list[_Row] = []
    makers: Mapping[str, Callable[[Mapping[str, Any]], list[_Row]]] = {
        "gas": _gas, "masks": _masks, "rounds": _rounds, "start": _start,
    }  # fmt: skip
    for name, maker in makers.items():
        if name in sections:
            rows += [[*row, f"[{name}](#{ANCHORS[name]}), {sections[name]['day']}"] for row in maker(sections[name])]
    return table(head, rows)


ANCHORS = {"gas": "gas", "masks": "masks", "rounds": "a-round", "start": "start-up", "growth": "growth"}


def _cell(section: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first cell with these properties; else the last one of all."""
    cells: list[dict[str, Any]] = section["cells"]
    fitting = [cell for cell in cells if all(cell[name] == value for name, value in wanted.items())]
    return (fitting or cells[-1:] or [None])[0]  # type: ignore[list-item]


def _gas(section: Mapping[str, Any]) -> list[_Row]:
    cell = _cell(section, GAS_CELL)
    if cell is None:
        return []
    what = f"gas of a round, a value and owner ({cell['values']:,} values, {cell['lane_bits']}-bit lanes)"
    ours, floor, baseline = cell["round"], cell["floor"], section["baseline"]
    return [
        [
            what,
            f"{ours:.1f}",
            "the published OmniLytics+ contract",
            f"{baseline:,.0f}",
            f"{baseline / ours:,.0f} x less",
        ],
        [
            what,
            f"{ours:.1f}",
            "the least that its calldata can cost",
            f"{floor:.1f}",
            f"{ours / floor:.3f} x the limit",
        ],
    ]


def _masks(section: Mapping[str, Any]) -> list[_Row]:
    cell = _cell(section, MASK_CELL)
    if cell is None:
        return []
    ms, sent = cell["ms"], cell["bytes"]
    of = f"({cell['values']:,} values, {cell['neighbours']} mates)"
    rows = []
    for bits in (32, 16):
        ours, flower = ms[f"ours{bits}"], ms["flower"]
        rows.append(
            [
                f"an owner's masking stage, {bits}-bit lanes {of}",
                f"{ours:.1f} ms",
                "Flower's SecAgg+ client stage",
                f"{flower:.1f} ms",
                f"{flower / ours:.1f} x faster",
            ]
        )
    masks, cipher = ms["masks16"], ms["cipher16"]
    limit = f"{masks / cipher:.2f} x the limit"
    rows.append([f"its masks alone, 16-bit {of}", f"{masks:.1f} ms", "AES-256-CTR alone", f"{cipher:.1f} ms", limit])
    ours, flower = sent["ours16"], sent["flower"]
    less = f"{flower / ours:.1f} x less"
    rows.append([f"bytes that an owner sends, 16-bit {of}", f"{ours:,}", "Flower's SecAgg+", f"{flower:,}", less])
    return rows


def _rounds(section: Mapping[str, Any]) -> list[_Row]:
    cell = _cell(section, ROUND_CELL)
    # The goal is this cell's alone.
    if cell is None or any(cell[name] != value for name, value in ROUND_CELL.items()):
        return []
    of = f"({cell['owners']} owners, {cell['values']:,} values, one machine)"
    rows = [
        [
            f"what the market adds to a round {of}",
            f"{cell['added']:.2f} s",
            "the goal",
            f"{section['goal']:g} s",
            f"{section['goal'] / cell['added']:.1f} x less" if cell["added"] else "",
        ]
    ]
    for before in section.get("before", []):
        if all(before[name] == cell[name] for name in ("owners", "values", "broker")):
            was = before["added"]
            faster = f"{was / cell['added']:.1f} x less"
            rows.append([f"the same {of}", f"{cell['added']:.2f} s", section["before_name"], f"{was:.2f} s", faster])
    return rows


def _start(section: Mapping[str, Any]) -> list[_Row]:
    owners = section.get("owners")
    if owners is None or owners["count"] != START_OWNERS:
        return []
    ratio = f"{section['goal'] / owners['seconds']:.1f} x less"
    what = f"{owners['count']} owners started at once, all ready"
    return [[what, f"{owners['seconds']:.1f} s", "the goal", f"{section['goal']:g} s", ratio]]


# ------------------------------------------------------------------------------ plots


def plot_sections(sections: Sections, folder: Path) -> list[Path]:
    """bench-gas.png and bench-masks.png, of what was measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    written = []
    for name, draw in (("gas", _draw_gas), ("masks", _draw_masks)):
        if name not in sections or not sections[name]["cells"]:
            continue
        figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
        draw(axis, sections[name])
        axis.set_yscale("log")
        axis.legend(fontsize=8)
        path = folder / f"bench-{name}.png"
        figure.savefig(path, dpi=90, metadata={"Software": None})
        plt.close(figure)
        written.append(path)
    return written


def _draw_gas(axis: Any, section: Mapping[str, Any]) -> None:
    cells = section["cells"]
    names = [f"{c['values']:,}\n{c['groups']} x {c['group_size']}\n{c['lane_bits']}-bit" for c in cells]
    axis.plot(names, [section["baseline"]] * len(cells), "k--", label="OmniLytics+ contract")
    axis.plot(names, [cell["round"] for cell in cells], "o", label="whole round")
    axis.plot(names, [cell["floor"] for cell in cells], "_", markersize=14, label="calldata alone")
    axis.set_ylabel("gas a value and owner")
    axis.tick_params(axis="x", labelsize=7)


def _draw_masks(axis: Any, section: Mapping[str, Any]) -> None:
    cells = section["cells"]
    for mates in sorted({cell["neighbours"] for cell in cells}):
        chosen = [cell for cell in cells if cell["neighbours"] == mates]
        values = [cell["values"] for cell in chosen]
        (line,) = axis.plot(values, [cell["ms"]["ours16"] for cell in chosen], "o-", label=f"ours, {mates} mates")
        axis.plot(
            values, [cell["ms"]["flower"] for cell in chosen], "s--", color=line.get_color(), label=f"Flower, {mates}"
        )
    axis.set_xscale("log")
    axis.set_xlabel("values")
    axis.set_ylabel("ms of an owner's masking stage")
