"""The newcomer's transcript: its commands are commands, and its writer writes down what was, or nothing."""

import re
import shlex
from pathlib import Path

import click
import pytest

from omnilytics.daemon.cli import cli
from omnilytics.daemon.training.data import read_dataset
from scripts.first_minutes_main import OTHERS, PAGE, Story, UnexpectedError, page, share_out
from scripts.toolchain import ROOT

TYPED = re.findall(r"^\$ omnilytics (.*?)(?: &)?$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_shows_both_sides_and_the_money() -> None:
    for command in ("init", "doctor", "data add", "owner run", "model run", "earnings", "withdraw"):
        assert any(typed.startswith(command) for typed in TYPED), command


@pytest.mark.parametrize("typed", TYPED)
def test_every_command_of_the_page_still_is_one(typed: str) -> None:
    command: click.Command = cli
    arguments = shlex.split(typed)
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    with command.make_context("omnilytics", arguments, **cli.context_settings) as context:
        assert context.command is command


def test_the_page_tells_nothing_of_the_machine() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)


async def test_what_a_command_prints_is_written_down_with_its_time(tmp_path: Path) -> None:
    story = Story(tmp_path)
    out = await story.run(f"""sh -c 'echo {tmp_path}/a; echo {ROOT}/b >&2'""")
    assert out == f"{tmp_path}/a\n"
    text = page(story, 61.4)
    assert "All of it took 61 s." in text
    # Which of two streams comes first, nobody knows.
    printed = "~/market/a\n~/omnilytics/b", "~/omnilytics/b\n~/market/a"
    assert re.search(rf"\$ sh -c .*\n({'|'.join(printed)})\n```\n\*\(\d+\.\d s\)\*", text)


async def test_an_expected_failure_is_told_and_any_other_ends_the_story(tmp_path: Path) -> None:
    story = Story(tmp_path)
    await story.run("sh -c 'exit 3'", code=3)
    assert "exit code 3)*" in "\n".join(story.lines)
    with pytest.raises(UnexpectedError, match="exit code 0, not 1: true"):
        await story.run("true", code=1)


async def test_settings_of_the_machine_do_not_reach_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNILYTICS_CHAIN", "http://elsewhere")
    assert await Story(tmp_path).run("sh -c 'echo ${OMNILYTICS_CHAIN-none}'") == "none\n"


def test_everybody_has_rows_of_all_digits(tmp_path: Path) -> None:
    share_out(tmp_path)
    files = [tmp_path / "rows.csv", tmp_path / "own.csv", *sorted((tmp_path / "others").iterdir())]
    assert len(files) == OTHERS + 2
    for file in files:
        rows = read_dataset(file, "digit")
        assert len(rows.classes) == 10
        assert rows.row_count > 64
