"""Figures as text: means with their spread, Markdown tables, and the parts of a page that a command writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def spread(values: Sequence[float] | NDArray[np.float64], digits: int = 1, sign: bool = False) -> str:
    """Mean ± standard deviation over seeds; without the latter for one value."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    mean = form.format(float(np.mean(values)))
    return mean if len(values) < 2 else f"{mean} ± {float(np.std(values)):.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def said_seeds(seeds: Sequence[int]) -> str:
    """A line before a table."""
    return f"Seeds: {len(seeds)}.\n\n"


def begin_mark(name: str) -> str:
    """The line before a generated part."""
    return f"<!-- {name}: written by scripts/attack, do not edit -->"


def end_mark(name: str) -> str:
    """The line after it."""
    return f"<!-- end of {name} -->"


def replace_part(page: Path, name: str, text: str) -> None:
    """Puts `text` between the marks of a generated part. Raises ValueError where the page lacks them."""
    whole = page.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin_mark(name))
    _, found_end, after = rest.partition(end_mark(name))
    if not (found and found_end):
        raise ValueError(f"{page} has no marks of the part {name!r}")
    page.write_text(f"{before}{begin_mark(name)}\n{text}\n{end_mark(name)}{after}", encoding="utf-8")
