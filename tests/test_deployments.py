"""Whole small markets as they are deployed: secured brokers, and a chain that makes people wait and pay more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from omnilytics.peers.errors import ConfigurationError
from scripts.launcher.options import TestbedOptions
from scripts.launcher.run import run_testbed
from tests.test_broker_process import NEEDS_MOSQUITTO

SMALL = TestbedOptions(protection="envelope", owners=9, faulty=0, rounds=1, seed=1, verify=True)


def played(folder: Path, **changes: object) -> dict[str, object]:
    summary = asyncio.run(run_testbed(TestbedOptions(**{**vars(SMALL), **changes}), folder))
    (only,) = summary["rounds"]
    assert only["outcome"] == "selected" and not only["absent_owners"]
    assert summary["escrow_wei"] == sum(summary[f"{way}_wei"] for way in ("paid", "settlement", "refunded", "locked"))
    assert summary["locked_wei"] == 0 and summary["paid_wei"] > 0
    return summary


def test_over_tls_with_certificates_on_a_chain_of_slow_blocks_whose_fee_jumps(tmp_path: Path) -> None:
    """Transactions wait for the next block, daemons for the one after, and posts cost a hundred times as much."""
    summary = played(tmp_path / "run", broker_security="tls", block_time=1, finality_depth=1, depth=1, fee_jump=100)
    mishaps = summary["mishaps"]
    assert isinstance(mishaps, list) and [mishap["what"] for mishap in mishaps] == ["base fee"]
    lines = (tmp_path / "run" / "logs" / "owner-00.jsonl").read_text(encoding="utf-8")
    assert "broker.denied" not in lines and "broker.lost" not in lines
    assert (tmp_path / "run" / "participants" / "model" / "broker" / "certificate.pem").is_file()


@NEEDS_MOSQUITTO
def test_over_tls_on_two_bridged_mosquittos(tmp_path: Path) -> None:
    played(tmp_path / "run", broker="bridged", broker_security="tls")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(block_time=3), "--block-time 3 is slower"),
        (dict(block_time=1, chain="http://h"), "for the local chain"),
        (dict(fee_jump=1, chain="http://h"), "--fee-jump needs the local chain"),
        (dict(broker="mqtt://h", broker_security="tls"), "a broker of the testbed's own"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        TestbedOptions(**{**vars(SMALL), **changes}).check()
