"""Live and ready, with reasons: what a service manager and a person are told."""

from dataclasses import replace

import pytest

from omnilytics.daemon.health import BUSY_SECONDS, LEAST_DISK_BYTES, HealthFacts, health

WELL = HealthFacts(connected=True, broker_connected=True, head_age=1.0, disk_free=10 * LEAST_DISK_BYTES)


def test_a_daemon_that_has_everything_is_ready() -> None:
    verdict = health(WELL)
    assert (verdict.live, verdict.ready, verdict.reasons) == (True, True, ())
    assert verdict.status == "ready"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"connected": False, "head_age": None}, "the RPC has not answered yet"),
        ({"head_age": None}, "first block"),
        ({"broker_connected": False}, "broker: not connected"),
        ({"disk_free": 12 * 2**20}, "only 12 MB free; need 64 MB"),
        ({"standing": {"chain.stalled": "no new block for 90 s; waiting"}}, "no new block for 90 s"),
        ({"standing": {"safe-mode": "chain holds my commitment"}}, "chain holds my commitment"),
        ({"standing": {"rpc.disagreement": "two blocks"}}, "two blocks"),
        ({"stopping": True}, "stopping"),
    ],
)
def test_what_is_missing_is_the_reason_and_no_ground_for_a_restart(change: dict[str, object], says: str) -> None:
    verdict = health(replace(WELL, **change))  # type: ignore[arg-type]
    assert verdict.live
    assert not verdict.ready
    assert says in verdict.reasons[0]
    assert verdict.status.startswith("not ready: ")


def test_before_the_chain_is_there_nobody_misses_the_broker() -> None:
    assert len(health(HealthFacts(connected=False, broker_connected=False)).reasons) == 1


def test_one_step_that_never_ends_is_not_alive() -> None:
    assert health(replace(WELL, busy_seconds=BUSY_SECONDS - 1)).live
    verdict = health(replace(WELL, busy_seconds=BUSY_SECONDS))
    assert (verdict.live, verdict.ready) == (False, False)
    assert verdict.status.startswith("not alive: one step has been going on for 300 s")


def test_what_only_deserves_a_word_keeps_nobody_from_playing() -> None:
    verdict = health(
        replace(
            WELL,
            standing={"balance.low": "add 5 wei"},
            tx_pending=2,
            tx_waiting_seconds=400.0,
            waiting="task 3: commit",
        )
    )
    assert verdict.ready
    assert verdict.status == "ready: add 5 wei; 2 transactions wait, none mined for 400 s; task 3: commit"
    assert health(replace(WELL, tx_pending=2, tx_waiting_seconds=10.0)).notes == ()


def test_nobody_knows_how_much_disk_there_is_and_that_is_no_reason() -> None:
    assert health(replace(WELL, disk_free=None)).ready
