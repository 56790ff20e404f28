"""A data owner's play of one round, up to its commitment: performs what peers.owner_round orders.

Journal, broker, chain and training; the order of things is the machine's. What follows the commitment is in owner.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.log import show
from omnilytics.daemon.market_log import log_exchange
from omnilytics.daemon.node import Node
from omnilytics.daemon.policy import Offer, Policy
from omnilytics.daemon.protection.sealing import open_model
from omnilytics.daemon.protection.sides import StatisticFunction, honest_statistic
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.batch import choose_batch, fresh_batch
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.private import PrivacyOptions
from omnilytics.daemon.training.update import Update, compute_update
from omnilytics.daemon.transactions import duty_key
from omnilytics.peers import owner_round
from omnilytics.peers.commitment import links
from omnilytics.peers.errors import (
    ChainError,
    DataError,
    MessageError,
    ModelMismatchError,
    OmniLyticsError,
)
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import (
    Outcome,
    RoundOpening,
    TaskSnapshot,
)
from omnilytics.peers.masking import PairMask, mask_vector
from omnilytics.peers.owner_round import OwnerInput, OwnerRound
from omnilytics.peers.phases import OwnerStage
from omnilytics.peers.prg import SEED_BYTES
from omnilytics.peers.quantise import Signed, pack, to_ring
from omnilytics.peers.round_keys import Peer, RoundKeys

# Messages that came before the chain told us of their round: a few a member, replayed when it has.
_EARLY_MESSAGES = 1024
# Usually a mate's last repetition, when the round is over here.
NO_ROUND_AT_HAND = "the message is of no round at hand, or from a stranger"


@dataclass
class OwnerChoices:
    """What an owner decides for itself."""

    dataset: Dataset = field(repr=False)
    # Entropy of a round's batch, and of round 0 for what is drawn once a task; os.urandom, except on testbeds that
    # must be replayed.
    batch_entropy: Callable[[int], bytes]
    # Which tasks are joined, and what is done to every gradient before it leaves.
    policy: Policy = field(default_factory=Policy)
    privacy: PrivacyOptions = field(default_factory=PrivacyOptions)
    # Whether nobody else can replay the batches.
    secret_batch: bool = True
    # Whether a slashed stake is restored without asking.
    restore_stake: bool = False
    statistic: StatisticFunction = honest_statistic
    withdraw_to: bytes | None = None
    # The tasks that are played now, one daemon's parts together.
    active: dict[int, Offer] = field(default_factory=dict)


class OwnerRoundPlayer:
    """What an owner's part needs for the round at hand."""

    def __init__(self, node: Node, task_id: int | None, choices: OwnerChoices) -> None:
        self.task_id = task_id
        self._node = node
        self._choices = choices
        self._spec: TaskSpec
        self._dataset: Dataset
        self._snapshot: TaskSnapshot | None = None
        self._round: OwnerRound | None = None
        self._opening: RoundOpening | None = None
        self._early: deque[Arrived] = deque(maxlen=_EARLY_MESSAGES)
        # Messages that never reached a round's machine, which counts its own.
        self.dropped = 0
        # The model of this round could not be read from the chain yet.
        self._untrained: tuple[bytes, RoundOpening] | None = None
        self._refused_rounds: set[bytes] = set()

    @property
    def snapshot(self) -> TaskSnapshot | None:
        """The task as last seen."""
        return self._snapshot

    @property
    def stage(self) -> str | None:
        """Our stage of the round at hand (peers.phases), for people."""
        return self._round.stage.value if self._round is not None else None

    @property
    def _task(self) -> int:
        assert self.task_id is not None
        return self.task_id

    def _send(
        self,
        snapshot: TaskSnapshot,
        duty: str,
        function: str,
        *arguments: object,
        value: int = 0,
        **more: Any,
    ) -> bool:
        """Queues a transaction for a duty of this task unless it is on its way already."""
        if not self._wanted(snapshot, duty):
            return False
        fields: dict[str, Any] = {"task": self._task, "round": snapshot.state.round, **more}
        key = duty_key(self._task, duty)
        self._node.transactions.submit(key, function, *arguments, value=value, **fields)
        return True

    def _wanted(self, snapshot: TaskSnapshot, duty: str) -> bool:
        """Whether a duty of this task still needs a transaction from us."""
        return self._node.transactions.wanted(duty_key(self._task, duty), snapshot.state_block)

    async def _play(self, snapshot: TaskSnapshot, round_number: int) -> None:
        node, ctx = self._node, snapshot.state.ctx
        if ctx in self._refused_rounds:
            return
        if self._round is not None:
            if self._round.stage is OwnerStage.COMMITTING:
                # A commitment that the chain refused, or lost in a reorg: the same bytes again.
                self._commit_again(snapshot, round_number)
            return
        me = snapshot.member(node.me)
        assert me is not None
        opening = await node.chain.opening(self._task, round_number, snapshot.block)
        if opening.ctx != ctx:
            self._refused_rounds.add(ctx)
            return
        if not node.journal.claim_round(self._task, round_number, ctx):
            # If an earlier life got as far as the vector, all masks were agreed: the same bytes go on.
            if self._commit_again(snapshot, round_number):
                return
            # Seeds live in memory only. Whatever an earlier life of this daemon, or another fork, has
            # agreed with the mates is gone, and a second exchange could make a second vector.
            self._sit_out(ctx, round_number, "this round was begun before a restart or on another fork", ())
            return
        self._opening = opening
        group = snapshot.group_of(me)
        mates = tuple(
            (position, Peer(mate.account, mate.box_key))
            for position, mate in enumerate(snapshot.group(group))
            if mate.account != node.me
        )
        model_owner = Peer(snapshot.state.model_owner, snapshot.state.box_key)
        ephemeral = BoxIdentity.from_entropy(node.entropy(32))
        node.log.protect(ephemeral.secret)
        keys = RoundKeys(node.me, ctx, node.keys.box, ephemeral)
        position = me.seat % snapshot.params.group_size
        node.log(
            "round.begin",
            "exchanging seeds",
            task=self._task,
            round=round_number,
            group=group,
            phase="seeding",
            block=opening.block,
        )
        self._round, effects = owner_round.begin(
            keys, opening, group, position, model_owner, mates, node.pace, node.clock(), node.entropy
        )
        await self._perform(effects)
        for address, (online, since) in node.online.items():
            await self._step(owner_round.PresenceSeen(address, online, since))
        early, self._early = self._early, deque(maxlen=_EARLY_MESSAGES)
        for arrived in early:
            await self._arrived(arrived)

    def _commit_again(self, snapshot: TaskSnapshot, round_number: int) -> bool:
        """Commits the journalled vector of this round, if there is one, unless that is on its way."""
        stored = self._node.journal.vector(self._task, round_number)
        if stored is None or stored.ctx != snapshot.state.ctx:
            return False
        arguments = (self._task, stored.ctx, stored.root)
        self._send(snapshot, f"commit {round_number}", "commit", *arguments, phase="commit")
        return True

    async def _arrived(self, arrived: Arrived) -> None:
        known = self._snapshot.state.round if self._snapshot is not None else 0
        ours = arrived.task == self._task
        if ours and self._round is not None and arrived.round == self._round.opening.round:
            event = owner_round.EnvelopeReceived(arrived.sender, arrived.payload, self._node.clock())
            await self._step(event)
        elif ours and arrived.round in (known, known + 1) and self._is_member(arrived.sender):
            # A full buffer loses its oldest.
            self.dropped += len(self._early) == _EARLY_MESSAGES
            self._early.append(arrived)
        else:
            self.dropped += 1
            self._node.log("message.dropped", NO_ROUND_AT_HAND, "debug", code=MessageError.code, peer_to=arrived.sender)

    def _is_member(self, address: bytes) -> bool:
        snapshot = self._snapshot
        return snapshot is not None and (address == snapshot.state.model_owner or snapshot.member(address) is not None)

    async def _step(self, event: OwnerInput) -> None:
        if self._round is None:
            return
        before, earlier = self._round.stage, self._round
        self._round, effects = owner_round.step(self._round, event, self._node.entropy)
        log_exchange(self._node.log, earlier, self._round, self._task, self._node.clock())
        if self._round.stage is not before:
            self._node.log(
                "stage.enter",
                self._round.stage.value,
                task=self._task,
                round=self._round.opening.round,
                group=self._round.group,
                phase=self._round.stage.value,
                dur_ms=int(1000 * (self._node.clock() - self._round.opened_at)),
            )
        await self._perform(effects)

    async def _perform(self, effects: list[owner_round.OwnerEffect]) -> None:
        node, round_ = self._node, self._round
        assert round_ is not None
        for effect in effects:
            match effect:
                case owner_round.SendEnvelope(receiver, envelope):
                    node.broker.send(self._task, round_.opening.round, receiver, envelope)
                case owner_round.ComputeUpdate(model_key):
                    node.log.protect(model_key)
                    self._untrained = model_key, round_.opening
                    await self._train_at_last()
                case owner_round.MaskVector(quantised, pairs, pad_seed):
                    node.log.protect(pad_seed, *(pair.seed for pair in pairs))
                    self._mask(round_, quantised, pairs, pad_seed)
                case owner_round.CommitVector(vector, root, quantised):
                    self._commit(round_, vector, root, quantised)
                case owner_round.DeclareSitOut(reason, missing):
                    self._sit_out(round_.opening.ctx, round_.opening.round, reason, missing)
                case owner_round.Note(event, text, peer):
                    node.log(
                        event,
                        text,
                        "warning",
                        code=MessageError.code if event == "message.dropped" else None,
                        task=self._task,
                        round=round_.opening.round,
                        peer_to=peer,
                    )

    async def _train_at_last(self) -> None:
        """Trains once the chain shows the model; until it does, tries again with every block."""
        if self._untrained is None:
            return
        model_key, opening = self._untrained
        if self._round is None or self._round.opening.ctx != opening.ctx:
            self._untrained = None
            return
        try:
            await self._train(model_key, opening)
        except ChainError as error:
            self._node.log("rpc.error", str(error), "warning", code=error.code, round=opening.round)
        else:
            self._untrained = None

    async def _train(self, model_key: bytes, opening: RoundOpening) -> None:
        node, spec, params = self._node, self._spec, self._snapshot_or_fail().params
        encrypted = await node.chain.payload(opening)
        batch_entropy = self._choices.batch_entropy(opening.round)
        order_entropy = self._row_order() if spec.means.fresh_rows else b""
        rounding_entropy = node.entropy(SEED_BYTES)
        stepless = await self._stepless_rounds(opening)
        started = node.clock()
        side = spec.side_for(self._choices.policy.allow_thin_sums)

        def work() -> Update:
            plaintext = open_model(encrypted, model_key, opening)
            published = side.read(plaintext, opening.round)
            # Two sums at the same weights would tell the model owner how the group's batches differ.
            earlier = node.journal.see_model(self._task, opening.round, published.digest)
            if earlier is not None and earlier not in stepless and spec.means.same_model_once:
                raise ModelMismatchError(
                    f"the model owner published the same weights in round {earlier}, which it could step from; "
                    "not training"
                )
            if spec.means.fresh_rows:
                rows = fresh_batch(self._dataset.row_count, params.rounds, opening.round, order_entropy)
            else:
                rows = choose_batch(self._dataset.row_count, spec.batch_size, batch_entropy)
            return compute_update(
                side,
                published,
                spec.clip,
                params,
                self._dataset.take(rows),
                batch_entropy,
                rounding_entropy,
                self.statistic_function(),
            )

        async def proceed(outcome: Update | OmniLyticsError) -> None:
            now = node.clock()
            if isinstance(outcome, OmniLyticsError):
                node.log(
                    "train.refused",
                    str(outcome),
                    "error",
                    code=outcome.code,
                    task=self._task,
                    round=opening.round,
                )
                await self._step_in(opening, owner_round.UpdateRefused(str(outcome), now))
                return
            node.log(
                "train.done",
                "update ready",
                task=self._task,
                round=opening.round,
                dur_ms=int(1000 * (now - started)),
                clip_rate=round(outcome.clipped, 6),
            )
            await self._step_in(opening, owner_round.UpdateReady(outcome.quantised, now))

        node.in_thread(self._task, work, proceed)

    async def _stepless_rounds(self, opening: RoundOpening) -> set[int]:
        """Rounds that ended, by the rules, without a step: after them the same weights are published again."""
        endings = await self._node.chain.round_endings(self._task, opening.block)
        return {number for number, outcome in endings.items() if outcome in (Outcome.VOID, Outcome.TOO_FEW)}

    async def _step_in(self, opening: RoundOpening, event: OwnerInput) -> None:
        """A step with a result of earlier work, unless its round is over."""
        if self._round is not None and self._round.opening.ctx == opening.ctx:
            await self._step(event)

    def statistic_function(self) -> StatisticFunction:
        """How this owner makes a statistic of its batch."""
        return self._choices.statistic

    def _row_order(self) -> bytes:
        """Entropy of the order in which this task uses up our rows, the same in every life of this daemon.

        Raises DataError when the rows are others than at first: some could be used twice then.
        """
        journal = self._node.journal
        digest = self._dataset.digest
        if journal.bind(f"rows of task {self._task}", digest) != digest:
            raise DataError(
                f"the rows have changed since task {self._task} began, and each may be used in one round only",
                help="start with the file that the task was joined with",
            )
        return journal.bind(f"row order of task {self._task}", self._choices.batch_entropy(0))

    def _snapshot_or_fail(self) -> TaskSnapshot:
        assert self._snapshot is not None
        return self._snapshot

    def _mask(
        self,
        round_: OwnerRound,
        quantised: Signed,
        pairs: tuple[PairMask, ...],
        pad_seed: bytes,
    ) -> None:
        params, ctx = self._snapshot_or_fail().params, round_.opening.ctx
        seat = round_.group * params.group_size + round_.position

        def work() -> tuple[bytes, bytes]:
            lanes = to_ring(quantised, params.layout)
            masked = mask_vector(
                lanes,
                ctx,
                round_.group,
                round_.position,
                pairs,
                pad_seed,
                pad_index=params.pad_index(seat),
                group_size=params.group_size,
            )
            vector = pack(masked, params.layout)
            return vector, links(vector, params.chunk_words, ctx, seat)[0]

        async def proceed(outcome: tuple[bytes, bytes] | OmniLyticsError) -> None:
            if isinstance(outcome, OmniLyticsError):
                raise outcome
            await self._step_in(round_.opening, owner_round.VectorMasked(*outcome, self._node.clock()))

        self._node.in_thread(self._task, work, proceed)

    def _commit(self, round_: OwnerRound, vector: bytes, root: bytes, quantised: Signed) -> None:
        opening, snapshot = round_.opening, self._snapshot_or_fail()
        # The order is the point: the bytes are durable before their root can be seen by anybody.
        stored = StoredVector(opening.ctx, root, vector, quantised)
        self._node.journal.store_vector(self._task, opening.round, stored)
        fields: dict[str, Any] = {"group": round_.group, "phase": "commit"}
        self._send(snapshot, f"commit {opening.round}", "commit", self._task, opening.ctx, root, **fields)

    def _sit_out(self, ctx: bytes, round_number: int, reason: str, missing: tuple[bytes, ...]) -> None:
        self._refused_rounds.add(ctx)
        self._node.log(
            "round.sat-out",
            reason,
            "warning",
            task=self._task,
            round=round_number,
            missing=[show(address) for address in missing],
        )
        self._send(self._snapshot_or_fail(), f"sitOut {round_number}", "sitOut", self._task, ctx)
