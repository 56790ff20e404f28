"""Small pictures as SVG text: pure functions of numbers. Colours are CSS variables, so a page can be light or dark.

Every text is escaped here; a mark's <title> says its value to whoever points at it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Colours --c1 to --c8 are the page's; text wears --ink-2, never a series' colour.
SERIES_COLOURS = 8


@dataclass(frozen=True)
class Span:
    """A piece of a Gantt row: from and to in seconds, and the CSS class of its kind."""

    start: float
    end: float
    kind: str
    title: str


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most so many."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def compact(value: float) -> str:
    """A number in few characters: 12.3 k, 4.56 M."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            shown = value / limit
            return f"{shown:.0f} {unit}" if abs(shown) >= 100 or shown == int(shown) else f"{shown:.1f} {unit}"
    return f"{value:g}" if value == int(value) else f"{value:.2f}"


def _svg(width: float, height: float, label: str, parts: Sequence[str], least: int = 0) -> str:
    # Shown at about its own size, or letters grow with the window.
    style = f' style="max-width:{1.25 * width:.0f}px;' + (f'min-width:{least}px"' if least else '"')
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label, True)}"{style}>'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _bar(x: float, y: float, width: float, height: float, kind: str, title: str, more: str = "") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}" class="{kind}"'
        f"{more}><title>{escape(title)}</title></rect>"
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Keys under a picture: (CSS class of the colour, name)."""
    items = "".join(f'<span><i class="{kind}"></i>{escape(name)}</span>' for kind, name in entries)
    return f'<p class="legend">{items}</p>'


def colour(number: int) -> str:
    """The CSS class of the nth series."""
    return f"s{number % SERIES_COLOURS + 1}"


def line_chart(points: Sequence[tuple[float, float]], label: str, show: Callable[[float], str]) -> str:
    """One line over round numbers. points: (round, value)."""
    if not points:
        return ""
    width, height, left, bottom, top, right = 720.0, 260.0, 52.0, 30.0, 14.0, 48.0
    low, high = min(v for _, v in points), max(v for _, v in points)
    ticks = nice_ticks(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    low, high = min([low, *ticks]), max([high, *ticks])
    first, last = points[0][0], points[-1][0]

    def x(number: float) -> float:
        return left + (number - first) / ((last - first) or 1) * (width - left - right)

    def y(value: float) -> float:
        return top + (high - value) / ((high - low) or 1) * (height - top - bottom)

    parts = []
    for tick in ticks:
        parts += [_line(left, y(tick), width - right, y(tick)), _text(left - 8, y(tick) + 4, show(tick), "end")]
    for tick in [t for t in nice_ticks(first, last, 11) if t == int(t)]:
        parts.append(_text(x(tick), height - 10, f"{tick:g}"))
    path = " ".join(f"{'M' if n == 0 else 'L'}{x(r):.1f} {y(v):.1f}" for n, (r, v) in enumerate(points))
    parts.append(f'<path d="{path}" class="line"/>')
    for number, value in points:
        parts.append(
            f'<circle cx="{x(number):.1f}" cy="{y(value):.1f}" r="3.5" class="dot">'
            f"<title>round {number:g}: {escape(show(value))}</title></circle>"
        )
    end = points[-1]
    parts.append(_text(x(end[0]) + 8, y(end[1]) + 4, show(end[1]), "start", "value"))
    return _svg(width, height, label, parts, 480)


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], label: str, show: Callable[[float], str]
) -> str:
    """A column a row of numbers, a colour a name. rows: (what stands under the column, values by name)."""
    if not rows:
        return ""
    width, height, left, bottom, top, right = 720.0, 280.0, 60.0, 28.0, 12.0, 8.0
    high = max((sum(values) for _, values in rows), default=0.0) or 1.0
    ticks = nice_ticks(0, high)
    high = max([high, *ticks])
    room = (width - left - right) / len(rows)
    thick = min(36.0, room * 0.72)

    def y(value: float) -> float:
        return top + (high - value) / high * (height - top - bottom)

    parts = []
    for tick in ticks:
        parts += [_line(left, y(tick), width - right, y(tick)), _text(left - 8, y(tick) + 4, compact(tick), "end")]
    every = -(-len(rows) // 24)
    for number, (under, values) in enumerate(rows):
        x, base = left + room * number + (room - thick) / 2, 0.0
        for index, value in enumerate(values):
            if value > 0:
                # A gap of the surface's colour between two pieces tells them apart without a line.
                tall = y(base) - y(base + value)
                parts.append(
                    _bar(x, y(base + value), thick, tall - (1.5 if tall > 3 else 0), colour(index),
                         f"round {under}, {names[index]}: {show(value)}")
                )  # fmt: skip
                base += value
        if number % every == 0:
            parts.append(_text(x + thick / 2, height - 9, under))
    return _svg(width, height, label, parts, 480) + legend([(colour(n), name) for n, name in enumerate(names)])


def range_bars(rows: Sequence[tuple[str, float, float, int]], label: str) -> str:
    """p50 and p95 of durations, a row each, on a logarithmic scale. rows: (name, p50, p95, count), seconds."""
    rows = [row for row in rows if row[2] > 0]
    if not rows:
        return ""
    width, left, right, step, top = 720.0, 120.0, 110.0, 24.0, 22.0
    height = top + step * len(rows) + 8
    low = 10.0 ** math.floor(math.log10(max(1e-3, min(max(1e-3, row[1]) for row in rows))))
    high = max(10.0 * low, 10.0 ** math.ceil(math.log10(max(1e-2, max(row[2] for row in rows)))))

    def x(value: float) -> float:
        share = math.log10(max(value, low) / low) / math.log10(high / low)
        return left + share * (width - left - right)

    parts = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = 10.0**power
        parts += [_line(x(at), top - 4, x(at), height - 6), _text(x(at), 12, seconds(at))]
    for number, (name, p50, p95, count) in enumerate(rows):
        y = top + step * number + step / 2
        title = f"{name}: p50 {seconds(p50)}, p95 {seconds(p95)}, {count} times"
        parts += [
            _text(left - 10, y + 4, name, "end", "label"),
            _bar(x(p50), y - 3, max(2.0, x(p95) - x(p50)), 6, "range", title, ' rx="3"'),
            f'<circle cx="{x(p50):.1f}" cy="{y:.1f}" r="5" class="dot"><title>{escape(title)}</title></circle>',
            _text(max(x(p95), x(p50)) + 10, y + 4, f"{seconds(p50)} / {seconds(p95)}", "start", "value"),
        ]
    return _svg(width, height, label, parts, 520)


def seconds(value: float) -> str:
    """A duration in few characters."""
    if value >= 100:
        return f"{value:.0f} s"
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1000:.3g} ms"


def level_bars(rows: Sequence[tuple[str, float, str, str]], label: str) -> str:
    """A horizontal bar a row. rows: (name, value, shown value, CSS class)."""
    if not rows:
        return ""
    width, left, right, step = 720.0, 130.0, 120.0, 18.0
    high = max((value for _, value, _, _ in rows), default=0.0) or 1.0
    parts = []
    for number, (name, value, shown, kind) in enumerate(rows):
        y = step * number
        parts += [
            _text(left - 10, y + 13, name, "end", "label"),
            _bar(left, y + 3, value / high * (width - left - right), step - 6, kind, f"{name}: {shown}", ' rx="2"'),
            _text(left + value / high * (width - left - right) + 8, y + 13, shown, "start", "value"),
        ]
    return _svg(width, step * len(rows) + 4, label, parts, 480)


def heat_map(
    rows: Sequence[tuple[str, Sequence[tuple[float | None, str, str]]]],
    columns: Sequence[str],
    label: str,
    cell_height: float = 22.0,
) -> str:
    """Cells from 0 (faint) to 1 (full). rows: (name, [(share or None, title, CSS class of a frame or "")])."""
    if not rows or not columns:
        return ""
    left, top = 76.0, 22.0
    cell = max(18.0, min(46.0, (720.0 - left) / len(columns)))
    width, height = left + cell * len(columns) + 2, top + cell_height * len(rows) + 4
    every = -(-len(columns) // 40)
    parts = [_text(left + cell * (n + 0.5), 14, name) for n, name in enumerate(columns) if n % every == 0]
    for number, (name, cells) in enumerate(rows):
        y = top + cell_height * number
        parts.append(_text(left - 8, y + cell_height / 2 + 4, name, "end", "label"))
        for index, (share, title, frame) in enumerate(cells):
            x = left + cell * index
            if share is None:
                parts.append(_bar(x + 1, y + 1, cell - 2, cell_height - 2, "void", title))
                continue
            opacity = f' fill-opacity="{0.06 + 0.94 * min(1.0, max(0.0, share)):.3f}"'
            parts.append(_bar(x + 1, y + 1, cell - 2, cell_height - 2, "heat", title, opacity))
            if frame:
                parts.append(_bar(x + 2, y + 2, cell - 4, cell_height - 4, frame, title))
    return _svg(width, height, label, parts, int(min(width, 640)))


def gantt(rows: Sequence[tuple[str, Sequence[Span]]], marks: Sequence[tuple[float, str]], label: str) -> str:
    """Rows of spans over one clock that begins at 0. marks: (second, text) over the picture."""
    spans = [span for _, row in rows for span in row]
    if not spans:
        return ""
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    left, top, step, right = 84.0, 34.0, 15.0, 10.0
    width = min(2400.0, max(720.0, left + right + 6.0 * (last - first)))
    height = top + step * len(rows) + 6

    def x(second: float) -> float:
        return left + (second - first) / ((last - first) or 1) * (width - left - right)

    parts = []
    for tick in nice_ticks(0, last - first, 12):
        parts += [
            _line(x(first + tick), top - 6, x(first + tick), height - 4),
            _text(x(first + tick), 12, f"{tick:g} s"),
        ]
    free = -1.0
    for second, text in marks:
        if x(second) >= free:
            parts.append(_text(x(second), top - 10, text, "start", "mark"))
            free = x(second) + 9.0 + 6.5 * len(text)
    for number, (name, row) in enumerate(rows):
        y = top + step * number
        parts.append(_text(left - 8, y + step - 4, name, "end", "label"))
        for span in row:
            wide = max(1.2, x(span.end) - x(span.start))
            parts.append(_bar(x(span.start), y + 2, wide, step - 4, span.kind, f"{name}: {span.title}"))
    return _svg(width, height, label, parts, int(min(width, 1100)))
