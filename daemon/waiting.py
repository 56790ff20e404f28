"""For whom a task waits, from one snapshot and nothing else. Pure."""

from __future__ import annotations

from omnilytics.peers.market import MemberStatus, RoundPhase, TaskSnapshot, TaskStatus


def place_name(snapshot: TaskSnapshot) -> str:
    """The phase while the task runs, else its status, in small letters."""
    state = snapshot.state
    return (state.phase if state.status is TaskStatus.RUNNING else state.status).name.lower()


def awaited(snapshot: TaskSnapshot, model_owner: bytes) -> tuple[str, list[bytes]]:
    """(what is waited for, in words, "" for nothing; the addresses of those that are late, as far as it is known)."""
    state, members = snapshot.state, snapshot.members
    playing = [member for member in members if member.status is MemberStatus.SEATED]
    wanted = len(playing)
    late: list[bytes] = []
    what = ""
    if state.status is TaskStatus.JOINING:
        wanted = snapshot.params.max_groups * snapshot.params.group_size
        what = f"{len(members)} of {wanted} owners joined"
    elif state.status is TaskStatus.REVEALING:
        late = [member.account for member in members if member.status is MemberStatus.JOINED]
        what = f"{len(members) - len(late)} of {len(members)} owners revealed"
    elif state.status is TaskStatus.RUNNING and state.phase is RoundPhase.COMMIT:
        late = [
            member.account
            for member in playing
            if not member.committed_in(state.round) and not state.sat_out >> snapshot.group_of(member) & 1
        ]
        what = f"{sum(m.committed_in(state.round) for m in playing)} of {wanted} owners committed"
    elif state.status is TaskStatus.RUNNING and state.phase is RoundPhase.POST:
        expected = [m for m in playing if state.committed >> snapshot.group_of(m) & 1]
        late = [m.account for m in expected if not m.posted_in(state.round)]
        what = f"{len(expected) - len(late)} of {len(expected)} owners posted"
    elif state.status is TaskStatus.RUNNING and state.phase is RoundPhase.SETTLE:
        if snapshot.params.model_selection:
            late, what = [model_owner], "the model owner selects groups"
        else:
            late = [snapshot.settler().account]
            what = f"chunk {state.next_chunk} of {snapshot.params.chunk_count} to settle"
    return what, late
