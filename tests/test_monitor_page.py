"""The report page: whole, quiet on the network, safe with strangers' texts; and right in a real browser."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnilytics.daemon.monitor import charts
from omnilytics.daemon.monitor.page import POLICY, report_page
from omnilytics.daemon.monitor.panels import describe
from scripts.browser import dom, find_browser, picture
from tests.monitor_logs import Daemon, MadeUpMarket
from tests.monitor_views import STORY, market_view, read, view_of, watched
from tests.test_monitor_terminal import HOSTILE

BROWSER = find_browser()
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt install chromium)")
VOID = {"meta", "br", "rect", "line", "circle", "path", "input", "hr", "img", "link"}


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(market_view(STORY))


class Checker(HTMLParser):
    """Counts elements and sees that each is closed where it should be."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    # Circles may hold a title: closed like rectangles.
    checker.feed(page.replace("<circle", "<rect").replace("</circle", "</rect"))
    checker.close()
    assert checker.open == []
    return checker


# ------------------------------------------------------------------ the text of it


def test_the_page_is_whole_and_needs_nothing_from_anywhere(page: str) -> None:
    checker = checked(page)
    assert not {"script", "img", "link", "iframe", "object", "form", "base"} & set(checker.counts)
    for tag, name, value in checker.attributes:
        assert name not in ("src", "href", "srcset", "action") and not name.startswith("on"), (tag, name)
        assert "url(" not in value and "://" not in value, (tag, name, value)
    assert "@import" not in page and "url(" not in page
    assert POLICY in page and "default-src 'none'" in POLICY
    assert len(page) < 1_000_000


def test_a_stranger_finds_the_answers_on_it(page: str) -> None:
    text = " ".join(" ".join(checked(page).text).split())
    assert "group 1 looks poisoned: Krum rejected it in 6 of the 6 rounds that it completed" in text
    assert "owner-17 (group 5) committed and did not post in round 2" in text
    assert "every wei accounted for" in text
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    second = next(row for row in rows if "owner-17" in row and "selected" in row)
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", second)]
    # round, outcome, accuracy, selected, rejected, not complete, slashed, gas, fees, paid, took
    assert cells[:2] == ["2", "selected"] and cells[3:7] == ["0, 2, 3, 4", "1", "5", "owner-17"]
    assert cells[7] == f"{160_000 + 18 * 56_000 + 17 * 90_000 + 1_200_000:,}" and cells[9] == "0.012000"
    owner = next(row for row in rows if "owner-03" in row and "poisoned group" in row)
    assert "0.000000" in owner


def test_every_picture_is_there(page: str) -> None:
    labels = re.findall(r'<svg [^>]*aria-label="([^"]*)"', page)
    assert labels == [
        "Accuracy by round", "Payments by owner", "Gas by function and round", "Krum scores by group and round",
        "Distances between groups", "Durations, p50 and p95", "Timeline by owner", "Funnel",
    ]  # fmt: skip


def test_an_empty_market_is_a_page_too() -> None:
    text = " ".join(checked(report_page(describe(watched([]), 1.0, []))).text)
    assert "no records" in text and "no alert stands" in text


def hostile_page() -> str:
    watch = watched(MadeUpMarket(owners=9, rounds=2, ends=False).lines())
    stranger = Daemon('"><img src=x onerror=alert(1)>', 77)
    evil = HOSTILE + "</style></title><script>document.title='owned'</script><img src=//evil.example/x>'\"&lt;"
    told: list[tuple[str, dict[str, Any]]] = [
        ("task.created", {"task": 1, "msg": evil}),
        ("round.sat-out", {"task": 1, "round": 1, "msg": evil, "missing": [evil]}),
        ("daemon.failed", {"msg": evil, "code": evil[:70], "help": evil}),
        ("tx.mined", {"task": 1, "round": 1, "function": evil[:70], "gas": 5, "wei": 7, "tx": "0x1"}),
        ("group.drawn", {"task": 1, "group": 0, "members": [evil]}),
        ("round.done", {"task": 1, "round": 3, "outcome": evil[:70], "slashed": [evil], "complete_groups": [1]}),
    ]
    for number, (event, fields) in enumerate(told):
        line = stranger.line(30 + number, event, level="error", **fields)
        watch.take([(stranger.name, read(line))])
    return report_page(view_of(watch, 200))


def test_strangers_texts_stay_texts() -> None:
    checker = checked(hostile_page())
    assert not {"script", "img"} & set(checker.counts)
    assert "<script>document.title='owned'</script>" in "".join(checker.text)
    assert not any(name.startswith("on") for _, name, _ in checker.attributes)


# ------------------------------------------------------------------ pictures by themselves


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((0, 1), (0.1, 0.93), (0, 6_777_389), (3, 4), (0, 1e-3), (1, 20)):
        ticks = charts.nice_ticks(low, high)
        assert 2 <= len(ticks) <= 7 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert charts.nice_ticks(2, 2) == [2]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (999, "999"), (1234, "1.2 k"), (6_000_000, "6 M"), (123_456_789, "123 M"), (0.5, "0.50")],
)
def test_numbers_are_compact(value: float, shown: str) -> None:
    assert charts.compact(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.0005, "0.5 ms"), (0.25, "250 ms"), (1.5, "1.5 s"), (250, "250 s")])
def test_durations_are_short(value: float, shown: str) -> None:
    assert charts.seconds(value) == shown


def test_pictures_of_nothing_are_nothing() -> None:
    assert charts.line_chart([], "x", str) == charts.stacked_bars([], ["a"], "x", str) == ""
    assert charts.range_bars([], "x") == charts.level_bars([], "x") == charts.heat_map([], [], "x") == ""
    assert charts.gantt([], [], "x") == ""


def test_one_point_and_all_alike_divide_by_nothing() -> None:
    assert "circle" in charts.line_chart([(1, 0.5)], "x", str)
    assert "<rect" in charts.stacked_bars([("1", [0.0, 0.0]), ("2", [1.0, 0.0])], ["a", "b"], "x", str)
    assert "<rect" in charts.gantt([("a", [charts.Span(3, 3, "s1", "t")])], [], "x")
    assert "<rect" in charts.range_bars([("a", 1.0, 1.0, 1)], "x")
    assert "<rect" in charts.level_bars([("a", 0.0, "0", "s1")], "x")


def test_bars_are_as_long_as_their_values() -> None:
    drawn = charts.level_bars([("a", 10.0, "10", "s1"), ("b", 5.0, "5", "s1")], "x")
    wide = [float(value) for value in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn)]
    assert wide[0] == pytest.approx(2 * wide[1], abs=0.1)


# ------------------------------------------------------------------ in Chromium

PROBE = """<!doctype html><meta charset="utf-8"><body></body><pre id="o"></pre>
<script>
const found = [], frames = FRAMES;
const look = (f, width) => { const d = f.contentDocument, style = (e) => f.contentWindow.getComputedStyle(e);
  const wide = [...d.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > width + 0.5);
  const pictures = [...d.querySelectorAll('svg')].filter(e => e.getBoundingClientRect().width > 0);
  const texts = [...d.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height).filter(height => height > 0);
  return { overflow: d.documentElement.scrollWidth - width, wide: wide.map(e => e.tagName + '.' + e.className).slice(0, 5),
    title: d.title, scripts: d.scripts.length, images: d.images.length, pictures: pictures.length,
    cards: d.querySelectorAll('section.card').length, ground: style(d.body).backgroundColor, ink: style(d.body).color,
    card: style(d.querySelector('section.card')).backgroundColor,
    narrowest: Math.min(...pictures.map(e => e.getBoundingClientRect().width)), smallest: Math.min(...texts) }; };
frames.forEach(([width, source], number) => { const f = document.createElement('iframe');
  f.style = `width:${width}px;height:800px;border:0`; document.body.append(f);
  f.onload = () => { found[number] = look(f, width);
    if (found.filter(Boolean).length === frames.length) document.getElementById('o').textContent = JSON.stringify(found); };
  f.srcdoc = source; });
</script>"""  # noqa: E501


def probe(folder: Path, dark: bool, *frames: tuple[int, str]) -> list[dict[str, Any]]:
    """What a browser makes of pages in frames of these widths: frames, as windows cannot be as narrow as a phone."""
    assert BROWSER is not None
    outer = folder / "probe.html"
    outer.write_text(PROBE.replace("FRAMES", json.dumps(frames).replace("</", "<\\/")), encoding="utf-8")
    told = re.search(r'<pre id="o">(.+?)</pre>', dom(BROWSER, outer, dark), re.S)
    assert told is not None, "the pages did not load"
    found: list[dict[str, Any]] = json.loads(html.unescape(told[1]))
    return found


@pytest.fixture(scope="module")
def light(page: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return probe(tmp_path_factory.mktemp("light"), False, (1100, page), (360, page), (700, hostile_page()))


def luminance(colour: str) -> float:
    """WCAG's relative luminance of rgb(r, g, b)."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def assert_right(found: dict[str, Any], dark: bool) -> None:
    """Nothing sticks out, every picture has a size, texts are large enough and stand out."""
    assert found["overflow"] <= 0 and found["wide"] == [], found
    assert found["pictures"] == 8 and found["cards"] >= 15
    assert (luminance(found["ground"]) < 0.1) == dark
    high, low = sorted((luminance(found["ink"]), luminance(found["card"])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 7
    assert found["narrowest"] > 150 and found["smallest"] >= 8


@in_a_browser
def test_it_is_right_at_a_desk_and_on_a_phone(light: list[dict[str, Any]]) -> None:
    for found in light[:2]:
        assert_right(found, dark=False)


@in_a_browser
def test_it_is_right_in_the_dark(page: str, tmp_path: Path) -> None:
    (found,) = probe(tmp_path, True, (1100, page))
    assert_right(found, dark=True)


@in_a_browser
def test_no_text_of_a_log_runs_in_a_browser(light: list[dict[str, Any]]) -> None:
    found = light[2]
    assert found["title"] == "OmniLytics market report"
    assert (found["scripts"], found["images"], found["overflow"]) == (0, 0, 0)


@in_a_browser
def test_a_picture_of_it_has_something_to_see(page: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    picture(BROWSER, tmp_path / "page.html", tmp_path / "dark.png", 900, 1400, dark=True)
    pixels = np.asarray(Image.open(tmp_path / "dark.png").convert("L"), dtype=np.float64)
    assert pixels.shape == (1400, 900)
    assert pixels.mean() < 60 and pixels.std() > 8 and pixels.max() > 200
