"""A headless Chromium, where the machine has one: pictures of pages and what a page's own script finds out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Debian calls it chromium; others have other names for the same.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60


def find_browser() -> str | None:
    """$CHROMIUM, or the first that is installed; None where there is none."""
    return os.environ.get("CHROMIUM") or next((found for name in _NAMES if (found := shutil.which(name))), None)


def browser_arguments(browser: str, profile: str, dark: bool = False) -> list[str]:
    """A headless browser's command line, without what it is to do."""
    return [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
        # 0 is dark, 1 light.
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    ]


def _run(browser: str, *arguments: str, dark: bool = False) -> bytes:
    with tempfile.TemporaryDirectory() as profile:
        argv = [*browser_arguments(browser, profile, dark), *arguments]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, check=True)
        return done.stdout


def picture(browser: str, page: Path, to: Path, width: int, height: int, dark: bool = False) -> None:
    """A PNG of a page in a window of so many CSS pixels (Chromium's windows are 500 wide at least)."""
    _run(
        browser,
        f"--window-size={width},{height}",
        f"--screenshot={to}",
        page.as_uri(),
        dark=dark,
    )


def dom(browser: str, page: Path, dark: bool = False) -> str:
    """A page's document after its scripts have run, as HTML."""
    return _run(
        browser, "--window-size=1200,900", "--virtual-time-budget=3000", "--dump-dom", page.as_uri(), dark=dark
    ).decode()
