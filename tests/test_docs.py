"""What the documents say that the code says better."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.draw_phases_main import PAGE, redrawn
from scripts.toolchain import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_state_diagrams_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert redrawn(text) == text, "run: scripts/draw-phases"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_and_every_script_named_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (document.parent / target).exists(), target
    for script in re.findall(r"scripts/([a-z-]+)\b", text):
        assert (ROOT / "scripts" / script).exists(), script
    for name in re.findall(r"`((?:tests|daemon|peers|contracts)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_option_of_the_readme_is_one() -> None:
    from omnilytics.daemon.commands.model import run as model
    from omnilytics.daemon.commands.model_fetch import fetch, predict
    from omnilytics.daemon.commands.model_post import post
    from omnilytics.daemon.commands.model_watch import watch
    from omnilytics.daemon.commands.monitor import monitor
    from omnilytics.daemon.commands.owner import run as owner
    from scripts.coordinator_main import main as coordinator
    from scripts.testbed_main import main as testbed

    known = {
        name
        for command in (testbed, coordinator, model, post, watch, fetch, predict, monitor, owner)
        for p in command.params
        for name in p.opts
    }
    known |= {"--help", "--home"}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text):
        assert option in known, option
