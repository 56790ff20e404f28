"""The model owner's part: creates a task, plays its rounds, selects groups where that is its choice, decrypts, learns.

Nothing that owners are owed waits for it: when it is silent the owners settle and end the task themselves; and where
they cannot, because they handed it their vectors, all of them are paid at the deadline.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omnilytics.daemon.aggregate import NOTHING, Aggregate, decrypt_round
from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.events import Event, PresenceChanged, SnapshotSeen, TimePassed, WorkDone
from omnilytics.daemon.market_log import MarketLog, headroom_bits
from omnilytics.daemon.model_play import ModelChoices, ModelRoundPlayer
from omnilytics.daemon.node import Node
from omnilytics.daemon.posting import PostedVectors
from omnilytics.daemon.protection.sides import Learned
from omnilytics.peers.duties import (
    CollectVectors,
    FinishRound,
    OpenRound,
    Poke,
    SelectGroups,
    SettleChunk,
    Withdraw,
    model_duties,
    rounds_played,
)
from omnilytics.peers.errors import ChainError, ChainMismatchError, CommitmentError, OmniLyticsError
from omnilytics.peers.hashing import abi_words, keccak
from omnilytics.peers.market import Outcome, RoundOpening, TaskSnapshot, TaskState, bitmap, bits
from omnilytics.peers.owner_round import Tick

__all__ = ["ModelChoices", "ModelPart", "RoundResult"]


@dataclass(frozen=True)
class RoundResult:
    """How a round ended, and what has been learnt by then; the accuracy is a fraction of 1."""

    outcome: Outcome
    complete: tuple[int, ...]
    learned: Learned = field(repr=False)
    accuracy: float
    found: Aggregate


def design_name(task: int) -> str:
    """Under which name the journal remembers the record of a task's design."""
    return f"design of task {task}"


class ModelPart(ModelRoundPlayer):
    """Plays the model owner of one task."""

    def __init__(self, node: Node, choices: ModelChoices, task_id: int | None = None) -> None:
        super().__init__(node, choices, task_id)
        self._finished_round = 0
        # What is under way off the event loop: a selection that the deadline overtook, and finishing, may be at once.
        self._working: set[str] = set()
        self._failed_work_at = -1
        self._settling: PostedVectors | None = None
        self._done = False
        # Where refunds and what the settlement left go; None: to the own account.
        self.withdraw_to: bytes | None = None
        self._market_log = MarketLog(node.log, node.me, every_group=True)

    @property
    def finished(self) -> bool:
        """Whether the task is over and everything is collected."""
        return self._done

    # -------------------------------------------------------------------- start

    async def prepare(self) -> None:
        """Creates the task, or goes on with the one that the journal knows."""
        node = self._node
        if self.task_id is None:
            known = node.journal.get("task")
            self.task_id = int.from_bytes(known, "big") if known is not None else await self._create()
        if self._choices.record:
            node.journal.bind(design_name(self._task), self._choices.record)
        newest = node.journal.newest_model(self._task)
        if newest is not None:
            self._finished_round, weights, memory = newest
            self._learned = Learned(weights, memory)
        else:
            node.journal.store_model(self._task, 0, self._learned.weights, self._learned.memory)
        accuracy = self._choices.side.accuracy(self._learned, self._choices.test)
        node.log(
            "task.ready",
            f"task {self._task}, accuracy {accuracy:.4f} before round {self._finished_round + 1}",
            task=self._task,
            accuracy=accuracy,
            before_round=self._finished_round + 1,
        )

    async def _create(self) -> int:
        node = self._node
        offer = await self._choices.make_offer(node.chain)
        # A transaction that an earlier life sent may have created the task already.
        await node.transactions.settled()
        found = await self._created_before()
        if found is None:
            reward, pot = await node.chain.escrow_required(offer.params)
            data = (offer.contract_params(), node.keys.box.public, offer.spec.encode())
            receipt = await node.transactions.submit(
                "createTask", "createTask", *data, value=reward + pot, phase="create"
            )
            created = node.chain.events_in(receipt, "TaskCreated")
            if not created:
                # Not to be tried again: the escrow is paid.
                raise ChainMismatchError("the receipt of createTask has no TaskCreated event")
            found = int(created[0]["taskId"])
            node.log(
                "task.created",
                f"task {found}: {offer.describe()}",
                task=found,
                wei=reward + pot,
                reward_wei=reward,
                settlement_pot_wei=pot,
            )
        node.journal.bind("task", found.to_bytes(8, "big"))
        return found

    async def _created_before(self) -> int | None:
        """Our task with this very description, where an earlier life created it and died."""
        head = await self._node.chain.head()
        created = await self._node.chain.tasks_of(self._node.me, head.number)
        return next((task for task, spec in created if spec == self._spec.encode()), None)

    # ------------------------------------------------------------------- events

    async def handle(self, event: Event) -> None:
        """One event."""
        match event:
            case SnapshotSeen(snapshot):
                self._snapshot = snapshot
                self._node.members_may_have_changed(self._task)
                self._log_place(snapshot)
                self._market_log.see(snapshot)
                await self._follow(snapshot)
                self._rewind(snapshot.state)
                await self._perform_duties(snapshot)
            case Arrived():
                self._arrived(event)
            case TimePassed():
                self._step(Tick(self._node.clock()))
                self._log_waiting()
            case WorkDone(proceed):
                await proceed()
                # What it has waited for need not wait for the next block too: a round that is finished is followed by
                # another one.
                if self._snapshot is not None:
                    await self._perform_duties(self._snapshot)
            case PresenceChanged():
                pass

    async def _perform_duties(self, snapshot: TaskSnapshot) -> None:
        for duty in model_duties(snapshot, self._finished_round):
            match duty:
                case OpenRound(round_number):
                    await self._open(snapshot, round_number)
                case FinishRound(round_number):
                    await self._finish(snapshot, round_number)
                case CollectVectors():
                    self._collect(snapshot)
                case SelectGroups(round_number):
                    await self._select(snapshot, round_number)
                case SettleChunk():
                    await self._settle(snapshot)
                case Poke(reason):
                    state = snapshot.state
                    key = f"poke {state.status} {state.round} {state.phase}"
                    self._send(snapshot, key, "poke", self._task, reason=reason)
                case Withdraw():
                    await self._withdraw(snapshot)
                case _:
                    pass

    # ------------------------------------------------------- select and finish

    def _decrypt(
        self,
        vectors: PostedVectors,
        opening: RoundOpening,
        pad_seeds: tuple[bytes, ...],
        outcome: Outcome | None,
        chosen: tuple[int, ...],
    ) -> Aggregate:
        """Slow for large statistics: runs off the event loop."""
        side, params, learned = self._choices.side, vectors.params, self._learned
        entropy = self._round_entropy(opening.round)
        return decrypt_round(
            vectors,
            pad_seeds,
            outcome,
            chosen,
            self._spec.clip,
            lambda means: side.choose(learned, entropy, means, params.faulty_groups, params.strict_selection),
            lambda means, selected: side.trust(learned, entropy, means, selected),
        )

    async def _select(self, snapshot: TaskSnapshot, round_number: int) -> None:
        """Decrypts the groups' sums and names as many groups as the contract asks for; pay does not depend on which."""
        node, params, state = self._node, snapshot.params, snapshot.state
        key = f"selectGroups {round_number}"
        secrets = node.journal.round_secrets(self._task, round_number)
        # Rounds are learnt in order; and where the secrets are in another folder, the deadline pays everybody.
        ready = self._finished_round == round_number - 1 and secrets is not None
        if not ready or self._busy(key, snapshot) or not self._wanted(snapshot, key):
            return
        assert secrets is not None
        opening = await node.chain.opening(self._task, round_number, snapshot.block)
        complete = tuple(bits(state.complete))
        parts, held = await node.chain.posted(opening, snapshot.block), self._held(snapshot, opening)
        self._working.add(key)

        def work() -> Aggregate:
            vectors = PostedVectors.collect(parts, params, opening.ctx, complete, held)
            return self._decrypt(vectors, opening, secrets[1], None, ())

        async def proceed(found: Aggregate | OmniLyticsError) -> None:
            if self._worked(key, found, snapshot, round_number):
                assert isinstance(found, Aggregate)
                chosen = bitmap(found.selected)
                self._send(snapshot, key, "selectGroups", self._task, opening.ctx, chosen, phase="settle")

        node.in_thread(self._task, work, proceed)

    def _held(self, snapshot: TaskSnapshot, opening: RoundOpening) -> dict[int, bytes] | None:
        """The vectors of a round that were handed over, by seat; None in a task where all are posted."""
        if not snapshot.params.broker_delivery:
            return None
        received = self._node.journal.received_vectors(self._task, opening.round, opening.ctx)
        return {seat: vector for seat, (_, vector) in received.items()}

    async def _settle(self, snapshot: TaskSnapshot) -> None:
        """Settles a chunk where vectors are handed over, and nobody else has them."""
        node, state = self._node, snapshot.state
        key = f"settle {state.round} {state.next_chunk}"
        if self._failed_work_at == snapshot.block or not self._wanted(snapshot, key):
            return
        if self._settling is None or self._settling.ctx != state.ctx:
            opening = await node.chain.opening(self._task, state.round, snapshot.block)
            parts, held = await node.chain.posted(opening, snapshot.block), self._held(snapshot, opening)
            try:
                groups = bits(state.complete)
                self._settling = PostedVectors.collect(parts, snapshot.params, state.ctx, groups, held)
            except CommitmentError as error:
                self._worked(key, error, snapshot, state.round)
                return
        data = self._settling.settle_data(state.next_chunk)
        self._send(snapshot, key, "settle", self._task, state.ctx, state.next_chunk, data, phase="settle")

    def _busy(self, work: str, snapshot: TaskSnapshot) -> bool:
        """Whether this work is under way, or could not be done with what this block shows."""
        return work in self._working or self._failed_work_at == snapshot.block

    def _worked(self, work: str, outcome: object, snapshot: TaskSnapshot, round_number: int) -> bool:
        """Whether work succeeded; if not, it is tried again with the next block. Raises what only people can mend."""
        self._working.discard(work)
        if isinstance(outcome, CommitmentError):
            # The RPC shows fewer logs than the contract counted: look again with the next block.
            self._failed_work_at = snapshot.block
            self._node.log("logs.incomplete", str(outcome), "warning", code=outcome.code, round=round_number)
            return False
        if isinstance(outcome, OmniLyticsError):
            raise outcome
        return True

    def _rewind(self, state: TaskState) -> None:
        """Takes back what was learned from a round that a reorg has undone, or has ended in another way.

        Only shallower finality than the chain's reorgs makes this happen. What is taken back is learned again from
        the round as it is now, before the next one is opened with the wrong model, or with the same one twice.
        """
        node, kept = self._node, min(self._finished_round, rounds_played(state))
        ending = _ending(state, kept)
        if kept == self._finished_round and ending and node.journal.model_ending(self._task, kept) not in (b"", ending):
            kept -= 1
        if kept == self._finished_round:
            return
        node.journal.rewind_models(self._task, kept)
        newest = node.journal.newest_model(self._task)
        assert newest is not None
        self._finished_round, weights, memory = newest
        self._learned = Learned(weights, memory)
        node.log(
            "round.undone",
            f"a reorg has undone what was learned after round {self._finished_round}; learning it again",
            "warning",
            task=self._task,
            round=self._finished_round + 1,
            help="raise --finality-depth: the chain reorganises deeper than that",
        )

    async def _finish(self, snapshot: TaskSnapshot, round_number: int) -> None:
        """Decrypts a round that is over; rounds that could not be read before are caught up in order."""
        node, params = self._node, snapshot.params
        target = self._finished_round + 1
        key = f"finish {target}"
        if self._busy(key, snapshot):
            return
        opening = await node.chain.opening(self._task, target, snapshot.block)
        ended = await node.chain.round_events("RoundEnded", opening, snapshot.block)
        posts = await node.chain.round_events("PostClosed", opening, snapshot.block)
        if params.model_selection:
            selections = await node.chain.round_events("GroupsSelected", opening, snapshot.block)
        else:
            selections = await node.chain.round_events("KrumSelected", opening, snapshot.block)
        slashes = await node.chain.round_events("Slashed", opening, snapshot.block)
        slashed = [str(entry["account"]).lower() for entry in slashes]
        if not ended:
            raise ChainError(f"round {target} is over, but the logs do not show how it ended")
        outcome = Outcome(ended[0]["outcome"])
        if (outcome is not Outcome.VOID and not posts) or (outcome is Outcome.SELECTED and not selections):
            # Without them the round would be taken for one without a step, for ever.
            raise ChainError(f"the logs do not show all of how round {target} ended")
        complete = tuple(bits(posts[0]["complete"])) if posts else ()
        chosen = tuple(bits(selections[0]["selected"])) if selections else ()
        parts = await node.chain.posted(opening, snapshot.block) if complete else []
        held = self._held(snapshot, opening)
        secrets = node.journal.round_secrets(self._task, target)
        learned, side = self._learned, self._choices.side
        self._working.add(key)

        def work() -> RoundResult:
            found, after = NOTHING, learned
            if outcome is not Outcome.VOID and complete and secrets is not None:
                vectors = PostedVectors.collect(parts, params, opening.ctx, complete, held)
                found = self._decrypt(vectors, opening, secrets[1], outcome, chosen)
            if found.average is not None:
                after = side.learn(learned, self._round_entropy(target), found.average)
            return RoundResult(outcome, complete, after, side.accuracy(after, self._choices.test), found)

        async def proceed(result: RoundResult | OmniLyticsError) -> None:
            # What it builds on may have been taken back meanwhile.
            if self._worked(key, result, snapshot, target) and self._learned is learned:
                assert isinstance(result, RoundResult)
                self._take(target, result, slashed, _ending(snapshot.state, target))
                if params.broker_delivery:
                    node.journal.forget_received(self._task, target - 1)

        node.in_thread(self._task, work, proceed)

    def _take(self, round_number: int, result: RoundResult, slashed: list[str], ending: bytes) -> None:
        """Makes a finished round durable and says how it went."""
        node = self._node
        for group, sums in result.found.sums.items():
            node.journal.store_group_sum(self._task, round_number, group, sums)
        node.journal.store_model(self._task, round_number, result.learned.weights, result.learned.memory, ending)
        self._finished_round = round_number
        self._learned = result.learned
        if result.found.disagreement:
            node.log(
                "krum.disagreement",
                "the contract's selection differs from the one computed from the posted vectors",
                "error",
                code="krum",
                task=self._task,
                round=round_number,
            )
        count = self._snapshot.state.group_count if self._snapshot is not None else 0
        params = self._snapshot.params if self._snapshot is not None else None
        limit = params.group_size * params.max_magnitude if params is not None else 1
        node.log(
            "round.done",
            f"accuracy {result.accuracy:.4f}, {result.outcome.name.lower()}, groups {list(result.found.selected)}",
            task=self._task,
            round=round_number,
            # Unknown for a round that an earlier life of this daemon had opened.
            dur_ms=int(1000 * (node.clock() - self._round_started)) if self._round_started else None,
            accuracy=result.accuracy,
            outcome=result.outcome.name.lower(),
            selected_groups=list(result.found.selected),
            averaged_groups=list(result.found.averaged),
            complete_groups=list(result.complete),
            void_groups=[group for group in range(count) if group not in result.complete],
            slashed=slashed,
            distances=[[str(value) for value in row] for row in result.found.distances],
            headroom_bits=headroom_bits(result.found.sums, result.found.selected, limit),
        )

    async def _withdraw(self, snapshot: TaskSnapshot) -> None:
        node = self._node
        if not self._wanted(snapshot, "withdraw"):
            return
        # At the snapshot's own block: another one may be older, or of a fork that does not last.
        amount = await node.chain.withdrawable(node.me, [self._task], snapshot.state_block)
        if amount > 0:
            to = self.withdraw_to or node.me
            self._send(snapshot, "withdraw", "withdraw", [self._task], to, wei_expected=amount)
        else:
            node.log("task.done", "the task is over and everything is collected", task=self._task)
            self._done = True


def _ending(state: TaskState, round_number: int) -> bytes:
    """How a round ended, as far as the task's state shows it: another ending has another one. Empty where it shows
    another round, or one that is not over."""
    if state.round != round_number or rounds_played(state) != round_number:
        return b""
    return keccak(state.ctx, abi_words(state.complete, state.selected, state.paid))
