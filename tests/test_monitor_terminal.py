"""The terminal view: fits any terminal to the cell, shows what matters first, and obeys no stranger's text."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from omnilytics.daemon.monitor import blocks, lines, round_blocks
from omnilytics.daemon.monitor.live import press
from omnilytics.daemon.monitor.panels import describe
from omnilytics.daemon.monitor.terminal import PAGES, Place, print_text, screen, shown_task, whole_text
from tests.monitor_logs import Daemon, MadeUpMarket
from tests.monitor_views import STORY, market_view, read, view_of, watched

SIZES = [(40, 10), (80, 24), (119, 60), (120, 34), (160, 45), (200, 60), (300, 100)]


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    return market_view(STORY)


@pytest.fixture(scope="module")
def crowd() -> dict[str, Any]:
    """A hundred owners in the middle of a round."""
    market = MadeUpMarket(owners=100, group_size=5, rounds=2, faulty=1, ends=False)
    written = list(market.lines())
    posts = [n for n, (_, line) in enumerate(written) if '"function":"post"' in line]
    return view_of(watched(written[: posts[-30]]))


def shown(view: dict[str, Any], page: str = "0", width: int = 80, height: int = 24, scroll: int = 0) -> str:
    return "\n".join(line.plain for line in screen(view, Place(page, scroll), width, height))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("page", [key for key, _, _ in PAGES])
def test_every_page_fits_every_terminal_to_the_cell(
    story: dict[str, Any], crowd: dict[str, Any], page: str, width: int, height: int
) -> None:
    for view in (story, crowd, describe(watched([]), 1.0, [])):
        drawn = screen(view, Place(page), width, height)
        assert len(drawn) == height
        assert {line.cell_len for line in drawn} == {width}


def test_the_first_page_shows_alerts_waiting_and_money_at_80_by_24(crowd: dict[str, Any]) -> None:
    text = shown(crowd)
    assert "no alert" in text and "100 live" in text
    assert "round 2 of 2" in text and "post for" in text
    assert re.search(r"waiting for 30: owner-70, owner-71", text)
    assert "adds up" in text and "escrow" in text and "accuracy" in text


def test_a_hundred_owners_are_letters(crowd: dict[str, Any]) -> None:
    text = shown(crowd)
    assert text.count("PPPPP") == 14 and text.count("CCCCC") == 6
    names = shown(crowd, "1", 80, 24)
    assert "owner-00" in names and " more " in names
    assert "owner-99" in shown(crowd, "1", 80, 24, scroll=500)
    assert "owner-99" in shown(crowd, "1", 200, 60)


def test_a_wide_terminal_shows_all_panels_at_once(story: dict[str, Any]) -> None:
    text = shown(story, "0", 200, 60)
    for title in ("alerts", "owners by phase", "rounds", "funnel", "krum", "gas", "money", "seed exchange", "network",
                  "errors", "this monitor", "in short", "paid to owners", "accuracy"):  # fmt: skip
        assert f"─ {title} ─" in text, title
    assert "poisoned" in text and "dropped" in text


def test_alerts_come_first_and_say_what_to_do(story: dict[str, Any]) -> None:
    text = shown(story)
    assert "1 ALERT " in text.splitlines()[0]
    assert "owner-17 has not been heard of" in text
    assert "start the daemon again" in re.sub(r"[│\s]+", " ", text)


def test_all_panels_are_in_the_printed_text(story: dict[str, Any]) -> None:
    text = "\n".join(line.plain.rstrip() for line in whole_text(story, 100))
    assert "group 1 looks poisoned" in text
    assert "owner-17 (group 5) committed and did not post in round 2" in text
    assert "createTask" in text and "headroom 4.2 bits" in text
    assert max(len(line) for line in text.splitlines()) == 100


def test_a_pipe_gets_no_escape_sequences(story: dict[str, Any]) -> None:
    out = io.StringIO()
    print_text(story, out, 100)
    assert "\x1b" not in out.getvalue() and "poisoned" in out.getvalue()


HOSTILE = "\x1b[2J\x1b]8;;http://evil\x07[bold red]owned[/] \u202e<script>alert(1)</script>\r\n"


def test_a_hostile_log_steers_nothing() -> None:
    """Escape sequences, markup and marks of direction in every text of a log reach no terminal."""
    watch = watched(MadeUpMarket(owners=9, rounds=1, ends=False).lines())
    stranger = Daemon("x", 77)
    told: list[tuple[str, dict[str, Any]]] = [
        ("task.created", {"task": 1, "msg": HOSTILE}),
        ("round.sat-out", {"task": 1, "round": 1, "msg": HOSTILE, "missing": [HOSTILE]}),
        ("daemon.failed", {"msg": HOSTILE, "code": HOSTILE, "help": HOSTILE}),
        ("tx.mined", {"task": 1, "round": 1, "function": HOSTILE, "gas": 5, "tx": HOSTILE}),
        ("group.drawn", {"task": 1, "group": 0, "members": [HOSTILE]}),
        ("round.done", {"task": 1, "round": 2, "outcome": HOSTILE, "slashed": [HOSTILE]}),
        ("waiting", {"task": 1, "phase": "idle", "msg": HOSTILE, "waiting_for": [HOSTILE]}),
        ("daemon.exit", {"reason": HOSTILE}),
    ]
    for number, (event, fields) in enumerate(told):
        line = stranger.line(30 + number, event, level="error", **fields)
        watch.take([(stranger.name, read(line))])
    view = view_of(watch)
    for width, height in ((80, 24), (200, 60)):
        for page, _, _ in PAGES:
            text = shown(view, page, width, height)
            assert all(letter.isprintable() or letter == "\n" for letter in text)
    out = io.StringIO()
    print_text(view, out, 200)
    assert "\x1b" not in out.getvalue()
    # It is shown as the text that it is: no markup was obeyed.
    assert "[bold red]owned[/]" in out.getvalue()


def test_keys_move_and_quit(story: dict[str, Any]) -> None:
    place = Place()
    moves = (("4", "4", 0), ("j", "4", 1), ("J", "4", 11), ("k", "4", 10), ("K", "4", 0), ("k", "4", 0), ("?", "4", 0))
    for key, page, scroll in (*moves, ("", "4", 0), ("0", "0", 0)):
        assert press(key, place, story)
        assert (place.page, place.scroll) == (page, scroll)
    assert not press("q", place, story) and not press("\x03", place, story)
    assert press("t", place, story) and place.task == 1
    assert press("t", Place(), describe(watched([]), 1.0, []))


def test_the_task_that_runs_is_shown_unless_another_is_wanted(story: dict[str, Any]) -> None:
    (task,) = story["tasks"]
    tasks = [task | {"task": 1}, task | {"task": 2, "status": "running"}, task | {"task": 3}]
    view = story | {"tasks": tasks}
    assert [shown_task(view, wanted)["task"] for wanted in (None, 1, 3, 9)] == [2, 1, 3, 2]  # type: ignore[index]
    assert shown_task(story | {"tasks": []}, None) is None


def test_bars_and_sparks() -> None:
    assert lines.spark([0, 1, 2, 3]) == "▁▃▆█"
    assert lines.spark([5, 5]) == "▁▁" and lines.spark([]) == ""
    assert (
        lines.bar(0.5, 10) == "█████"
        and lines.bar(0.001, 10) == "█"
        and lines.bar(0, 10) == ""
        and lines.bar(9, 4) == "████"
    )
    assert [lines.age(v) for v in (None, 5, 600, 90_000, 900_000)] == ["-", "5 s", "10 min", "25.0 h", "10 days"]
    assert lines.wrap("one two three", 7) == [[("one two", "")], [("three", "")]]


@pytest.mark.parametrize(
    "block",
    [
        v
        for module in (blocks, round_blocks)
        for v in vars(module).values()
        if getattr(v, "__module__", "") in (blocks.__name__, round_blocks.__name__) and not v.__name__.startswith("_")
    ],
    ids=lambda b: b.__name__,
)
def test_every_panel_bears_a_market_without_a_task(block: Any) -> None:
    empty = describe(watched([]), 1.0, [])
    assert isinstance(block(empty, None, 60), list)
