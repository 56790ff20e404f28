"""What a participant earned, by task, as the chain shows it now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnilytics.daemon.chain import Chain

# The newest; each costs some calls.
MOST_TASKS = 64


async def earnings_of(chain: Chain, account: bytes, tasks: Sequence[int]) -> dict[str, Any]:
    """Wei by task: paid (the rate for every round that paid our group), withdrawable, withdrawn. Raises ChainError.

    What is withdrawable and withdrawn holds the stake, too; credits (compensation, gas of settling) are of no single
    task and only in the sums over all of them.
    Of more than MOST_TASKS tasks the newest are told; `left_out` counts the others.
    """
    head = await chain.head()
    collected = await chain.collected(account, head.number)
    credits = await chain.credits(account)
    rows: list[dict[str, Any]] = []
    for task in sorted(tasks, reverse=True)[:MOST_TASKS]:
        state, params = await chain.state(task), await chain.params(task)
        member = next((one for one in await chain.members(task) if one.account == account), None)
        paid = 0
        if member is not None and state.group_count and member.seat < state.group_count * params.group_size:
            paid = params.rate * (await chain.paid_rounds(task))[member.seat // params.group_size]
        pay, stake = collected.get(task, (0, 0))
        rows.append(
            {
                "task": task,
                "status": state.status.name.lower(),
                "paid_wei": paid,
                "withdrawable_wei": await chain.withdrawable(account, [task]) - credits,
                "withdrawn_wei": pay + stake,
                "withdrawn_stake_wei": stake,
            }
        )
    return {
        "tasks": rows,
        "left_out": max(0, len(tasks) - MOST_TASKS),
        "credits_wei": credits,
        "paid_wei": sum(row["paid_wei"] for row in rows),
        "withdrawable_wei": credits + sum(row["withdrawable_wei"] for row in rows),
        "withdrawn_wei": await chain.withdrawn(account, head.number),
    }
