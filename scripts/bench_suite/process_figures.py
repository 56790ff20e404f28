"""What processes take, as the kernel counts it (/proc): processor time, memory, and both over a window of time."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.25
# The name of all processes together, ours and others.
MACHINE = "machine"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far. Raises OSError where it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Processor time that all processes of this machine have taken, all processors together."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = (int(field) for field in first[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident memory, and the part of it that no other process shares."""
    rows = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes = line.split()[:2]
        rows[name.rstrip(":")] = int(kilobytes) / 1024
    return rows["Rss"], rows["Private_Clean"] + rows["Private_Dirty"]


def children(pid: int) -> dict[int, str]:
    """The processes that a process has started and that still run: their programs' names."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found[int(child)] = Path(f"/proc/{child}/comm").read_text().strip()
    return found


@dataclass
class CpuSampler:
    """Notes now and then how much processor time groups of processes have taken, to tell it for any window later."""

    groups: Mapping[str, Iterable[int]]
    # Unix seconds, as logs have them, and seconds by group.
    times: list[float] = field(default_factory=list)
    taken: list[dict[str, float]] = field(default_factory=list)
    _ended: dict[int, float] = field(default_factory=dict)

    def sample(self, now: float) -> None:
        """One look; a process that has ended has taken what it had when it was last seen."""
        for pids in self.groups.values():
            for pid in pids:
                with contextlib.suppress(OSError):
                    self._ended[pid] = cpu_seconds(pid)
        self.times.append(now)
        taken = {name: sum(self._ended.get(pid, 0.0) for pid in pids) for name, pids in self.groups.items()}
        self.taken.append(taken | {MACHINE: machine_seconds()})

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.sample(time.time())
            await asyncio.sleep(SAMPLE_SECONDS)

    def between(self, start: float, end: float) -> dict[str, float]:
        """Seconds of processor time by group in a window, samples joined by straight lines."""
        before, after = self._at(start), self._at(end)
        return {name: after[name] - before[name] for name in before}

    def _at(self, when: float) -> dict[str, float]:
        if not self.times:
            return dict.fromkeys((*self.groups, MACHINE), 0.0)
        right = bisect.bisect_left(self.times, when)
        if right == 0 or right == len(self.times):
            return self.taken[min(right, len(self.times) - 1)]
        left, (first, second) = right - 1, self.times[right - 1 : right + 1]
        share = (when - first) / (second - first)
        before, after = self.taken[left], self.taken[right]
        return {name: value + share * (after[name] - value) for name, value in before.items()}
