"""What a model owner offers is what the contract takes, at every size; and refusals come before any money moves."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from omnilytics.daemon.chain import MAX_TRANSACTION_BYTES, params_tuple
from omnilytics.daemon.posting import MAX_PART_BYTES
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_offer import COMFORTABLE_SETTLE_GAS, Terms, Timing, make_offer
from omnilytics.peers.errors import ParameterError
from omnilytics.peers.quantise import check_budget
from scripts import chain_process
from tests.local_market import LocalMarket, open_market

SPEC = TaskSpec("softmax", 64, tuple("0123456789"), 0.5, 32)
TERMS = Terms(rounds=20, group_size=3, max_groups=6, faulty_groups=1)
TIMING = Timing(depth=1, commit=3600, post=3600, settle=36000)


@pytest_asyncio.fixture
async def market(anvil: chain_process.Chain) -> AsyncIterator[LocalMarket]:
    async with open_market(anvil) as opened:
        yield opened


@pytest.mark.parametrize("lane_bits", [8, 16, 32])
async def test_every_size_that_is_offered_can_be_created_posted_and_settled(
    market: LocalMarket, lane_bits: int
) -> None:
    """Also the largest groups and models: one settle call and one post fit a transaction."""
    for group_size, groups, faulty in ((3, 5, 1), (5, 6, 1), (16, 8, 2), (5, 24, 10)):
        for architecture in ("softmax", "mlp:64,32", "mlp:256,128"):
            spec = replace(SPEC, architecture=architecture)
            terms = replace(TERMS, group_size=group_size, max_groups=groups, faulty_groups=faulty, lane_bits=lane_bits)
            offer = await make_offer(market.chain, spec, terms, replace(TIMING, settle=10**6))
            params = offer.params
            assert params.value_count == spec.side.value_count
            check_budget(group_size, params.max_magnitude, lane_bits)
            with pytest.raises(ParameterError):
                check_budget(group_size, params.max_magnitude + 1, lane_bits)
            words = params.chunk_words
            owners = group_size * groups
            assert owners * 32 * (words + 1) <= MAX_TRANSACTION_BYTES - 1000
            assert words * 32 <= MAX_PART_BYTES
            gas = await market.chain.settle_gas(groups, group_size, words, lane_bits, True)
            assert gas <= COMFORTABLE_SETTLE_GAS or words == 1
            assert sum(await market.chain.escrow_required(params)) > 0, "the contract takes it"
            assert params.stake == group_size * params.rate + params.deposit


async def test_an_offer_is_a_task(market: LocalMarket) -> None:
    offer = await make_offer(market.chain, SPEC, TERMS, TIMING)
    await market.create(offer.params, offer.spec.encode())
    assert await market.chain.params(1) == offer.params
    assert offer.contract_params() == params_tuple(offer.params)
    told = offer.describe()
    for words in ("softmax", "650 values", "20 rounds", "6 groups of 3", "1 poisoned"):
        assert words in told


async def test_chunks_are_as_large_as_they_may_be(market: LocalMarket) -> None:
    """Fewer settle calls: the digits model is settled in one."""
    offer = await make_offer(market.chain, SPEC, TERMS, TIMING)
    assert offer.params.chunk_count == 1
    assert offer.params.chunk_words == offer.params.layout.word_count


async def test_too_few_groups_for_so_many_poisoned_are_refused_in_numbers(market: LocalMarket) -> None:
    with pytest.raises(ParameterError, match="4 groups cannot tolerate f=1; need 5") as caught:
        await make_offer(market.chain, SPEC, replace(TERMS, max_groups=4), TIMING)
    assert "more owners" in caught.value.help


@pytest.mark.parametrize("size", [2, 1, 0, -1])
async def test_tiny_groups_are_refused(market: LocalMarket, size: int) -> None:
    with pytest.raises(ParameterError, match=f"group size {size} below minimum 3"):
        await make_offer(market.chain, SPEC, replace(TERMS, group_size=size), TIMING)


@pytest.mark.parametrize(
    ("terms", "timing", "name"),
    [
        ({"rounds": 0}, {}, "rounds"),
        ({"group_size": 17}, {}, "groupSize"),
        ({"max_groups": 25}, {}, "maxGroups"),
        ({"group_size": 8, "max_groups": 20}, {}, r"groupSize \* maxGroups"),
        ({}, {"commit": 1}, "commitSeconds"),
        ({}, {"post": 1}, "postSeconds"),
        ({}, {"settle": 1}, "settleSeconds"),
        ({}, {"block": 0}, "blockSeconds"),
        ({"max_empty_rounds": 0}, {}, "maxEmptyRounds"),
    ],
)
async def test_what_the_contract_refuses_is_named_with_its_bound(
    market: LocalMarket, terms: dict[str, int], timing: dict[str, int], name: str
) -> None:
    with pytest.raises(ParameterError, match=rf"the contract refuses {name} = -?\d+; its bound is \d+") as caught:
        await make_offer(market.chain, SPEC, replace(TERMS, **terms), replace(TIMING, **timing))  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("lane_bits", [1, 7, 24, 64])
async def test_odd_lanes_are_refused(market: LocalMarket, lane_bits: int) -> None:
    with pytest.raises(ParameterError):
        await make_offer(market.chain, SPEC, replace(TERMS, lane_bits=lane_bits), TIMING)


async def test_numbers_that_no_field_holds_are_refused_in_words(market: LocalMarket) -> None:
    for changes in ({"rounds": 10**6}, {"rate": 2**96}, {"rate": -1}, {"rounds": -1}):
        with pytest.raises(ParameterError, match="does not fit its field"):
            await make_offer(market.chain, SPEC, replace(TERMS, **changes), TIMING)  # type: ignore[arg-type]
