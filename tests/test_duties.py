"""What is owed to the chain, for every status and phase; and that the contract agrees, through a whole task."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.chain import ContractRefused, PostedPart
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.posting import PostedVectors, post_parts
from omnilytics.peers.commitment import root
from omnilytics.peers.duties import (
    CollectVectors,
    DeliverVector,
    Duty,
    ExpelMate,
    FinishRound,
    OpenRound,
    PlayRound,
    Poke,
    PostVector,
    RestoreStake,
    Reveal,
    SelectGroups,
    SettleChunk,
    SignOfLife,
    Withdraw,
    model_duties,
    owner_duties,
    standing_duties,
)
from omnilytics.peers.krum import select, squared_distances
from omnilytics.peers.market import MemberStatus, Outcome, RoundPhase, TaskSnapshot, TaskStatus, bits
from scripts import chain_process
from tests.local_market import LocalMarket, lasting, nonce_of, open_market
from tests.market_views import PARAMS, address, member, seated, snapshot, state

ME = address(4)  # the fifth that joined; seat 4, group 1


def with_me(**changes: Any) -> tuple[Any, ...]:
    """Nine members, of which I am described otherwise."""
    members = list(seated(9))
    members[4] = replace(members[4], **changes)
    return tuple(members)


def rank(snapshot_: TaskSnapshot) -> int:
    """Seconds, or blocks, that I let others go first: by the order of joining, rotating with the rounds."""
    return 1 + (4 + snapshot_.state.round) % len(snapshot_.members)


# ------------------------------------------------------------- before the rounds


@pytest.mark.parametrize("status", list(TaskStatus))
def test_strangers_owe_nothing(status: TaskStatus) -> None:
    assert owner_duties(snapshot(state(status=status), time=10**6), address(99)) == []


@pytest.mark.parametrize("status", [TaskStatus.ENDED, TaskStatus.CANCELLED])
@pytest.mark.parametrize("mine", list(MemberStatus))
def test_when_the_task_is_over_everybody_collects(status: TaskStatus, mine: MemberStatus) -> None:
    assert owner_duties(snapshot(state(status=status), with_me(status=mine), time=10**6), ME) == [Withdraw()]


@pytest.mark.parametrize("status", [TaskStatus.REVEALING, TaskStatus.DRAWING, TaskStatus.RUNNING])
@pytest.mark.parametrize("mine", [MemberStatus.RELEASED, MemberStatus.OUT])
def test_who_is_out_collects_and_owes_nothing_else(status: TaskStatus, mine: MemberStatus) -> None:
    assert owner_duties(snapshot(state(status=status), with_me(status=mine), time=10**6), ME) == [Withdraw()]


def test_while_others_join_there_is_nothing_to_do() -> None:
    seen = snapshot(state(status=TaskStatus.JOINING), with_me(status=MemberStatus.JOINED))
    assert owner_duties(seen, ME) == []


def test_a_nonce_is_revealed_once() -> None:
    revealing = state(status=TaskStatus.REVEALING)
    assert owner_duties(snapshot(revealing, with_me(status=MemberStatus.JOINED)), ME) == [Reveal()]
    assert owner_duties(snapshot(revealing, with_me(status=MemberStatus.REVEALED)), ME) == []


@pytest.mark.parametrize("status", [TaskStatus.JOINING, TaskStatus.REVEALING])
def test_a_deadline_is_poked_one_after_the_other(status: TaskStatus) -> None:
    """The model owner at once, then the owners a second apart."""
    late = state(status=status, phase_end=1000, round=0)
    members = with_me(status=MemberStatus.REVEALED)
    assert model_duties(snapshot(late, members, time=1000), 0) == []
    assert model_duties(snapshot(late, members, time=1001), 0) == [Poke("a deadline is over")]
    mine = rank(snapshot(late, members))
    assert owner_duties(snapshot(late, members, time=1000 + mine), ME) == []
    assert owner_duties(snapshot(late, members, time=1001 + mine), ME) == [Poke("a deadline is over")]


def test_ranks_differ_and_rotate() -> None:
    """At any moment exactly one more owner pokes than a second before; another one begins in the next round."""
    first = []
    for round_number in range(9):
        late = state(phase=RoundPhase.COMMIT, round=round_number, phase_end=1000)
        ready = [
            sum(owner_duties(snapshot(late, time=1000 + seconds), address(n)) != [] for n in range(9))
            for seconds in range(1, 12)
        ]
        assert ready == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
        first += [n for n in range(9) if owner_duties(snapshot(late, time=1002), address(n))]
    assert sorted(first) == list(range(9))


def test_the_draw_is_poked_by_blocks() -> None:
    drawing = state(status=TaskStatus.DRAWING, close_block=50)
    members = with_me(status=MemberStatus.REVEALED)
    assert model_duties(snapshot(drawing, members, block=49, time=10**6), 0) == []
    assert model_duties(snapshot(drawing, members, block=50), 0) == [Poke("the draw is due")]
    mine = rank(snapshot(drawing, members))
    assert owner_duties(snapshot(drawing, members, block=49 + mine, time=10**6), ME) == []
    assert owner_duties(snapshot(drawing, members, block=50 + mine), ME) == [Poke("the draw is due")]


# ------------------------------------------------------------------------- commit


def committing(**changes: Any) -> Any:
    return state(**({"phase": RoundPhase.COMMIT, "round": 3} | changes))


@pytest.mark.parametrize(
    ("changes", "mine", "expected"),
    [
        ({}, {}, [PlayRound(3)]),
        ({"sat_out": 0b101}, {}, [PlayRound(3)]),
        ({"sat_out": 0b010}, {}, []),
        ({"dissolved": 0b010}, {}, []),
        ({"short": 0b010}, {}, []),
        ({"dissolved": 0b100, "short": 0b001}, {}, [PlayRound(3)]),
        ({}, {"flags": 1, "round_number": 3}, []),
        ({}, {"flags": 3, "round_number": 2}, [PlayRound(3)]),
        ({}, {"flags": 4, "round_number": 2}, [PlayRound(3)]),
        ({"phase_end": 500}, {}, []),  # a transaction sent now is mined later
        ({"phase_end": 501}, {}, [PlayRound(3)]),
    ],
)
def test_an_open_round_is_played_by_groups_that_can(
    changes: dict[str, Any], mine: dict[str, Any], expected: list[Duty]
) -> None:
    members = list(seated(9))
    members[4] = member(4, **mine)
    assert owner_duties(snapshot(committing(**changes), tuple(members), time=500), ME) == expected


# --------------------------------------------------------------------------- post


@pytest.mark.parametrize(
    ("changes", "flags", "block", "expected"),
    [
        ({"committed": 0b111}, 1, 41, [PostVector(3)]),
        ({"committed": 0b111}, 1, 40, []),  # depth blocks after the close: no group sees another's vectors before
        ({"committed": 0b101}, 1, 41, []),
        ({"committed": 0b111}, 3, 41, []),
        ({"committed": 0b111, "phase_end": 500}, 1, 41, []),
    ],
)
def test_a_fully_committed_group_posts_once_deep_enough(
    changes: dict[str, Any], flags: int, block: int, expected: list[Duty]
) -> None:
    members = list(seated(9))
    members[4] = member(4, flags=flags, round_number=3)
    posting = state(**({"phase": RoundPhase.POST, "round": 3, "close_block": 40} | changes))
    assert owner_duties(snapshot(posting, tuple(members), time=500, block=block), ME) == expected


def test_the_depth_is_the_tasks() -> None:
    posting = state(phase=RoundPhase.POST, round=3, close_block=40, committed=0b111)
    deep = replace(PARAMS, depth=12)
    assert owner_duties(snapshot(posting, block=51, params=deep), ME) == []
    assert owner_duties(snapshot(posting, block=52, params=deep), ME) == [PostVector(3)]


# ------------------------------------------------------ vectors over the broker

OVER_BROKER = replace(PARAMS, broker_delivery=True)  # a post phase of 1000 s: the second half is from 500 on


def posting_over_broker(time: int, flags: int = 1, block: int = 41, **changes: Any) -> TaskSnapshot:
    members = list(seated(9))
    members[4] = member(4, flags=flags, round_number=3)
    values = {"phase": RoundPhase.POST, "round": 3, "close_block": 40, "committed": 0b111, "phase_end": 1000}
    return snapshot(state(**(values | changes)), tuple(members), time=time, block=block, params=OVER_BROKER)


@pytest.mark.parametrize(
    ("time", "more", "expected"),
    [
        (100, {}, [DeliverVector(3)]),
        (100, {"block": 40}, []),  # not before a post could be
        (100, {"committed": 0b101}, []),
        (500, {}, [DeliverVector(3)]),
        (501, {}, [PostVector(3)]),  # left out by half of the phase
        (501, {"flags": 3}, []),  # acknowledged
        (100, {"flags": 3}, []),
        (1000, {}, []),
    ],
)
def test_a_vector_is_handed_over_and_posted_only_where_it_was_left_out(
    time: int, more: dict[str, Any], expected: list[Duty]
) -> None:
    assert owner_duties(posting_over_broker(time, **more), ME) == expected


def test_the_model_owner_collects_while_owners_post_and_then_settles_alone() -> None:
    assert model_duties(posting_over_broker(100), 2) == [CollectVectors(3)]
    assert model_duties(posting_over_broker(100, block=40), 2) == []
    assert model_duties(posting_over_broker(999), 2) == [CollectVectors(3)]
    assert CollectVectors(3) not in model_duties(posting_over_broker(1000), 2)
    shown = snapshot(settling(next_chunk=1), time=700, params=OVER_BROKER)
    assert model_duties(shown, 3) == [SettleChunk(4, 1)]
    assert all(owner_duties(shown, owner.account) == [] for owner in shown.members)
    late = replace(shown, time=1001)
    assert model_duties(late, 3) == [Poke("a deadline is over")]
    selecting = replace(shown, params=replace(OVER_BROKER, model_selection=True))
    assert model_duties(selecting, 3) == [SelectGroups(4)]


def test_where_vectors_are_posted_nobody_hands_anything_over() -> None:
    shown = replace(posting_over_broker(100), params=PARAMS)
    assert owner_duties(shown, ME) == [PostVector(3)] and model_duties(shown, 2) == []
    assert model_duties(snapshot(settling(), time=700), 3) == []


# ------------------------------------------------------------------------- settle


def settling(**changes: Any) -> Any:
    values = {"phase": RoundPhase.SETTLE, "round": 4, "complete": 0b111, "turn_end": 600, "next_chunk": 0}
    return state(**(values | changes))


def test_whose_turn_it_is_settles_and_then_everybody_in_turn() -> None:
    assert snapshot(settling()).settler().account == ME
    assert owner_duties(snapshot(settling(), time=500), ME) == [SettleChunk(4, 0)]
    assert owner_duties(snapshot(settling(next_chunk=1), time=500), ME) == []
    seen = settling(next_chunk=1, phase_end=10**6)
    mine = rank(snapshot(seen))
    assert owner_duties(snapshot(seen, time=600 + mine), ME) == []
    assert owner_duties(snapshot(seen, time=601 + mine), ME) == [SettleChunk(4, 1)]


def test_owners_of_void_groups_settle_too_when_nobody_else_does() -> None:
    seen = settling(complete=0b101, phase_end=10**6)
    assert owner_duties(snapshot(seen, time=500), ME) == []
    assert owner_duties(snapshot(seen, time=700), ME) == [SettleChunk(4, 0)]


def test_after_the_deadline_nobody_settles() -> None:
    assert owner_duties(snapshot(settling(phase_end=500), time=500), ME) == []
    assert owner_duties(snapshot(settling(phase_end=500), time=600), ME) == [Poke("a deadline is over")]


# --------------------------------------------------------------- a silent model owner


@pytest.mark.parametrize(("empty", "opens"), [(0, 1), (1, 0)])
def test_a_silent_model_owner_is_poked_when_enough_rounds_stayed_unopened(empty: int, opens: int) -> None:
    """As the contract counts: the first is over with the deadline, each other one open_seconds later."""
    idle = state(phase=RoundPhase.IDLE, round=2, empty_rounds=empty, phase_end=1000)
    due = 1000 + opens * PARAMS.open_seconds
    mine = rank(snapshot(idle))
    assert owner_duties(snapshot(idle, time=due + mine), ME) == []
    assert owner_duties(snapshot(idle, time=due + mine + 1), ME) == [Poke("the model owner is silent")]


# -------------------------------------------------------------------- model owner


@pytest.mark.parametrize(
    ("changes", "finished", "expected"),
    [
        ({"status": TaskStatus.JOINING}, 0, []),
        ({"status": TaskStatus.REVEALING}, 0, []),
        ({"round": 0}, 0, [OpenRound(1)]),
        ({"round": 1}, 1, [OpenRound(2)]),
        ({"round": 1}, 0, [FinishRound(1)]),  # first what is done, then the next: the model steps in order
        ({"round": 2}, 2, []),  # the task has two rounds
        ({"round": 2}, 1, [FinishRound(2)]),
        ({"round": 1, "dissolved": 0b111}, 1, []),
        ({"round": 1, "short": 0b111}, 1, []),
        ({"round": 2, "phase": RoundPhase.COMMIT}, 1, []),
        ({"round": 2, "phase": RoundPhase.COMMIT}, 0, [FinishRound(1)]),
        ({"round": 2, "phase": RoundPhase.POST}, 1, []),
        ({"round": 2, "phase": RoundPhase.SETTLE}, 1, []),
        ({"round": 2, "phase": RoundPhase.SETTLE, "status": TaskStatus.ENDED}, 1, [FinishRound(2)]),
        ({"round": 2, "phase": RoundPhase.SETTLE, "status": TaskStatus.ENDED}, 2, [Withdraw()]),
        ({"status": TaskStatus.CANCELLED}, 0, [Withdraw()]),
        ({"status": TaskStatus.ENDED}, 0, [Withdraw()]),
    ],
)
def test_the_model_owner_opens_finishes_and_collects(
    changes: dict[str, Any], finished: int, expected: list[Duty]
) -> None:
    assert model_duties(snapshot(state(**changes)), finished) == expected


@pytest.mark.parametrize("phase", [RoundPhase.COMMIT, RoundPhase.POST, RoundPhase.SETTLE])
def test_the_model_owner_pokes_first(phase: RoundPhase) -> None:
    late = state(phase=phase, round=1, complete=0b111, committed=0b111, phase_end=1000)
    assert model_duties(snapshot(late, time=1000), 0) == []
    assert model_duties(snapshot(late, time=1001), 0) == [Poke("a deadline is over")]


def test_a_model_owner_late_to_open_opens_all_the_same() -> None:
    assert model_duties(snapshot(state(round=1), time=1200), 1) == [OpenRound(2)]


def test_the_same_snapshot_always_gives_the_same_duties() -> None:
    for seen in (snapshot(settling()), snapshot(committing()), snapshot(state(), time=10**6)):
        assert owner_duties(seen, ME) == owner_duties(seen, ME)
        assert model_duties(seen, 0) == model_duties(seen, 0)


# ------------------------------------------------------------------ on the contract


class Player:
    """Performs duties on a real contract with vectors of no meaning; a refused duty fails the test."""

    def __init__(self, market: LocalMarket, selected: int = 0) -> None:
        self.market = market
        # What the model owner selects, where it does.
        self.selected = selected
        self.finished = 0
        self.done: list[str] = []
        self.vectors: dict[tuple[int, bytes], StoredVector] = {}
        self.silent: set[bytes] = set()

    def vector(self, seen: TaskSnapshot, account: bytes) -> StoredVector:
        key = seen.state.round, account
        if key not in self.vectors:
            me = seen.member(account)
            assert me is not None
            generator = np.random.default_rng([*key[1], key[0]])
            data = generator.bytes(seen.params.layout.byte_count)
            head = root(data, seen.params.chunk_words, seen.state.ctx, me.seat)
            self.vectors[key] = StoredVector(seen.state.ctx, head, data, np.zeros(1, np.int64))
        return self.vectors[key]

    async def act(self, seen: TaskSnapshot, keys: Any, duty: Duty) -> None:
        market, task, ctx = self.market, self.market.task, seen.state.ctx
        me = seen.member(keys.address)
        match duty:
            case Reveal():
                await market.act(keys, "reveal", task, nonce_of(keys))
            case Poke():
                await market.act(keys, "poke", task)
            case PlayRound():
                await market.act(keys, "commit", task, ctx, self.vector(seen, keys.address).root)
            case PostVector():
                assert me is not None
                for part in post_parts(self.vector(seen, keys.address), seen.params, me.seat):
                    await market.act(keys, "post", task, ctx, part.first_chunk, part.data, part.next_link)
            case SettleChunk(_, chunk):
                data = self.posted(seen).settle_data(chunk)
                await market.act(keys, "settle", task, ctx, chunk, data)
            case SelectGroups():
                await market.act(keys, "selectGroups", task, ctx, self.selected)
            case OpenRound(number):
                await market.open_round(number)
            case FinishRound(number):
                self.finished = number
            case Withdraw():
                await market.act(keys, "withdraw", [task], keys.address)
        self.done.append(type(duty).__name__)

    def posted(self, seen: TaskSnapshot) -> PostedVectors:
        parts = [
            PostedPart(m.seat, 0, self.vector(seen, m.account).vector)
            for m in seen.members
            if seen.state.complete >> seen.group_of(m) & 1
        ]
        return PostedVectors.collect(parts, seen.params, seen.state.ctx, bits(seen.state.complete))

    async def once(self) -> bool:
        """The first duty that anybody has now; False when nobody has one."""
        market = self.market
        seen = await market.snapshot()
        for keys in market.owners:
            duties = owner_duties(seen, keys.address) if keys.address not in self.silent else []
            if duties and not (isinstance(duties[0], Withdraw) and not await self._has_money(keys.address)):
                await self.act(seen, keys, duties[0])
                return True
        duties = model_duties(seen, self.finished)
        if not duties or (isinstance(duties[0], Withdraw) and not await self._has_money(market.model.address)):
            return False
        await self.act(seen, market.model, duties[0])
        return True

    async def _has_money(self, account: bytes) -> bool:
        return await self.market.chain.withdrawable(account, [self.market.task]) > 0

    async def play(self, limit: int = 400) -> None:
        """Until everything is over; where nobody has anything to do, time passes."""
        for _ in range(limit):
            if not await self.once():
                if (await self.market.snapshot()).state.over:
                    return
                await self.market.anvil.advance(5)
        raise AssertionError(f"the task does not end: {self.done[-20:]}")


async def test_duties_alone_carry_a_task_to_its_end(anvil: chain_process.Chain) -> None:
    async with open_market(anvil) as market:
        await market.create(lasting(chunk_words=1))
        for keys in market.owners:
            await market.join(keys)
        player = Player(market)
        await player.play()
        seen = await market.snapshot()
        assert seen.state.status is TaskStatus.ENDED
        assert seen.state.round == 2
        assert seen.state.locked == 0
        assert seen.state.stakes_in == seen.state.stakes_out
        assert player.finished == 2
        chunks = seen.params.chunk_count
        assert chunks == 3
        for name, count in (("Reveal", 9), ("PlayRound", 18), ("PostVector", 18), ("SettleChunk", 2 * chunks)):
            assert player.done.count(name) == count, name
        # What the contract selected is what Krum in Python selects from the same vectors.
        head = seen.block
        for number in (1, 2):
            opening = await market.chain.opening(market.task, number, head)
            (krum,) = await market.chain.round_events("KrumSelected", opening, head)
            by_seat = {m.seat: player.vectors[number, m.account].vector for m in seen.members}
            parts = [PostedPart(seat, 0, vector) for seat, vector in by_seat.items()]
            vectors = PostedVectors.collect(parts, seen.params, opening.ctx, (0, 1, 2))
            distances = squared_distances([vectors.group_sum(g) for g in (0, 1, 2)], seen.params.layout)
            assert list(krum["distances"]) == [distances[0][1], distances[0][2], distances[1][2]]
            assert bits(krum["selected"]) == list(select(distances, 0, False))


async def test_a_silent_model_owner_ends_the_task_no_later_and_no_earlier_than_the_contract_lets(
    anvil: chain_process.Chain,
) -> None:
    async with open_market(anvil) as market:
        await market.create()
        await market.draw()
        seen = await market.snapshot()
        assert (seen.state.status, seen.state.phase) == (TaskStatus.RUNNING, RoundPhase.IDLE)
        first_rank = next(keys for keys in market.owners if [m.account for m in seen.members].index(keys.address) == 0)
        due = seen.state.phase_end + (PARAMS.max_empty_rounds - 1) * PARAMS.open_seconds
        await market.anvil.advance(due - seen.time - 2)
        early = await market.snapshot()
        assert owner_duties(early, first_rank.address) == []
        await market.act(first_rank, "poke", market.task)
        assert (await market.snapshot()).state.status is TaskStatus.RUNNING, "the contract agrees: too early"
        await market.anvil.advance(4)
        late = await market.snapshot()
        assert owner_duties(late, first_rank.address) == [Poke("the model owner is silent")]
        await market.act(first_rank, "poke", market.task)
        assert (await market.snapshot()).state.status is TaskStatus.ENDED


async def test_the_settler_of_a_snapshot_is_the_contracts(anvil: chain_process.Chain) -> None:
    """Everybody else is refused in its turn, in words that name the same account."""
    async with open_market(anvil) as market:
        await market.create(lasting(chunk_words=1))
        await market.draw()
        player = Player(market)
        while (await market.snapshot()).state.phase is not RoundPhase.SETTLE:
            assert await player.once() or await _time_passes(market)
        for chunk in range(3):
            seen = await market.snapshot()
            other = next(keys for keys in market.owners if keys.address != seen.settler().account)
            data = player.posted(seen).settle_data(chunk)
            with pytest.raises(ContractRefused) as caught:
                await market.act(other, "settle", market.task, seen.state.ctx, chunk, data)
            assert caught.value.name == "NotYourTurn"
            assert caught.value.arguments["settler"] == "0x" + seen.settler().account.hex()
            keys = next(keys for keys in market.owners if keys.address == seen.settler().account)
            await player.act(seen, keys, SettleChunk(seen.state.round, chunk))
        head = await market.chain.head()
        assert await market.chain.round_endings(market.task, head.number) == {1: Outcome.SELECTED}


async def _time_passes(market: LocalMarket) -> bool:
    await asyncio.sleep(0)
    await market.anvil.advance(5)
    return True


# ------------------------------------------------- where the model owner selects

SELECTING = lasting(model_selection=True)


@pytest.mark.parametrize("phase", list(RoundPhase))
def test_the_model_owner_selects_in_the_settle_phase_alone(phase: RoundPhase) -> None:
    shown = snapshot(state(phase=phase, round=2, complete=0b111), params=SELECTING)
    assert (SelectGroups(2) in model_duties(shown, 1)) == (phase is RoundPhase.SETTLE)


def test_the_model_owner_selects_in_time_or_leaves_it_to_the_deadline() -> None:
    settling = state(phase=RoundPhase.SETTLE, round=2, complete=0b111, phase_end=1000)
    # A transaction of the last second would be mined after it.
    for time, expected in ((999, [SelectGroups(2)]), (1000, []), (1001, [Poke("a deadline is over")])):
        assert model_duties(snapshot(settling, time=time, params=SELECTING), 1) == expected
    # Rounds are learnt in order: what is learnt already decides which groups help.
    assert model_duties(snapshot(settling, params=SELECTING), 0) == [FinishRound(1)]


@pytest.mark.parametrize("status", [status for status in TaskStatus if status is not TaskStatus.RUNNING])
def test_nobody_selects_in_a_task_that_does_not_run(status: TaskStatus) -> None:
    shown = snapshot(state(status=status, phase=RoundPhase.SETTLE, round=2, complete=0b111), params=SELECTING)
    assert SelectGroups(2) not in model_duties(shown, 1)


def test_who_settles_depends_on_who_selects() -> None:
    """Never both: an owner's chunk where the contract selects, the model owner's choice where it does."""
    settling = state(phase=RoundPhase.SETTLE, round=2, complete=0b111, turn_end=0)
    for params in (PARAMS, SELECTING):
        shown = snapshot(settling, time=900, params=params)
        owners = [owner_duties(shown, owner.account) for owner in shown.members]
        selects = params.model_selection
        assert owners == [[] if selects else [SettleChunk(2, 0)]] * 9
        assert model_duties(shown, 1) == ([SelectGroups(2)] if selects else [])


def test_where_the_model_owner_is_silent_owners_end_the_round_at_its_deadline() -> None:
    settling = state(phase=RoundPhase.SETTLE, round=2, complete=0b111, phase_end=1000)
    assert owner_duties(snapshot(settling, time=1000, params=SELECTING), ME) == []
    late = snapshot(settling, time=1100, params=SELECTING)
    assert all(owner_duties(late, owner.account) == [Poke("a deadline is over")] for owner in late.members)


async def test_duties_alone_carry_a_task_whose_model_owner_selects_to_its_end(anvil: chain_process.Chain) -> None:
    """On the contract: pads for every seat, a selection in place of settlement, and pay for all complete groups,
    selected or not."""
    async with open_market(anvil) as market:
        await market.create(lasting(model_selection=True, strict_selection=True))
        for keys in market.owners:
            await market.join(keys)
        player = Player(market, selected=0b010)
        await player.play()
        seen = await market.snapshot()
        assert (seen.state.status, seen.state.round, player.finished) == (TaskStatus.ENDED, 2, 2)
        assert player.done.count("SelectGroups") == 2 and "SettleChunk" not in player.done
        assert await market.chain.paid_rounds(market.task) == [2, 2, 2]
        assert seen.state.locked == 0 and seen.state.settlement_paid == 0
        for number in (1, 2):
            opening = await market.chain.opening(market.task, number, seen.block)
            assert len(opening.pad_hashes) == 9
            (selection,) = await market.chain.round_events("GroupsSelected", opening, seen.block)
            assert (selection["complete"], selection["selected"]) == (0b111, 0b010)
            assert await market.chain.round_events("KrumSelected", opening, seen.block) == []


# --- what keeps an owner in the task ------------------------------------------------------------------------------


def _record(round_number: int, flags: int = 1) -> bytes:
    return round_number.to_bytes(4, "big") + bytes([flags]) + bytes(27)


def _with_records(shown: TaskSnapshot, rounds: dict[int, int]) -> TaskSnapshot:
    """Every owner's last sign of life is of the current round, or of the one given for its seat."""
    members = tuple(replace(m, record=_record(rounds.get(m.seat, shown.state.round))) for m in shown.members)
    return replace(shown, members=members)


def test_an_owner_of_full_stake_in_a_living_group_has_nothing_to_do_beside() -> None:
    shown = _with_records(snapshot(state(phase=RoundPhase.IDLE, round=7)), {})
    assert all(standing_duties(shown, member.account) == [] for member in shown.members)


def test_a_slashed_stake_is_to_be_restored_by_what_is_missing() -> None:
    shown = _with_records(snapshot(state(phase=RoundPhase.IDLE, round=7)), {})
    short = replace(shown.members[0], stake=shown.params.stake - 5)
    shown = replace(shown, members=(short, *shown.members[1:]))
    assert standing_duties(shown, short.account) == [RestoreStake(5)]


def test_a_mate_is_expelled_only_after_more_than_the_limit_of_rounds() -> None:
    shown = snapshot(state(phase=RoundPhase.IDLE, round=9))
    limit = shown.params.max_missed_rounds
    me, dead = shown.members[0], shown.members[1]
    at_limit = _with_records(shown, {dead.seat: 9 - limit})
    assert standing_duties(at_limit, me.account) == []
    beyond = _with_records(shown, {dead.seat: 9 - limit - 1})
    assert standing_duties(beyond, me.account) == [ExpelMate(dead.account, limit + 1)]
    stranger = next(
        m for m in beyond.members if m.seat // shown.params.group_size != dead.seat // shown.params.group_size
    )
    assert standing_duties(beyond, stranger.account) == []
    # A round that is still open for commitments does not count as missed.
    open_round = replace(beyond, state=replace(beyond.state, phase=RoundPhase.COMMIT))
    assert ExpelMate(dead.account, limit + 1) not in standing_duties(open_round, me.account)


def test_an_honest_owner_whose_mate_is_away_says_that_it_lives_before_it_could_be_expelled() -> None:
    shown = snapshot(state(phase=RoundPhase.COMMIT, round=9))
    limit, me = shown.params.max_missed_rounds, shown.members[0]
    group = me.seat // shown.params.group_size
    sitting = replace(shown, state=replace(shown.state, sat_out=1 << group))
    for silent in range(10):
        said = SignOfLife(9) in standing_duties(_with_records(sitting, {me.seat: 9 - silent}), me.account)
        assert said == (2 * silent > limit), silent
    # The phase may have closed before it could say so: late is in time, until the next round opens.
    late = replace(shown, state=replace(shown.state, phase=RoundPhase.POST))
    assert SignOfLife(9) in standing_duties(_with_records(late, {me.seat: 1}), me.account)
    # While its group still plays, committing is the sign.
    assert SignOfLife(9) not in standing_duties(_with_records(shown, {me.seat: 1}), me.account)
