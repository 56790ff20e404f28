"""The model owner's part: creates a task, opens its rounds, delivers keys and pads, decrypts, steps the model.

Nothing that owners are owed waits for it: when it is silent the owners settle and end the task themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.aggregate import NOTHING, Aggregate, decrypt_round
from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.chain import Chain
from omnilytics.daemon.log import show
from omnilytics.daemon.market_log import MarketLog, headroom_bits, log_delivery
from omnilytics.daemon.node import Event, Node, PresenceChanged, SnapshotSeen, TimePassed, WorkDone
from omnilytics.daemon.posting import MAX_PART_BYTES, PostedVectors
from omnilytics.daemon.protection.envelope import seal_model
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_offer import TaskOffer
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.optimisers import Optimiser, OptimiserState
from omnilytics.daemon.training.payload import ModelPayload, as_published, encode_payload
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers import model_round
from omnilytics.peers.duties import FinishRound, OpenRound, Poke, Withdraw, model_duties
from omnilytics.peers.errors import ChainError, CommitmentError, MessageError, OmniLyticsError
from omnilytics.peers.hashing import base_context, keccak, model_commitment
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import (
    MemberStatus,
    Outcome,
    RoundPhase,
    TaskSnapshot,
    TaskStatus,
    bits,
)
from omnilytics.peers.model_round import ModelRound, Recipient
from omnilytics.peers.owner_round import CommitPhaseClosed, EnvelopeReceived, Note, SendEnvelope, Tick
from omnilytics.peers.round_keys import Peer, RoundKeys

_EARLY_MESSAGES = 4096
# Usually an owner's last repetition, when the round is over here.
NO_ROUND_AT_HAND = "the message is of no round at hand, or from a stranger"
_WAITING_SECONDS = 5.0


@dataclass
class ModelChoices:
    """What a model owner decides for itself; none of it is on the chain but the offer."""

    # Made when the chain is there: the contract is asked what it would take.
    make_offer: Callable[[Chain], Awaitable[TaskOffer]]
    spec: TaskSpec
    optimiser: Optimiser
    initial_weights: NDArray[np.float64] = field(repr=False)
    scaling: FeatureScaling = field(repr=False)
    test: Dataset = field(repr=False)


@dataclass(frozen=True)
class RoundResult:
    """How a round ended, and the model after it."""

    outcome: Outcome
    complete: tuple[int, ...]
    weights: NDArray[np.float64] = field(repr=False)
    optimiser: OptimiserState = field(repr=False)
    accuracy: float
    found: Aggregate


class ModelPart:
    """Plays the model owner of one task."""

    def __init__(self, node: Node, choices: ModelChoices, task_id: int | None = None) -> None:
        self.task_id = task_id
        self._node = node
        self._choices = choices
        self._finished_round = 0
        self._weights = choices.initial_weights
        self._optimiser = choices.optimiser.initial_state(len(self._weights))
        self._snapshot: TaskSnapshot | None = None
        self._round: ModelRound | None = None
        self._round_ctx = b""
        self._early: deque[Arrived] = deque(maxlen=_EARLY_MESSAGES)
        # Messages that never reached a round's machine, which counts its own.
        self.dropped = 0
        self._working = ""
        self._failed_work_at = -1
        self._last_place: tuple[object, ...] = ()
        self._last_waiting = ("", 0.0)
        self._round_started = 0.0
        self._done = False
        self._market_log = MarketLog(node.log, node.me, every_group=True)

    @property
    def _task(self) -> int:
        assert self.task_id is not None
        return self.task_id

    @property
    def _spec(self) -> TaskSpec:
        return self._choices.spec

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
        newest = node.journal.newest_model(self._task)
        if newest is not None:
            self._finished_round, self._weights, optimiser = newest
            self._optimiser = OptimiserState.from_bytes(optimiser)
        else:
            node.journal.store_model(self._task, 0, self._weights, self._optimiser.to_bytes())
        accuracy = self._accuracy(self._weights)
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
                raise ChainError("the receipt of createTask has no TaskCreated event")
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
                self._node.members_may_have_changed()
                self._log_place(snapshot)
                self._market_log.see(snapshot)
                await self._follow(snapshot)
                for duty in model_duties(snapshot, self._finished_round):
                    match duty:
                        case OpenRound(round_number):
                            await self._open(snapshot, round_number)
                        case FinishRound(round_number):
                            await self._finish(snapshot, round_number)
                        case Poke(reason):
                            state = snapshot.state
                            key = f"poke {state.status} {state.round} {state.phase}"
                            self._send(snapshot, key, "poke", self._task, reason=reason)
                        case Withdraw():
                            await self._withdraw(snapshot)
                        case _:
                            pass
            case Arrived():
                self._arrived(event)
            case TimePassed():
                self._step(Tick(self._node.clock()))
                self._log_waiting()
            case WorkDone(proceed):
                await proceed()
            case PresenceChanged():
                pass

    def _send(self, snapshot: TaskSnapshot, key: str, function: str, *arguments: Any, **fields: Any) -> None:
        if self._node.transactions.wanted(key, snapshot.state_block):
            named: dict[str, Any] = {"task": self._task, "round": snapshot.state.round, **fields}
            self._node.transactions.submit(key, function, *arguments, **named)

    def _log_place(self, snapshot: TaskSnapshot) -> None:
        state = snapshot.state
        place = (state.status, state.round, state.phase)
        if place == self._last_place:
            return
        self._last_place = place
        name = (state.phase if state.status is TaskStatus.RUNNING else state.status).name.lower()
        self._node.log(
            "phase.enter",
            name,
            task=self._task,
            round=state.round,
            phase=name,
            block=snapshot.block,
            deadline=state.phase_end,
            groups=state.group_count,
        )

    def _log_waiting(self) -> None:
        """For whom, and until when: in words, when it changes, and every five seconds."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.state.over:
            return
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
            late = [snapshot.settler().account]
            what = f"chunk {state.next_chunk} of {snapshot.params.chunk_count} to settle"
        now = self._node.clock()
        if not what or (self._last_waiting[0] == what and now - self._last_waiting[1] < _WAITING_SECONDS):
            return
        self._last_waiting = what, now
        left = max(0, state.phase_end - snapshot.time)
        self._node.log(
            "waiting",
            f"waiting: {what}, {left} s left",
            task=self._task,
            round=state.round,
            phase=(state.phase if state.status is TaskStatus.RUNNING else state.status).name.lower(),
            waiting_for=[show(address) for address in late],
            deadline=state.phase_end,
        )

    # -------------------------------------------------------------------- round

    async def _open(self, snapshot: TaskSnapshot, round_number: int) -> None:
        node, params = self._node, snapshot.params
        if not node.transactions.wanted(f"openRound {round_number}", snapshot.state_block):
            return
        self._round_started = node.clock()
        spec = self._spec
        payload = ModelPayload.of(spec.model, self._weights, self._choices.scaling, round_number)
        plaintext = encode_payload(payload)
        secrets = node.journal.round_secrets(self._task, round_number)
        if secrets is None:
            pads = tuple(node.entropy(32) for _ in range(params.group_size))
            secrets = node.entropy(32), pads
            # Durable before the round opens: without them nobody could ever read the update.
            node.journal.store_round_secrets(self._task, round_number, *secrets)
        model_key, pad_seeds = secrets
        node.log.protect(model_key, *pad_seeds)
        # One key, one plaintext: the nonce is derived from both so that a retry makes the same payload.
        encrypted = seal_model(plaintext, model_key, keccak(model_key, plaintext)[:24])
        parts = [encrypted[start : start + MAX_PART_BYTES] for start in range(0, len(encrypted), MAX_PART_BYTES)]
        pad_hashes = [keccak(seed) for seed in pad_seeds]
        base = base_context(
            node.chain.chain_id,
            node.chain.market,
            self._task,
            round_number,
            snapshot.state.params_hash,
            keccak(encrypted),
            len(parts),
            keccak(model_key),
            pad_hashes,
        )
        commit = model_commitment(base, model_key, plaintext)
        for number, part in enumerate(parts[:-1]):
            key = f"publishPart {round_number} {number}"
            if node.transactions.wanted(key, snapshot.state_block):
                arguments = (self._task, round_number, number, part)
                node.transactions.submit(
                    key, "publishPart", *arguments, task=self._task, round=round_number, phase="open"
                )
        node.transactions.submit(
            f"openRound {round_number}",
            "openRound",
            self._task,
            round_number,
            commit,
            keccak(model_key),
            keccak(encrypted),
            len(parts),
            pad_hashes,
            parts[-1],
            task=self._task,
            round=round_number,
            phase="open",
        )

    async def _follow(self, snapshot: TaskSnapshot) -> None:
        """Starts the delivery when a round is open, and ends it when its commit phase closes."""
        node, state = self._node, snapshot.state
        committing = state.status is TaskStatus.RUNNING and state.phase is RoundPhase.COMMIT
        if self._round is not None and (not committing or state.ctx != self._round_ctx):
            silent = [a for a in self._round.missing() if a not in self._round.hellos]
            node.log(
                "delivery.closed",
                f"{len(self._round.delivered)} of {len(self._round.recipients)} owners have the model key",
                task=self._task,
                round=snapshot.state.round,
                silent=[show(address) for address in silent],
            )
            self._step(CommitPhaseClosed(node.clock()))
            self._round = None
        if not committing or state.ctx == self._round_ctx:
            return
        secrets = node.journal.round_secrets(self._task, state.round)
        if secrets is None:
            node.log("round.unknown", "this round was opened from another folder", "error", code="journal")
            self._round_ctx = state.ctx
            return
        opening = await node.chain.opening(self._task, state.round, snapshot.block)
        self._round_ctx = state.ctx
        size = snapshot.params.group_size
        recipients = tuple(
            Recipient(Peer(member.account, member.box_key), member.seat % size)
            for seat, member in sorted(snapshot.seated().items())
            if opening.playable >> (seat // size) & 1
        )
        ephemeral = BoxIdentity.from_entropy(node.entropy(32))
        node.log.protect(ephemeral.secret)
        keys = RoundKeys(node.me, state.ctx, node.keys.box, ephemeral)
        self._round, effects = model_round.begin(keys, *secrets, recipients, node.pace, node.clock(), node.entropy)
        self._perform(effects)
        early, self._early = self._early, deque(maxlen=_EARLY_MESSAGES)
        for arrived in early:
            self._arrived(arrived)

    def _arrived(self, arrived: Arrived) -> None:
        snapshot = self._snapshot
        known = snapshot.state.round if snapshot is not None else 0
        ours = snapshot is not None and arrived.task == self.task_id
        if ours and self._round is not None and arrived.round == known:
            self._step(EnvelopeReceived(arrived.sender, arrived.payload, self._node.clock()))
        elif ours and arrived.round in (known, known + 1) and self._is_member(arrived.sender):
            # A full buffer loses its oldest.
            self.dropped += len(self._early) == _EARLY_MESSAGES
            self._early.append(arrived)
        else:
            self.dropped += 1
            self._node.log("message.dropped", NO_ROUND_AT_HAND, "debug", code=MessageError.code, peer_to=arrived.sender)

    def _is_member(self, address: bytes) -> bool:
        return self._snapshot is not None and self._snapshot.member(address) is not None

    def _step(self, event: model_round.ModelInput) -> None:
        if self._round is None:
            return
        earlier = self._round
        self._round, effects = model_round.step(self._round, event, self._node.entropy)
        if self._snapshot is not None:
            log_delivery(self._node.log, earlier, self._round, self._task, self._snapshot.state.round)
        self._perform(effects)

    def _perform(self, effects: list[model_round.ModelEffect]) -> None:
        assert self._round is not None and self._snapshot is not None
        round_number = self._snapshot.state.round
        for effect in effects:
            match effect:
                case SendEnvelope(receiver, envelope):
                    self._node.broker.send(self._task, round_number, receiver, envelope)
                case Note(event, text, peer):
                    self._node.log(
                        event,
                        text,
                        "warning",
                        code="message",
                        task=self._task,
                        round=round_number,
                        peer_to=peer,
                    )

    # ------------------------------------------------------------------- finish

    async def _finish(self, snapshot: TaskSnapshot, round_number: int) -> None:
        """Decrypts a round that is over; rounds that could not be read before are caught up in order."""
        node, params = self._node, snapshot.params
        target = self._finished_round + 1
        if self._working == f"finish {target}" or self._failed_work_at == snapshot.block:
            return
        opening = await node.chain.opening(self._task, target, snapshot.block)
        ended = await node.chain.round_events("RoundEnded", opening, snapshot.block)
        posts = await node.chain.round_events("PostClosed", opening, snapshot.block)
        krum = await node.chain.round_events("KrumSelected", opening, snapshot.block)
        slashes = await node.chain.round_events("Slashed", opening, snapshot.block)
        slashed = [str(entry["account"]).lower() for entry in slashes]
        if not ended:
            raise ChainError(f"round {target} is over, but the logs do not show how it ended")
        outcome = Outcome(ended[0]["outcome"])
        if (outcome is not Outcome.VOID and not posts) or (outcome is Outcome.SELECTED and not krum):
            # Without them the round would be taken for one without a step, for ever.
            raise ChainError(f"the logs do not show all of how round {target} ended")
        complete = tuple(bits(posts[0]["complete"])) if posts else ()
        chosen = tuple(bits(krum[0]["selected"])) if krum else ()
        parts = await node.chain.posted(opening, snapshot.block) if complete else []
        secrets = node.journal.round_secrets(self._task, target)
        weights, optimiser = self._weights, self._optimiser
        self._working = f"finish {target}"

        def work() -> RoundResult:
            if outcome is Outcome.VOID or not complete or secrets is None:
                return RoundResult(outcome, complete, weights, optimiser, self._accuracy(weights), NOTHING)
            vectors = PostedVectors.collect(parts, params, opening.ctx, complete)
            found = decrypt_round(vectors, secrets[1], outcome, chosen, self._spec.clip)
            state, after = optimiser, weights
            if found.gradient is not None:
                state, after = self._choices.optimiser.step(optimiser, weights, found.gradient)
            return RoundResult(outcome, complete, after, state, self._accuracy(after), found)

        async def proceed(result: RoundResult | OmniLyticsError) -> None:
            self._working = ""
            if isinstance(result, CommitmentError):
                # The RPC shows fewer logs than the contract counted: look again with the next block.
                self._failed_work_at = snapshot.block
                node.log("logs.incomplete", str(result), "warning", code=result.code, round=target)
                return
            if isinstance(result, OmniLyticsError):
                raise result
            self._take(target, result, slashed)

        node.in_thread(work, proceed)

    def _take(self, round_number: int, result: RoundResult, slashed: list[str]) -> None:
        """Makes a finished round durable and says how it went."""
        node = self._node
        for group, sums in result.found.sums.items():
            node.journal.store_group_sum(self._task, round_number, group, sums)
        node.journal.store_model(self._task, round_number, result.weights, result.optimiser.to_bytes())
        self._finished_round = round_number
        self._weights, self._optimiser = result.weights, result.optimiser
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
            complete_groups=list(result.complete),
            void_groups=[group for group in range(count) if group not in result.complete],
            slashed=slashed,
            distances=[[str(value) for value in row] for row in result.found.distances],
            headroom_bits=headroom_bits(result.found.sums, result.found.selected, limit),
        )

    def _accuracy(self, weights: NDArray[np.float64]) -> float:
        """On the held-out rows, a fraction of 1, with the weights as they are published."""
        test = self._choices.test
        published = as_published(weights)
        return self._spec.model.accuracy(published, self._choices.scaling.apply(test.features), test.labels)

    async def _withdraw(self, snapshot: TaskSnapshot) -> None:
        node = self._node
        if not node.transactions.wanted("withdraw", snapshot.state_block):
            return
        # At the snapshot's own block: another one may be older, or of a fork that does not last.
        amount = await node.chain.withdrawable(node.me, [self._task], snapshot.state_block)
        if amount > 0:
            self._send(snapshot, "withdraw", "withdraw", [self._task], node.me, wei_expected=amount)
        else:
            node.log("task.done", "the task is over and everything is collected", task=self._task)
            self._done = True
