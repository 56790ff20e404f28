"""What a daemon says of itself, in data and in words."""

from __future__ import annotations

import math
from typing import Any

from omnilytics.daemon.control.report import (
    duration,
    ether,
    plain,
    policy_report,
    status_lines,
    task_report,
)
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.training.private import PrivacyOptions
from omnilytics.peers.market import MemberStatus, RoundPhase, TaskStatus
from tests.market_views import MODEL_OWNER, PARAMS, address, member, seated, snapshot, state


def test_a_task_is_told_as_its_owner_sees_it() -> None:
    members = tuple(member(number, flags=1 if number < 5 else 0, round_number=2) for number in range(9))
    seen = snapshot(state(phase=RoundPhase.COMMIT, round=2, phase_end=1000), members)
    told = task_report(seen, address(4), 958, "committed")
    assert told["phase"] == "commit" and (told["round"], told["rounds"]) == (2, 2)
    assert (told["membership"], told["group"], told["stage"]) == ("seated", 1, "committed")
    assert told["waiting"] == "waiting: 5 of 9 owners committed, 42 s left"
    assert (told["deadline"], told["left_s"], told["stake_wei"]) == (1000, 42, PARAMS.stake)
    assert told["waiting_for"] == ["0x" + address(number).hex() for number in range(5, 9)]
    assert told["model_owner"] == "0x" + MODEL_OWNER.hex()


def test_a_task_without_us_or_without_a_seat_has_no_group() -> None:
    joined = (*seated(2), member(7, status=MemberStatus.JOINED))
    told = task_report(snapshot(state(status=TaskStatus.REVEALING), joined), address(7), 0, None)
    assert (told["phase"], told["membership"], told["group"]) == ("revealing", "joined", None)
    told = task_report(snapshot(state(status=TaskStatus.ENDED)), address(99), 0, None)
    assert (told["phase"], told["membership"], told["group"], told["waiting"]) == ("ended", None, None, None)
    assert told["stake_wei"] == 0 and told["waiting_for"] == []


STATUS: dict[str, Any] = {
    "role": "owner",
    "address": "0x12",
    "version": "1.2.3",
    "pid": 7,
    "boot_id": "life",
    "state": "ready",
    "uptime_s": 200.0,
    "health": {"live": True, "ready": True, "reasons": [], "notes": []},
    "chain": {"chain_id": 31337, "market": "0x", "head_block": 5, "head_age_s": 1.2, "skew_s": 0.0, "seen_block": 5},
    "broker": {"connected": True},
    "queue": {"pending": 1},
    "balance_wei": 10**18,
    "log_level": "debug",
    "tasks": [],
}


def test_the_status_in_words() -> None:
    assert status_lines(STATUS) == [
        "owner 0x12, ready for 3 min, version 1.2.3, pid 7",
        "health   ready",
        "chain    block 5, 1 s old, id 31337",
        "broker   connected",
        "queue    1 transaction under way",
        "balance  1.000000 ether",
        "task     none yet",
    ]
    task = task_report(snapshot(state(phase=RoundPhase.COMMIT, round=1)), address(3), 900, "masking")
    ill = {"live": True, "ready": False, "reasons": ["a", "b\x1b[2J"], "notes": ["c"]}
    starting = {"chain": STATUS["chain"] | {"head_block": None}, "broker": {"connected": False}, "balance_wei": None}
    lines = status_lines(STATUS | starting | {"health": ill, "tasks": [task]})
    assert lines[1:] == [
        "health   not ready: a; b?[2J",
        "note     c",
        "broker   not connected",
        "queue    1 transaction under way",
        "balance  unknown",
        "task 1   round 1 of 2, commit, our group is 1, our stage is masking",
        "         waiting: 0 of 9 owners committed, 100 s left",
    ]


def test_amounts_and_durations_are_for_people() -> None:
    assert [ether(amount) for amount in (None, 0, 5, 10**12, -3 * 10**18)] == [
        "unknown",
        "0 wei",
        "5 wei",
        "0.000001 ether",
        "-3.000000 ether",
    ]
    seconds = (None, 0.4, 119, 120, 7200, 172_800)
    assert [duration(each) for each in seconds] == ["unknown", "0 s", "119 s", "2 min", "2 h", "2 d"]
    assert plain("a\x1b[2J\nb\u202e") == "a?[2J?b?"


def test_the_policy_is_told_with_what_is_default() -> None:
    chosen = Policy(minimum_reward=7)
    told = policy_report(chosen, PrivacyOptions(), {"policy": {"minimum_reward": 7}})
    assert told["policy"]["minimum_reward"]["value"] == 7 and not told["policy"]["minimum_reward"]["default"]
    assert told["policy"]["maximum_epsilon"]["value"] is None and told["policy"]["maximum_epsilon"]["default"]
    assert told["policy"]["architectures"]["value"] == ["*"]
    assert told["privacy"]["noise_multiplier"]["value"] == 0
    assert not any(math.inf == entry["value"] for table in told.values() for entry in table.values())
    assert all(entry["meaning"] for entry in told["policy"].values())
