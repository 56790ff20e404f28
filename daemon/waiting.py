"""For whom a task waits, and until when: in words, from one snapshot. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from omnilytics.peers.market import MemberStatus, RoundPhase, TaskSnapshot, TaskStatus


@dataclass(frozen=True)
class Waiting:
    """What is waited for ("3 of 5 owners committed"), the addresses of who is late, the deadline (chain seconds)."""

    what: str
    late: tuple[bytes, ...]
    deadline: int

    def words(self, now: int) -> str:
        """One line for people, at a moment of the chain's clock (seconds)."""
        return f"waiting: {self.what}, {max(0, self.deadline - now)} s left"


def waiting_for(snapshot: TaskSnapshot) -> Waiting | None:
    """For whom the task waits; None where it is over. The snapshot's members must be those of its block."""
    state, members, params = snapshot.state, snapshot.members, snapshot.params
    late: list[bytes] = []
    if state.status is TaskStatus.JOINING:
        what = f"{len(members)} of {params.max_groups * params.group_size} owners joined"
    elif state.status is TaskStatus.REVEALING:
        late = [member.account for member in members if member.status is MemberStatus.JOINED]
        what = f"{len(members) - len(late)} of {len(members)} owners revealed"
    elif state.status is TaskStatus.DRAWING:
        what = "the groups are drawn"
    elif state.status is TaskStatus.RUNNING:
        late, what = _in_round(snapshot)
    else:
        return None
    return Waiting(what, tuple(late), state.phase_end)


def _in_round(snapshot: TaskSnapshot) -> tuple[list[bytes], str]:
    state, params = snapshot.state, snapshot.params
    playing = [member for member in snapshot.members if member.status is MemberStatus.SEATED]
    if state.phase is RoundPhase.COMMIT:
        late = [
            member.account
            for member in playing
            if not member.committed_in(state.round) and not state.sat_out >> snapshot.group_of(member) & 1
        ]
        committed = sum(member.committed_in(state.round) for member in playing)
        return late, f"{committed} of {len(playing)} owners committed"
    if state.phase is RoundPhase.POST:
        expected = [member for member in playing if state.committed >> snapshot.group_of(member) & 1]
        late = [member.account for member in expected if not member.posted_in(state.round)]
        return late, f"{len(expected) - len(late)} of {len(expected)} owners posted"
    if state.phase is RoundPhase.SETTLE:
        if params.model_selection:
            return [state.model_owner], "the model owner selects groups"
        return [snapshot.settler().account], f"chunk {state.next_chunk} of {params.chunk_count} to settle"
    return [state.model_owner], f"the model owner opens round {state.round + 1} of {params.rounds}"
