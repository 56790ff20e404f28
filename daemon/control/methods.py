"""What can be asked of a running daemon, and what it answers: docs/ui.md lists the methods.

Nothing here changes the market: the only orders are accept, refuse, log_level and stop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, cast

from omnilytics.daemon.control import report
from omnilytics.daemon.control.json_rpc import Method, Whole, Word
from omnilytics.daemon.control.server import ControlServer
from omnilytics.daemon.control.task_list import TaskList
from omnilytics.daemon.earnings import read_earnings
from omnilytics.daemon.log import LEVELS
from omnilytics.daemon.node import Node
from omnilytics.peers.errors import ChainError, ControlError
from omnilytics.peers.market import TaskSnapshot

MOST_LINES = 500
# The newest whose earnings are told; each costs some calls.
MOST_TASKS = 64
_TASK = Whole(1, 2**63 - 1)


class Player(Protocol):
    """Who plays one task in this daemon; without a number it looks for one."""

    task_id: int | None

    @property
    def snapshot(self) -> TaskSnapshot | None:
        """The task as last seen."""

    @property
    def stage(self) -> str | None:
        """An owner's stage of the round at hand."""


class DaemonControl:
    """The methods of one daemon."""

    def __init__(
        self,
        node: Node,
        role: str,
        tasks: TaskList | None,
        policy: Mapping[str, Any],
    ) -> None:
        """tasks: what a data owner may decide of; None for a model owner. policy: as report.policy_report gives it."""
        self._node = node
        self._role = role
        self._tasks = tasks
        self._policy = policy
        # The newest answer of what only changes with a block: (block, wei), (task, block) to snapshot.
        self._balance: tuple[int | None, int | None] = None, None
        self._whole: dict[int, TaskSnapshot] = {}

    def methods(self) -> dict[str, Method]:
        """By name."""
        task = {"task": _TASK}
        lines: dict[str, Whole | Word] = {"cursor": Word(most=64), "limit": Whole(1, MOST_LINES), "level": Word(LEVELS)}
        found = {
            "status": Method(self.status),
            "health": Method(self.health),
            "earnings": Method(self.earnings),
            "policy": Method(self.policy),
            "log_level": Method(self.log_level, {"level": Word(LEVELS)}),
            "logs": Method(self.logs, lines),
            "stop": Method(self.stop),
        }
        if self._tasks is not None:
            found |= {
                "tasks": Method(self.tasks),
                "accept": Method(self.accept, task, ("task",)),
                "refuse": Method(self.refuse, task, ("task",)),
            }
        return found

    async def run(self) -> None:
        """Answers on the folder's socket for as long as the daemon lives; without one it lives on, and says so."""
        log = self._node.log
        try:
            async with ControlServer(self.methods(), log).serve(self._node.settings.home) as path:
                log("control.open", f"answering on {path}", "debug")
                await asyncio.Event().wait()
        except ControlError as error:
            log("control.unavailable", str(error), "warning", code=error.code, help=error.help)

    # ------------------------------------------------------------------ questions

    async def health(self) -> dict[str, Any]:
        """Live (it answers), ready, and the reasons why it is not."""
        found = self._node.upkeep.health()
        return {
            "live": found.live,
            "ready": found.ready,
            "reasons": list(found.reasons),
            # What does not keep it from playing.
            "notes": list(found.notes),
        }

    def _players(self) -> Sequence[Player]:
        return cast("tuple[Player, ...]", self._node.parts)

    async def status(self) -> dict[str, Any]:
        """Where the daemon is and what it waits for."""
        node, heads = self._node, self._node.heads
        started = node.state != "starting"
        age = heads.age()
        chain_now = (heads.time or 0) + int(age or 0.0)
        tasks = []
        for player in self._players():
            if player.snapshot is not None:
                snapshot = await self._with_members(player.snapshot)
                tasks.append(report.task_report(snapshot, node.me, chain_now, player.stage))
        return {
            "role": self._role,
            "address": "0x" + node.me.hex(),
            "version": program_version(),
            "pid": os.getpid(),
            "boot_id": node.log.boot_id,
            "state": node.state,
            "uptime_s": round(node.clock() - node.started_at, 1),
            "health": await self.health(),
            "chain": {
                "chain_id": node.chain.chain_id or None,
                "market": "0x" + node.chain.market.hex(),
                "head_block": heads.number,
                "head_age_s": age,
                "skew_s": heads.skew,
                "seen_block": node.blocks.seen_block or None,
            },
            "broker": {"connected": started and node.broker.connected.is_set()},
            "queue": {"pending": node.transactions.pending_count},
            "balance_wei": await self._balance_wei(),
            "log_level": node.log.level,
            "tasks": tasks,
        }

    async def _with_members(self, snapshot: TaskSnapshot) -> TaskSnapshot:
        """The snapshot with the members of its very block: an owner reads them anew only when groups change."""
        known = self._whole.get(snapshot.task_id)
        if known is not None and (known.block, known.depth) == (snapshot.block, snapshot.depth):
            return known
        if snapshot.state.over:
            return snapshot
        try:
            members = await self._node.chain.members(snapshot.task_id, snapshot.state_block)
        except ChainError:
            return snapshot
        self._whole[snapshot.task_id] = replace(snapshot, members=members)
        return self._whole[snapshot.task_id]

    async def _balance_wei(self) -> int | None:
        head = self._node.heads.number
        if self._node.state != "starting" and (head is None or head != self._balance[0]):
            try:
                self._balance = head, await self._node.chain.balance(self._node.me)
            except ChainError:
                self._balance = None, None
        return self._balance[1]

    async def tasks(self) -> dict[str, Any]:
        """The tasks that are open or ours: terms, the policy's verdict in words, the user's decision."""
        assert self._tasks is not None
        self._need_chain()
        return await self._tasks.read(self._taken())

    async def earnings(self) -> dict[str, Any]:
        """By task: paid, withdrawn, still to withdraw, at stake; and what is of no single task."""
        self._need_chain()
        node = self._node
        tasks = sorted(self._taken() | set(node.journal.joined_tasks()))[-MOST_TASKS:]
        found = await read_earnings(node.chain, node.me, node.settings.finality_depth, tasks)
        return report.earnings_report(found)

    async def policy(self) -> dict[str, Any]:
        """The policy in force."""
        return dict(self._policy)

    async def logs(self, cursor: str = "", limit: int = 100, level: str = "debug") -> dict[str, Any]:
        """Lines of the log after a cursor; without one the newest."""
        found = self._node.log.tail.read(cursor, LEVELS.index(level), limit)
        return {"lines": list(found.lines), "cursor": found.cursor, "missed": found.missed}

    def _taken(self) -> set[int]:
        return {player.task_id for player in self._players() if player.task_id is not None}

    def _need_chain(self) -> None:
        if self._node.state == "starting":
            raise ChainError("the chain does not answer yet", help="wait until the daemon is ready: omnilytics status")

    # --------------------------------------------------------------------- orders

    async def accept(self, task: int) -> dict[str, Any]:
        """The user says yes to a task."""
        return await self._decide(task, True)

    async def refuse(self, task: int) -> dict[str, Any]:
        """The user says no to a task."""
        return await self._decide(task, False)

    async def _decide(self, task: int, accepted: bool) -> dict[str, Any]:
        assert self._tasks is not None
        self._need_chain()
        await self._tasks.decide(task, accepted, self._taken())
        word = "accepted" if accepted else "refused"
        self._node.log("task.decided", f"the user {word} task {task}", task=task, accepted=accepted)
        return {"task": task, "decision": word}

    async def log_level(self, level: str | None = None) -> dict[str, Any]:
        """The least level that is written, changed where one is named."""
        if level is not None:
            self._node.log.set_level(level)
        return {"level": self._node.log.level}

    async def stop(self) -> dict[str, Any]:
        """Ends the daemon in order, as SIGTERM does; the connection ends with it."""
        self._node.log("stop.asked", "asked to stop over the control socket")
        # Once the answer is out: what runs first is who sends it.
        asyncio.get_running_loop().call_later(0.05, self._node.stop)
        return {"stopping": True, "pid": os.getpid()}


def program_version() -> str:
    """The installed program's version."""
    try:
        return version("omnilytics")
    except PackageNotFoundError:
        return "unknown"
