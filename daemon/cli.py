"""The command `omnilytics`: parses, calls, prints. Our errors become a line, a line of help and an exit code."""

from __future__ import annotations

import sys

import click

from omnilytics.daemon.commands.broker import broker
from omnilytics.daemon.commands.initialise import init
from omnilytics.daemon.commands.ledger import ledger
from omnilytics.daemon.commands.model import model
from omnilytics.daemon.commands.monitor import monitor
from omnilytics.daemon.commands.owner import owner
from omnilytics.daemon.commands.policy import policy
from omnilytics.daemon.commands.tasks import tasks
from omnilytics.peers.errors import OmniLyticsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="omnilytics")
def cli() -> None:
    """A secure data market for machine learning: owners train, the contract aggregates and pays.

    \b
    Exit codes: 0 done (also after SIGTERM or SIGINT), 1 other, 2 usage or configuration,
    3 communications, 4 chain interface, 5 port, 6 account, funds or keys,
    7 contract mismatch, 8 data folder in use, 9 data or journal,
    10 monitor --once: an alert stands.
    """


cli.add_command(broker)
cli.add_command(init)
cli.add_command(ledger)
cli.add_command(model)
cli.add_command(monitor)
cli.add_command(owner)
cli.add_command(policy)
cli.add_command(tasks)


def main() -> None:
    """The entry point of the installed command."""
    main_with(cli)


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
    except OSError as error:
        # A path that cannot be: too long, through a file, on a read-only disk.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        click.echo("  check the paths among the options, and who may read and write there", err=True)
        sys.exit(OmniLyticsError.exit_code)


if __name__ == "__main__":
    main()
