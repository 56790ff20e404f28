"""What an account has earned in a market, task by task, and how it is collected without a daemon.

Pay is counted on the chain: a group's owners are paid the rate for every round that their group was paid, and what
each of them has collected is a number of such rounds. Refunds, compensation and settlement are credits of the account,
not of a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnilytics.daemon.chain import Chain, ContractRefused
from omnilytics.daemon.chain_identity import check_identity
from omnilytics.daemon.config import Settings
from omnilytics.daemon.ending import end_tasks
from omnilytics.daemon.in_flight import FeePolicy
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log import Logger
from omnilytics.daemon.log_reading import LogTail
from omnilytics.daemon.transactions import TransactionQueue
from omnilytics.peers.errors import ChainError
from omnilytics.peers.market import Member, MemberStatus


@dataclass(frozen=True)
class TaskEarnings:
    """One task of an account; money in wei. role: "owner" or "model".

    paid is all pay so far, withdrawn how much of it was collected, withdrawable what a withdrawal would bring from
    this task: pay, and the stake once it is released; staked is what lies in the contract as stake.
    """

    task: int
    role: str
    status: str
    paid_rounds: int = 0
    paid: int = 0
    withdrawn: int = 0
    withdrawable: int = 0
    staked: int = 0


@dataclass(frozen=True)
class Earnings:
    """All tasks of an account, and its credits (refunds, compensation, settlement) in wei, as of a block."""

    account: bytes
    block: int
    tasks: tuple[TaskEarnings, ...]
    credits: int

    @property
    def paid(self) -> int:
        """Pay of all tasks, wei."""
        return sum(entry.paid for entry in self.tasks)

    @property
    def withdrawn(self) -> int:
        """Pay collected of all tasks, wei."""
        return sum(entry.withdrawn for entry in self.tasks)

    @property
    def withdrawable(self) -> int:
        """What a withdrawal from all tasks would bring, wei."""
        return self.credits + sum(entry.withdrawable for entry in self.tasks)


async def read_earnings(chain: Chain, account: bytes, depth: int = 0, tasks: Sequence[int] | None = None) -> Earnings:
    """From the contract's views, some calls a task: all of the market, or those that are named. Raises ChainError."""
    head = await chain.head()
    block = max(0, head.number - depth)
    credited = await chain.withdrawable(account, [], block)
    found: list[TaskEarnings] = []
    for task in tasks if tasks is not None else range(1, await chain.task_count() + 1):
        with contextlib.suppress(_NotYet):
            entry = await _of_task(chain, account, task, block, credited)
            if entry is not None:
                found.append(entry)
    return Earnings(account, block, tuple(found), credited)


class _NotYet(Exception):
    """The task was created after the block that is looked at."""


async def _of_task(chain: Chain, account: bytes, task: int, block: int, credited: int) -> TaskEarnings | None:
    try:
        state = await chain.state(task, block)
    except ChainError as error:
        if getattr(error, "name", "") == "NoSuchTask":
            raise _NotYet from error
        raise
    status = state.status.name.lower()
    if state.model_owner == account:
        return TaskEarnings(task, "model", status)
    member = next((one for one in await chain.members(task, block) if one.account == account), None)
    if member is None:
        return None
    params, paid = await chain.params(task), await chain.paid_rounds(task)
    rounds = paid[member.seat // params.group_size] if _drawn(member, len(paid), params.group_size) else 0
    due = await chain.withdrawable(account, [task], block) - credited
    return TaskEarnings(
        task,
        "owner",
        status,
        rounds,
        rounds * params.rate,
        min(member.collected, rounds) * params.rate,
        due,
        member.stake,
    )


def _drawn(member: Member, groups: int, group_size: int) -> bool:
    # A member without a seat has the largest number there is as its seat.
    seated = member.status in (MemberStatus.SEATED, MemberStatus.RELEASED, MemberStatus.OUT)
    return seated and member.seat // group_size < groups


# Of a task's status: its clock stands.
_OVER = ("ended", "cancelled")


@dataclass(frozen=True)
class Withdrawal:
    """A withdrawal that was mined: wei that came, wei of its fee, transaction's block."""

    amount: int
    fee: int
    block: int


async def withdraw(settings: Settings, keys: Keys, to: bytes | None, seconds: float) -> Withdrawal | None:
    """Collects everything that an account can have; None where there is nothing. The caller holds the home's lock.

    Sends through the same queue as a daemon, journalled first: what an earlier life has sent is waited for, and no
    nonce is used twice. Raises ChainError, ChainMismatchError, FundsError, and ChainError after `seconds` without a
    block that has it; then it may still be mined, and the next start looks for it.
    """
    log = Logger(settings.log_path, last_role(settings.log_path), "0x" + keys.address.hex())
    log.protect(*keys.secrets(), keep=True)
    chain = Chain(settings.chain_url, settings.market_address)
    with contextlib.closing(Journal(settings.journal_path)) as journal, contextlib.closing(log):
        try:
            await chain.connect(settings.chain_id)
            check_identity(journal, chain)
            fees = FeePolicy(settings.gas_price_cap, settings.gas_tip)
            queue = TransactionQueue(chain, keys, journal, log, fees)
            running = asyncio.create_task(queue.run())
            try:
                async with asyncio.timeout(seconds):
                    await queue.settled()
                    earned = await read_earnings(chain, keys.address)
                    tasks = [entry.task for entry in earned.tasks if entry.withdrawable]
                    if earned.withdrawable == 0:
                        # What a deadline has set free nobody may have poked yet; a withdrawal does.
                        tasks = [entry.task for entry in earned.tasks if entry.status not in _OVER]
                        if not tasks:
                            return None
                    try:
                        receipt = await queue.submit("withdraw", "withdraw", tasks, to or keys.address)
                    except ContractRefused as error:
                        if error.name != "NothingToWithdraw":
                            raise
                        return None
            except TimeoutError:
                raise ChainError(
                    f"no block had the withdrawal in {seconds:.0f} s",
                    help="it may still come: look with omnilytics earnings before trying again",
                ) from None
            finally:
                await end_tasks([running])
            amount = sum(int(event["amount"]) for event in chain.events_in(receipt, "Withdrawn"))
            return Withdrawal(amount, receipt.fee, receipt.block)
        finally:
            await chain.close()


def last_role(log_path: Path) -> str:
    """The role of who wrote the log's last line: who logs on in its place is the same participant. "owner" without."""
    with LogTail(log_path) as tail:
        lines = tail.last(1, lambda line: True)
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        return str(json.loads(lines[0])["role"])
    return "owner"


@dataclass(frozen=True)
class RememberedTask:
    """What a folder knows of a task without a chain: rounds whose vectors were posted."""

    task: int
    rounds: int


def remembered(journal_path: Path) -> list[RememberedTask]:
    """From the journal alone. Raises JournalError."""
    if not journal_path.exists():
        return []
    counts: dict[int, int] = {}
    with contextlib.closing(Journal(journal_path)) as journal:
        for exposure in journal.exposures():
            counts[exposure.task] = counts.get(exposure.task, 0) + 1
    return [RememberedTask(task, rounds) for task, rounds in sorted(counts.items())]
