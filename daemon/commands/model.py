"""omnilytics model: a model owner's commands; `run` is its daemon."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.model_fetch import fetch, predict
from omnilytics.daemon.commands.model_post import post, tell_round
from omnilytics.daemon.commands.model_watch import watch
from omnilytics.daemon.commands.options import delivery_option, network_options, settings_from
from omnilytics.daemon.signals import leaving_at_once


@click.group()
def model() -> None:
    """The model owner's side."""


for _command in (post, watch, fetch, predict):
    model.add_command(_command)


@model.command()
@network_options
@click.option(
    "--test",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Own labelled rows: .npz, .csv or .parquet. Without it: go on with the task that this folder posted.",
)
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv and .parquet.")
@click.option(
    "--model",
    "architecture",
    default="softmax",
    show_default=True,
    help="softmax, mlp:WIDTH,WIDTH or an installed trainer's; under secret-head a trunk of one's own.",
)
@click.option(
    "--protection",
    type=click.Choice(["envelope", "perturbed", "secret-head"]),
    default="envelope",
    show_default=True,
    help="What the model is hidden from, and how.",
)
@click.option("--features", type=click.IntRange(1, 4096), metavar="WIDTH", help="secret-head: random features (96).")
@click.option("--rounds", type=int, default=20, show_default=True)
@click.option("--groups", type=int, default=6, show_default=True, help="Groups at most.")
@click.option("--group-size", type=int, default=3, show_default=True, help="Owners in a group.")
@click.option("--faulty", type=int, default=1, show_default=True, help="Poisoned groups tolerated.")
@click.option("--strict", is_flag=True, help="Select m = G - f - 2 groups (Krum's guarantee) instead of G - f.")
@delivery_option
@click.option("--lane-bits", type=click.Choice(["8", "16", "32"]), default="16", show_default=True)
@click.option("--rate", type=int, default=10**15, show_default=True, metavar="WEI", help="For an owner and round.")
@click.option("--batch-size", type=int, help="Rows of an owner's batch.")
@click.option("--optimiser", help="As momentum:RATE,DECAY or sgd:RATE.")
@click.option("--clip", type=float, help="Largest magnitude of a gradient's value (default: from own rows).")
@click.option("--depth", type=int, default=0, show_default=True, help="Blocks between commit and post.")
@click.option("--block-seconds", type=int, default=1, show_default=True, help="Slowest block time of the chain.")
@click.option("--join-seconds", type=int, default=120, show_default=True)
@click.option("--open-seconds", type=int, default=60, show_default=True, help="Own time to open a round.")
@click.option("--phase-seconds", type=int, default=60, show_default=True, help="Commit, post and settle each.")
@click.option("--turn-seconds", type=int, default=5, show_default=True, help="A settler's turn.")
@click.option("--settle-price-cap", type=int, default=50 * 10**9, show_default=True, metavar="WEI")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For the initial weights.")
@click.option("--task", type=click.IntRange(1, 2**63 - 1), help="Go on with this task instead of creating one.")
def run(**options: Any) -> None:
    """Create a task with its reward in escrow, train through it to the end, collect what is left.

    Without --test it goes on with the task of `omnilytics model post`, by the options of the post.

    \b
    Example: omnilytics model run --home ./model --chain http://127.0.0.1:8545 \\
                 --market 0x5FbD... --broker mqtt://127.0.0.1:1883 --test own.npz --rounds 20
    """
    with leaving_at_once():
        from omnilytics.daemon.post import Callbacks, has_posted, resume_task
        from omnilytics.daemon.run import ModelOptions, run_model

        settings, password_file = settings_from(options)
        if options["test"] is not None and not has_posted(settings):
            run_model(settings, password_file, ModelOptions(**options))
            return
        _refuse_other_options()

        def resumed(task: int, again: bool) -> None:
            click.echo(f"going on with task {task}", err=True)

        callbacks = Callbacks(lambda quote: False, resumed, tell_round(0))
        resume_task(settings, password_file, options["test"], options["label"], callbacks)


def _refuse_other_options() -> None:
    """A task that was posted has its options for ever. Raises ConfigurationError for those that are given again."""
    from omnilytics.daemon.run import ModelOptions
    from omnilytics.peers.errors import ConfigurationError

    context = click.get_current_context()
    designing = {entry.name for entry in fields(ModelOptions)} - {"test", "label"}
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
        if given and parameter.name in designing:
            raise ConfigurationError(
                f"{parameter.opts[0]} is of no use: the options are those of the task that this folder has posted",
                help="leave it out; without a posted task, --test FILE creates one",
            )
