"""`scripts/write-commands`: docs/commands.md, from the command line's own help.

Exit codes: 0 written, or with --check nothing to write; 1 with --check: the page is not what the help says; 2 wrong
options.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from omnilytics.daemon.cli import cli
from scripts.toolchain import ROOT

PAGE = ROOT / "docs" / "commands.md"
WIDTH = 100
_HEAD = """\
# The commands

Written by `scripts/write-commands` from the commands' own help; a test compares. A tour in the order in which people
meet them, with what they print: [first-ten-minutes.md](first-ten-minutes.md).

**Data and diagnostics.** What a command answers goes to standard output, everything else to standard error. With
`--json` the answer is one object, `{"version": 1, "command": "tasks list", "data": {...}}`; `version` rises when a
field changes its meaning or goes, new fields come without a new one. `logs --json` prints the log's own lines
([log-schema.md](log-schema.md)) instead. Money is in whole wei: numbers of more than 53 bits, which Python reads whole
and JavaScript rounds.

**Settings.** A flag is stronger than the environment, that is stronger than `config.toml` in the data folder, and that
is stronger than the defaults. Every setting has a variable, as `OMNILYTICS_CHAIN_ID` for `chain_id`; so have `--home`
and `--password-file`. `omnilytics config show` tells where each value comes from. A name that nobody knows is an error
in the file and in the environment.

**Exit codes** are the same for all commands:
"""


def commands(group: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands that do something, with their paths, in the order of their names."""
    if isinstance(group, click.Group):
        for name, command in sorted(group.commands.items()):
            if not command.hidden:
                yield from commands(command, (*path, name))
    else:
        yield path, group


def page() -> str:
    """The whole page."""
    codes = inspect.cleandoc((cli.help or "").split("Exit codes:")[1])
    parts = [_HEAD, "```\n" + codes + "\n```\n"]
    parts.append("".join(_contents_line(path, command) for path, command in commands()))
    for path, command in commands():
        parts.append(f"## {' '.join(path)}\n\n```\n{_help(path, command)}\n```\n")
    return "\n".join(parts)


def _contents_line(path: tuple[str, ...], command: click.Command) -> str:
    first = (command.help or "").split("\n\n")[0].replace("\n", " ").strip()
    return f"- [{' '.join(path)}](#{'-'.join(path)}): {first}\n"


def _help(path: tuple[str, ...], command: click.Command) -> str:
    """As the terminal shows it, whoever looks and however wide theirs is."""
    context = click.Context(
        command,
        info_name=" ".join(("omnilytics", *path)),
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    lines = command.get_help(context).splitlines()
    return "\n".join(line.rstrip() for line in lines)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where the page is not what the help says.")
def main(check: bool) -> None:
    """Write docs/commands.md from the command line's own help."""
    wanted = page()
    if check:
        there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if there != wanted:
            click.echo(f"{PAGE.relative_to(ROOT)} is not what the help says; run: scripts/write-commands", err=True)
            sys.exit(1)
        return
    PAGE.write_text(wanted, encoding="utf-8")
    click.echo(f"{PAGE.relative_to(ROOT)} is written", err=True)


if __name__ == "__main__":
    main(prog_name="scripts/write-commands")
