"""A market with the history of its alerts: what the commands, the terminal view and the exporter look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from omnilytics.daemon.monitor.alerts import Alert, Limits, standing_alerts
from omnilytics.daemon.monitor.fold import fold
from omnilytics.daemon.monitor.market import Market
from omnilytics.daemon.monitor.records import Record

# Alerts are looked for when the logs' own time has moved on by so much, and not after every line.
LOOK_SECONDS = 5.0
LOOK_RECORDS = 64
MAX_HISTORY = 256


@dataclass
class PastAlert:
    """An alert that was raised; cleared: Unix seconds, None while it stands."""

    code: str
    subject: str
    text: str
    raised: float
    cleared: float | None = None


@dataclass
class Watch:
    """Folds records and looks for alerts at moments of the logs' own time, so that a replay finds the same."""

    market: Market = field(default_factory=Market)
    limits: Limits = field(default_factory=Limits)
    history: deque[PastAlert] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))
    # How many were raised in all.
    raised: int = 0
    _standing: dict[tuple[str, str], PastAlert] = field(default_factory=dict)
    _looked_at: float = 0.0
    _since_look: int = 0

    def take(self, records: Iterable[tuple[str, Record]]) -> int:
        """Folds records of their sources; how many there were."""
        count = 0
        for source, record in records:
            count += 1
            self._since_look += 1
            if self._since_look >= LOOK_RECORDS and record.ts - self._looked_at >= LOOK_SECONDS:
                self.look(record.ts)
            fold(self.market, record, source)
        return count

    def look(self, now: float) -> list[Alert]:
        """The alerts that stand at this moment (Unix seconds); raised and cleared ones go into the history."""
        self._looked_at, self._since_look = now, 0
        found = standing_alerts(self.market, now, self.limits)
        here = {alert.key: alert for alert in found}
        for key in [key for key in self._standing if key not in here]:
            self._standing.pop(key).cleared = now
        for key, alert in here.items():
            known = self._standing.get(key)
            if known is not None:
                known.text = alert.text
            elif len(self._standing) < MAX_HISTORY:
                self._standing[key] = PastAlert(alert.code, alert.subject, alert.text, now)
                self.history.append(self._standing[key])
                self.raised += 1
        return found
