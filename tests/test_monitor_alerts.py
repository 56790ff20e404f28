"""Every alert is raised by its trouble, cleared when that is over, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from omnilytics.daemon.monitor.alerts import HELP, Alert, liveness, money_faults
from omnilytics.daemon.monitor.watch import Watch
from tests.monitor_logs import START, MadeUpMarket
from tests.monitor_views import read, watched

# The end of the last line of a market of two rounds that goes on.
NOW = 18.0


class Running:
    """A market of two rounds in its third opening, and more lines by hand."""

    def __init__(self, **options: Any) -> None:
        self.made = MadeUpMarket(owners=9, rounds=2, ends=False, **options)
        self.watch: Watch = watched(self.made.lines())

    def say(self, daemon_number: int, second: float, event: str, **fields: Any) -> None:
        """A line of an owner (or of the model owner, -1)."""
        daemon = self.made.model if daemon_number == -1 else self.made.people[daemon_number]
        self.watch.take([(daemon.name, read(daemon.line(second, event, **fields)))])

    def beat(self, second: float, *numbers: int, **changes: Any) -> None:
        """Signs of life of these, of everybody without numbers."""
        for number in numbers or range(-1, 9):
            daemon = self.made.model if number == -1 else self.made.people[number]
            self.watch.take([(daemon.name, read(self.made.heartbeat(daemon, second, **changes)))])

    def alerts(self, second: float) -> list[Alert]:
        """What stands at that second."""
        return self.watch.look(START + second)

    def codes(self, second: float) -> list[tuple[str, str]]:
        """Codes and subjects."""
        return [alert.key for alert in self.alerts(second)]


@pytest.fixture
def running() -> Running:
    return Running()


def test_a_market_that_goes_well_raises_none(running: Running) -> None:
    assert running.codes(NOW) == []


def test_a_market_that_ended_well_raises_none_for_ever() -> None:
    watch = watched(MadeUpMarket().lines())
    assert watch.look(watch.market.last_ts) == []
    assert watch.look(watch.market.last_ts + 10**7) == []


def test_every_alert_says_what_to_do() -> None:
    assert all(len(text) > 20 for text in HELP.values())
    for code in HELP:
        assert Alert(code, "x", "y", 0.0).help == HELP[code]


# ------------------------------------------------------------------ daemons


def test_an_owner_that_is_silent_is_named_until_it_speaks(running: Running) -> None:
    running.beat(45, *range(-1, 8))
    running.beat(70, *range(-1, 8))
    (alert,) = running.alerts(70)
    assert alert.key == ("silent", "owner-08")
    assert alert.text == "owner-08 has not been heard of for 52 s"
    assert liveness(running.watch.market.participants[running.made.people[8].peer], START + 70) == "silent"
    running.beat(71, 8)
    assert running.codes(71) == []
    (past,) = running.watch.history
    assert (past.raised, past.cleared) == (START + 70, START + 71)


def test_stale_is_not_silent_yet(running: Running) -> None:
    running.beat(48, *range(-1, 8))
    assert running.codes(48) == []
    assert liveness(running.watch.market.participants[running.made.people[8].peer], START + 48) == "stale"


def test_a_daemon_that_failed_is_quoted(running: Running) -> None:
    running.say(3, 19, "daemon.failed", msg="journal corrupt at byte 18432", level="error", code="journal")
    running.say(3, 19.1, "daemon.exit", reason="error")
    (alert,) = running.alerts(20)
    assert alert.key == ("failed", "owner-03") and "journal corrupt at byte 18432" in alert.text
    running.made.people[3].restarted()
    running.say(3, 20, "daemon.ready")
    assert running.codes(21) == []


def test_a_daemon_that_was_stopped_before_the_end_is_named(running: Running) -> None:
    running.say(2, 19, "daemon.exit", reason="signal")
    assert running.codes(20) == [("stopped", "owner-02")]


def test_little_disk_is_said(running: Running) -> None:
    running.beat(19, 5, disk_free_bytes=12 * 2**20)
    (alert,) = running.alerts(20)
    assert alert.key == ("disk", "owner-05") and "only 12 MB" in alert.text
    running.beat(21, 5, disk_free_bytes=None)
    assert running.codes(21) == []


def test_a_copied_data_folder_is_said(running: Running) -> None:
    running.say(1, 19, "safe-mode", msg="chain holds my commitment, journal does not", level="error")
    assert running.codes(20) == [("safe-mode", "owner-01")]


def test_a_task_that_cannot_be_played_is_named_until_it_is_taken_up_again(running: Running) -> None:
    """The daemon lives, and its other tasks go on: nobody else would notice before the stake is slashed."""
    said = {"level": "error", "code": "data"}
    running.say(1, 19, "task.failed", task=1, msg="dataset has 10 rows, the task needs 40", **said)
    running.say(1, 20, "task.failed", task=2, msg="the model is another one", **said)
    running.say(1, 21, "task.failed", task=1, msg="dataset has 11 rows, the task needs 40", **said)
    first, second = running.alerts(22)
    assert first.key == ("task-failed", "task 1 owner-01")
    assert first.text == "owner-01 cannot play task 1: dataset has 11 rows, the task needs 40"
    assert first.since == START + 19, "since the first time"
    assert second.key == ("task-failed", "task 2 owner-01")
    running.say(1, 23, "task.accepted", task=1, msg="taken up again")
    assert running.codes(24) == [("task-failed", "task 2 owner-01")]
    running.say(1, 25, "task.done", task=2, msg="everything is collected")
    assert running.codes(26) == []
    running.say(1, 27, "task.failed", task=3, msg="the rows have changed", **said)
    assert running.codes(28) == [("task-failed", "task 3 owner-01")]
    # A new life says anew what is wrong.
    running.say(1, 29, "daemon.ready", msg="ready")
    assert running.codes(30) == []


@pytest.mark.parametrize(("event", "code"), [("balance.low", "balance"), ("fee.high", "fee")])
def test_money_that_runs_out_and_fees_above_the_cap_stand_until_they_are_over(
    running: Running, event: str, code: str
) -> None:
    running.say(1, 19, event, msg="add 5 wei", level="warning")
    (alert,) = running.alerts(20)
    assert alert.key == (code, "owner-01") and "add 5 wei" in alert.text
    running.say(1, 21, f"{event}.over", msg="again")
    assert running.codes(22) == []


# ------------------------------------------------------------------ chain and clocks


def test_a_chain_that_stands_still_for_everybody_is_one_alert(running: Running) -> None:
    running.beat(90, head_age_s=75.0)
    assert running.codes(90)[0] == ("chain.still", "chain")
    running.beat(95, head_age_s=1.0)
    assert ("chain.still", "chain") not in running.codes(95)


def test_an_rpc_that_stands_still_is_its_owners_alone(running: Running) -> None:
    running.beat(19)
    running.say(4, 19, "chain.stalled", msg="no new block for 61 s; waiting", level="warning")
    assert running.codes(20) == [("chain.still", "owner-04")]
    running.say(4, 21, "chain.stalled.over", msg="well again")
    assert running.codes(22) == []


def test_rpcs_that_disagree_are_said(running: Running) -> None:
    running.say(4, 19, "rpc.disagreement", msg="the two RPCs show different blocks 7", level="warning")
    assert running.codes(20) == [("rpc.disagreement", "owner-04")]
    running.say(4, 21, "rpc.disagreement.over")
    assert running.codes(22) == []


def test_a_clock_unlike_the_others_is_named_and_which_way(running: Running) -> None:
    running.beat(19, 6, skew_s=-45.0)
    (alert,) = running.alerts(20)
    assert alert.key == ("clock.skew", "owner-06") and "45 s ahead of the others" in alert.text
    running.beat(21, 6, skew_s=45.0)
    assert "45 s behind the others" in running.alerts(22)[0].text
    # All alike: it is the chain's clock that differs, and a daemon says so itself.
    running.beat(23, skew_s=45.0)
    assert running.codes(24) == []
    running.say(6, 24, "clock.skew", msg="the chain's clock and ours differ by 61 s", level="warning")
    assert running.codes(24) == [("clock.skew", "owner-06")]


# ------------------------------------------------------------------ the task


def test_a_phase_past_its_deadline_is_said(running: Running) -> None:
    running.say(-1, 19, "phase.enter", task=1, round=3, phase="commit", block=99, deadline=int(START) + 60)
    running.beat(79)
    assert running.codes(79) == []
    running.beat(81)
    (alert,) = running.alerts(81)
    assert alert.key == ("phase.late", "task 1") and "commit of round 3 is 21 s past" in alert.text
    running.say(-1, 82, "phase.enter", task=1, round=3, phase="post", block=120, deadline=int(START) + 140)
    assert running.codes(82) == []


def test_who_does_not_collect_after_the_end_is_named() -> None:
    lines = list(MadeUpMarket().lines())
    kept = [(n, line) for n, line in lines if not (n == "owner-04" and ('"withdraw"' in line or '"task.done"' in line))]
    watch = watched(kept)
    over = watch.market.tasks[1].over_ts
    assert over is not None
    # Its goodbye alone is no claim.
    assert watch.look(over + 30) == []
    (alert,) = watch.look(over + 61)
    assert alert.key == ("unclaimed", "task 1 owner-04")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [('"ctx":"0x', '"ctx":"0xff', "ctx"), ('"committed":[0,1,2]', '"committed":[0,1]', "committed"),
     ('"complete":[0,1,2]', '"complete":[0,2]', "complete"), ('"groups":[0,1,2]', '"groups":[0]', "paid")],
)  # fmt: skip
def test_logs_that_disagree_about_a_round_are_an_alert(old: str, new: str, what: str) -> None:
    lines = []
    for name, line in MadeUpMarket().lines():
        mine = name == "owner-06" and '"round":2' in line and ('"round.groups"' in line or '"round.paid"' in line)
        lines.append((name, line.replace(old, new) if mine else line))
    watch = watched(lines)
    found = watch.look(watch.market.last_ts)
    assert found and {alert.code for alert in found} == {"disagreement"}
    assert f"task 1 round 2 {what}" in {alert.subject for alert in found}
    assert any("owner-06" in alert.text for alert in found)


def test_a_selection_that_the_model_owner_disputes_is_an_alert(running: Running) -> None:
    running.say(-1, 19, "krum.disagreement", task=1, round=2, level="error", code="krum", msg="differs")
    assert running.codes(20) == [("disagreement", "task 1 round 2 selection")]


def test_gas_far_above_the_usual_is_said_while_its_round_is_new() -> None:
    made = MadeUpMarket(owners=9, rounds=5, ends=False)
    dear = [
        (n, line.replace('"gas":90000', '"gas":140000') if '"round":5' in line else line) for n, line in made.lines()
    ]
    watch = watched(dear)
    (alert,) = watch.look(watch.market.last_ts)
    assert alert.key == ("gas", "task 1 post") and "round 5: post took 140,000 gas, usually 90,000" in alert.text
    bearable = [
        (n, line.replace('"gas":90000', '"gas":130000') if '"round":5' in line else line)
        for n, line in MadeUpMarket(owners=9, rounds=5, ends=False).lines()
    ]
    assert watched(bearable).look(watch.market.last_ts) == []


# ------------------------------------------------------------------ money


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"escrow": 1}, "escrow: 1 wei, but its parts make"),
        ({"locked": -1}, "negative: locked"),
        ({"compensation": 5, "slashed": 4}, "slashed: 4 wei, but compensation and burned make 5 wei"),
        ({"stakes_out": 10**18}, "stakes: more went out"),
        ({"paid": 0}, "rounds: payments of"),
    ],
)
def test_money_that_does_not_add_up_is_an_alert(running: Running, changes: dict[str, int], says: str) -> None:
    assert money_faults(running.watch.market.tasks[1]) == []
    running.made.block += 5
    running.say(0, 19, "money", **running.made.money(19, 2, **changes))
    faults = money_faults(running.watch.market.tasks[1])
    assert any(fault.startswith(says) for fault in faults), faults
    assert "escrow" in [alert.code for alert in running.alerts(20)]


def test_an_escrow_unlike_what_was_sent_is_an_alert() -> None:
    lines = [
        (n, line.replace('"wei":118', '"wei":119') if '"task.created"' in line else line)
        for n, line in MadeUpMarket(rounds=2).lines()
    ]
    watch = watched(lines)
    assert [fault.split(":")[0] for fault in money_faults(watch.market.tasks[1])] == ["sent"]


def test_a_payment_that_is_not_the_rate_is_an_alert() -> None:
    lines = [
        (n, line.replace('"wei":9000000000000000,"data":{"groups"', '"wei":9000000000000001,"data":{"groups"'))
        for n, line in MadeUpMarket().lines()
    ]
    watch = watched(lines)
    assert any("is not the rate" in fault for fault in money_faults(watch.market.tasks[1]))


def test_an_rpc_that_shows_a_block_with_its_neighbours_state_raises_none(running: Running) -> None:
    """Seen with anvil: two daemons read the same block within milliseconds, one of them the state before it."""
    made = running.made
    made.block += 1
    later = made.money(19, 2, stakes_out=8 * 10**15)
    before = made.money(19, 2, stakes_out=4 * 10**15)
    running.say(0, 19, "money", **later)
    running.say(1, 19, "money", **before)
    assert running.codes(20) == []
    assert running.watch.market.tasks[1].money["stakes_out"] == 8 * 10**15


def test_the_history_is_bounded(running: Running) -> None:
    for second in range(1000):
        running.beat(20 + 2 * second, 5, disk_free_bytes=1)
        running.alerts(20 + 2 * second)
        running.beat(21 + 2 * second, 5)
        running.alerts(21 + 2 * second)
    assert len(running.watch.history) == 256 and running.watch.raised > 1000
