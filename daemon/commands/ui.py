"""omnilytics ui: the running daemon's own local page."""

from __future__ import annotations

from pathlib import Path

import click

from omnilytics.daemon.commands.options import home_option


@click.command()
@home_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of 127.0.0.1 (default: any that is free).")
@click.option("--no-open", is_flag=True, help="Print the address and open no browser.")
def ui(home: Path, port: int, no_open: bool) -> None:
    """Serve the daemon's own page on this machine: status, tasks, earnings, policy, log; accept or refuse a task.

    The address that it prints holds a token: whoever has it may decide of tasks. Until Ctrl-C.

    \b
    Example: omnilytics ui --home ./alice
    """
    import asyncio

    from omnilytics.daemon.ui.server import serve_page

    def told(address: str) -> None:
        click.echo(address)
        click.echo("Ctrl-C ends it; the daemon goes on", err=True)

    asyncio.run(serve_page(home, port, told, open_browser=not no_open))
