"""What a command prints: text for people, or one versioned JSON envelope for programs. Diagnostics go to stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

# Rises when a field of some command's data changes its meaning or goes; new fields come without a new version.
ENVELOPE_VERSION = 1

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """--json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for programs.")(command)


def emit(command: str, data: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Prints a command's answer on standard output: {"version", "command", "data"} or the text.

    `command` is its name as it is typed ("data add"); an empty text prints nothing.
    """
    if as_json:
        # No NaN or Infinity: they are no JSON, and other languages' readers refuse them.
        click.echo(json.dumps({"version": ENVELOPE_VERSION, "command": command, "data": data}, allow_nan=False))
    elif text:
        click.echo(text)
