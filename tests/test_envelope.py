"""What commands print: one versioned object, or text."""

import json

import pytest

from omnilytics.daemon.commands.envelope import emit


def test_programs_get_one_object_with_version_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    emit("data add", {"rows": 2**80, "label": "é\n"}, True, "for people")
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert json.loads(out) == {"version": 1, "command": "data add", "data": {"rows": 2**80, "label": "é\n"}}


def test_people_get_the_text_and_nothing_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    emit("data add", {"rows": 3}, False, "3 rows")
    emit("data add", {"rows": 3}, False, "")
    assert capsys.readouterr() == ("3 rows\n", "")


def test_what_is_no_number_in_json_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    emit("monitor", {"a": [1.5, float("nan")], "b": {"c": (float("inf"), "NaN")}}, True, "")
    out = capsys.readouterr().out

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(out, parse_constant=refuse)["data"] == {"a": [1.5, None], "b": {"c": [None, "NaN"]}}
