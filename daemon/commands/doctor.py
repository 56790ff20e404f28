"""omnilytics doctor: whether this participant can work, and what to do where it cannot."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import network_options, overrides_from

if TYPE_CHECKING:
    from omnilytics.daemon.doctor import Finding

_WORDS = {"passed": "PASSED", "failed": "FAILED", "skipped": "skipped"}


@click.command()
@network_options
@json_option
def doctor(as_json: bool, **options: Any) -> None:
    """Check everything that a daemon needs, and say what to do where something is missing; exit code 0 or 1.

    Configuration, folders, disk, keys, data, RPC, contract, head's age, clock, journal, balance, and a message to
    ourselves over the broker. Nothing is changed or sent; the daemon may be running.

    \b
    Example: omnilytics doctor --home ./alice
    """
    from omnilytics.daemon.doctor import Patient, examine, healthy

    home, password_file, overrides = overrides_from(options)
    findings = asyncio.run(examine(Patient(home, overrides, password_file)))
    well = healthy(findings)
    answer = {"healthy": well, "checks": [asdict(finding) for finding in findings]}
    emit("doctor", answer, as_json, as_text(findings))
    if not well:
        sys.exit(1)


def as_text(findings: list[Finding]) -> str:
    """A line a check; a second one with the cure where it failed."""
    lines = []
    for finding in findings:
        lines.append(f"{_WORDS[finding.status]:<8} {finding.name:<14} {finding.detail}")
        if finding.help:
            lines.append(f"{'':<24}{finding.help}")
    return "\n".join(lines)
