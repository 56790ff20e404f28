"""What the market contract knows of a task, as immutable Python values.

The twins of the structs and enums of contracts/src/IMarket.sol. Everything a daemon
decides is decided from these, so that a restarted daemon decides the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from omnilytics.peers.quantise import RingLayout

NO_SEAT = 255


class TaskStatus(IntEnum):
    """Where a task stands (contract enum TaskStatus)."""

    NONE = 0
    JOINING = 1
    REVEALING = 2
    DRAWING = 3
    RUNNING = 4
    ENDED = 5
    CANCELLED = 6


class RoundPhase(IntEnum):
    """Where the current round of a running task stands (contract enum RoundPhase)."""

    IDLE = 0
    COMMIT = 1
    POST = 2
    SETTLE = 3


class Outcome(IntEnum):
    """How a round ended (contract enum Outcome)."""

    SELECTED = 0
    TOO_FEW = 1
    LATE = 2
    VOID = 3


class MemberStatus(IntEnum):
    """Where an owner stands in a task (contract Member.status)."""

    JOINED = 0
    REVEALED = 1
    SEATED = 2
    RELEASED = 3
    OUT = 4


@dataclass(frozen=True)
class TaskParams:
    """What a model owner fixes for ever when it creates a task; the units are in IMarket.TaskParams."""

    group_size: int
    max_groups: int
    faulty_groups: int
    strict_selection: bool
    model_selection: bool
    # Vectors go to the model owner over the broker, and onto the chain only where it does not acknowledge them.
    broker_delivery: bool
    lane_bits: int
    max_magnitude: int
    value_count: int
    chunk_words: int
    rounds: int
    max_empty_rounds: int
    max_missed_rounds: int
    depth: int
    block_seconds: int
    join_seconds: int
    reveal_seconds: int
    open_seconds: int
    commit_seconds: int
    post_seconds: int
    settle_seconds: int
    turn_seconds: int
    rate: int
    stake: int
    deposit: int
    gas_price_cap: int
    gas_tip: int
    allowlist_root: bytes = bytes(32)

    @property
    def layout(self) -> RingLayout:
        """The ring vector's layout."""
        return RingLayout(self.value_count, self.lane_bits)

    @property
    def chunk_count(self) -> int:
        """Chunks of one owner's vector."""
        return -(-self.layout.word_count // self.chunk_words)

    def pad_index(self, seat: int) -> int:
        """Which of a round's pads the owner in this seat adds: its position's, or a pad of its own."""
        return seat if self.model_selection else seat % self.group_size

    def pad_count(self, group_count: int) -> int:
        """How many pads a round has."""
        return self.group_size * (group_count if self.model_selection else 1)

    def group_pads(self, group: int) -> range:
        """The indices of the pads that a group's sum carries."""
        first = self.pad_index(group * self.group_size)
        return range(first, first + self.group_size)

    def forced_from(self, phase_end: int) -> int:
        """From when on, in a post phase that ends then, an owner that was not acknowledged posts: half of the phase."""
        return phase_end - self.post_seconds // 2

    @property
    def minimum_groups(self) -> int:
        """Complete groups that Multi-Krum needs: 2f + 3."""
        return 2 * self.faulty_groups + 3


@dataclass(frozen=True)
class Member:
    """A data owner in a task (contract struct Member, its record taken apart)."""

    account: bytes
    stake: int
    seat: int
    status: MemberStatus
    box_key: bytes
    record: bytes
    collected: int

    @property
    def record_round(self) -> int:
        """Round of the last sign of life (meaningless before the draw)."""
        return int.from_bytes(self.record[:4], "big")

    @property
    def record_flags(self) -> int:
        """1 committed, 2 posted, 4 sat out, in record_round."""
        return self.record[4]

    def committed_in(self, round_number: int) -> bool:
        """Whether it has committed in that round."""
        return self.record_round == round_number and bool(self.record_flags & 1)

    def posted_in(self, round_number: int) -> bool:
        """Whether its whole vector of that round is posted, or acknowledged by the model owner."""
        return self.record_round == round_number and bool(self.record_flags & 2)

    @property
    def kept_root(self) -> int:
        """The low 208 bits of the root that it has committed to in record_round."""
        return int.from_bytes(self.record[6:], "big")

    def sat_out_in(self, round_number: int) -> bool:
        """Whether it declared that its group cannot play that round."""
        return self.record_round == round_number and bool(self.record_flags & 4)


@dataclass(frozen=True)
class TaskState:
    """The moving part of a task, as of one block (contract struct TaskState); money in wei, times in chain seconds."""

    model_owner: bytes
    box_key: bytes
    params_hash: bytes
    status: TaskStatus
    phase: RoundPhase
    group_count: int
    member_count: int
    round: int
    phase_end: int
    close_block: int
    empty_rounds: int
    next_chunk: int
    turn_end: int
    ctx: bytes
    dissolved: int
    short: int
    sat_out: int
    committed: int
    complete: int
    selected: int
    escrow: int
    paid: int
    settlement_paid: int
    refunded: int
    stakes_in: int
    stakes_out: int
    slashed: int
    compensation: int
    burned: int

    @property
    def locked(self) -> int:
        """Escrowed wei that are neither paid nor refunded yet."""
        return self.escrow - self.paid - self.settlement_paid - self.refunded

    @property
    def over(self) -> bool:
        """Whether nothing more will happen but withdrawals."""
        return self.status in (TaskStatus.ENDED, TaskStatus.CANCELLED)

    @property
    def playable(self) -> int:
        """Bitmap of the groups that can play: drawn, not dissolved, all stakes full."""
        return ((1 << self.group_count) - 1) & ~self.dissolved & ~self.short


@dataclass(frozen=True)
class RoundOpening:
    """What the model owner said when it opened a round (event RoundOpened)."""

    task_id: int
    round: int
    ctx: bytes
    base_ctx: bytes
    model_commit: bytes
    key_hash: bytes
    payload_hash: bytes
    part_count: int
    pad_hashes: tuple[bytes, ...]
    playable: int
    commit_deadline: int
    block: int


@dataclass(frozen=True)
class TaskSnapshot:
    """A task as one block shows it; the block's number and time are the only clock of the chain's duties."""

    task_id: int
    params: TaskParams
    state: TaskState
    members: tuple[Member, ...]
    block: int
    time: int
    # Blocks under `block` at which state and members were read.
    depth: int = 0

    @property
    def state_block(self) -> int:
        """The block whose state this is; what was mined later does not show in it."""
        return self.block - self.depth

    def member(self, account: bytes) -> Member | None:
        """The member with that address, or None."""
        return next((member for member in self.members if member.account == account), None)

    def group_of(self, member: Member) -> int:
        """The member's group; the caller has checked that it is seated."""
        return member.seat // self.params.group_size

    def seated(self) -> dict[int, Member]:
        """Members by seat."""
        return {member.seat: member for member in self.members if member.status == MemberStatus.SEATED}

    def group(self, number: int) -> tuple[Member, ...]:
        """A group's members in the order of their positions."""
        seats = self.seated()
        first = number * self.params.group_size
        return tuple(seats[seat] for seat in range(first, first + self.params.group_size))

    def settler(self, chunk: int | None = None) -> Member:
        """Whose turn it is to settle the next chunk, or a later one: the seats of complete groups take turns
        (contract: settle)."""
        size = self.params.group_size
        seats = [g * size + p for g in bits(self.state.complete) for p in range(size)]
        number = self.state.next_chunk if chunk is None else chunk
        return self.seated()[seats[(self.state.round + number) % len(seats)]]


def bits(bitmap: int) -> list[int]:
    """The positions of the ones, ascending."""
    return [position for position in range(bitmap.bit_length()) if bitmap >> position & 1]


def bitmap(positions: Sequence[int]) -> int:
    """The inverse of bits."""
    return sum(1 << position for position in positions)
