"""What a daemon looks after beside its part: whether it is well, what it has left to pay with, and who should know.

It lives on what the daemon says in its log, on a look at head and balance now and then, and touches no part.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omnilytics.daemon.balance import BalanceWatch, Outlook, RunningCosts
from omnilytics.daemon.chain import Chain
from omnilytics.daemon.config import Settings
from omnilytics.daemon.desktop import EVENTS as DESKTOP_EVENTS
from omnilytics.daemon.desktop import Desktop, notifier
from omnilytics.daemon.head_watch import HeadWatch
from omnilytics.daemon.health import BLOCKING, WORTH_A_WORD, Health, HealthFacts, health
from omnilytics.daemon.health_file import HealthFile
from omnilytics.daemon.log import Logger
from omnilytics.daemon.service_manager import ServiceManager
from omnilytics.daemon.transactions import TransactionQueue
from omnilytics.peers.errors import ChainError, FundsError

REPORT_SECONDS = 5.0
# Money runs out over hours; a minute costs the RPC nothing.
BALANCE_SECONDS = 60.0
_STANDING = (*BLOCKING, *WORTH_A_WORD)
_COSTS = ("tx.mined", "tx.reverted", "task.terms", "phase.enter", "task.done", "task.missed", "waiting")
_OVER = ("ended", "cancelled")
# Tasks that a line for people can name.
_MOST_TOLD = 3


class Upkeep:
    """Health, money and notifications of one daemon."""

    def __init__(
        self,
        settings: Settings,
        me: bytes,
        chain: Chain,
        transactions: TransactionQueue,
        heads: HeadWatch,
        log: Logger,
        clock: Callable[[], float],
        broker_connected: Callable[[], bool],
        disk_free: Callable[[], int | None],
        environment: Mapping[str, str],
        health_file: HealthFile | None = None,
    ) -> None:
        """clock: monotonic seconds; environment: where a service manager and a desktop make themselves known;
        health_file: where to write down how we are."""
        self._settings, self._me, self._log, self._clock = settings, me, log, clock
        self._chain, self._transactions, self._heads = chain, transactions, heads
        self._broker_connected, self._disk_free = broker_connected, disk_free
        self._manager = ServiceManager.of(environment)
        self._file = health_file or HealthFile(None, clock)
        self._connected = self._stopping = False
        # When each step of a part that is under way began.
        self._steps: dict[object, float] = {}
        self._moved_at: float | None = None
        self._standing: dict[str, str] = {}
        # By task, in words: where it is, and who is waited for.
        self._places: dict[int, str] = {}
        self._costs = RunningCosts()
        self._watch = BalanceWatch()
        self._balance_at: float | None = None
        # Wei, as seen last; None before that.
        self.balance: int | None = None
        self.outlook: Outlook | None = None
        log.subscribe((*_STANDING, *(f"{event}.over" for event in _STANDING)), self._stand)
        log.subscribe(_COSTS, self._learn)
        program = notifier(settings.notify, environment)
        if program is not None:
            log.subscribe(DESKTOP_EVENTS, Desktop(program, environment, clock).hear)

    # ------------------------------------------------------------------- health

    def health(self) -> Health:
        """How the daemon is now."""
        now, pending = self._clock(), self._transactions.pending_count
        if not pending:
            self._moved_at = None
        elif self._moved_at is None:
            self._moved_at = now
        waiting = "; ".join(list(self._places.values())[:_MOST_TOLD])
        more = len(self._places) - _MOST_TOLD
        return health(
            HealthFacts(
                connected=self._connected,
                broker_connected=self._broker_connected(),
                head_age=self._heads.age(),
                busy_seconds=now - min(self._steps.values(), default=now),
                tx_pending=pending,
                tx_waiting_seconds=0.0 if self._moved_at is None else now - self._moved_at,
                disk_free=self._disk_free(),
                standing=self._standing,
                waiting=(waiting + (f"; {more} more tasks" if more > 0 else "")) or "no task underway",
                stopping=self._stopping,
            )
        )

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around each step of a part: one that never ends shows."""
        step = object()
        self._steps[step] = self._clock()
        try:
            yield
        finally:
            del self._steps[step]

    def ready(self) -> None:
        """The chain was reached, and it is the right one: the work begins."""
        self._connected = True
        verdict = self.health()
        self._manager.ready(verdict.status)
        self._file.write(verdict)

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._stopping = True
        self._manager.stopping()
        self._file.remove()

    async def run(self) -> None:
        """Looks after it all until cancelled."""
        pause = REPORT_SECONDS
        if self._manager.watchdog_seconds:
            # Half the time that is given, as sd_watchdog_enabled(3) asks for.
            pause = min(pause, self._manager.watchdog_seconds / 2)
        while True:
            if self._connected:
                await self._look_at_balance()
            verdict = self.health()
            self._manager.report(verdict.status, verdict.live)
            self._file.write(verdict)
            await asyncio.sleep(pause)

    # -------------------------------------------------------------------- money

    async def _look_at_balance(self) -> None:
        now = self._clock()
        if self._balance_at is not None and now - self._balance_at < BALANCE_SECONDS:
            return
        self._balance_at = now
        try:
            head = await self._chain.head()
            # Nobody else looks at heads while there is no task.
            self._heads.observe(head)
            self.balance = await self._chain.balance(self._me)
        except ChainError:
            # Whoever needs the chain says so; money is looked at again in a minute.
            return
        cap, tip = self._settings.gas_price_cap, self._settings.gas_tip
        price, most = min(head.base_fee + tip, cap), min(2 * head.base_fee + tip, cap)
        self.outlook = seen = self._costs.judge(self.balance, price, most)
        told = self._watch.changed(seen)
        if told == "":
            self._log("balance.low.over", f"{seen.balance} wei are enough again")
        elif told is not None:
            rounds = "less than one round" if told == "empty" else f"{seen.rounds} more rounds"
            if not seen.round_cost:
                rounds = "no transaction"
            self._log(
                "balance.low",
                f"the account has {seen.balance} wei, which pays for {rounds}; add {seen.missing} wei",
                "error" if told == "empty" else "warning",
                code=FundsError.code,
                wei=seen.missing,
                balance_wei=seen.balance,
                needed_wei=seen.needed,
                round_cost_wei=seen.round_cost,
                rounds_left=seen.rounds,
                help="send it to the daemon's account; it goes on by itself",
            )

    # ---------------------------------------------------------------- listening

    def _stand(self, event: str, line: dict[str, Any]) -> None:
        name = event.removesuffix(".over")
        if name == event:
            self._standing[name] = line["msg"]
        else:
            self._standing.pop(name, None)

    def _learn(self, event: str, line: dict[str, Any]) -> None:
        data: dict[str, Any] = line.get("data") or {}
        task = line.get("task")
        if event.startswith("tx."):
            self._moved_at = None
            if task is not None and "gas" in line:
                self._costs.spent(task, line.get("round", 0), data.get("function", ""), line["gas"])
        elif task is None:
            return
        elif event == "task.terms":
            self._costs.terms(task, data["value_count"], data["lane_bits"], data["rounds"])
        elif event in ("task.done", "task.missed"):
            self._costs.over(task)
            self._places.pop(task, None)
        elif event == "waiting":
            self._places[task] = f"task {task}: {line['msg']}"
        else:
            round_ = f" round {line['round']}" if line.get("round") else ""
            self._places[task] = f"task {task}{round_}: {line.get('phase', '')}"
            self._costs.entered(task, line.get("round", 0))
            if line.get("phase") in _OVER:
                self._costs.over(task)
