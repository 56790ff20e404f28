"""Lines of text for a terminal as sequences of (text, style) pieces, and what lines are made of: bars, sparks, columns.

Styles are rich's names; pieces are never parsed as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Data = dict[str, Any]
Piece = tuple[str, str]
Line = list[Piece]
# A panel's lines: of the whole view, of the task that is shown (None: there is none), for a width in cells.
Block = Callable[[Data, Data | None, int], list[Line]]
SPARKS = "▁▂▃▄▅▆▇█"


def plain(line: Line) -> str:
    """A line's text."""
    return "".join(text for text, _ in line)


def spark(values: Sequence[float], low: float | None = None, high: float | None = None) -> str:
    """A row of little columns."""
    if not values:
        return ""
    least = min(values) if low is None else low
    most = max(values) if high is None else high
    span = (most - least) or 1.0
    return "".join(SPARKS[min(7, max(0, int((value - least) / span * 7.999)))] for value in values)


def bar(share: float, width: int) -> str:
    """A bar of at most so many cells; something where there is something."""
    cells = round(min(1.0, max(0.0, share)) * width)
    return "█" * max(cells, 1 if share > 0 else 0)


def age(value: float | None) -> str:
    """Seconds as people say them."""
    if value is None:
        return "-"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h" if value < 172_800 else f"{value / 86_400:.0f} days"


def flow(cells: Sequence[Line], width: int) -> list[Line]:
    """Cells side by side, as many as fit."""
    lines: list[Line] = []
    wide = max((len(plain(cell)) for cell in cells), default=0) + 2
    row = max(1, width // wide) if wide > 2 else 1
    for start in range(0, len(cells), row):
        line: Line = []
        for cell in cells[start : start + row]:
            line += [*cell, (" " * (wide - len(plain(cell))), "")]
        lines.append(line)
    return lines


def wrap(text: str, width: int, style: str = "") -> list[Line]:
    """Words over several lines."""
    lines: list[str] = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return [[(line, style)] for line in lines]
