"""How long the money lasts: measured gas over estimates, one word a level, and enough of a warning."""

from omnilytics.daemon.balance import (
    FIRST_CALL_GAS,
    ROUNDS_AHEAD,
    BalanceWatch,
    Outlook,
    RunningCosts,
    first_round_gas,
    outlook,
)

GWEI = 10**9
# A reserve of (400 * 5 // 4 + 300,000) gas at 2 wei.
RESERVE = 2 * 300_500


def judged(balance: int, rounds: int = 5) -> Outlook:
    return outlook(balance, gas_price=1, max_price=2, round_gas=1000, largest_gas=400, rounds=rounds)


def test_a_balance_is_worth_the_rounds_that_it_pays_for_after_the_reserve() -> None:
    enough = judged(RESERVE + 5000)
    assert (enough.level, enough.rounds, enough.missing) == ("", 5, 0)
    low = judged(RESERVE + 4999)
    assert (low.level, low.rounds, low.missing) == ("low", 4, 1)
    empty = judged(RESERVE + 999)
    assert (empty.level, empty.rounds, empty.missing) == ("empty", 0, 4001)
    # What is short of the reserve is short of everything: the queue would not send.
    assert judged(0).missing == RESERVE + 5000


def test_without_a_task_it_must_pay_for_one_call() -> None:
    costs = RunningCosts()
    assert costs.judge(10**18, GWEI, 2 * GWEI).level == ""
    poor = costs.judge(0, GWEI, 2 * GWEI)
    assert (poor.level, poor.round_cost) == ("empty", 0)
    assert poor.missing == (FIRST_CALL_GAS * 5 // 4 + 300_000) * 2 * GWEI


def test_a_task_costs_its_estimate_until_its_vector_has_been_paid_for() -> None:
    costs = RunningCosts()
    costs.terms(7, value_count=4895, lane_bits=16, rounds=20)
    assert costs.round_gas == first_round_gas(4895, 16)
    costs.spent(7, 1, "commit", 60_000)
    assert costs.round_gas == first_round_gas(4895, 16)
    costs.spent(7, 1, "post", 200_000)
    costs.spent(7, 1, "post", 220_000)
    assert costs.round_gas == 480_000
    # A dearer round is remembered, a cheaper one is not believed, and what comes once is no part of a round.
    costs.spent(7, 2, "post", 100_000)
    costs.spent(7, 2, "settle", 30_000)
    costs.spent(7, 3, "commit", 90_000)
    costs.spent(7, 3, "withdraw", 80_000)
    assert costs.round_gas == 90_000 + 420_000 + 30_000


def test_the_first_estimate_is_above_what_was_measured() -> None:
    """README: 18 owners' commits take 1,032,741 gas, their posts 7,483,050, at 4895 values of 16 bits."""
    assert first_round_gas(4895, 16) > (1_032_741 + 7_483_050) / 18


def test_only_the_rounds_that_tasks_still_have_are_asked_for() -> None:
    costs = RunningCosts()
    costs.terms(1, 100, 16, rounds=3)
    assert costs.underway == {1: 3}
    costs.entered(1, 2)
    assert costs.underway == {1: 2}
    costs.terms(2, 100, 16, rounds=20)
    assert costs.round_gas == 2 * first_round_gas(100, 16)
    costs.over(1)
    assert costs.underway == {2: 20}
    assert costs.round_gas == first_round_gas(100, 16)
    costs.entered(9, 1)
    costs.over(9)
    assert costs.underway == {2: 20}


def test_a_model_owner_learns_from_its_openings() -> None:
    costs = RunningCosts()
    costs.terms(1, 100, 16, 20)
    costs.spent(1, 1, "publishPart", 900_000)
    costs.spent(1, 1, "openRound", 150_000)
    costs.spent(1, 1, "selectGroups", 90_000)
    assert costs.round_gas == 1_140_000
    assert costs.judge(10**19, GWEI, 2 * GWEI).level == ""


def test_each_level_is_said_once_and_a_little_more_is_no_recovery() -> None:
    watch = BalanceWatch()
    needed = judged(0).needed
    told = [
        watch.changed(judged(balance)) for balance in (needed, RESERVE + 4000, RESERVE + 3000, 0, 0, RESERVE + 4000)
    ]
    assert told == [None, "low", None, "empty", None, None]
    assert watch.changed(judged(needed)) is None
    assert watch.changed(judged(needed * 5 // 4)) == ""
    assert watch.changed(judged(needed * 2)) is None
    assert watch.changed(judged(0)) == "empty"


def test_the_warning_comes_some_rounds_before_the_first_is_missed() -> None:
    """Spending round by round: told low while rounds are left, and never surprised."""
    watch, balance, told = BalanceWatch(), RESERVE + 12_000, []
    for played in range(12):
        level = watch.changed(judged(balance))
        if level:
            told.append((played, level))
        balance -= 1000
    assert told[0] == (12 - ROUNDS_AHEAD + 1, "low")
    assert [level for _, level in told] == ["low"]
