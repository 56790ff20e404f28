import json
from pathlib import Path

import pytest

from scripts.gas_snapshot import differences, main

KEPT = {"join": "200000", "settle": "1000000"}


def test_half_a_percent_is_let_pass_either_way() -> None:
    assert not differences(KEPT, {"join": "201000", "settle": "995000"}, False)
    (line,) = differences(KEPT, {"join": "201001", "settle": "1000000"}, False)
    assert "201,001" in line and "200,000" in line and "+0.5%" in line
    (line,) = differences(KEPT, {"join": "200000", "settle": "994999"}, False)
    assert "settle" in line and "-0.5%" in line


def test_names_must_be_the_same_unless_only_a_part_was_run() -> None:
    assert len(differences(KEPT, {"join": "200000"}, False)) == 1
    assert not differences(KEPT, {"join": "200000"}, True)
    assert len(differences(KEPT, {"join": "200000", "leave": "1"}, True)) == 1


def test_the_command_says_how_to_write_it_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, measured = tmp_path / "kept.json", tmp_path / "measured.json"
    kept.write_text(json.dumps(KEPT))
    measured.write_text(json.dumps(KEPT))
    assert main([str(kept), str(measured)]) == 0
    measured.write_text(json.dumps({**KEPT, "settle": "2000000"}))
    assert main([str(kept), str(measured)]) == 1
    told = capsys.readouterr().err
    assert "settle: 2,000,000 gas, 1,000,000 in the snapshot (+100.0%)" in told
    assert "scripts/test-contracts --write-gas" in told
