"""What it costs to start: libraries by themselves, each in a process of its own, and thirty owners at once."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.idle_figures_main import Started
from scripts.pages import table
from scripts.toolchain import ROOT

LEAN = "import omnilytics.daemon.lean_imports\n"
# What is imported, in the words of the table.
IMPORTS: Mapping[str, str] = {
    "Python alone": "",
    "numpy": "import numpy",
    "aiohttp": "import aiohttp",
    "eth-account, without pairings": LEAN + "import eth_account",
    "eth-account and eth-abi, without pairings, and aiohttp: a JSON-RPC client": (
        LEAN + "import eth_account, eth_abi.abi, aiohttp"
    ),
    "web3, without pairings (as a daemon loads it)": LEAN + "import web3",
    "web3 as it is": "import web3",
    "an owner's daemon, all of it": "import omnilytics.daemon.run, omnilytics.daemon.commands.owner",
}
_MEASURE = """
import json, time
began = time.process_time()
{statement}
took = time.process_time() - began
# Not getrusage, whose largest memory is that of whoever started this process.
resident = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(json.dumps([took, int(resident.split()[1]) / 1024]))
"""


@dataclass(frozen=True)
class Imported:
    """Processor seconds of an import, the median of some, and MiB of the process then."""

    what: str
    seconds: float
    mib: float


def measure_imports(turns: int, imports: Mapping[str, str] = IMPORTS) -> list[Imported]:
    """In turns; the first turn fills the disk's cache, and does not count."""
    taken: dict[str, list[tuple[float, float]]] = {what: [] for what in imports}
    for turn in range(turns + 1):
        for what, statement in imports.items():
            found = _measure(statement)
            if turn:
                taken[what].append(found)
    return [
        Imported(what, statistics.median(each[0] for each in many), statistics.median(each[1] for each in many))
        for what, many in taken.items()
    ]


def _measure(statement: str) -> tuple[float, float]:
    argv = [sys.executable, "-P", "-c", _MEASURE.format(statement=statement)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, mib = json.loads(done.stdout)
    return seconds, mib


def start_table(imports: Sequence[Imported], started: Started | None) -> str:
    """In Markdown."""
    rows = [[each.what, f"{1000 * each.seconds:.0f}", f"{each.mib:.0f}"] for each in imports]
    text = table(["imported", "processor time, ms", "memory of the process, MiB"], rows)
    if started is None:
        return text
    return (
        f"{text}\n\n{started.count} owners started at once were all ready after {started.seconds:.1f} s. They took "
        f"{started.cpu / started.count:.2f} s of processor time each, and {started.resident:.0f} MiB of memory each, "
        f"{started.own:.0f} MiB of it shared with no other process."
    )


def start_figures(imports: Sequence[Imported], started: Started | None) -> dict[str, Any]:
    """For docs/performance.json."""
    found: dict[str, Any] = {
        "imports": {each.what: {"seconds": round(each.seconds, 4), "mib": round(each.mib, 1)} for each in imports}
    }
    if started is not None:
        found["owners"] = {
            "count": started.count,
            "seconds": round(started.seconds, 2),
            "cpu": round(started.cpu / started.count, 3),
            "mib": round(started.resident, 1),
            "own_mib": round(started.own, 1),
        }
    return found
