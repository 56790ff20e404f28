"""Snapshots of a task made by hand, for whatever is decided from them."""

from typing import Any

from omnilytics.peers.market import (
    Member,
    MemberStatus,
    RoundPhase,
    TaskParams,
    TaskSnapshot,
    TaskState,
    TaskStatus,
)
from tests.local_market import PARAMS
from tests.round_network import CTX, secret

__all__ = ["PARAMS", "address", "member", "record", "seated", "snapshot", "state"]

MODEL_OWNER = secret("model owner")[:20]


def address(number: int) -> bytes:
    return number.to_bytes(20, "big")


def record(round_number: int, flags: int) -> bytes:
    """A member's record with a root of no meaning."""
    return round_number.to_bytes(4, "big") + bytes([flags, 0]) + bytes(26)


def member(
    number: int,
    seat: int | None = None,
    status: MemberStatus = MemberStatus.SEATED,
    flags: int = 0,
    round_number: int = 0,
) -> Member:
    place = number if seat is None else seat
    return Member(address(number), PARAMS.stake, place, status, secret(f"box {number}"), record(round_number, flags), 0)


def seated(count: int) -> tuple[Member, ...]:
    return tuple(member(number) for number in range(count))


def state(**changes: Any) -> TaskState:
    """A running task of three groups, idle before its first round."""
    values: dict[str, Any] = {name: 0 for name in TaskState.__dataclass_fields__}
    values |= {
        "model_owner": MODEL_OWNER,
        "box_key": secret("model box"),
        "params_hash": secret("params"),
        "status": TaskStatus.RUNNING,
        "phase": RoundPhase.IDLE,
        "group_count": 3,
        "member_count": 9,
        "ctx": CTX,
        "phase_end": 1000,
    }
    return TaskState(**(values | changes))


def snapshot(
    seen: TaskState,
    members: tuple[Member, ...] | None = None,
    time: int = 500,
    block: int = 100,
    params: TaskParams = PARAMS,
) -> TaskSnapshot:
    return TaskSnapshot(1, params, seen, seated(9) if members is None else members, block, time)
