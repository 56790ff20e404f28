"""What the local page says, from a daemon's answers."""

from __future__ import annotations

from typing import Any

import pytest

from omnilytics.daemon.control.report import earnings_report, policy_report, task_report
from omnilytics.daemon.earnings import Earnings, TaskEarnings
from omnilytics.daemon.policy import Policy
from omnilytics.daemon.training.private import PrivacyOptions
from omnilytics.daemon.ui.view import health_badge, log_lines, offer, offered, page_view, playing, policy_rows
from omnilytics.peers.market import RoundPhase, TaskStatus
from tests.market_views import address, seated, snapshot, state
from tests.test_control_report import STATUS

TASK: dict[str, Any] = {
    "task": 2,
    "model_owner": "0x" + "ab" * 20,
    "status": "joining",
    "ours": False,
    "owners": 4,
    "most_owners": 9,
    "group_size": 3,
    "rounds": 5,
    "rate_wei": 10**15,
    "stake_wei": 4 * 10**15,
    "joins_left_s": 130,
    "trains": {
        "architecture": "softmax",
        "columns": 64,
        "classes": 12,
        "class_names": ["a", "<b>"],
        "values": 780,
        "batch_rows": 16,
        "protection": "envelope",
    },
    "promise": "hidden from outsiders",
    "verdict": "waiting for your word",
    "reason": "data and policy allow it (ask_first)",
    "decision": None,
}
TASKS: dict[str, Any] = {"ask_first": True, "tasks": [TASK]}
EARNINGS: dict[str, Any] = earnings_report(
    Earnings(
        bytes(20), 9, (TaskEarnings(1, "owner", "ended", 5, 5, 3, 2, 10**18), TaskEarnings(2, "owner", "joining")), 7
    )
)
POLICY = policy_report(Policy(minimum_reward=7), PrivacyOptions(), {"policy": {"minimum_reward": 7}})


def test_all_of_it() -> None:
    told = page_view(STATUS | {"address": "0x" + "12" * 20}, TASKS, EARNINGS, POLICY)
    assert told["title"] == "Data owner 0x1212…1212"
    assert told["tiles"][0] == ["1.000000 ether", "balance"]
    assert told["tiles"][1] == ["block 5", "chain 31337, seen 1 s ago"]
    assert told["earnings"]["rows"] == [
        ["2", "joining", "0", "0 wei", "0 wei", "0 wei", "0 wei"],
        ["1", "ended", "5", "5 wei", "3 wei", "2 wei", "1.000000 ether"],
    ]
    assert [tile[0] for tile in told["earnings"]["tiles"]] == ["5 wei", "3 wei", "9 wei", "1.000000 ether"]
    assert told["notes"] == [] and told["playing"] == []
    model = page_view(STATUS | {"role": "model"}, None, None, {})
    assert model["title"].startswith("Model owner") and model["policy"] is None is model["tasks"] is model["earnings"]


@pytest.mark.parametrize(
    ("changes", "badge"),
    [
        ({}, ["good", "ready"]),
        ({"state": "starting"}, ["warn", "starting"]),
        ({"state": "stopping"}, ["warn", "stopping"]),
        ({"state": "ready"}, ["bad", "not ready"]),
    ],
)
def test_the_badge_is_the_health(changes: dict[str, Any], badge: list[str]) -> None:
    ill = {"live": True, "ready": False, "reasons": ["the broker is not connected"], "notes": ["short"]}
    said = STATUS | (changes and {"health": ill}) | changes
    assert health_badge(said) == badge
    expected = [["bad", "the broker is not connected"], ["warn", "short"]] if changes else []
    assert page_view(said, None, None, {})["notes"] == expected


def test_before_the_chain_answers() -> None:
    blank = {"chain_id": None, "market": "0x", "head_block": None, "head_age_s": None, "skew_s": None}
    told = page_view(STATUS | {"chain": blank, "balance_wei": None, "broker": {"connected": False}}, None, None, {})
    assert [tile[:2] for tile in told["tiles"][:3]] == [
        ["unknown", "balance"],
        ["no block yet", "chain not reached"],
        ["not connected", "broker"],
    ]


def test_a_task_in_play() -> None:
    seen = snapshot(state(phase=RoundPhase.COMMIT, round=1))
    told = playing(task_report(seen, address(4), 958, "masking"))
    assert told["place"] == "round 1 of 2, commit" and told["waiting"] == "waiting: 0 of 9 owners committed, 42 s left"
    assert told["facts"] == [
        "3 groups, 9 owners",
        "we are in group 1",
        "our stage: masking",
        "0.004000 ether at stake",
    ]
    assert told["late"].count("0x") == 8 and told["late"].endswith(" …")
    over = playing(task_report(snapshot(state(status=TaskStatus.ENDED, group_count=0), seated(0)), address(4), 0, None))
    assert (over["place"], over["waiting"], over["facts"], over["late"]) == (
        "ended",
        "nothing is waited for",
        ["9 owners"],
        "",
    )


def test_an_offer_in_words() -> None:
    told = offer(TASK)
    assert told["title"] == "softmax on 64 columns, 12 classes (a, <b> …), envelope"
    assert told["terms"] == [
        "0.001000 ether a round, 5 rounds",
        "stake 0.004000 ether",
        "4 of 9 owners, in groups of 3",
        "by 0xabab…abab",
        "780 values, batches of 16 rows",
        "open for 2 min more",
    ]
    assert told["verdict"] == ["warn", "waiting for your word"] and told["accept"] and told["refuse"]
    assert "ask_first" in offered(TASKS)["hint"] and "by itself" in offered(TASKS | {"ask_first": False})["hint"]


@pytest.mark.parametrize(
    ("changes", "verdict", "accept", "refuse"),
    [
        ({"decision": "refused", "verdict": "refused"}, ["bad", "refused by you"], True, False),
        ({"decision": "accepted", "verdict": "accepted"}, ["good", "accepted by you"], False, True),
        # The user's yes does not overrule the policy, and is not shown as if it did.
        ({"decision": "accepted", "verdict": "refused"}, ["bad", "refused"], False, True),
        ({"verdict": "accepted"}, ["good", "accepted"], True, True),
        ({"ours": True, "verdict": "accepted"}, ["good", "joined"], False, False),
        ({"ours": True, "status": "running", "joins_left_s": None}, ["good", "joined"], False, False),
        ({"trains": None, "promise": None, "verdict": "refused"}, ["bad", "refused"], True, True),
    ],
    ids=str,
)
def test_verdict_and_buttons(changes: dict[str, Any], verdict: list[str], accept: bool, refuse: bool) -> None:
    told = offer(TASK | changes)
    assert (told["verdict"], told["accept"], told["refuse"]) == (verdict, accept, refuse)


def test_the_promise_is_not_said_twice() -> None:
    assert offer(TASK | {"verdict": "accepted", "reason": TASK["promise"]})["reason"] == ""


def test_the_policy_in_rows() -> None:
    rows = {row[0]: row[1:] for row in policy_rows(POLICY)}
    assert rows["minimum_reward"] == ["7", "set", "wei an owner and round"]
    assert rows["maximum_epsilon"][:2] == ["no limit", "default"]
    assert rows["allow_thin_sums"][0] == "no" and rows["architectures"][0] == "*"
    assert rows["blocked_model_owners"][0] == "none" and rows["local noise"][:2] == ["off", "default"]


def test_log_lines_as_on_a_terminal() -> None:
    line = {"ts": "2026-11-24T12:00:01.000+00:00", "level": "info", "event": "a", "msg": "b", "task": 1, "round": 2}
    assert log_lines([line]) == [["info", "12:00:01", "a task 1 round 2", "b"]]
