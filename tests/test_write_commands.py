"""docs/commands.md is what the help says, with an entry for every command."""

import click
import pytest
from click.testing import CliRunner

from omnilytics.daemon.cli import cli
from scripts import write_commands_main
from scripts.write_commands_main import PAGE, commands, main, page

COMMANDS = [" ".join(path) for path, _ in commands()]


@pytest.fixture(autouse=True)
def forget_help_options() -> None:
    """click keeps a command's help option from its first call, and other tests call commands without their group."""
    waiting: list[click.Command] = [cli]
    while waiting:
        command = waiting.pop()
        command._help_option = None
        waiting += command.commands.values() if isinstance(command, click.Group) else []


def test_the_page_is_what_the_help_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: scripts/write-commands"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_entry_with_example_and_options(name: str) -> None:
    entry = page().split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert f"Usage: omnilytics {name} " in entry
    assert f"Example: omnilytics {name}" in entry
    assert "--help" in entry
    assert f"- [{name}](#{name.replace(' ', '-')}): " in page()


def test_check_says_when_the_page_is_old(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(main, ["--check"]).exit_code == 0
    monkeypatch.setattr(write_commands_main, "_HEAD", "another head\n")
    done = CliRunner().invoke(main, ["--check"])
    assert (done.exit_code, "run: scripts/write-commands" in done.output) == (1, True)


def test_nobodys_folder_is_in_the_page() -> None:
    assert "/home/" not in page()
    assert "/root" not in page()
