"""The container file, as far as it can be judged without an engine: instructions, and that what it names is there."""

import json
import os
import re
from pathlib import Path

import click
import pytest

from omnilytics.daemon.cli import cli

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", TEXT).splitlines()
    found = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, rest in found]


def of(name: str) -> list[str]:
    return [rest for known, rest in instructions() if known == name]


def test_every_instruction_is_one_and_there_are_two_stages() -> None:
    assert {name for name, _ in instructions()} <= KNOWN
    assert instructions()[0][0] == "FROM"
    assert [rest.split()[0] for rest in of("FROM")] == ["docker.io/library/python:3.13-slim"] * 2


def test_what_is_copied_is_there_and_no_ignore_file_keeps_it_out() -> None:
    kept = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    for rest in of("COPY"):
        if rest.startswith("--from=build"):
            continue
        *sources, _target = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.removeprefix('./')}" in kept, source


def test_the_package_is_whole_in_the_image() -> None:
    """hatchling follows .ns to these folders; without one of them the build fails, or worse, does not."""
    copied = {source for rest in of("COPY") for source in rest.split()[:-1]}
    links = {os.path.realpath(link) for link in (ROOT / ".ns" / "omnilytics").iterdir()}
    assert {str(ROOT / name) for name in copied} >= links
    assert {"pyproject.toml", "README.md", "LICENSE", "requirements.lock"} <= copied


def test_it_does_not_run_as_root_and_keeps_its_folder() -> None:
    (user,) = of("USER")
    assert user == "10001:10001"
    (volume,) = of("VOLUME")
    (environment,) = of("ENV")
    assert f"OMNILYTICS_HOME={volume}" in environment.split()
    assert f"useradd --uid {user.split(':')[0]}" in TEXT
    assert f"-m 0700 {volume}" in TEXT
    last = [name for name, _ in instructions()]
    assert last.index("USER") < last.index("ENTRYPOINT")


@pytest.mark.parametrize("words", [json.loads(of("HEALTHCHECK")[0].split("CMD ")[1])[1:], json.loads(of("CMD")[0])])
def test_the_commands_are_ours_and_take_these_options(words: list[str]) -> None:
    assert json.loads(of("ENTRYPOINT")[0]) == ["omnilytics"]
    command = cli.commands[words[0]]
    assert isinstance(command, click.Command)
    known = {name for parameter in command.params for name in parameter.opts}
    assert set(words[1:]) <= known


def test_a_check_takes_less_time_than_lies_between_two() -> None:
    seconds = dict(re.findall(r"--(interval|timeout)=(\d+)s", of("HEALTHCHECK")[0]))
    assert int(seconds["timeout"]) < int(seconds["interval"])
