"""Views of made-up markets, for whatever is drawn from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omnilytics.daemon.monitor.panels import describe
from omnilytics.daemon.monitor.records import Record, parse_line
from omnilytics.daemon.monitor.watch import Watch
from tests.monitor_logs import START, MadeUpMarket


def read(line: str) -> Record:
    """A line that is a record."""
    record = parse_line(line.encode())
    assert record is not None, line
    return record


def watched(lines: Iterable[tuple[str, str]]) -> Watch:
    """A watch that has taken these lines of daemons by name."""
    watch = Watch()
    watch.take((name, read(line)) for name, line in lines)
    return watch


def view_of(watch: Watch, second: float | None = None) -> dict[str, Any]:
    """Everything, at a second after the start (default: the newest record's)."""
    now = watch.market.last_ts if second is None else START + second
    return describe(watch, now, watch.look(now))


def market_view(market: MadeUpMarket, second: float | None = None) -> dict[str, Any]:
    """The view of a whole made-up market."""
    return view_of(watched(market.lines()), second)


STORY = MadeUpMarket(owners=18, rounds=6, faulty=1, poisoned=(1,), killed={17: 2})
