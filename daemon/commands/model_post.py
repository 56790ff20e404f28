"""omnilytics model post: a task with its reward in escrow, from one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import delivery_option, network_options, settings_from


class Amount(click.ParamType[int]):
    """Money with its unit, to wei."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """As daemon/amounts.py reads it."""
        from omnilytics.daemon.amounts import parse_amount
        from omnilytics.peers.errors import ParameterError

        if isinstance(value, int):
            return value
        try:
            return parse_amount(value)
        except ParameterError as error:
            self.fail(f"{error.message}; {error.help}", param, ctx)


AMOUNT = Amount()


@click.command()
@network_options
@click.option(
    "--test",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Own labelled rows, which design the task and measure it: .npz, .csv or .parquet.",
)
@click.option("--label", metavar="COLUMN", help="The label's column, for .csv and .parquet.")
@click.option("--reward", type=AMOUNT, metavar="AMOUNT", help="For all owners and rounds together, as 1eth.")
@click.option("--rate", type=AMOUNT, metavar="AMOUNT", help="For an owner and round, in place of --reward.")
@click.option("--rounds", type=click.IntRange(1), help="Default: 1 under secret-head, else 20.")
@click.option(
    "--model", "architecture", help="softmax, mlp:WIDTH,WIDTH, or an installed trainer's (default: a secret head)."
)
@click.option(
    "--protection",
    type=click.Choice(["envelope", "perturbed", "secret-head"]),
    help="What the model is hidden from (default: envelope where --model is given, else secret-head).",
)
@click.option("--features", type=click.IntRange(1, 4096), metavar="WIDTH", help="secret-head: random features (96).")
@click.option("--groups", type=click.IntRange(1), default=6, show_default=True, help="Groups at most.")
@click.option("--group-size", type=click.IntRange(1), default=3, show_default=True, help="Owners in a group.")
@click.option("--faulty", type=click.IntRange(0), help="Poisoned groups tolerated (default: 1 from 5 groups on).")
@click.option("--strict", is_flag=True, help="Select m = G - f - 2 groups (Krum's guarantee) instead of G - f.")
@delivery_option
@click.option("--lane-bits", type=click.Choice(["8", "16", "32"]), help="Default: 16; 32 where perturbed.")
@click.option("--batch-size", type=click.IntRange(1), help="Rows of an owner's batch.")
@click.option("--optimiser", help="As momentum:RATE,DECAY or sgd:RATE.")
@click.option("--clip", type=float, help="Largest magnitude of a gradient's value (default: from own rows).")
@click.option("--depth", type=int, default=0, show_default=True, help="Blocks between commit and post.")
@click.option("--block-seconds", type=int, default=1, show_default=True, help="Slowest block time of the chain.")
@click.option("--join-seconds", type=int, default=120, show_default=True, help="Time for owners to join.")
@click.option("--open-seconds", type=int, default=60, show_default=True, help="Own time to open a round.")
@click.option("--phase-seconds", type=int, default=60, show_default=True, help="Commit, post and settle each.")
@click.option("--turn-seconds", type=int, default=5, show_default=True, help="A settler's turn.")
@click.option(
    "--settle-price-cap", type=AMOUNT, default="50gwei", show_default=True, metavar="AMOUNT", help="A gas at most."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For the initial weights.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.option("--only-post", is_flag=True, help="Leave once the task is there; `model run` plays it.")
@json_option
def post(reward: int | None, rate: int | None, yes: bool, only_post: bool, as_json: bool, **options: Any) -> None:
    """Post a task: say what it costs, ask, put the reward in escrow, print its number, play it to its end.

    \b
    Rounds are opened by this folder's daemon, so the command stays. With --only-post it leaves, and
    omnilytics model run --home FOLDER (or omnilytics start) goes on. Posting the same again never pays
    twice: it finishes, or goes on with, what was begun.

    \b
    Example: omnilytics model post --home ./model --test own.npz --rounds 10 --reward 1eth --model mlp:64,32
    """
    from omnilytics.daemon.amounts import format_amount
    from omnilytics.daemon.post import Callbacks, Quote, post_task, share_of, with_defaults
    from omnilytics.daemon.run import ModelOptions
    from omnilytics.peers.errors import ConfigurationError

    settings, password_file = settings_from(options)
    chosen = with_defaults(options)
    owners = chosen["groups"] * chosen["group_size"]
    if (reward is None) == (rate is None):
        raise ConfigurationError(
            "say what is paid, by --reward or by --rate", help="as --reward 1eth, for all owners and rounds together"
        )
    share = share_of(reward, chosen["rounds"], owners) if reward is not None else rate
    assert share is not None
    quoted: list[Quote] = []

    def confirm(quote: Quote) -> bool:
        quoted.append(quote)
        click.echo("\n".join(quote.lines()), err=True)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigurationError("nothing was posted: there is no terminal to ask on", help="add --yes")
        if click.confirm(f"Post it, and pay {format_amount(quote.escrow)} into escrow?", err=True):
            return True
        click.echo("nothing was posted", err=True)
        return False

    def posted(task: int, again: bool) -> None:
        escrow = quoted[0].escrow if quoted else None
        paid = f", {format_amount(escrow)} in escrow" if escrow is not None else ""
        text = f"task {task}{' was posted before; nothing was paid again' if again else f' is posted{paid}'}"
        emit("model post", {"task": task, "new": not again, "escrow_wei": escrow}, as_json, text)
        sys.stdout.flush()
        if not only_post:
            click.echo(f"playing it; watch it: omnilytics model watch {task} --home {settings.home}", err=True)

    post_task(
        settings,
        password_file,
        ModelOptions(**chosen, rate=share, task=None),
        Callbacks(confirm, posted, tell_round(chosen["rounds"])),
        stay=not only_post,
    )


def tell_round(rounds: int) -> Any:
    """A line on standard error for each round that is over."""

    def told(number: int, result: Any) -> None:
        selected = ",".join(map(str, result.found.selected)) or "-"
        of = f"/{rounds}" if rounds else ""
        words = f"accuracy {result.accuracy:.4f}, {result.outcome.name.lower()}, groups {selected}"
        click.echo(f"round {number}{of}: {words}", err=True)

    return told
