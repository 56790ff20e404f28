"""The committed vectors are what their generator writes: nobody edits them by hand, and nothing drifts."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "vectors"
GENERATE = runpy.run_path(str(FOLDER / "generate.py"))
NAMES = sorted(GENERATE["GENERATORS"])


def test_every_file_has_its_generator() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_what_is_generated(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == GENERATE["render"](name)


@pytest.mark.parametrize("name", NAMES)
def test_solidity_can_read_it(name: str) -> None:
    file = json.loads((FOLDER / f"{name}.json").read_text())
    assert file["count"] > 0 and file["badCount"] > 0
    cases = [file[f"case{i}"] for i in range(file["count"])] + [file[f"bad{i}"] for i in range(file["badCount"])]
    assert len(cases) + 2 == len(file)
    for case in cases:
        for value in case.values():
            flat: list[Any] = value if isinstance(value, list) else [value]
            assert len({type(item) for item in flat}) <= 1
            for item in flat:
                assert isinstance(item, (str, bool, int))
                assert isinstance(item, str) or 0 <= item < 1 << 63
