"""The only rich: draws the panels (blocks.py) on a terminal of any size, as one screen or as pages."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from omnilytics.daemon.monitor import blocks, round_blocks
from omnilytics.daemon.monitor.lines import Block, Data, Line

# Wide and high enough for all panels at once.
DASHBOARD_COLUMNS, DASHBOARD_ROWS = 120, 34
# A column of the dashboard has at least so many cells.
COLUMN = 60


@dataclass(frozen=True)
class Panel:
    """A panel: its title, what draws it, and how many lines it wants on the dashboard at least and at most."""

    title: str
    block: Block
    least: int = 3
    most: int = 40


ALERTS = Panel("alerts", blocks.alerts, 1, 8)
OWNERS = Panel("owners by phase", blocks.owners, 5, 16)
NAMES = Panel("owners", blocks.owner_names)
SEEDS = Panel("seed exchange", blocks.seeds, 4, 14)
TIMELINE = Panel("rounds", round_blocks.timeline, 6, 16)
FUNNEL = Panel("funnel", round_blocks.funnel, 8, 8)
KRUM = Panel("krum", round_blocks.krum, 6, 24)
MONEY = Panel("money", round_blocks.money, 4, 8)
PAY = Panel("paid to owners", round_blocks.pay, 3, 40)
ACCURACY_LINE = Panel("accuracy", round_blocks.accuracy_line, 1, 1)
GAS = Panel("gas", round_blocks.gas, 6, 14)
ACCURACY = Panel("accuracy", round_blocks.accuracy, 6, 6)
NETWORK = Panel("network", blocks.network, 3, 10)
ERRORS = Panel("errors", blocks.errors, 2, 8)
HONESTY = Panel("this monitor", blocks.honesty, 4, 6)
PAST = Panel("past alerts", blocks.past_alerts, 2, 6)
STORY = Panel("in short", blocks.story, 3, 12)

# What a key shows; the first page is the overview.
PAGES: tuple[tuple[str, str, tuple[Panel, ...]], ...] = (
    ("0", "all", (ALERTS, OWNERS, MONEY, ACCURACY_LINE)),
    ("1", "owners", (NAMES,)),
    ("2", "seeds", (SEEDS,)),
    ("3", "rounds", (FUNNEL, TIMELINE)),
    ("4", "krum", (KRUM,)),
    ("5", "money", (MONEY, PAY)),
    ("6", "gas", (GAS, ACCURACY)),
    ("7", "net", (NETWORK, HONESTY)),
    ("8", "errors", (ERRORS, PAST)),
    ("9", "story", (STORY,)),
)
EVERYTHING = (
    ALERTS, STORY, OWNERS, TIMELINE, FUNNEL, KRUM, MONEY, PAY, GAS, ACCURACY, SEEDS, NETWORK, ERRORS, PAST, HONESTY,
)  # fmt: skip
_DASHBOARD = (
    ALERTS, OWNERS, TIMELINE, FUNNEL, ACCURACY, KRUM, GAS, MONEY, SEEDS, NETWORK, STORY, ERRORS, HONESTY, PAY,
)  # fmt: skip


@dataclass
class Place:
    """Where somebody looks: the page's key, how far it is scrolled, which task (None: the newest that runs)."""

    page: str = "0"
    scroll: int = 0
    task: int | None = None


def shown_task(view: Data, wanted: int | None) -> Data | None:
    """The task to show: the wanted one, else the newest that is not over, else the newest."""
    tasks: list[Data] = view["tasks"]
    for task in tasks:
        if task["task"] == wanted:
            return task
    running = [task for task in tasks if task["status"] not in ("ended", "cancelled")]
    return (running or tasks or [None])[-1]  # type: ignore[list-item]


def screen(view: Data, place: Place, width: int, height: int) -> list[Text]:
    """Exactly `height` lines of `width` cells: header, panels, keys."""
    task = shown_task(view, place.task)
    lines = [_fit(line, width) for line in blocks.header(view, task, width)]
    room = height - len(lines) - 1
    if width >= DASHBOARD_COLUMNS and height >= DASHBOARD_ROWS and place.page == "0":
        lines += _dashboard(view, task, width, room)
    else:
        panels = next(panels for key, _, panels in PAGES if key == place.page)
        lines += _page(view, task, panels, width, room, place.scroll)
    lines = lines[: height - 1]
    lines += [Text(" " * width)] * (height - 1 - len(lines))
    return [*lines, _keys(place, width)]


def whole_text(view: Data, width: int, task_number: int | None = None) -> list[Text]:
    """All panels under one another, for a pipe or a printout."""
    task = shown_task(view, task_number)
    lines = [_fit(line, width) for line in blocks.header(view, task, width)]
    for panel in EVERYTHING:
        inside = panel.block(view, task, width - 4)
        if inside:
            lines += _frame(panel.title, inside, width, len(inside))
    return lines


def _fit(line: Line, width: int) -> Text:
    """A line cut or filled to the width, in cells."""
    text = Text(no_wrap=True, overflow="crop")
    for piece, style in line:
        text.append(piece, style or None)
    # Blanks that stick out are no words that are missing.
    text.rstrip()
    text.truncate(width, overflow="ellipsis", pad=False)
    text.append(" " * max(0, width - text.cell_len))
    return text


def _frame(title: str, inside: Sequence[Line], width: int, rows: int) -> list[Text]:
    """A box with so many rows; what does not fit is said in its lower edge."""
    hidden = len(inside) - rows
    top = f"─ {title} "
    below = f" {hidden} more " if hidden > 0 else ""
    lines = [Text(f"╭{top}{'─' * (width - 2 - cell_len(top))}╮", "bright_black")]
    lines[0].stylize("bold default", 3, 3 + len(title))
    for number in range(rows):
        line = _fit(inside[number] if number < len(inside) else [], width - 4)
        lines.append(Text.assemble(("│ ", "bright_black"), line, (" │", "bright_black")))
    lines.append(Text(f"╰{'─' * (width - 2 - cell_len(below))}{below}╯", "bright_black"))
    return lines


def _page(view: Data, task: Data | None, panels: Sequence[Panel], width: int, room: int, scroll: int) -> list[Text]:
    """Panels under one another. The last one scrolls; where there is too little room, the others get their least."""
    contents = [panel.block(view, task, width - 4) for panel in panels]
    frames = 2 * len(panels)
    lines: list[Text] = []
    left = room - frames
    for number, (panel, inside) in enumerate(zip(panels, contents, strict=True)):
        later = sum(
            min(p.least, max(1, len(c))) for p, c in zip(panels[number + 1 :], contents[number + 1 :], strict=True)
        )
        rows = max(1, min(max(1, len(inside)), left - later))
        if number == len(panels) - 1:
            rows = max(1, left)
            inside = inside[min(scroll, max(0, len(inside) - rows)) :]
        lines += _frame(panel.title, inside, width, rows)
        left -= rows
    return lines[:room]


def _dashboard(view: Data, task: Data | None, width: int, room: int) -> list[Text]:
    """All panels in columns: each where there is most room, its lines bounded, the rest to whom has more to say."""
    columns = max(2, min(4, width // COLUMN))
    wide = [width // columns + (1 if number < width % columns else 0) for number in range(columns)]
    stacks: list[list[tuple[Panel, list[Line]]]] = [[] for _ in range(columns)]
    used = [0] * columns
    for panel in _DASHBOARD:
        inside = panel.block(view, task, min(wide) - 4)
        if not inside:
            continue
        need = 2 + min(max(panel.least, len(inside)), panel.most)
        column = min(range(columns), key=lambda number: (used[number], number))
        if used[column] + 2 + min(panel.least, len(inside)) > room:
            continue
        stacks[column].append((panel, inside))
        used[column] += need
    drawn = [_stack(stack, wide[number], room) for number, stack in enumerate(stacks)]
    lines = []
    for row in range(room):
        line = Text(no_wrap=True)
        for number, column_lines in enumerate(drawn):
            line += column_lines[row] if row < len(column_lines) else Text(" " * wide[number])
        lines.append(line)
    return lines


def _stack(stack: Sequence[tuple[Panel, list[Line]]], width: int, room: int) -> list[Text]:
    """One column: everybody its least, then what is left in turn to those that have more lines."""
    rows = [min(panel.least, len(inside)) for panel, inside in stack]
    left = room - sum(rows) - 2 * len(stack)
    while left > 0:
        hungry = [n for n, (panel, inside) in enumerate(stack) if rows[n] < min(len(inside), panel.most)]
        hungry = hungry or [n for n, (_, inside) in enumerate(stack) if rows[n] < len(inside)]
        if not hungry:
            break
        for number in hungry[:left]:
            rows[number] += 1
        left -= len(hungry[:left])
    lines: list[Text] = []
    for (panel, inside), count in zip(stack, rows, strict=True):
        lines += _frame(panel.title, inside, width, count)
    return lines


def _keys(place: Place, width: int) -> Text:
    line: Line = []
    for key, name, _ in PAGES:
        line += [(f" {key} {name}", "reverse bold" if key == place.page else "dim")]
    line += [("  q", "dim")] if width < 100 else [("   j k scroll  t task  q quit", "dim")]
    return _fit(line, width)


class Terminal:
    """A screen of its own while it is entered; drawn anew on demand."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, transient=True)

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self, view: Data, place: Place) -> None:
        """One frame, as large as the terminal is now."""
        width, height = self._console.size
        self._live.update(Group(*screen(view, place, max(40, width), max(10, height))), refresh=True)


def print_text(view: Data, out: TextIO, width: int | None = None, task: int | None = None) -> None:
    """All panels as text; with colours where `out` is a terminal."""
    console = Console(file=out, highlight=False, markup=False, emoji=False, width=width)
    for line in whole_text(view, console.width, task):
        line.rstrip()
        console.print(line, no_wrap=True, overflow="crop", crop=True)


def as_svg(lines: Sequence[Text], width: int, title: str) -> str:
    """A picture of these lines as a terminal shows them (scripts/screenshots)."""
    console = Console(
        file=io.StringIO(), record=True, width=width, highlight=False, force_terminal=True, color_system="truecolor"
    )
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop", crop=True)
    return console.export_svg(title=title)
