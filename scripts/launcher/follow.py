"""Follows the daemons' JSON-lines logs while they are written, and tells people where the market stands."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

Record = dict[str, Any]


class LogReader:
    """Reads whole new lines of one log file; a line that is not JSON is counted, not fatal."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.bad_lines = 0
        self._path = path
        self._position = 0

    def new_records(self) -> Iterator[Record]:
        """Records written since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict) and isinstance(record.get("event"), str):
                yield record
            else:
                self.bad_lines += 1


@dataclass
class Progress:
    """What is shown while a market runs: one line that changes on a terminal, a line a round everywhere."""

    out: TextIO
    rounds: int
    names: dict[str, str]
    started: float = field(default_factory=time.monotonic)
    _status: str = ""
    _shown: str = ""

    def see(self, name: str, record: Record) -> None:
        """One record of one participant."""
        event = record["event"]
        if name == "model":
            if event == "waiting":
                # Names of owners say more to the reader of a testbed than addresses.
                late = [self.names.get(address, address) for address in record["data"]["waiting_for"]]
                who = f" (for {', '.join(late[:4])}{', ..' if len(late) > 4 else ''})" if late else ""
                self.status(f"round {record['round']}/{self.rounds} {record['phase']}: {record['msg']}{who}")
            elif event == "phase.enter":
                self.status(f"round {record['round']}/{self.rounds} {record['phase']}")
            elif event == "task.created":
                self.line(record["msg"])
            elif event == "round.done":
                data = record["data"]
                seconds = f"{record['dur_ms'] / 1000:.1f} s" if "dur_ms" in record else ""
                self.line(
                    f"round {record['round']:>3}/{self.rounds}  accuracy {data['accuracy']:.4f}  "
                    f"selected {data['selected_groups']}  {seconds}"
                )
        if event in ("round.sat-out", "adversary.dies", "krum.disagreement", "daemon.failed", "daemon.bug"):
            place = f" in round {record['round']}" if "round" in record else ""
            self.line(f"{name}{place}: {record['msg']}")

    def status(self, text: str) -> None:
        """Where things stand now."""
        self._status = text
        if self.out.isatty():
            seconds = time.monotonic() - self.started
            shown = f"[{seconds:5.0f} s] {text}"[:118]
            self.out.write("\r" + shown.ljust(len(self._shown)))
            self._shown = shown
            self.out.flush()

    def line(self, text: str) -> None:
        """Something worth a line of its own."""
        if self.out.isatty():
            self.out.write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""
        print(text, file=self.out, flush=True)


def progress_to_stderr(rounds: int, names: dict[str, str]) -> Progress:
    """Progress goes to standard error, so that --json has standard output for itself."""
    return Progress(sys.stderr, rounds, names)
