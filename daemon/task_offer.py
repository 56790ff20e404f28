"""What a model owner offers: the task's parameters and description, chosen so that the contract accepts them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from omnilytics.daemon.chain import MAX_TRANSACTION_BYTES, Chain, ContractRefused, params_tuple
from omnilytics.daemon.posting import MAX_PART_BYTES
from omnilytics.daemon.spec import TaskSpec
from omnilytics.peers.errors import ParameterError
from omnilytics.peers.market import TaskParams
from omnilytics.peers.quantise import check_budget

# A settle call should also fit a block that is half full; the contract itself stops at 12 M gas.
COMFORTABLE_SETTLE_GAS = 10_000_000
# Function selector, arguments and the signed transaction around the data.
_CALL_OVERHEAD_BYTES = 2_000


@dataclass(frozen=True)
class Timing:
    """Seconds of chain time for each phase, and what the chain is like."""

    join: int = 120
    reveal: int = 60
    open: int = 60
    commit: int = 60
    post: int = 60
    settle: int = 60
    turn: int = 5
    depth: int = 0
    block: int = 1


@dataclass(frozen=True)
class Terms:
    """Rounds, groups and money (wei)."""

    rounds: int
    group_size: int
    max_groups: int
    faulty_groups: int
    lane_bits: int = 16
    strict_selection: bool = False
    # Whether owners hand their vectors over the broker to the model owner, or post them.
    broker_delivery: bool = False
    max_empty_rounds: int = 3
    max_missed_rounds: int = 5
    rate: int = 10**15
    deposit: int = 10**15
    gas_price_cap: int = 50 * 10**9
    gas_tip: int = 10**9
    allowlist_root: bytes = bytes(32)


@dataclass(frozen=True)
class TaskOffer:
    """A task ready to be created."""

    params: TaskParams
    spec: TaskSpec

    def contract_params(self) -> tuple[Any, ...]:
        """The parameters as the contract takes them."""
        return params_tuple(self.params)

    def describe(self) -> str:
        """One line for people."""
        p = self.params
        return (
            f"{self.spec.architecture} under {self.spec.protection}, {p.value_count} values, {p.rounds} rounds, "
            f"up to {p.max_groups} groups of {p.group_size}, "
            f"tolerates {p.faulty_groups} poisoned, {p.rate} wei an owner and round"
        )


async def make_offer(chain: Chain, spec: TaskSpec, terms: Terms, timing: Timing) -> TaskOffer:
    """Chooses q_max and the chunk size, and asks the contract whether it would take the task.

    Raises ParameterError in the words of what is wrong.
    """
    value_count = spec.side.value_count
    model_selection = spec.means.model_selection
    if terms.max_groups < 2 * terms.faulty_groups + 3:
        raise ParameterError(
            f"{terms.max_groups} groups cannot tolerate f={terms.faulty_groups}; need {2 * terms.faulty_groups + 3}",
            help="more owners, smaller groups or a smaller --faulty",
        )
    if terms.group_size < 3:
        raise ParameterError(f"group size {terms.group_size} below minimum 3", help="raise --group-size")
    # The largest magnitude whose group sum, and difference of sums, cannot wrap around.
    max_magnitude = (2 ** (terms.lane_bits - 2) - 1) // terms.group_size
    check_budget(terms.group_size, max_magnitude, terms.lane_bits)
    owners = terms.group_size * terms.max_groups
    room = (MAX_TRANSACTION_BYTES - _CALL_OVERHEAD_BYTES) // owners - 32
    draft = TaskParams(
        group_size=terms.group_size,
        max_groups=terms.max_groups,
        faulty_groups=terms.faulty_groups,
        strict_selection=terms.strict_selection,
        model_selection=model_selection,
        broker_delivery=terms.broker_delivery,
        lane_bits=terms.lane_bits,
        max_magnitude=max_magnitude,
        value_count=value_count,
        chunk_words=1,
        rounds=terms.rounds,
        max_empty_rounds=terms.max_empty_rounds,
        max_missed_rounds=terms.max_missed_rounds,
        depth=timing.depth,
        block_seconds=timing.block,
        join_seconds=timing.join,
        reveal_seconds=timing.reveal,
        open_seconds=timing.open,
        commit_seconds=timing.commit,
        post_seconds=timing.post,
        settle_seconds=timing.settle,
        turn_seconds=timing.turn,
        rate=terms.rate,
        stake=terms.group_size * terms.rate + terms.deposit,
        deposit=terms.deposit,
        gas_price_cap=terms.gas_price_cap,
        gas_tip=terms.gas_tip,
        allowlist_root=terms.allowlist_root,
    )
    # Where nobody settles, a chunk is only what a part of a post is made of.
    words = MAX_PART_BYTES // 32 if model_selection else min(room // 32, MAX_PART_BYTES // 32)
    words = min(draft.layout.word_count, words)
    while words > 1 and not model_selection:
        gas = await chain.settle_gas(terms.max_groups, terms.group_size, words, terms.lane_bits, True)
        if gas <= COMFORTABLE_SETTLE_GAS:
            break
        words = min(words - 1, words * COMFORTABLE_SETTLE_GAS // gas)
    if words < 1:
        raise ParameterError(f"{owners} owners are too many for one settle call", help="smaller or fewer groups")
    params = replace(draft, chunk_words=words)
    try:
        await chain.escrow_required(params)
    except ContractRefused as error:
        if error.name == "BadParameter":
            name, value, bound = error.arguments.values()
            raise ParameterError(f"the contract refuses {name} = {value}; its bound is {bound}") from error
        raise
    return TaskOffer(params, spec)
