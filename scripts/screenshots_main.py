"""`scripts/screenshots`: the pictures of the README, docs/images/*.png, from a run's logs. Needs a Chromium.

The terminal view is drawn as it stood a second before the post phase of the last round in which an owner was slashed
(or at the end, where none was); the report is of the whole run.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageChops

from omnilytics.daemon.monitor.page import report_page
from omnilytics.daemon.monitor.panels import describe
from omnilytics.daemon.monitor.sources import LogSources
from omnilytics.daemon.monitor.terminal import Place, as_svg, screen
from omnilytics.daemon.monitor.watch import Watch
from omnilytics.peers.errors import ConfigurationError, OmniLyticsError
from scripts.browser import find_browser, picture
from scripts.toolchain import ROOT

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 300_000
# Name, page, columns, rows.
TERMINALS = (("monitor-wide", "0", 180, 52), ("monitor-80x24", "0", 80, 24))
# Name, the only card that is shown (None: the page from its top), width and height at most in CSS pixels, dark.
PAGES = (
    ("report", None, 1120, 1180, False),
    ("report-owners", "owners-1", 1120, 1600, False),
    ("report-krum", "krum-1", 1120, 1600, True),
    ("report-timeline", "timeline-1", 1120, 1200, False),
    ("report-phone", None, 500, 1000, True),
)


def view_until(run: Path, until: float) -> dict[str, Any]:
    """What the monitor showed at a moment (Unix seconds) of the run."""
    sources, watch = LogSources.named([str(run)]), Watch()
    watch.take((name, record) for name, record in sources.new_records() if record.ts < until)
    now = min(until, watch.market.last_ts)
    return describe(watch, now, watch.look(now), sources.files)


def telling_moment(view: dict[str, Any]) -> float:
    """A second before the end of the post phase of the last round with a slashed owner; else the end."""
    task = view["tasks"][0]
    slashed = {number for owner in task["money"]["owners"] for number in owner["slashed_rounds"]}
    entered = {entry["round"]: entry["entered"] for entry in task["timeline"]}
    found = [entered[number]["settle"] for number in slashed if "settle" in entered.get(number, {})]
    return float(max(found)) - 1.0 if found else float(view["at_s"])


def shrink(path: Path) -> None:
    """Fewer colours, until the file is small enough for a repository; a picture of flat colours loses nothing."""
    whole = Image.open(path).convert("RGB")
    ground = Image.new("RGB", whole.size, whole.getpixel((1, whole.height - 1)))
    used = ImageChops.difference(whole, ground).getbbox()
    if used is not None:
        # Nothing but ground below.
        whole = whole.crop((0, 0, whole.width, min(whole.height, used[3] + 20)))
    for colours in (128, 64, 32):
        whole.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            return
    raise ConfigurationError(
        f"{path} has more than {MOST_BYTES} bytes", help="smaller windows in scripts/screenshots_main.py"
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), default=IMAGES, help="Where they go.")
def main(run: Path | None, to: Path) -> None:
    """Draw the monitor's screens and the report of a RUN (default: the newest in runs/)."""
    try:
        browser = find_browser()
        if browser is None:
            raise ConfigurationError("no Chromium on this machine", help="apt install chromium, or set CHROMIUM")
        runs = sorted((ROOT / "runs").glob("*")) if run is None else [run]
        if not runs:
            raise ConfigurationError("no run in runs/", help="scripts/testbed makes one")
        draw(browser, runs[-1], to)
    except OmniLyticsError as error:
        click.echo(f"scripts/screenshots: {error.message}\n  {error.help}", err=True)
        sys.exit(error.exit_code)


def draw(browser: str, run: Path, to: Path) -> None:
    """All pictures of a run into a folder."""
    to.mkdir(parents=True, exist_ok=True)
    whole = view_until(run, float("inf"))
    moment = view_until(run, telling_moment(whole))
    with tempfile.TemporaryDirectory() as name:
        for title, key, columns, rows in TERMINALS:
            svg = as_svg(screen(moment, Place(key), columns, rows), columns, "omnilytics monitor")
            box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
            assert box is not None
            source = Path(name) / f"{title}.svg"
            source.write_text(svg, encoding="utf-8")
            picture(browser, source, to / f"{title}.png", round(float(box[1])), round(float(box[2])))
        page = report_page(whole)
        for title, card, width, height, dark in PAGES:
            source = Path(name) / f"{title}.html"
            alone = f"<style>main>*{{display:none!important}}main>#{card}{{display:block!important}}</style></head>"
            source.write_text(page if card is None else page.replace("</head>", alone), encoding="utf-8")
            picture(browser, source, to / f"{title}.png", width, height, dark)
    for path in sorted(to.glob("*.png")):
        shrink(path)
        click.echo(f"{path} {path.stat().st_size:,} bytes", err=True)


if __name__ == "__main__":
    main(prog_name="scripts/screenshots")
