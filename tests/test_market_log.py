"""What a daemon says of its task's terms, groups and money: once, when it changes, and nothing secret."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.market_log import (
    MONEY,
    MarketLog,
    headroom_bits,
    heartbeat_facts,
    log_delivery,
    log_exchange,
    paid_groups,
)
from omnilytics.peers.market import RoundPhase, TaskStatus
from tests.market_views import MODEL_OWNER, PARAMS, address, snapshot, state
from tests.round_network import MODEL_KEY, Network


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, msg: str = "", level: str = "info", **fields: Any) -> None:
        self.lines.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of one event's lines."""
        return [fields for name, fields in self.lines if name == event]


@pytest.fixture
def said() -> Said:
    return Said()


def test_terms_are_said_once(said: Said) -> None:
    log = MarketLog(said, address(0), every_group=False)
    for block in (100, 101):
        log.see(snapshot(state(), block=block))
    (terms,) = said.of("task.terms")
    assert terms["rate_wei"] == PARAMS.rate and terms["group_size"] == PARAMS.group_size
    assert terms["model_owner"] == "0x" + MODEL_OWNER.hex()


def test_an_owner_says_its_own_group_and_a_model_owner_all(said: Said) -> None:
    MarketLog(said, address(4), every_group=False).see(snapshot(state()))
    (own,) = said.of("group.drawn")
    assert own["group"] == 1
    assert own["members"] == ["0x" + address(number).hex() for number in (3, 4, 5)]
    everybody = Said()
    MarketLog(everybody, MODEL_OWNER, every_group=True).see(snapshot(state()))
    assert [line["group"] for line in everybody.of("group.drawn")] == [0, 1, 2]


def test_groups_are_not_said_before_they_are_drawn(said: Said) -> None:
    log = MarketLog(said, address(4), every_group=True)
    log.see(snapshot(state(status=TaskStatus.JOINING, group_count=0), ()))
    assert said.of("group.drawn") == []
    log.see(snapshot(state()))
    assert len(said.of("group.drawn")) == 3


def test_money_is_said_when_it_changes_and_adds_up(said: Said) -> None:
    log = MarketLog(said, address(0), every_group=False)
    for paid in (0, 0, 5, 5, 7):
        log.see(snapshot(state(escrow=100, paid=paid, refunded=3)))
    lines = said.of("money")
    assert [line["paid_wei"] for line in lines] == [0, 5, 7]
    assert {f"{name}_wei" for name in MONEY} <= set(lines[0])
    for line in lines:
        parts = ("paid_wei", "settlement_paid_wei", "refunded_wei", "locked_wei")
        assert line["escrow_wei"] == sum(line[part] for part in parts)


def test_who_was_paid_is_said_from_how_many_were(said: Said) -> None:
    group = PARAMS.rate * PARAMS.group_size
    log = MarketLog(said, address(0), every_group=False)
    log.see(snapshot(state(round=1, phase=RoundPhase.SETTLE, complete=0b111, selected=0)))
    log.see(snapshot(state(round=1, complete=0b111, selected=0b101, paid=2 * group)))
    log.see(snapshot(state(round=2, complete=0b111, selected=0b101, paid=5 * group)))
    assert [(line["round"], line["groups"], line["wei"]) for line in said.of("round.paid")] == [
        (1, [0, 2], 2 * group), (2, [0, 1, 2], 3 * group),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "complete", "selected", "groups"),
    [
        (3, [0, 1, 2], [0, 1], [0, 1, 2]),
        (2, [0, 1, 2], [0, 1], [0, 1]),
        (2, [], [0, 1], []),
        (1, [0, 1, 2], [0, 1], []),
    ],
)
def test_payments_that_fit_no_group_are_nobodys(
    count: int, complete: list[int], selected: list[int], groups: list[int]
) -> None:
    assert paid_groups(count, complete, selected) == groups


def test_a_payment_made_before_we_looked_is_no_rounds(said: Said) -> None:
    log = MarketLog(said, address(0), every_group=False)
    log.see(snapshot(state(round=4, complete=0b111, paid=3 * PARAMS.rate * PARAMS.group_size)))
    assert said.of("round.paid") == [] and len(said.of("money")) == 1


def test_groups_of_a_round_are_said_when_a_phase_has_closed(said: Said) -> None:
    log = MarketLog(said, address(0), every_group=False)
    running = {"round": 3, "committed": 0b011}
    log.see(snapshot(state(phase=RoundPhase.COMMIT, **running)))
    assert said.of("round.groups") == []
    for _ in range(2):
        log.see(snapshot(state(phase=RoundPhase.POST, sat_out=0b100, **running)))
    (line,) = said.of("round.groups")
    assert (line["phase"], line["committed"], line["sat_out"], line["complete"]) == ("post", [0, 1], [2], [])
    log.see(snapshot(state(round=3, complete=0b011, short=0b100, status=TaskStatus.ENDED)))
    assert said.of("round.groups")[1]["phase"] == "ended" and said.of("round.groups")[1]["short"] == [2]


def test_headroom_tells_bits_and_no_value() -> None:
    sums = {0: np.array([3, -100, 7]), 1: np.array([5, 50, 0]), 2: np.array([10**6, 0, 0])}
    assert headroom_bits(sums, [0, 1], 16_383) == 7.4
    assert headroom_bits(sums, [1], 16_383) == 8.4
    assert headroom_bits(sums, [], 16_383) is None
    assert headroom_bits({0: np.zeros(3, dtype=np.int64)}, [0], 16_383) is None


def test_the_exchange_is_said_mate_by_mate_and_no_seed_with_it(said: Said) -> None:
    network = Network(3)
    me = network.owners[0].address
    while network.flights:
        flight = network.flights.pop(0)
        before, model = network.states[me], network.model
        network.deliver(flight)
        log_exchange(said, before, network.states[me], 1, 2.5)
        log_delivery(said, model, network.model, 1, 1)
    mates = {"0x" + owner.address.hex() for owner in network.owners[1:]}
    for event in ("seed.hello", "seed.agreed"):
        lines = said.of(event)
        assert {line["peer_to"] for line in lines} >= mates and len(lines) == len({line["peer_to"] for line in lines})
        assert {(line["round"], line["group"], line["dur_ms"]) for line in lines} == {(1, 2, 2500)}
    assert {line["peer_to"] for line in said.of("seed.agreed")} == mates
    delivered = said.of("key.delivered")
    assert {line["peer_to"] for line in delivered} == {"0x" + owner.address.hex() for owner in network.owners}
    assert len(delivered) == 3
    seeds = [seed.hex() for state in network.states.values() for seed in state.seeds.values()]
    assert seeds and not any(seed in str(said.lines) for seed in (*seeds, MODEL_KEY.hex()))


def test_a_heartbeat_says_where_the_daemon_stands() -> None:
    class Heads:
        number, time, skew = 12, 1000, -0.5

        def age(self) -> float:
            return 3.0

    facts = heartbeat_facts(Heads(), 10, 2, True, None)
    assert facts["head_block"] == 12 and facts["seen_block"] == 10 and facts["head_age_s"] == 3.0
    assert facts["disk_free_bytes"] is None
