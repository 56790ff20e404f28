"""Amounts with units: exact, and nothing guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.daemon.amounts import ether, ether_digits, ether_words, format_amount, parse_amount
from omnilytics.peers.errors import ParameterError


@pytest.mark.parametrize(
    ("text", "wei"),
    [
        ("1eth", 10**18),
        ("1 ETH", 10**18),
        ("0.5eth", 5 * 10**17),
        (" 3 finney ", 3 * 10**15),
        ("5gwei", 5 * 10**9),
        ("1.5gwei", 1_500_000_000),
        ("7wei", 7),
        ("7.0wei", 7),
        ("0eth", 0),
        ("0.000000000000000001ether", 1),
        ("1.000000000000000000000eth", 10**18),
    ],
)
def test_amounts_are_read_to_the_wei(text: str, wei: int) -> None:
    assert parse_amount(text) == wei


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1", "has no unit"),
        ("10.5", "has no unit"),
        ("", "is not a number and a unit"),
        ("eth", "is not a number and a unit"),
        ("-1eth", "is not a number and a unit"),
        ("1e18wei", "is not a number and a unit"),
        ("1,5eth", "is not a number and a unit"),
        (".5eth", "is not a number and a unit"),
        ("inf eth", "is not a number and a unit"),
        ("1btc", "unknown unit 'btc'"),
        ("0.5wei", "has parts of a wei"),
        ("0.0000000000000000001eth", "has parts of a wei"),
        ("1" * 41 + "eth", "is not a number and a unit"),
        ("١eth", "is not a number and a unit"),
    ],
)
def test_what_is_no_amount_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        parse_amount(text)
    assert caught.value.help != ParameterError.default_help


@given(st.integers(0, 10**30))
def test_what_is_written_is_read_back(wei: int) -> None:
    assert parse_amount(format_amount(wei)) == wei


def test_amounts_are_written_in_a_unit_that_people_can_read() -> None:
    assert [format_amount(wei) for wei in (0, 5, 10**6, 10**9, 10**15, 10**18, 15 * 10**17)] == [
        "0 wei", "5 wei", "0.001 gwei", "1 gwei", "0.001 eth", "1 eth", "1.5 eth",
    ]  # fmt: skip


def test_money_is_shown_without_lying() -> None:
    assert ether(10**18) == "1.000000 ETH"
    assert ether(1) == "0.000000… ETH"
    assert ether_digits(-(10**18) - 500_000_000_000) == "-1.000000…"
    assert ether(1_234_567_000_000_000_000) == "1.234567 ETH"


@pytest.mark.parametrize(
    ("wei", "text"),
    [(0, "0 wei"), (1, "1 wei"), (10**12, "0.000001 ether"), (25 * 10**17, "2.500000 ether"), (-3, "-3 wei")],
)
def test_in_a_sentence_nothing_is_rounded_to_nothing(wei: int, text: str) -> None:
    assert ether_words(wei) == text
