"""What the logs of a market add up to: owners, groups, rounds, money; and that memory is bounded."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from omnilytics.daemon.monitor import fold_task
from omnilytics.daemon.monitor.findings import headlines, judge_groups, owner_accounts
from omnilytics.daemon.monitor.fold import HANDLED_EVENTS, fold
from omnilytics.daemon.monitor.krum_scores import krum_scores, median, percentile
from omnilytics.daemon.monitor.market import MAX_PARTICIPANTS, MAX_ROUNDS, Market
from omnilytics.daemon.monitor.panels import describe
from omnilytics.peers.krum import squared_distances
from tests.monitor_logs import RATE, Daemon, MadeUpMarket, address
from tests.monitor_views import STORY, market_view, read, view_of, watched

# ------------------------------------------------------------------ a market that goes well


def test_a_market_that_ended_well_is_told_to_the_last_wei() -> None:
    view = market_view(MadeUpMarket())
    assert view["alerts"] == [] and view["past_alerts"] == []
    assert view["header"]["owners"]["done"] == 9 and view["header"]["model"] == "done"
    (task,) = view["tasks"]
    assert (task["status"], task["round"], task["rounds"], task["joined"], task["needed"]) == ("ended", 3, 3, 9, 9)
    assert [entry["outcome"] for entry in task["timeline"]] == ["selected"] * 3
    assert [row["paid"] for row in task["funnel"]] == [9, 9, 9]
    assert task["funnel"][0] == dict.fromkeys(
        ("joined", "seeded", "committed", "posted", "complete", "selected", "paid"), 9
    ) | {"round": 1}
    money = task["money"]
    assert money["conserved"] is True and money["paid_wei"] == 27 * RATE
    assert {owner["earned_wei"] for owner in money["owners"]} == {3 * RATE}
    # What came, whatever was expected.
    assert {owner["withdrawn_wei"] for owner in money["owners"]} == {4 * RATE}
    assert sum(owner["earned_wei"] for owner in money["owners"]) == money["paid_wei"]
    # 160,000 + 9 x 56,000 + 9 x 90,000 + 1,200,000
    assert [entry["gas"] for entry in task["gas"]["rounds"]] == [2_674_000] * 3
    assert task["gas"]["functions"]["createTask"]["gas"] == 330_000
    assert [entry["accuracy"] for entry in task["accuracy"]] == pytest.approx([0.1, 0.5 + 0.4 / 3, 0.5 + 0.8 / 3, 0.9])
    honesty = view["honesty"]
    assert [honesty[name] for name in ("missing_lines", "repeated_lines", "other_versions", "forgotten")] == [0] * 4


def test_phases_are_timed() -> None:
    (task,) = market_view(MadeUpMarket())["tasks"]
    took = {entry["what"]: entry for entry in task["durations"]}
    assert took["commit"]["p50_s"] == pytest.approx(1.4) and took["commit"]["count"] == 3
    assert took["post"]["p95_s"] == pytest.approx(1.5)
    assert took["settle"]["p50_s"] == pytest.approx(0.5)
    assert took["seeding"]["count"] == 27 and took["seeding"]["p50_s"] == 0.6
    assert took["tx commit"]["p50_s"] == 0.08


def test_seeds_are_told_pair_by_pair() -> None:
    exchange = market_view(MadeUpMarket())["tasks"][0]["seeds"]
    assert exchange["round"] == 3 and exchange["slowest_ms"] == 400
    assert len(exchange["groups"]) == 3
    row = exchange["groups"][1]["rows"][0]
    assert [cell["state"] for cell in row["cells"]] == ["self", "agreed", "agreed"]
    assert row["model_key"] is True


def test_who_is_waited_for_is_known_while_a_phase_runs() -> None:
    market = MadeUpMarket(rounds=1, ends=False)
    lines = list(market.lines())
    posts = [n for n, (_, line) in enumerate(lines) if '"function":"post"' in line]
    view = view_of(watched(lines[: posts[3]]))
    (task,) = view["tasks"]
    assert task["phase"] == "post"
    assert task["waiting"]["for"] == [f"owner-{number:02d}" for number in range(3, 9)]
    stages = [owner["stage"] for row in task["owners"] for owner in row["owners"]]
    assert stages == ["posted"] * 3 + ["committed"] * 6


def test_the_model_owners_words_say_who_is_waited_for_where_owners_logs_are_missing() -> None:
    market = MadeUpMarket(rounds=1, ends=False)
    lines = [(name, line) for name, line in market.lines() if name == "model"]
    cut = next(n for n, (_, line) in enumerate(lines) if '"phase":"post"' in line)
    waiting = market.model.line(
        5, "waiting", msg="waiting: 7 of 9", task=1, round=1, phase="commit", waiting_for=[address(2), address(8)]
    )
    view = view_of(watched([*lines[:cut], ("model", waiting)]))
    (task,) = view["tasks"]
    assert task["waiting"] == {"text": "waiting: 7 of 9", "for": ["0x0303…0303", "0x0909…0909"]}
    stages = [owner["stage"] for row in task["owners"] for owner in row["owners"]]
    assert stages.count("committed") == 7 and stages[2] == stages[8] == "waiting"
    assert {owner["state"] for row in task["owners"] for owner in row["owners"]} == {"unheard"}


# ------------------------------------------------------------------ poison and drop-outs


def test_a_stranger_can_say_who_was_poisoned_who_dropped_and_who_was_paid() -> None:
    view = market_view(STORY)
    (task,) = view["tasks"]
    verdicts = {entry["group"]: entry["verdict"] for entry in task["krum"]["groups"]}
    assert verdicts == {
        0: "unsuspicious",
        1: "poisoned",
        2: "unsuspicious",
        3: "unsuspicious",
        4: "unsuspicious",
        5: "unsuspicious",
    }
    owners = {owner["name"]: owner for owner in task["money"]["owners"]}
    assert owners["owner-17"]["verdict"] == "dropped" and owners["owner-17"]["slashed_rounds"] == [2]
    assert {owners[f"owner-0{n}"]["verdict"] for n in (3, 4, 5)} == {"poisoned group"}
    assert owners["owner-03"]["earned_wei"] == 0
    assert owners["owner-00"]["earned_wei"] == 6 * RATE
    # Its group completed one round before it died, and is out since.
    assert owners["owner-15"]["earned_wei"] == owners["owner-17"]["earned_wei"] == RATE
    told = "\n".join(task["headlines"])
    assert "group 1 looks poisoned: Krum rejected it in 6 of the 6 rounds" in told
    assert "owner-03, owner-04, owner-05" in told
    assert "owner-17 (group 5) committed and did not post in round 2" in told
    assert "its group completed 1 of 6 rounds" in told
    assert [alert["code"] for alert in view["alerts"]] == ["silent"]


def test_a_group_that_krum_drops_from_close_by_is_not_called_poisoned() -> None:
    watch = watched(MadeUpMarket(rounds=5).lines())
    task = watch.market.tasks[1]
    for ratio, rejected, verdict in ((1.4, 5, "outlier"), (9.0, 5, "poisoned"), (9.0, 3, "unsuspicious")):
        group = task.groups[0]
        group.ratios.clear()
        group.ratios.extend([ratio] * 5)
        group.complete, group.rejected = 5, rejected
        assert judge_groups(task)[0].verdict == verdict
    task.groups[0].complete, task.groups[0].rejected = 2, 2
    assert judge_groups(task)[0].verdict == "unsuspicious"


def test_who_is_expelled_did_not_drop_in_that_round() -> None:
    """The contract calls both Slashed; only who had committed kept a vector back."""
    market = MadeUpMarket(owners=18, rounds=4, killed={17: 2}, ends=False)
    lines = []
    for name, line in market.lines():
        if '"round.done"' in line and '"round":4' in line:
            line = line.replace('"slashed":[]', f'"slashed":["{address(17)}"]')
        lines.append((name, line))
    task = watched(lines).market.tasks[1]
    assert list(task.owners[address(17)].slashed) == [2]
    assert task.owners[address(17)].expelled == 4


def test_a_restart_without_a_goodbye_is_a_death() -> None:
    market = MadeUpMarket(ends=False)
    watch = watched(market.lines())
    owner = market.people[4]
    owner.restarted()
    watch.take([(owner.name, read(owner.line(60, "daemon.ready", msg="ready")))])
    owner.restarted()
    watch.take([(owner.name, read(owner.line(70, "daemon.ready", msg="ready")))])
    person = watch.market.participants[owner.peer]
    assert (person.boots, [number for number, _ in person.deaths]) == (3, [3, 3])
    (account,) = [a for a in owner_accounts(watch.market, watch.market.tasks[1]) if a.peer == owner.peer]
    assert account.verdict == "killed" and account.died_in_rounds == (3, 3)
    assert any(
        "restarted without a goodbye: owner-04" in line for line in headlines(watch.market, watch.market.tasks[1])
    )


def test_a_restart_after_a_goodbye_is_none() -> None:
    daemon = Daemon("owner-00", 0)
    lines = [daemon.line(1, "daemon.ready"), daemon.line(2, "daemon.exit", reason="signal")]
    daemon.restarted()
    watch = watched(("owner-00", line) for line in [*lines, daemon.line(3, "daemon.ready")])
    assert not watch.market.participants[daemon.peer].deaths
    assert watch.market.honesty.restarts == 1


# ------------------------------------------------------------------ honesty


def test_lines_that_are_missing_repeated_or_late_are_counted() -> None:
    daemon = Daemon("a", 1)
    lines = [read(daemon.line(second, "heartbeat")) for second in range(10)]
    market = Market()
    for number in (0, 1, 4, 4, 5, 2, 9, 2):
        fold(market, lines[number], "a")
    honesty = market.honesty
    assert (honesty.records, honesty.gaps, honesty.late, honesty.repeated) == (8, 4, 1, 2)
    assert market.events["heartbeat"] == 6


def test_a_log_that_begins_in_the_middle_lacks_its_beginning() -> None:
    daemon = Daemon("a", 1, seq=999)
    market = Market()
    fold(market, read(daemon.line(1, "heartbeat")), "a")
    assert market.honesty.gaps == 999


def test_another_version_of_the_schema_is_counted_and_left_alone() -> None:
    line = Daemon("a", 1).line(1, "task.created", task=1, wei=5).replace('"v":1', '"v":2')
    watch = watched([("a", line)])
    assert watch.market.honesty.other_versions == 1
    assert not watch.market.tasks and not watch.market.participants


def test_a_file_of_one_daemon_gives_it_its_name_and_a_mixed_one_does_not() -> None:
    first, second, model = Daemon("x", 1), Daemon("x", 2), Daemon("x", 3, "model")
    watch = watched([("alice", first.line(1, "heartbeat"))])
    assert watch.market.name(first.peer) == "alice"
    watch.take([("alice", read(second.line(2, "heartbeat"))), ("-", read(model.line(3, "heartbeat")))])
    assert watch.market.name(first.peer) == "0x0202…0202"
    assert watch.market.name(model.peer) == "model"


# ------------------------------------------------------------------ order and bounds


def test_the_order_between_daemons_does_not_matter() -> None:
    """Lines of one daemon keep their order; whatever comes between them, the market is the same in the end."""
    lines = list(STORY.__class__(owners=12, rounds=3, poisoned=(1,), faulty=0).lines())
    expected = view_of(watched(lines))
    for seed in range(5):
        generator = random.Random(seed)
        keys = {name: sorted(generator.random() for _ in range(len(lines))) for name in {name for name, _ in lines}}
        positions = dict.fromkeys(keys, 0)
        keyed = []
        for name, line in lines:
            # Up to a few rounds ahead or behind of the others.
            keyed.append((keys[name][positions[name]], name, line))
            positions[name] += 1
        shuffled = view_of(watched([(name, line) for _, name, line in sorted(keyed, key=lambda item: item[0])]))
        for field in ("money", "krum", "funnel", "accuracy", "gas", "timeline", "status", "round"):
            assert shuffled["tasks"][0][field] == expected["tasks"][0][field], (seed, field)


def test_the_same_records_give_the_same_view() -> None:
    lines = list(MadeUpMarket(owners=12, rounds=3, poisoned=(2,)).lines())
    assert view_of(watched(lines)) == view_of(watched(lines))


def test_rounds_tasks_and_participants_are_bounded() -> None:
    model = Daemon("model", 254, "model")
    watch = watched([])

    def feed(event: str, **fields: Any) -> None:
        watch.take([("model", read(model.line(1, event, **fields)))])

    for number in range(1, MAX_ROUNDS + 200):
        feed("round.done", task=1, round=number, outcome="selected", accuracy=0.5, selected_groups=[0],
             complete_groups=[0, 1], void_groups=[], slashed=[], distances=[["0", "5"], ["5", "0"]])  # fmt: skip
    task = watch.market.tasks[1]
    assert len(task.rounds) == MAX_ROUNDS and task.forgotten_rounds == 199
    assert sum(bool(round_.distances) for round_ in task.rounds.values()) <= 64
    assert len(task.durations.get("round", [])) <= 2048
    # What is forgotten is in the totals, and an old round does not come back.
    assert task.groups[1].rejected == MAX_ROUNDS + 199
    feed("round.done", task=1, round=1, outcome="selected")
    assert 1 not in task.rounds
    for number in range(2, 300):
        feed("phase.enter", task=number, round=0, phase="joining")
    assert len(watch.market.tasks) <= 64
    for number in range(MAX_PARTICIPANTS + 50):
        peer = f"0x{number:040x}"
        line = Daemon("x", 1).line(number, "heartbeat").replace(address(1), peer)
        watch.take([("-", read(line))])
    assert len(watch.market.participants) == MAX_PARTICIPANTS
    assert watch.market.honesty.forgotten > 200


def test_no_stranger_can_fill_the_memory() -> None:
    """Every field of every event, with values that are new each time: what is kept stays bounded."""
    generator = random.Random(5)
    watch = watched([])

    def junk() -> Any:
        return generator.choice(
            [
                generator.randrange(2**40), f"text {generator.random()}", [generator.randrange(300) for _ in range(5)],
                [f"0x{generator.random()}" for _ in range(3)], None, -1, True, 1.5, {"a": 1}, [["1", "2"], ["3", "4"]],
            ]
        )  # fmt: skip

    names = (
        "round", "group", "phase", "dur_ms", "peer_to", "tx", "block", "gas", "wei", "code", "function", "members",
        "groups", "committed", "complete", "selected_groups", "complete_groups", "distances", "slashed", "missing",
        "waiting_for", "ctx", "deadline", "reason", "outcome", "accuracy", "silent", "help", "head_block",
    )  # fmt: skip
    sizes = []
    daemon = Daemon("x", 1)
    for number in range(5_000):
        event = generator.choice([*sorted(HANDLED_EVENTS), f"event {number}"])
        fields = {name: junk() for name in generator.sample(names, 9)}
        level = generator.choice(["info", "warning", "error"])
        line = daemon.line(number / 10, event, task=generator.choice([1, junk()]), level=level, **fields)
        watch.take([("-", read(line))])
        if number in (2_500, 4_999):
            sizes.append(_size(watch.market))
            view_of(watch)
    assert sizes[1] < 1.6 * sizes[0], sizes


def _size(value: Any, seen: set[int] | None = None) -> int:
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    total = sys.getsizeof(value)
    if isinstance(value, dict):
        total += sum(_size(k, seen) + _size(v, seen) for k, v in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)) or hasattr(value, "maxlen"):
        total += sum(_size(item, seen) for item in value)
    elif hasattr(value, "__slots__"):
        total += sum(_size(getattr(value, name), seen) for name in value.__slots__)
    return total


# ------------------------------------------------------------------ small sums


def test_scores_are_those_of_krum() -> None:
    """The same as the contract's twin would sum up, from the same distances."""
    import numpy as np

    from omnilytics.peers.krum import select
    from omnilytics.peers.quantise import RingLayout

    generator = np.random.default_rng(3)
    for _ in range(20):
        sums = [generator.integers(0, 50, 16).astype(np.uint16) for _ in range(7)]
        distances = squared_distances(sums, RingLayout(16, 16))
        scores = krum_scores(distances, 2)
        kept = select(distances, 2, False)
        ranked = sorted(range(7), key=lambda group: (scores[group], group))[: len(kept)]
        assert sorted(ranked) == sorted(kept)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.1, 1), (0.5, 5), (0.51, 6), (0.95, 10), (1.0, 10)]
)  # fmt: skip
def test_percentiles_are_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(10, 0, -1), share) == expected
    assert percentile([], share) == 0.0
    assert median([4.0, 1.0]) == 1.0


def test_every_money_field_is_the_daemons() -> None:
    from omnilytics.daemon import market_log

    assert market_log.MONEY == fold_task.MONEY
    assert describe(watched([]), 1.0, [])["tasks"] == []
