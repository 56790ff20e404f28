"""Reading which test noticed a mutant out of what forge prints."""

from scripts.mutate_contracts_main import first_failure

PLAIN = """Ran 3 tests for tests/contracts/MarketMoney.t.sol:MarketMoneyTest
[PASS] test_a() (gas: 10)
[FAIL: WrongStake(1, 2)] test_b(uint256) (runs: 1)
[FAIL: Untrue("x")] test_c() (gas: 3)
"""
INVARIANT = """Failing tests:
[FAIL: Untrue("dissolved")]
\t[Sequence] (original: 57, shrunk: 57)
\t\tsender=0x02 addr=[Market.t.sol:Handler]0x56 calldata=neglect(uint256) args=[30]
 invariant_money_is_conserved() (runs: 2, calls: 120, reverts: 1)
"""


def test_the_first_failure_is_named() -> None:
    assert first_failure(PLAIN) == "test_b"


def test_a_broken_invariant_is_named_behind_the_calls_that_broke_it() -> None:
    assert first_failure(INVARIANT) == "invariant_money_is_conserved"


def test_nothing_failed() -> None:
    assert first_failure("[PASS] test_a() (gas: 10)\n") == ""
    assert first_failure("Error: no compiler\n") == ""
