"""What a participant owes the chain now, decided from one snapshot of the task and nothing else.

Level-triggered: the same snapshot always gives the same duties, so a daemon that crashed, lost a
transaction or saw a reorg simply looks again. Whoever performs a duty that somebody else has just
performed loses only gas; the staggering below makes that rare.
"""

from __future__ import annotations

from dataclasses import dataclass

from omnilytics.peers.market import (
    Member,
    MemberStatus,
    RoundPhase,
    TaskSnapshot,
    TaskState,
    TaskStatus,
)

# Seconds of chain time between two participants' attempts at a duty that anyone may perform.
STAGGER_SECONDS = 1


@dataclass(frozen=True)
class Reveal:
    """Reveal the nonce committed when joining."""


@dataclass(frozen=True)
class Poke:
    """A deadline is over and nobody has advanced the task yet."""

    reason: str


@dataclass(frozen=True)
class PlayRound:
    """A round is open and our group can play: exchange seeds, train, commit."""

    round: int


@dataclass(frozen=True)
class PostVector:
    """Our group has fully committed: post the journalled vector."""

    round: int


@dataclass(frozen=True)
class DeliverVector:
    """Our group has fully committed: hand the journalled vector to the model owner, over the broker."""

    round: int


@dataclass(frozen=True)
class CollectVectors:
    """Model owner: owners hand their vectors over; acknowledge them on the chain."""

    round: int


@dataclass(frozen=True)
class SettleChunk:
    """It is our turn, or everybody's, to settle this chunk."""

    round: int
    chunk: int


@dataclass(frozen=True)
class SelectGroups:
    """Model owner: name the groups that are averaged, in a task where that is its choice."""

    round: int


@dataclass(frozen=True)
class SignOfLife:
    """Our group cannot play this round and we have been silent for long: declare ourselves alive."""

    round: int


@dataclass(frozen=True)
class ExpelMate:
    """A mate has given no sign of life for so long that our group will never play again: release its stakes."""

    account: bytes
    missed: int


@dataclass(frozen=True)
class RestoreStake:
    """Our stake was slashed: so many wei bring us, and our group, back."""

    missing: int


@dataclass(frozen=True)
class OpenRound:
    """Model owner: open the next round."""

    round: int


@dataclass(frozen=True)
class FinishRound:
    """Model owner: decrypt the update of a round that is over and step the model."""

    round: int


@dataclass(frozen=True)
class Withdraw:
    """The task is over for us: collect what is ours."""


Duty = (
    Reveal
    | Poke
    | PlayRound
    | PostVector
    | DeliverVector
    | CollectVectors
    | SettleChunk
    | SelectGroups
    | SignOfLife
    | ExpelMate
    | RestoreStake
    | OpenRound
    | FinishRound
    | Withdraw
)


def owner_duties(snapshot: TaskSnapshot, account: bytes) -> list[Duty]:
    """A data owner's duties, most urgent first; empty when it is not a member or has nothing to do."""
    me = snapshot.member(account)
    if me is None:
        return []
    state = snapshot.state
    if state.over or me.status in (MemberStatus.RELEASED, MemberStatus.OUT):
        return [Withdraw()]
    duties: list[Duty] = []
    if state.status is TaskStatus.REVEALING and me.status is MemberStatus.JOINED:
        duties.append(Reveal())
    if state.status is TaskStatus.RUNNING and me.status is MemberStatus.SEATED:
        duties += _round_duties(snapshot, me)
    return duties + _pokes(snapshot, rank=_rank(snapshot, me))


def _round_duties(snapshot: TaskSnapshot, me: Member) -> list[Duty]:
    state = snapshot.state
    group = snapshot.group_of(me)
    # A transaction sent now is mined in a later block than the snapshot's, at a later time.
    in_time = snapshot.time < state.phase_end
    match state.phase:
        case RoundPhase.COMMIT if in_time and state.playable >> group & 1:
            if not (state.sat_out >> group & 1 or me.committed_in(state.round)):
                return [PlayRound(state.round)]
        case RoundPhase.POST if in_time and state.committed >> group & 1:
            if not me.posted_in(state.round) and _is_deep(snapshot):
                # Left out by half of the phase: there is room on the chain for everybody's post in the other half.
                forced = snapshot.time > snapshot.params.forced_from(state.phase_end)
                delivers = snapshot.params.broker_delivery and not forced
                return [DeliverVector(state.round) if delivers else PostVector(state.round)]
        case RoundPhase.SETTLE if in_time and not (snapshot.params.model_selection or snapshot.params.broker_delivery):
            free_for_all = snapshot.time > state.turn_end + STAGGER_SECONDS * _rank(snapshot, me)
            if snapshot.settler().account == me.account or free_for_all:
                return [SettleChunk(state.round, state.next_chunk)]
        case _:
            pass
    return []


def _is_deep(snapshot: TaskSnapshot) -> bool:
    """Whether the close of the commit phase is as deep as the task wants it before a vector may be seen."""
    return snapshot.block >= snapshot.state.close_block + snapshot.params.depth


def standing_duties(snapshot: TaskSnapshot, account: bytes) -> list[Duty]:
    """What keeps an owner, or its stake, in the task beside the rounds that it plays."""
    me = snapshot.member(account)
    if me is None or me.status is not MemberStatus.SEATED or snapshot.state.status is not TaskStatus.RUNNING:
        return []
    state, limit = snapshot.state, snapshot.params.max_missed_rounds
    group = snapshot.group_of(me)
    duties: list[Duty] = []
    if me.stake < snapshot.params.stake:
        duties.append(RestoreStake(snapshot.params.stake - me.stake))
    idle_group = state.sat_out >> group & 1 or not state.playable >> group & 1
    # The first mate to declare that the group sits out spares the others the gas; once in a while everybody has
    # to, or an honest owner could be expelled together with the mate that it waits for. The commit phase may have
    # closed by then: a sign of life is taken until the next round opens.
    undeclared = idle_group or state.phase is not RoundPhase.COMMIT
    if undeclared and 2 * (state.round - me.record_round) > limit and me.record_round < state.round:
        duties.append(SignOfLife(state.round))
    over = state.round - 1 if state.phase is RoundPhase.COMMIT else state.round
    if state.phase is RoundPhase.IDLE or not state.committed >> group & 1:
        for mate in snapshot.group(group):
            missed = over - mate.record_round
            if mate.account != me.account and missed > limit:
                duties.append(ExpelMate(mate.account, missed))
    return duties


def rounds_played(state: TaskState) -> int:
    """How many rounds have ended."""
    return state.round if state.phase is RoundPhase.IDLE or state.over else state.round - 1


def model_duties(snapshot: TaskSnapshot, finished_round: int) -> list[Duty]:
    """The model owner's duties.

    finished_round is the last round whose update it has taken (0: none).
    """
    state = snapshot.state
    duties: list[Duty] = []
    played = rounds_played(state)
    if state.status in (TaskStatus.RUNNING, TaskStatus.ENDED) and played > finished_round:
        duties.append(FinishRound(played))
    elif state.over:
        return [Withdraw()]
    elif (
        state.status is TaskStatus.RUNNING
        and state.phase is RoundPhase.IDLE
        and state.round < snapshot.params.rounds
        and state.playable
    ):
        duties.append(OpenRound(state.round + 1))
    elif (
        state.status is TaskStatus.RUNNING
        and state.phase is RoundPhase.SETTLE
        and snapshot.params.model_selection
        and snapshot.time < state.phase_end
    ):
        duties.append(SelectGroups(state.round))
    elif state.status is TaskStatus.RUNNING and snapshot.params.broker_delivery and snapshot.time < state.phase_end:
        # Owners have not seen each other's vectors: nobody else can settle.
        if state.phase is RoundPhase.POST and _is_deep(snapshot):
            duties.append(CollectVectors(state.round))
        elif state.phase is RoundPhase.SETTLE:
            duties.append(SettleChunk(state.round, state.next_chunk))
    return duties + _pokes(snapshot, rank=0)


def _rank(snapshot: TaskSnapshot, me: Member) -> int:
    """Who tries when: rotates with the rounds so that no owner pays for all pokes. At least 1: the model owner is 0."""
    order = [member.account for member in snapshot.members]
    return 1 + (order.index(me.account) + snapshot.state.round) % len(order)


def _pokes(snapshot: TaskSnapshot, rank: int) -> list[Duty]:
    state, params = snapshot.state, snapshot.params
    late = snapshot.time - state.phase_end - STAGGER_SECONDS * rank
    if state.status is TaskStatus.DRAWING:
        # The draw block needs a successor before its hash can be read; blocks are the clock here.
        return [Poke("the draw is due")] if snapshot.block >= state.close_block + rank else []
    if late <= 0 or state.over or state.status is TaskStatus.NONE:
        return []
    if state.status is TaskStatus.RUNNING and state.phase is RoundPhase.IDLE:
        # The model owner is silent: only when enough rounds stayed unopened is there something to advance.
        # The first of them is over with phase_end itself, each other one open_seconds later.
        more = max(0, params.max_empty_rounds - state.empty_rounds - 1)
        return [Poke("the model owner is silent")] if late > more * params.open_seconds else []
    return [Poke("a deadline is over")]
