"""The summary of a run: what happened (logs), what was paid (chain), what is verified (journals)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.chain import Chain
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.log import show
from omnilytics.daemon.protection.sides import StatisticFunction
from omnilytics.daemon.run import ModelOptions, batch_entropy
from omnilytics.daemon.spec import TaskSpec, decode_spec
from omnilytics.daemon.task_design import design_task
from omnilytics.daemon.training.batch import choose_batch, fresh_batch
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.reference import train_plain
from omnilytics.peers.market import NO_SEAT, Member, MemberStatus, TaskParams, TaskState
from scripts.launcher.follow import Record
from scripts.launcher.options import TestbedOptions
from scripts.launcher.participants import Cast, owner_seed, thin_sums

SCHEMA = 1


@dataclass
class ChainFacts:
    """What the chain says of a task when everything is over."""

    task: int
    params: TaskParams
    state: TaskState
    members: tuple[Member, ...]
    paid_rounds: list[int]
    spec: TaskSpec
    withdrawable: dict[bytes, int]


async def read_chain(rpc_url: str, market: bytes, task: int, cast: Cast) -> ChainFacts:
    """Reads it while the chain is still there."""
    chain = Chain(rpc_url, market)
    try:
        await chain.connect()
        head = await chain.head()
        spec, _ = await chain.created_task(task, head.number)
        return ChainFacts(
            task,
            await chain.params(task),
            await chain.state(task),
            await chain.members(task),
            await chain.paid_rounds(task),
            decode_spec(spec),
            {owner.address: await chain.withdrawable(owner.address, [task]) for owner in cast.owners},
        )
    finally:
        await chain.close()


@dataclass
class Story:
    """What the logs of all participants tell, by round."""

    records: list[tuple[str, Record]] = field(repr=False)

    def of_model(self, event: str) -> list[Record]:
        """The model owner's records of one event."""
        return [record for name, record in self.records if name == "model" and record["event"] == event]

    def transactions(self) -> list[Record]:
        """All mined transactions, reverted ones too: their gas is spent all the same."""
        return [record for _, record in self.records if record["event"] in ("tx.mined", "tx.reverted")]

    def gas_by_round(self) -> dict[int, dict[str, int]]:
        """Total gas by round (0: before the first) and function."""
        totals: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for record in self.transactions():
            function = record["data"]["function"]
            # The transaction that opens a round is part of it, and so is what publishes its model.
            totals[record.get("round", 0)][function] += record["gas"]
        return {number: dict(sorted(functions.items())) for number, functions in sorted(totals.items())}

    def absent(self, round_number: int) -> list[str]:
        """Owners that the model owner or a mate waited for in vain, and who committed and did not post."""
        away: set[str] = set()
        for name, record in self.records:
            if record.get("round") != round_number:
                continue
            data = record.get("data", {})
            if record["event"] == "delivery.closed" and name == "model":
                away |= set(data["silent"])
            elif record["event"] == "round.done":
                away |= set(data["slashed"])
        return sorted(away)


def _group_seats(facts: ChainFacts) -> dict[int, list[Member]]:
    """Members by group, by position; also of groups that were dissolved later."""
    size = facts.params.group_size
    groups: dict[int, list[Member]] = defaultdict(list)
    seated = [m for m in facts.members if m.status in (MemberStatus.SEATED, MemberStatus.OUT) and m.seat != NO_SEAT]
    for member in sorted(seated, key=lambda member: member.seat):
        groups[member.seat // size].append(member)
    return groups


def verify_sums(facts: ChainFacts, cast: Cast, story: Story) -> tuple[bool, int]:
    """Whether the decrypted sum of every complete group equals, integer for integer, the sum of its owners'
    quantised updates as their journals have them; and how many groups were compared."""
    journals = {owner.address: Journal(owner.home / "journal.sqlite") for owner in cast.owners}
    model = Journal(cast.model.home / "journal.sqlite")
    groups = _group_seats(facts)
    compared, equal = 0, True
    try:
        sums = model.group_sums(facts.task)
        for record in story.of_model("round.done"):
            for group in record["data"]["complete_groups"]:
                vectors = [journals[m.account].vector(facts.task, record["round"]) for m in groups[group]]
                decrypted = sums.get((record["round"], group))
                compared += 1
                if decrypted is None or any(vector is None for vector in vectors):
                    equal = False
                    continue
                total = np.sum([vector.quantised for vector in vectors if vector is not None], axis=0)
                equal = equal and bool(np.array_equal(total, decrypted))
    finally:
        for journal in (*journals.values(), model):
            journal.close()
    return equal and compared > 0, compared


def plain_accuracy(
    options: TestbedOptions,
    model_options: ModelOptions,
    facts: ChainFacts,
    cast: Cast,
    story: Story,
    functions: dict[int, StatisticFunction],
) -> float:
    """The same seeds, minibatches, poisons and selected groups in one process, without quantising or masks."""
    design = design_task(model_options.wishes(), cast.model_data)
    spec = design.spec
    assert spec == facts.spec, "the model owner described another task than the testbed asked for"
    index = {owner.address: number for number, owner in enumerate(cast.owners)}
    groups = _group_seats(facts)
    done = {record["round"]: record["data"]["averaged_groups"] for record in story.of_model("round.done")}
    rounds = range(1, max(done, default=0) + 1)
    selected = [[[index[m.account] for m in groups[g]] for g in done.get(number, [])] for number in rounds]
    scaled = [
        Dataset(design.scaling.apply(data.features), data.with_classes(spec.classes).labels, spec.classes)
        for data in cast.owner_data
    ]
    draws = [batch_entropy(owner_seed(options, number)) for number in range(options.owners)]

    def choose_rows(number: int, owner: int) -> NDArray[np.int64]:
        if spec.means.fresh_rows:
            return fresh_batch(scaled[owner].row_count, facts.params.rounds, number + 1, draws[owner](0))
        return choose_batch(scaled[owner].row_count, spec.batch_size, draws[owner](number + 1))

    run = train_plain(
        spec.side_for(thin_sums(options, cast.owner_data) > 0),
        design.side,
        scaled,
        design.test,
        selected,
        lambda number, owner: draws[owner](number + 1),
        choose_rows,
        spec.clip,
        functions,
    )
    return run.accuracies[-1] if run.accuracies else 0.0


def build_summary(
    options: TestbedOptions,
    facts: ChainFacts,
    cast: Cast,
    story: Story,
    poisoned: set[bytes],
    accuracy_plain: float,
    sums_verified: bool,
    wall_seconds: float,
) -> dict[str, Any]:
    """summary.json, schema 1. Money in wei, accuracies as fractions of 1, times in seconds."""
    state, params = facts.state, facts.params
    gas = story.gas_by_round()
    done = {record["round"]: record for record in story.of_model("round.done")}
    rounds = []
    for number in range(1, state.round + 1):
        record = done.get(number)
        data = record["data"] if record else {}
        rounds.append(
            {
                "round": number,
                # None where the model owner was not there any more to decrypt the round.
                "accuracy": data.get("accuracy"),
                "outcome": data.get("outcome"),
                "selected_groups": data.get("selected_groups", []),
                "averaged_groups": data.get("averaged_groups", []),
                "void_groups": data.get("void_groups", []),
                "absent_owners": story.absent(number),
                "gas": gas.get(number, {}),
                "seconds": record["dur_ms"] / 1000 if record and "dur_ms" in record else None,
            }
        )
    finished = [item["accuracy"] for item in rounds if item["accuracy"] is not None]
    seats = {member.account: member for member in facts.members}
    owners = []
    for owner in cast.owners:
        member = seats.get(owner.address)
        group = member.seat // params.group_size if member is not None and member.seat != NO_SEAT else None
        owners.append(
            {
                "name": owner.name,
                "address": show(owner.address),
                "group": group,
                "poisoned": owner.address in poisoned,
                "paid_wei": params.rate * facts.paid_rounds[group] if group is not None else 0,
                "still_withdrawable_wei": facts.withdrawable[owner.address],
            }
        )
    return {
        "schema": SCHEMA,
        "owner_count": options.owners,
        "group_count": state.group_count,
        "group_size": params.group_size,
        "values": params.value_count,
        "protection": facts.spec.protection,
        "status": state.status.name.lower(),
        "rounds": rounds,
        "setup_gas": gas.get(0, {}),
        "accuracy_final": finished[-1] if finished else None,
        "accuracy_plain": accuracy_plain,
        "escrow_wei": state.escrow,
        "paid_wei": state.paid,
        "settlement_wei": state.settlement_paid,
        "refunded_wei": state.refunded,
        "locked_wei": state.locked,
        "stakes_in_wei": state.stakes_in,
        "stakes_out_wei": state.stakes_out,
        "slashed_wei": state.slashed,
        "compensation_wei": state.compensation,
        "burned_wei": state.burned,
        "owners": owners,
        "sums_verified": sums_verified,
        "max_gas": max((record["gas"] for record in story.transactions()), default=0),
        "max_calldata_bytes": max((r["data"]["calldata_bytes"] for r in story.transactions()), default=0),
        "wall_seconds": round(wall_seconds, 3),
    }
