"""Gas times price: added up by role, once each, from logs."""

import json
from pathlib import Path

import click
import pytest

from scripts.calldata_cost_main import Spent, read_run, table


def record(role: str, peer: str, event: str, function: str = "", gas: int = 0, size: int = 0) -> str:
    data = {"function": function, "calldata_bytes": size}
    return json.dumps({"role": role, "peer": peer, "event": event, "gas": gas, "data": data})


def test_transactions_are_added_up_by_role_and_function(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in "ab":
        lines = [record("owner", name, "tx.mined", "post", 500_000, 10_000), record("owner", name, "heartbeat")]
        (tmp_path / "logs" / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "logs" / "m.jsonl").write_text(record("model", "m", "tx.reverted", "openRound", 100_000, 100))
    spent = read_run(tmp_path)
    assert Spent("owner", "post", 2, 2, 1_000_000, 20_000) in spent
    assert Spent("model", "openRound", 1, 1, 100_000, 100) in spent
    written = "\n".join(table(spent))
    assert "| owner | post | 2 | 500,000 | 10,000 | 80 % |" in written
    assert "| owner | 500,000 | 0.000005 ETH | 0.000050 ETH | 0.000500 ETH | 0.005000 ETH | 0.025000 ETH |" in written


def test_a_folder_without_transactions_is_told(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="no transactions"):
        read_run(tmp_path)
