"""The tasks that a data owner may decide of: terms, the policy's verdict in words, and what the user said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from omnilytics.daemon.chain import Chain
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_finder import Candidate
from omnilytics.peers.errors import ParameterError
from omnilytics.peers.market import TaskParams, TaskState, TaskStatus

# The newest that are open, besides our own.
MOST_TASKS = 50
_MOST_CLASSES = 10
_MOST_LETTERS = 300

# What data, policy and the user's own word make of a task: TaskFinder.judge.
Judge = Callable[[int, TaskState], Awaitable[Candidate]]


class TaskList:
    """Reads the market for one owner's eyes."""

    def __init__(
        self, chain: Chain, journal: Journal, judge: Judge, ask_first: bool, decided: Callable[[], None]
    ) -> None:
        """decided: called after every decision, for whoever waits for one."""
        self._chain = chain
        self._journal = journal
        self._judge = judge
        self._ask_first = ask_first
        self._decided = decided

    async def read(self, ours: Collection[int]) -> dict[str, Any]:
        """The open tasks and our own, newest first. Raises ChainError."""
        head = await self._chain.head()
        found: list[dict[str, Any]] = []
        for task in range(await self._chain.task_count(), 0, -1):
            if len(found) >= MOST_TASKS and task not in ours:
                continue
            state = await self._chain.state(task)
            if task in ours or (state.status is TaskStatus.JOINING and head.time < state.phase_end):
                found.append(await self._describe(task, state, head.time, task in ours))
        return {"ask_first": self._ask_first, "tasks": found}

    async def decide(self, task: int, accepted: bool, ours: Collection[int]) -> None:
        """Keeps the user's word. Raises ParameterError for a task that is not open, or ours already."""
        if not 1 <= task <= await self._chain.task_count():
            raise ParameterError(f"there is no task {task}", help="list the tasks, and name one of them")
        if task in ours or self._journal.joins(task):
            raise ParameterError(
                f"task {task} is joined already, or about to be: its mates wait",
                help="play it to its end; a decision is for tasks that are not joined",
            )
        if (await self._chain.state(task)).status is not TaskStatus.JOINING:
            raise ParameterError(f"task {task} takes no more owners", help="decide of one that is open")
        self._journal.decide(task, accepted)
        self._decided()

    async def _describe(self, task: int, state: TaskState, now: int, ours: bool) -> dict[str, Any]:
        seen = await self._judge(task, state)
        spec, params = seen.spec, seen.params
        decision = self._journal.decision(task)
        return {
            "task": task,
            "model_owner": "0x" + seen.model_owner.hex(),
            "status": state.status.name.lower(),
            "ours": ours or self._journal.joins(task),
            "owners": state.member_count,
            "most_owners": params.max_groups * params.group_size,
            "group_size": params.group_size,
            "rounds": params.rounds,
            "rate_wei": params.rate,
            "stake_wei": params.stake,
            "joins_left_s": max(0, state.phase_end - now) if state.status is TaskStatus.JOINING else None,
            "trains": _trained(spec, params) if spec is not None else None,
            "promise": spec.means.promise if spec is not None else None,
            "verdict": str(seen.verdict),
            "reason": seen.reason[:_MOST_LETTERS],
            "decision": None if decision is None else "accepted" if decision else "refused",
        }


def _trained(spec: TaskSpec, params: TaskParams) -> dict[str, Any]:
    """What the task trains. Its texts are a stranger's, and as long as a stranger likes: they are cut."""
    return {
        "architecture": spec.architecture[:_MOST_LETTERS],
        "columns": spec.feature_count,
        "classes": len(spec.classes),
        "class_names": [name[:_MOST_LETTERS] for name in spec.classes[:_MOST_CLASSES]],
        "values": params.value_count,
        "batch_rows": spec.batch_size,
        "protection": spec.protection,
    }
