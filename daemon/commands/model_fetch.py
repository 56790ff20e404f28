"""omnilytics model fetch and model predict: the trained weights in a file, and what they say of new rows."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option

if TYPE_CHECKING:
    from omnilytics.daemon.config import Settings
    from omnilytics.daemon.journal import Journal


@click.command()
@home_option
@click.argument("task", type=click.IntRange(1, 2**63 - 1), required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file: .safetensors, .npz or .onnx. Readable by you alone.",
)
@click.option("--round", "round_number", type=click.IntRange(0), help="After this round (default: the newest).")
@click.option("--force", is_flag=True, help="Replace the file where it is there already.")
@json_option
def fetch(home: Path, task: int | None, out: Path, round_number: int | None, force: bool, as_json: bool) -> None:
    """Write the trained model to a file that other programs load, also while the task runs.

    \b
    It holds the weights, the scaling of raw columns, the classes, under secret-head the feature map and the
    head, and in its metadata what they are. It is your secret: keep it as you keep your keys.

    \b
    Example: omnilytics model fetch 7 --home ./model --out model.safetensors
    """
    from omnilytics.daemon.config import load_settings
    from omnilytics.daemon.model_files import metadata_of, write_model
    from omnilytics.daemon.task_watch import logged_accuracies
    from omnilytics.daemon.trained_model import with_results
    from omnilytics.daemon.training.trainers import allow, trainer_name

    settings = load_settings(home, {})
    number = task if task is not None else task_of(settings)
    with contextlib.closing(_journal(settings)) as journal:
        record, weights, last = _found(journal, number, round_number)
    if record["protection"] == "envelope":
        # This folder's own task: its model owner named the trainer.
        allow((trainer_name(record["architecture"]),))
    from omnilytics.daemon.trained_model import recall

    model = recall(record["bytes"], weights, number, last)
    model = with_results(model, record["rounds"], logged_accuracies(settings.log_path, number).get(last))
    write_model(out, model, force)
    known = f", accuracy {model.accuracy:.4f}" if model.accuracy is not None else ""
    emit(
        "model fetch",
        {"file": str(out), **metadata_of(model)},
        as_json,
        f"{out}: {model.architecture} under {model.protection}, task {number} after round {last}{known}",
    )


@click.command()
@home_option
@click.option(
    "--model",
    "model_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A file of `model fetch`: .safetensors or .npz.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Rows, raw as they were trained on: .npz (X), .csv or .parquet; labels may be there.",
)
@click.option("--label", metavar="COLUMN", help="The label's column, where the table has one: accuracy is told too.")
@json_option
def predict(home: Path, model_file: Path, data: Path, label: str | None, as_json: bool) -> None:
    """Predict the class of each row with a fetched model: one class a line.

    \b
    Where the rows have labels, how many were right is told on standard error.

    \b
    Example: omnilytics model predict --model model.safetensors --data rows.npz > classes.txt
    """
    from omnilytics.daemon.config import load_settings
    from omnilytics.daemon.model_files import read_model
    from omnilytics.daemon.policy import read_policy
    from omnilytics.daemon.trained_model import right_share
    from omnilytics.daemon.training.data import read_rows
    from omnilytics.daemon.training.trainers import allow

    # A file may be a stranger's: which trainers' code runs is the policy's word, as with tasks.
    allow(read_policy(load_settings(home, {}).table("policy")).trainers)
    model = read_model(model_file)
    rows = read_rows(data, label)
    found = model.predict(rows.features)
    names = model.named(found)
    right = None if rows.labels is None else right_share(model, found, rows.labels)
    # A class's name may be anything: in the text it stays on its line.
    lines = "\n".join(name if name.isprintable() else repr(name) for name in names)
    emit("model predict", {"classes": names, "accuracy": right}, as_json, lines)
    if right is not None and not as_json:
        click.echo(f"{right:.4f} of {len(names)} rows are right", err=True)


def task_of(settings: Settings) -> int:
    """The task of this folder. Raises ConfigurationError where it has none."""
    from omnilytics.peers.errors import ConfigurationError

    if settings.journal_path.exists():
        with contextlib.closing(_journal(settings)) as journal:
            known = journal.get("task")
        if known is not None:
            return int.from_bytes(known, "big")
    raise ConfigurationError(f"{settings.home} has no task", help="name the task, or its --home")


def _journal(settings: Settings) -> Journal:
    from omnilytics.daemon.journal import Journal
    from omnilytics.peers.errors import ConfigurationError

    # Opening would make one, and a model owner's journal is not made by looking for it.
    if not settings.journal_path.exists() or not os.access(settings.journal_path, os.R_OK):
        raise ConfigurationError(f"{settings.home} has no journal", help="name the model owner's folder: --home FOLDER")
    return Journal(settings.journal_path)


def _found(journal: Journal, task: int, round_number: int | None) -> tuple[dict[str, Any], Any, int]:
    """The design's record, the weights and the round that they are of."""
    import json

    from omnilytics.daemon.model import design_name
    from omnilytics.daemon.post import rounds_ordered
    from omnilytics.peers.errors import ConfigurationError

    newest = journal.newest_model(task)
    if newest is None:
        raise ConfigurationError(
            f"this folder has no model of task {task}", help="name the model owner's folder: --home FOLDER"
        )
    last = newest[0] if round_number is None else round_number
    weights = newest[1] if round_number is None else journal.model_after(task, last)
    if weights is None:
        raise ConfigurationError(
            f"there is no model after round {last} of task {task}; the newest is after round {newest[0]}",
            help="leave --round out, or wait for the round to end",
        )
    record = journal.get(design_name(task))
    if record is None:
        raise ConfigurationError(
            f"the journal does not say how task {task} was designed: it was made by an earlier version",
            help="start the model owner's daemon once, as it was started before; it adds what is missing",
        )
    said = json.loads(record)
    details = {name: said.get(name, "") for name in ("architecture", "protection")}
    return {**details, "bytes": record, "rounds": rounds_ordered(journal)}, weights, last
