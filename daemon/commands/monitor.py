"""omnilytics monitor: the whole market, from its logs alone."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit
from omnilytics.peers.errors import ConfigurationError

if TYPE_CHECKING:
    from omnilytics.daemon.monitor.sources import LogSources
    from omnilytics.daemon.monitor.watch import Watch

# What --once ends with when an alert stands; the codes up to 9 are errors.
ALERT_EXIT_CODE = 10
# How wide a replay prints its panels: the same everywhere.
REPLAY_COLUMNS = 100


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--once", is_flag=True, help="Read everything, say where the market stands, end: 10 if an alert stands.")
@click.option("--replay", is_flag=True, help="Tell the logs' story by their own clock: the same for the same files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, with --once or --replay.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a report page.")
@click.option("--prometheus", type=click.IntRange(0, 65535), metavar="PORT", help="Metrics on 127.0.0.1:PORT/metrics.")
@click.option("--prometheus-file", type=click.Path(path_type=Path, dir_okay=False), help="Metrics as a text file.")
@click.option("--task", type=click.IntRange(1, 2**62), help="The task that is shown (default: the newest that runs).")
def monitor(
    paths: tuple[str, ...],
    once: bool,
    replay: bool,
    as_json: bool,
    html: Path | None,
    prometheus: int | None,
    prometheus_file: Path | None,
    task: int | None,
) -> None:
    """Watch the whole market live, from the daemons' logs and nothing else.

    PATH is a log file, a folder of logs, a testbed's run, or - for lines on standard input.

    \b
    Example: omnilytics monitor runs/2026-11-24T11-16-25-10226
    omnilytics monitor --once --json alice bob    # for scripts: exit code 10 when an alert stands
    omnilytics monitor --html report.html run     # a page with plots, for a browser
    ssh host cat log.jsonl | omnilytics monitor --once -
    """
    if not paths:
        raise ConfigurationError("no logs are named", help="omnilytics monitor PATH..., or - for standard input")
    if as_json and not (once or replay):
        raise ConfigurationError("--json goes with --once or --replay", help="omnilytics monitor --once --json PATH")
    if once and replay:
        raise ConfigurationError("--once and --replay do not go together", help="use one of them")
    from omnilytics.daemon.monitor.sources import LogSources
    from omnilytics.daemon.monitor.watch import Watch

    sources, watch = LogSources.named(paths), Watch()
    if once or replay or html is not None:
        if prometheus is not None:
            raise ConfigurationError(
                "--prometheus serves a live monitor", help="use --prometheus-file, or leave --once"
            )
        _finished(sources, watch, replay, once, as_json, html, prometheus_file, task)
    else:
        _live(sources, watch, prometheus, prometheus_file, task)


def _finished(
    sources: LogSources,
    watch: Watch,
    replay: bool,
    once: bool,
    as_json: bool,
    html: Path | None,
    prometheus_file: Path | None,
    task: int | None,
) -> None:
    """Reads to the end of all logs, writes and prints what is asked for."""
    from itertools import chain

    from omnilytics.daemon.monitor.panels import describe
    from omnilytics.daemon.monitor.story import replayed

    records = chain(sources.new_records(), sources.piped())
    if replay:
        for line in replayed(watch, records):
            if not as_json:
                click.echo(line)
    else:
        watch.take(records)
    watch.look(watch.market.last_ts)
    # Scripts ask whether the daemons live now; a story, and a page, tell of when the logs end.
    now = time.time() if once else watch.market.last_ts
    view = describe(watch, now, watch.look(now), sources.files)
    if html is not None:
        from omnilytics.daemon.monitor.exporter import write_whole
        from omnilytics.daemon.monitor.page import report_page

        write_whole(html, report_page(view))
        click.echo(f"{html} is written", err=True)
    if prometheus_file is not None:
        _metrics_to(prometheus_file)(view)
    if as_json:
        emit("monitor", view, True, "")
    elif once or replay:
        from omnilytics.daemon.monitor.terminal import print_text

        wide = None if sys.stdout.isatty() and once else REPLAY_COLUMNS
        print_text(view, sys.stdout, wide, task)
    if once and view["alerts"]:
        # Not click's Exit: outside of its standalone mode that is a value that everybody ignores.
        sys.exit(ALERT_EXIT_CODE)


def _metrics_to(path: Path) -> Callable[[dict[str, Any]], None]:
    from omnilytics.daemon.monitor.exporter import write_whole
    from omnilytics.daemon.monitor.prometheus import exposition

    return lambda view: write_whole(path, exposition(view))


def _live(
    sources: LogSources, watch: Watch, prometheus: int | None, prometheus_file: Path | None, task: int | None
) -> None:
    """Until somebody quits, or a signal comes."""
    from omnilytics.daemon.monitor.live import run_live, screen_to
    from omnilytics.daemon.monitor.prometheus import exposition

    out = screen_to()
    if out is None and prometheus is None and prometheus_file is None:
        raise ConfigurationError(
            "standard output is no terminal", help="use --once for text, --once --json for data, --html for a page"
        )
    publishers: list[Callable[[dict[str, Any]], None]] = []
    with contextlib.ExitStack() as stack:
        if prometheus is not None:
            from omnilytics.daemon.monitor.exporter import MetricsServer

            server = stack.enter_context(MetricsServer(prometheus).serve())
            publishers.append(lambda view: server.show(exposition(view)))
            if out is None:
                click.echo(f"metrics on http://127.0.0.1:{server.port}/metrics", err=True)
        if prometheus_file is not None:
            publishers.append(_metrics_to(prometheus_file))

        def publish(view: dict[str, Any]) -> None:
            for publisher in publishers:
                publisher(view)

        run_live(sources, watch, publish, out, task)
