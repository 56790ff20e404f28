"""The twins of the contract's types: what a record says, who settles, which groups play; and that they are twins."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.daemon.chain import ARTIFACT, params_tuple
from omnilytics.peers.market import (
    NO_SEAT,
    Member,
    MemberStatus,
    Outcome,
    RoundPhase,
    TaskParams,
    TaskSnapshot,
    TaskState,
    TaskStatus,
    bitmap,
    bits,
)
from tests.market_views import PARAMS, address, member, record, seated, snapshot, state

INTERFACE = Path(__file__).resolve().parent.parent / "contracts" / "src" / "IMarket.sol"


def outputs(function: str) -> list[dict[str, Any]]:
    """The fields of the struct that a view of the compiled contract returns."""
    abi = json.loads(ARTIFACT.read_text(encoding="utf-8"))["abi"]
    (item,) = (entry for entry in abi if entry["type"] == "function" and entry["name"] == function)
    components: list[dict[str, Any]] = item["outputs"][0]["components"]
    return components


def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


@pytest.mark.parametrize(
    ("function", "twin"), [("getParams", TaskParams), ("getTask", TaskState), ("getMembers", Member)]
)
def test_fields_stand_in_the_contracts_order_under_its_names(function: str, twin: type) -> None:
    assert [entry.name for entry in fields(twin)] == [snake(entry["name"]) for entry in outputs(function)]


def test_parameters_go_to_the_contract_in_its_order() -> None:
    given_order = params_tuple(PARAMS)
    for value, entry in zip(given_order, outputs("getParams"), strict=True):
        assert value == getattr(PARAMS, snake(entry["name"]))
        assert isinstance(value, bool) == (entry["type"] == "bool"), entry["name"]


@pytest.mark.parametrize("twin", [TaskStatus, RoundPhase, Outcome])
def test_enums_have_the_contracts_members_in_its_order(twin: type) -> None:
    source = INTERFACE.read_text(encoding="utf-8")
    body = re.search(rf"enum {twin.__name__} \{{(.*?)\}}", source, re.DOTALL)
    assert body is not None
    names = re.findall(r"^\s*([A-Z]\w*)", re.sub(r"//.*", "", body.group(1)), re.MULTILINE)
    twins: Any = twin
    assert [entry.name for entry in twins] == [snake(name).upper() for name in names]
    assert [entry.value for entry in twins] == list(range(len(names)))


def test_member_statuses_are_those_that_the_manual_names() -> None:
    (told,) = re.findall(r"uint8 status; //(.*)", INTERFACE.read_text(encoding="utf-8"))
    numbers = dict((word, int(number)) for number, word in re.findall(r"(\d) (\w+)", told))
    assert numbers == {entry.name.lower(): entry.value for entry in MemberStatus}


# ------------------------------------------------------------------------ bitmaps


@given(st.integers(0, 2**32 - 1))
def test_bits_and_bitmap_are_inverse(value: int) -> None:
    positions = bits(value)
    assert bitmap(positions) == value
    assert positions == sorted(positions)
    assert len(positions) == value.bit_count()


def test_bits_count_from_the_lowest() -> None:
    assert bits(0) == []
    assert bits(0b101001) == [0, 3, 5]


# ------------------------------------------------------------------------ records


@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.binary(min_size=26, max_size=26))
def test_a_record_is_round_flags_and_root(number: int, flags: int, root: bytes) -> None:
    someone = replace(member(0), record=number.to_bytes(4, "big") + bytes([flags, 0]) + root)
    assert someone.record_round == number
    assert someone.committed_in(number) == bool(flags & 1)
    assert someone.posted_in(number) == bool(flags & 2)
    assert someone.sat_out_in(number) == bool(flags & 4)


@pytest.mark.parametrize("flags", range(8))
def test_a_record_of_another_round_says_nothing_of_this_one(flags: int) -> None:
    someone = replace(member(0), record=record(6, flags))
    for number in (5, 7):
        assert not someone.committed_in(number)
        assert not someone.posted_in(number)
        assert not someone.sat_out_in(number)


# --------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("values", "lane_bits", "chunk_words", "chunks"),
    [(650, 16, 41, 1), (650, 16, 40, 2), (650, 16, 1, 41), (1, 32, 1, 1), (8, 32, 1, 1), (9, 32, 1, 2), (33, 8, 2, 1)],
)
def test_the_last_chunk_may_be_short(values: int, lane_bits: int, chunk_words: int, chunks: int) -> None:
    params = replace(PARAMS, value_count=values, lane_bits=lane_bits, chunk_words=chunk_words)
    assert params.chunk_count == chunks


@pytest.mark.parametrize(("size", "groups"), [(3, 5), (5, 24), (16, 8)])
def test_pads_are_numbered_by_position_or_by_seat(size: int, groups: int) -> None:
    """Common pads serve all groups; pads of their own are all different, and a group's stand together."""
    common = replace(PARAMS, group_size=size, max_groups=groups, model_selection=False)
    own = replace(common, model_selection=True)
    seats = range(size * groups)
    assert common.pad_count(groups) == size and own.pad_count(groups) == size * groups
    assert [common.pad_index(seat) for seat in seats] == list(range(size)) * groups
    assert [own.pad_index(seat) for seat in seats] == list(seats)
    for params in (common, own):
        for group in range(groups):
            members = range(group * size, (group + 1) * size)
            assert list(params.group_pads(group)) == [params.pad_index(seat) for seat in members]


@pytest.mark.parametrize(("faulty", "groups"), [(0, 3), (1, 5), (4, 11)])
def test_krum_needs_two_f_and_three_groups(faulty: int, groups: int) -> None:
    assert replace(PARAMS, faulty_groups=faulty).minimum_groups == groups


# -------------------------------------------------------------------------- state


def test_what_is_locked_is_what_is_neither_paid_nor_refunded() -> None:
    assert state(escrow=100, paid=20, settlement_paid=3, refunded=7).locked == 70


@pytest.mark.parametrize("status", list(TaskStatus))
def test_a_task_is_over_when_it_has_ended_or_was_cancelled(status: TaskStatus) -> None:
    assert state(status=status).over == (status in (TaskStatus.ENDED, TaskStatus.CANCELLED))


def test_a_group_plays_unless_it_is_dissolved_or_lacks_stake() -> None:
    assert bits(state(group_count=6).playable) == [0, 1, 2, 3, 4, 5]
    assert bits(state(group_count=6, dissolved=0b000010, short=0b100001).playable) == [2, 3, 4]
    assert state(group_count=0).playable == 0


# ----------------------------------------------------------------------- snapshots


def test_members_are_found_by_address_seat_and_group() -> None:
    # Seats are drawn: the member in seat s is not the s-th that joined.
    members = tuple(reversed(seated(9)))
    seen = snapshot(state(), members)
    assert seen.member(address(4)) == members[4]
    assert seen.member(address(99)) is None
    assert [m.account for m in seen.group(1)] == [address(3), address(4), address(5)]
    assert seen.group_of(members[0]) == 2
    assert {seat: m.account for seat, m in seen.seated().items()} == {n: address(n) for n in range(9)}


def test_those_without_a_seat_or_out_are_not_seated() -> None:
    members = (
        *seated(3),
        member(3, seat=NO_SEAT, status=MemberStatus.RELEASED),
        member(4, seat=4, status=MemberStatus.OUT),
    )
    assert sorted(snapshot(state(), members).seated()) == [0, 1, 2]


@pytest.mark.parametrize("complete", [0b111, 0b101, 0b110])
@pytest.mark.parametrize("round_number", [1, 2, 7, 1000])
def test_settlers_take_turns_over_the_seats_of_complete_groups(complete: int, round_number: int) -> None:
    order = [address(group * 3 + place) for group in bits(complete) for place in range(3)]
    turns = [_settling(complete, round_number, chunk).settler().account for chunk in range(len(order))]
    assert sorted(turns) == sorted(order), "everybody has a turn"
    start = round_number % len(order)
    assert turns == order[start:] + order[:start], "and the next round begins with the next one"


def _settling(complete: int, round_number: int, chunk: int) -> TaskSnapshot:
    return snapshot(state(complete=complete, round=round_number, next_chunk=chunk, phase=RoundPhase.SETTLE), seated(9))


def test_outcomes_are_as_the_contract_numbers_them() -> None:
    assert [Outcome(number).name for number in range(4)] == ["SELECTED", "TOO_FEW", "LATE", "VOID"]
