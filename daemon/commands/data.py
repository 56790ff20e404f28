"""omnilytics data: the rows that an owner's daemon may learn from."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option
from omnilytics.daemon.config import CONFIG_NAME, load_settings
from omnilytics.peers.errors import ConfigurationError

if TYPE_CHECKING:
    from omnilytics.daemon.data_registry import DataSource


@click.group()
def data() -> None:
    """The owner's data sets, by name; the files stay where they are."""


@data.command()
@home_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv.")
@click.option("--name", help="What to call it (default: the file's own name).")
@json_option
def add(home: Path, file: Path, label: str | None, name: str | None, as_json: bool) -> None:
    """Register a file (.npz or .csv), so that owner run finds it by itself; all of it is read first.

    It is entered at the end of config.toml; remove it there. A second one makes a choice necessary: owner run
    --data NAME.

    \b
    Example: omnilytics data add rows.csv --label outcome --home ./alice
    """
    from omnilytics.daemon.data_registry import DataSource, entry_text, name_for, read_registry

    registry = read_registry(load_settings(home, {}).table("data"), home)
    source = DataSource(file.resolve(), label)
    called = name or name_for(file)
    entry = entry_text(called, source)
    if called in registry:
        if registry[called] == source:
            about = read_source(source)
            emit("data add", {"name": called, **about}, as_json, f"{called} is registered already: {describe(about)}")
            return
        raise ConfigurationError(
            f"data '{called}' is registered already, as {registry[called].file}",
            help=f"choose another --name, or remove [data.{called}] from {home / CONFIG_NAME}",
        )
    about = read_source(source)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    append(home / CONFIG_NAME, entry)
    emit("data add", {"name": called, **about}, as_json, f"{called}: {describe(about)}")


@data.command("list")
@home_option
@json_option
def list_(home: Path, as_json: bool) -> None:
    """List the registered data sets, each one read: rows, columns, classes; exit code 9 where one cannot be.

    \b
    Example: omnilytics data list --home ./alice
    """
    from omnilytics.daemon.data_registry import read_registry
    from omnilytics.peers.errors import DataError

    found: list[dict[str, Any]] = []
    lines: list[str] = []
    problem: DataError | None = None
    for name, source in read_registry(load_settings(home, {}).table("data"), home).items():
        try:
            about = read_source(source)
            found.append({"name": name, **about, "problem": None})
            lines.append(f"{name}: {describe(about)}")
        except DataError as error:
            problem = problem or error
            found.append({"name": name, "file": str(source.file), "label": source.label, "problem": error.message})
            lines.append(f"{name}: {error.message}")
    emit("data list", {"data": found}, as_json, "\n".join(lines))
    if problem is not None:
        raise problem
    if not found:
        click.echo("no data is registered; an owner does it with: omnilytics data add FILE", err=True)


def read_source(source: DataSource) -> dict[str, Any]:
    """Reads all of it: file, label, rows, columns, classes with their rows. Raises DataError."""
    import numpy as np

    from omnilytics.daemon.training.data import read_dataset

    rows = read_dataset(source.file, source.label)
    counts = np.bincount(rows.labels, minlength=len(rows.classes)).tolist()
    return {
        "file": str(source.file),
        "label": source.label,
        "rows": rows.row_count,
        "columns": rows.column_count,
        "classes": dict(zip(rows.classes, counts, strict=True)),
    }


def describe(about: dict[str, Any]) -> str:
    """A line for people."""
    classes = about["classes"]
    names = ", ".join(list(classes)[:12]) + (", .." if len(classes) > 12 else "")
    column = f", label {about['label']}" if about["label"] else ""
    return (
        f"{about['rows']} rows, {about['columns']} columns, {len(classes)} classes ({names}), {about['file']}{column}"
    )


def append(path: Path, text: str) -> None:
    """Adds lines at the end of a configuration file, which is replaced in one step. Raises ConfigurationError."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    gap = "" if not old else "\n" if old.endswith("\n") else "\n\n"
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        tomllib.loads(old + gap + text)
    except ValueError as error:
        raise ConfigurationError(
            f"{path} would not be readable with [data] tables at its end: {error}", help=f"add by hand:\n{text}"
        ) from error
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(old + gap + text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
