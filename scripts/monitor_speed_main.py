"""`scripts/monitor-speed`: how fast `omnilytics monitor` reads logs, and with how much memory.

Writes logs of a made-up market (30 owners) until they are as large as asked, reads them with --once in a process of
its own, and prints megabytes and records a second of processor time, and the largest resident memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

import click

from tests.monitor_logs import MadeUpMarket


def write_logs(folder: Path, megabytes: int, owners: int) -> int:
    """Fills the folder; how many bytes there are."""
    (folder / "logs").mkdir()
    files: dict[str, TextIO] = {}
    written = 0
    market = MadeUpMarket(owners=owners, rounds=10**9, faulty=1, poisoned=(0,), ends=False)
    try:
        for name, line in market.lines():
            if name not in files:
                files[name] = (folder / "logs" / f"{name}.jsonl").open("w", encoding="utf-8")
            written += files[name].write(line) + files[name].write("\n")
            if written >= megabytes * 1_000_000:
                return written
    finally:
        for file in files.values():
            file.close()
    return written


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--megabytes", type=click.IntRange(min=1), default=1000, show_default=True, help="Size of all logs.")
@click.option("--owners", type=click.IntRange(min=9), default=30, show_default=True, help="Data owners, a file each.")
def main(megabytes: int, owners: int) -> None:
    """Measure how fast the monitor reads, and with how much memory."""
    with tempfile.TemporaryDirectory() as name:
        size = write_logs(Path(name), megabytes, owners)
        argv = [sys.executable, "-P", "-m", "omnilytics.daemon.cli", "monitor", "--once", "--json", name]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        started = time.monotonic()
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=False, env=environment)
        seconds = time.monotonic() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory, worked = used.ru_maxrss / 1024, used.ru_utime + used.ru_stime
    view = json.loads(done.stdout)
    records = view["honesty"]["records"]
    assert view["honesty"]["bytes_behind"] == 0 and view["honesty"]["bad_lines"] == 0
    # Of a core's time: what is left of it when others are on the machine does not count.
    click.echo(
        f"{size / 1e6:.0f} MB, {records:,} records of {owners + 1} daemons: {worked:.1f} s of one core, "
        f"{size / 1e6 / worked:.1f} MB/s, {records / worked:,.0f} records/s ({seconds:.1f} s by the clock); "
        f"largest resident memory {memory:.0f} MiB"
    )


if __name__ == "__main__":
    main(prog_name="scripts/monitor-speed")
