"""Data sets with names: tables of config.toml, and what a command line means by one."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon.data_registry import DataSource, choose, entry_text, name_for, read_registry
from omnilytics.peers.errors import ConfigurationError

ROWS = DataSource(Path("/srv/rows.csv"), "outcome")


@pytest.mark.parametrize(
    "source",
    [ROWS, DataSource(Path("/srv/rows.npz")), DataSource(Path('/srv/a "b"\\c\n\x7fé.csv'), "un # = [label]\t")],
    ids=["csv", "npz", "awkward"],
)
def test_what_is_written_is_read_back(source: DataSource, tmp_path: Path) -> None:
    table = tomllib.loads(entry_text("rows", source))["data"]
    assert read_registry(table, tmp_path) == {"rows": source}


def test_files_are_relative_to_the_data_folder(tmp_path: Path) -> None:
    assert read_registry({"rows": {"file": "rows.npz"}}, tmp_path) == {"rows": DataSource(tmp_path / "rows.npz")}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"rows": "rows.csv"}, r"'rows' in \[data\] is no table"),
        ({"rows": {}}, r"\[data.rows\] names no file"),
        ({"rows": {"file": "x", "lable": "y"}}, r"unknown key 'lable' in \[data.rows\]; did you mean 'label'"),
        ({"rows": {"file": 5}}, r"'file' in \[data.rows\] has a value of the wrong type"),
        ({"rows": {"file": "a\0b"}}, r"'file' in \[data.rows\] has a value of the wrong type"),
        ({"rows": {"file": "x", "label": ""}}, r"'label' in \[data.rows\] has a value of the wrong type"),
    ],
)
def test_mistakes_are_named(table: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_registry(table, tmp_path)


def test_the_only_one_is_meant_without_a_name() -> None:
    assert choose({"rows": ROWS}, None, None) == ROWS
    assert choose({"rows": ROWS}, None, "other") == DataSource(ROWS.file, "other")


def test_a_name_or_a_file_says_which() -> None:
    both = {"rows": ROWS, "more": DataSource(Path("/srv/more.npz"))}
    assert choose(both, Path("more"), None) == both["more"]
    assert choose(both, Path("else.csv"), "y") == DataSource(Path("else.csv"), "y")
    with pytest.raises(ConfigurationError, match="2 data sets are registered: rows, more") as caught:
        choose(both, None, None)
    assert "--data NAME" in caught.value.help


def test_without_any_the_way_is_told() -> None:
    with pytest.raises(ConfigurationError, match="no data is registered") as caught:
        choose({}, None, None)
    assert "omnilytics data add" in caught.value.help


def test_names_come_from_files_and_need_no_quotes() -> None:
    assert name_for(Path("/srv/my rows (2024).csv")) == "my-rows-2024"
    assert name_for(Path("/srv/é.csv")) == "rows"
    with pytest.raises(ConfigurationError, match="'a b' is no name for data"):
        entry_text("a b", ROWS)
