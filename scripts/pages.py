"""Markdown tables, and the parts of a page that a command writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def begin_mark(name: str, script: str) -> str:
    """The line before a part that a script writes."""
    return f"<!-- {name}: written by {script}, do not edit -->"


def end_mark(name: str) -> str:
    """The line after it."""
    return f"<!-- end of {name} -->"


def replace_part(page: Path, name: str, script: str, text: str) -> None:
    """Puts `text` between the marks of a part. Raises ValueError where the page lacks them."""
    begin, end = begin_mark(name, script), end_mark(name)
    whole = page.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{page} has no marks of the part {name!r}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
