"""Pieces of the report page: badges, cards, tables. Pure; plain texts are escaped here, `inside` and cells are HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from omnilytics.daemon.amounts import ether_digits

Data = dict[str, Any]


def badge(text: str, kind: str) -> str:
    return f"<span class='badge {kind}'>{escape(text)}</span>"


def card(title: str, inside: str, hint: str = "", anchor: str = "") -> str:
    said = f"<p class='quiet'>{escape(hint)}</p>" if hint else ""
    place = f' id="{escape(anchor, True)}"' if anchor else ""
    return f"<section class='card'{place}><h3>{escape(title)}</h3>{said}{inside}</section>" if inside else ""


def scroll(inside: str, label: str) -> str:
    """A wide thing in a frame of its own, which the keyboard reaches; the page itself never scrolls sideways."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label, True)}">{inside}</div>'
        if inside
        else ""
    )


def table(
    label: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[int] = (0,),
    wrap: Sequence[int] = (),
) -> str:
    """Cells are HTML already; columns in `left` are text, the others numbers; those in `wrap` hold sentences."""
    kinds = {n: " class=left" for n in left} | {n: " class='left wrap'" for n in wrap}
    heads = "".join(f"<th{kinds.get(n, '')}>{escape(name)}</th>" for n, name in enumerate(head))
    lines = [
        "<tr>" + "".join(f"<td{kinds.get(n, '')}>{cell}</td>" for n, cell in enumerate(row)) + "</tr>" for row in rows
    ]
    if not lines:
        return ""
    return scroll(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>", label)


def more(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>" if inside else ""


def clock(stamp: str | None) -> str:
    return stamp[:19].replace("T", " ") if stamp else "-"


def numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values)) or "-"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def amount(wei: int | None) -> str:
    return "-" if wei is None else f"<span title='{wei} wei'>{escape(ether_digits(wei))}</span>"
