"""The command `omnilytics`: parses, calls, prints. Our errors become a line, a line of help and an exit code."""

from __future__ import annotations

import os
import sys

import click

from omnilytics.daemon.commands.background import restart, start, stop
from omnilytics.daemon.commands.broker import broker
from omnilytics.daemon.commands.bundle import bundle
from omnilytics.daemon.commands.completion import completion
from omnilytics.daemon.commands.configuration import config
from omnilytics.daemon.commands.data import data
from omnilytics.daemon.commands.doctor import doctor
from omnilytics.daemon.commands.earnings import earnings, withdraw
from omnilytics.daemon.commands.health import health
from omnilytics.daemon.commands.initialise import init
from omnilytics.daemon.commands.keys import keys
from omnilytics.daemon.commands.ledger import ledger
from omnilytics.daemon.commands.logs import logs
from omnilytics.daemon.commands.model import model
from omnilytics.daemon.commands.monitor import monitor
from omnilytics.daemon.commands.owner import owner
from omnilytics.daemon.commands.places import paths, version
from omnilytics.daemon.commands.policy import policy
from omnilytics.daemon.commands.service import service
from omnilytics.daemon.commands.status import status
from omnilytics.daemon.commands.tasks import tasks
from omnilytics.daemon.commands.ui import ui
from omnilytics.daemon.signals import pass_over_endings
from omnilytics.peers.errors import OmniLyticsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="omnilytics")
def cli() -> None:
    """A secure data market for machine learning: owners train, the contract aggregates and pays.

    \b
    Exit codes: 0 done (also after SIGTERM or SIGINT), 1 other, also doctor where a check failed,
    2 usage or configuration, 3 communications, 4 chain interface, 5 port, 6 account, funds or keys,
    7 contract mismatch, 8 data folder in use, 9 data or journal,
    10 monitor --once: an alert stands.
    """


cli.add_command(bundle)
cli.add_command(completion)
cli.add_command(config)
cli.add_command(data)
cli.add_command(doctor)
cli.add_command(earnings)
cli.add_command(health)
cli.add_command(broker)
cli.add_command(init)
cli.add_command(keys)
cli.add_command(ledger)
cli.add_command(logs)
cli.add_command(model)
cli.add_command(monitor)
cli.add_command(owner)
cli.add_command(paths)
cli.add_command(policy)
cli.add_command(restart)
cli.add_command(service)
cli.add_command(start)
cli.add_command(status)
cli.add_command(stop)
cli.add_command(tasks)
cli.add_command(ui)
cli.add_command(version)
cli.add_command(withdraw)


def main() -> None:
    """The command with the arguments of this process."""
    main_with(cli)


def program() -> None:
    """The entry point of the installed command: a process of its own, whose exit code no late signal changes."""
    try:
        main()
    finally:
        pass_over_endings()


def main_with(command: click.Command) -> None:
    """Runs a command and turns its errors into words and exit codes."""
    try:
        command(standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.Abort:
        click.echo("aborted", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except OmniLyticsError as error:
        click.echo(f"error: {error.message}", err=True)
        click.echo(f"  {error.help}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Who reads has gone, as head does; Python would complain about it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # A path that cannot be: too long, through a file, on a read-only disk.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        click.echo("  check the paths among the options, and who may read and write there", err=True)
        sys.exit(OmniLyticsError.exit_code)


if __name__ == "__main__":
    program()
