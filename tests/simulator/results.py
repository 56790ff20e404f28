"""What scenarios came to, one JSON line each: a stopped campaign can go on, and parts of one can be joined."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from omnilytics.peers.errors import ParameterError
from tests.simulator.plan import make_plan
from tests.simulator.scenario import Report


class Results:
    """A file of results of one seed; without a path, nothing is kept. Raises ParameterError for a file of another."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._known: dict[int, dict[str, Any]] = {}
        if path is None or not path.exists():
            return
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                said = json.loads(line)
                if said["seed"] != seed:
                    raise ParameterError(f"{path} holds results of seed {said['seed']}, not {seed}")
                self._known[said["number"]] = said
            except (ValueError, KeyError, TypeError) as error:
                raise ParameterError(f"{path}, line {number}, is no result of a scenario") from error

    def get(self, number: int) -> tuple[Report, Counter[str]] | None:
        """What a scenario came to, if it is known; its log events and faults by name."""
        said = self._known.get(number)
        if said is None:
            return None
        report = Report(
            make_plan(self._seed, number),
            said["rounds"],
            Counter(said["outcomes"]),
            said["violations"],
            said["checks"],
            said["seconds"],
            said["blocks"],
            said["transactions"],
            said["digest"],
        )
        return report, Counter(said["counters"])

    def keep(self, report: Report, counters: Counter[str]) -> tuple[Report, Counter[str]]:
        """Adds a scenario's line, and gives back what it was given."""
        if self._path is not None:
            said = {
                "seed": self._seed,
                "number": report.plan.number,
                "rounds": report.rounds,
                "outcomes": report.outcomes,
                "violations": report.violations,
                "checks": report.checks,
                "seconds": report.seconds,
                "blocks": report.blocks,
                "transactions": report.transactions,
                "digest": report.digest,
                "counters": counters,
            }
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(said, sort_keys=True) + "\n")
        return report, counters
