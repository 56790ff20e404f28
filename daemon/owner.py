"""A data owner's part: joins one task, plays its rounds, posts, settles in turn, collects.

Duties come from the chain's snapshots (peers.duties); the seed exchange of the round at hand is
peers.owner_round. This module only performs: journal, broker, chain, training.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

from omnilytics.daemon.accounting import epsilon_of
from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.events import Event, PresenceChanged, SnapshotSeen, TimePassed, WorkDone
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.ledger import Exposure, Ledger, Promise, kind_of
from omnilytics.daemon.market_log import MarketLog
from omnilytics.daemon.node import Node
from omnilytics.daemon.owner_play import OwnerChoices, OwnerRoundPlayer
from omnilytics.daemon.policy import Offer, allow_round
from omnilytics.daemon.posting import PostedVectors, PostPart, post_parts
from omnilytics.daemon.task_finder import AcceptedTask, TaskFinder
from omnilytics.daemon.vector_handover import HandingOver
from omnilytics.peers import owner_round
from omnilytics.peers.commitment import WORD_BYTES
from omnilytics.peers.duties import (
    DeliverVector,
    ExpelMate,
    PlayRound,
    Poke,
    PostVector,
    RestoreStake,
    Reveal,
    SettleChunk,
    SignOfLife,
    Withdraw,
    owner_duties,
    standing_duties,
)
from omnilytics.peers.errors import (
    CommitmentError,
    FundsError,
    JournalError,
    OmniLyticsError,
    PolicyError,
)
from omnilytics.peers.hashing import abi_words, keccak
from omnilytics.peers.market import (
    MemberStatus,
    RoundPhase,
    TaskSnapshot,
    TaskStatus,
    bits,
)
from omnilytics.peers.owner_round import OwnerRound
from omnilytics.peers.quantise import Signed


class OwnerPart(OwnerRoundPlayer):
    """Plays one task as a data owner."""

    def __init__(self, node: Node, task_id: int | None, choices: OwnerChoices) -> None:
        super().__init__(node, task_id, choices)
        self._settling: PostedVectors | None = None
        self._handing_over = HandingOver(node)
        # The round whose vectors are being put together.
        self._collecting = b""
        self._last_place: tuple[object, ...] = ()
        self._done = False
        self._safe_mode = False
        self._told_short = False
        self._offer: Offer
        # Rounds that are in the ledger; how often our group was paid, and had posted when that last grew.
        self._entered: set[int] = set()
        self._last_paid = (0, 0)
        self._market_log = MarketLog(node.log, node.me, every_group=False)
        self.finder = TaskFinder(node, choices)

    @property
    def finished(self) -> bool:
        """Whether everything is collected and nothing more can come."""
        return self._done

    async def prepare(self) -> None:
        """Finds a task that fits our data and policy, waiting for one where none is named.

        Raises DataError, ParameterError, ModelMismatchError or PolicyError when the task that was named does not fit.
        """
        node = self._node
        known = node.journal.get("task")
        if self.task_id is None and known is not None:
            self.task_id = int.from_bytes(known, "big")
        self.take(await (self.finder.find() if self.task_id is None else self.finder.accept(self.task_id)))
        node.journal.bind("task", self._task.to_bytes(8, "big"))

    def take(self, accepted: AcceptedTask) -> None:
        """Plays this task from now on; `prepare` does that, or whoever has found the task."""
        self._choices.active[accepted.offer.task] = accepted.offer
        self._offer, self._dataset = accepted.offer, accepted.dataset
        self._spec, self.task_id = accepted.offer.spec, accepted.offer.task
        self._node.log("task.accepted", self._spec.means.promise, task=self._task, protection=self._spec.protection)

    async def handle(self, event: Event) -> None:
        """One event."""
        match event:
            case SnapshotSeen(snapshot):
                self._snapshot = snapshot
                self._log_place(snapshot)
                self._market_log.see(snapshot)
                await self._follow(snapshot)
                await self._train_at_last()
                await self._perform_duties(snapshot)
                await self._prepare_to_settle(snapshot)
            case Arrived():
                if not self._handing_over.hears(event):
                    await self._arrived(event)
            case PresenceChanged(address, online):
                await self._step(owner_round.PresenceSeen(address, online, self._node.clock()))
            case TimePassed():
                await self._step(owner_round.Tick(self._node.clock()))
                self._handing_over.tick()
            case WorkDone(proceed):
                await proceed()

    # -------------------------------------------------------------------- chain

    def _log_place(self, snapshot: TaskSnapshot) -> None:
        """Says when a phase is entered: the monitor's clockwork."""
        state = snapshot.state
        place = (state.status, state.round, state.phase)
        if place == self._last_place:
            return
        self._last_place = place
        me = snapshot.member(self._node.me)
        group = snapshot.group_of(me) if me is not None and me.status is MemberStatus.SEATED else None
        name = state.phase.name if state.status is TaskStatus.RUNNING else state.status.name
        self._node.log(
            "phase.enter",
            f"{name.lower()}",
            task=self._task,
            round=state.round,
            group=group,
            phase=name.lower(),
            block=snapshot.block,
            deadline=state.phase_end,
        )

    async def _follow(self, snapshot: TaskSnapshot) -> None:
        """Tells the round's machine what the chain shows."""
        state, round_ = snapshot.state, self._round
        if round_ is None or self._opening is None:
            return
        now = self._node.clock()
        me = snapshot.member(self._node.me)
        if state.ctx == self._opening.ctx and me is not None and me.committed_in(state.round):
            await self._step(owner_round.CommitConfirmed(now))
        closed = state.ctx != self._opening.ctx or state.phase is not RoundPhase.COMMIT
        if closed or state.sat_out >> round_.group & 1:
            await self._step(owner_round.CommitPhaseClosed(now))
            self._round = None

    async def _perform_duties(self, snapshot: TaskSnapshot) -> None:
        node = self._node
        if await self._join_if_open(snapshot):
            return
        self._check_journal(snapshot)
        duties = (*owner_duties(snapshot, node.me), *standing_duties(snapshot, node.me))
        self._handing_over.want(DeliverVector(snapshot.state.round) in duties and not self._safe_mode)
        for duty in duties:
            match duty:
                case Reveal():
                    self._send(snapshot, "reveal", "reveal", self._task, self._nonce())
                case Poke(reason):
                    key = f"poke {snapshot.state.status} {snapshot.state.round} {snapshot.state.phase}"
                    self._send(snapshot, key, "poke", self._task, reason=reason)
                case PlayRound(round_number) if not self._safe_mode:
                    if await self._allows_round(snapshot, round_number):
                        await self._play(snapshot, round_number)
                case PostVector(round_number) if not self._safe_mode:
                    await self.post_vector(snapshot, round_number)
                case DeliverVector(round_number) if not self._safe_mode:
                    await self.deliver_vector(snapshot, round_number)
                case SettleChunk():
                    await self._settle(snapshot)
                case SignOfLife(round_number):
                    key = f"sitOut {round_number}"
                    self._send(snapshot, key, "sitOut", self._task, snapshot.state.ctx, reason="a sign of life")
                case ExpelMate(account, missed):
                    self._expel(snapshot, account, missed)
                case RestoreStake(missing):
                    self._restore_stake(snapshot, missing)
                case Withdraw():
                    await self._withdraw(snapshot)
                case _:
                    pass

    def _nonce(self) -> bytes:
        return self._node.journal.nonce(self._task, self._node.entropy(32))

    def _check_journal(self, snapshot: TaskSnapshot) -> None:
        """A commitment of ours that the journal does not have was made by another folder with our key: an old copy
        of this one, or a newer one. Whatever we would send now could be a second vector, so we send none."""
        me = snapshot.member(self._node.me)
        if self._safe_mode or me is None or me.status is not MemberStatus.SEATED or not me.record_flags & 1:
            return
        if self._node.journal.vector(self._task, me.record_round) is None:
            self._safe_mode = True
            self._node.log(
                "safe-mode",
                f"round {me.record_round}: chain holds my commitment, journal does not; safe mode",
                "error",
                code=JournalError.code,
                task=self._task,
                round=me.record_round,
                help="this data folder is old or a copy: stop every other daemon with this key, use the newest folder; "
                "until then nothing is committed or posted, and pay and stake are still collected",
            )

    def _expel(self, snapshot: TaskSnapshot, account: bytes, missed: int) -> None:
        if self._send(snapshot, f"expel {account.hex()}", "expel", self._task, account):
            self._node.log(
                "group.dead",
                f"a mate has been silent for {missed} rounds; releasing the group's stakes",
                "warning",
                task=self._task,
                peer_to=account,
            )

    def _restore_stake(self, snapshot: TaskSnapshot, missing: int) -> None:
        if self._choices.restore_stake:
            self._send(snapshot, f"restore {snapshot.state.round}", "restoreStake", self._task, value=missing)
        elif not self._told_short:
            self._told_short = True
            self._node.log(
                "stake.short",
                f"our stake is {missing} wei short, and our group does not play",
                "warning",
                code=FundsError.code,
                task=self._task,
                wei=missing,
                help="restart with --restore-stake to bring the group back",
            )

    async def _join_if_open(self, snapshot: TaskSnapshot) -> bool:
        """Joins while the task is open; True while there is nothing else to do."""
        node = self._node
        if snapshot.member(node.me) is not None:
            return False
        if snapshot.state.status is TaskStatus.JOINING and snapshot.time < snapshot.state.phase_end:
            commitment = keccak(abi_words(self._task, node.me, self._nonce()))
            self._send(
                snapshot,
                "join",
                "join",
                self._task,
                node.keys.box.public,
                commitment,
                [],
                value=snapshot.params.stake,
            )
        elif snapshot.state.status is not TaskStatus.JOINING and node.transactions.idle(self._task):
            node.log("task.missed", "the task is closed to new owners", "warning", task=self._task)
            self._done = True
        return True

    # ------------------------------------------------------------- policy and ledger

    async def _allows_round(self, snapshot: TaskSnapshot, round_number: int) -> bool:
        """Whether the policy allows one more round; one that it does not is sat out, in its words."""
        node, choices = self._node, self._choices
        if snapshot.state.ctx in self._refused_rounds:
            return False
        if self._round is not None:
            return True
        bounded = choices.policy.maximum_epsilon < math.inf
        ledger = Ledger.of(node.journal.exposures(), self._on_their_way())
        unpaid = await self._unpaid_rounds(snapshot, ledger)
        if not bounded and not unpaid and not choices.privacy.noise_multiplier:
            return True
        if node.journal.vector(self._task, round_number) is not None:
            # Its noise is in it, and its mates may wait for it.
            return True
        if choices.privacy.noise_multiplier:
            # Accounting takes some tenths of a second; what is worked out here is remembered there.
            await asyncio.to_thread(self._exposure, round_number, self._offer)
        try:
            allow_round(choices.policy, self._offer, ledger, unpaid)
        except PolicyError as error:
            self._sit_out(snapshot.state.ctx, round_number, str(error), ())
            return False
        return True

    def _on_their_way(self) -> list[Promise]:
        """A round of every other task that is played now: it may be posted before ours is, and not be entered yet."""
        return [offer.promise(1) for task, offer in self._choices.active.items() if task != self._task]

    async def _unpaid_rounds(self, snapshot: TaskSnapshot, ledger: Ledger) -> int:
        """Rounds posted since our group was last paid, as far as this life of the daemon has seen."""
        posted = ledger.rounds_of(self._task)
        me = snapshot.member(self._node.me)
        if posted <= self._choices.policy.maximum_unpaid_rounds or me is None:
            return 0
        paid = (await self._node.chain.paid_rounds(self._task))[snapshot.group_of(me)]
        if paid != self._last_paid[0]:
            self._last_paid = paid, posted
        return posted - self._last_paid[1]

    def _exposure(self, round_number: int, offer: Offer) -> Exposure:
        """What posting this round's vector gives away, epsilon counted over everything that was posted before, and what
        other tasks may be posting."""
        privacy, epsilon = self._choices.privacy, None
        if offer.noise_multiplier > 0.0:
            noisy = Ledger.of(self._node.journal.exposures(), self._on_their_way()).mechanisms
            rounds = {each: count for each, count in noisy.items() if each.noise_multiplier > 0.0}
            rounds[offer.mechanism] = rounds.get(offer.mechanism, 0) + 1
            epsilon = epsilon_of(rounds, offer.delta)
        return Exposure(
            self._task,
            round_number,
            self._node.chain.market,
            offer.model_owner,
            offer.spec.architecture,
            kind_of(offer.spec),
            offer.params.group_size,
            offer.spec.protection,
            offer.mechanism,
            privacy.clip_norm,
            privacy.delta if epsilon is not None else 0.0,
            epsilon,
        )

    def _commit(self, round_: OwnerRound, vector: bytes, root: bytes, quantised: Signed) -> None:
        # With the vector, because a restart may bring another [privacy], but never another vector.
        self._node.journal.plan_exposure(self._exposure(round_.opening.round, self._offer))
        super()._commit(round_, vector, root, quantised)

    def _enter_ledger(self, round_number: int) -> None:
        """Enters a round before the first of its bytes can leave; once, whatever happens."""
        if round_number in self._entered:
            return
        journal = self._node.journal
        if not journal.enter_exposure(self._task, round_number):
            # Journalled by a version that knew neither ledger nor noise.
            journal.plan_exposure(self._exposure(round_number, replace(self._offer, noise_multiplier=0.0)))
            journal.enter_exposure(self._task, round_number)
        self._entered.add(round_number)

    # --------------------------------------------------------- post, settle, collect

    def _committed_vector(
        self, snapshot: TaskSnapshot, round_number: int
    ) -> tuple[StoredVector, list[PostPart]] | None:
        """Our vector of a round, whole and in parts; None where it must not be seen."""
        me = snapshot.member(self._node.me)
        assert me is not None
        stored = self._node.journal.vector(self._task, round_number)
        if stored is None or stored.ctx != snapshot.state.ctx:
            # Unless we are in safe mode by now, the snapshot is of a fork that our journal does not know.
            return None
        try:
            return stored, post_parts(stored, snapshot.params, me.seat)
        except CommitmentError as error:
            self._node.log("post.refused", str(error), "error", code=error.code, task=self._task, round=round_number)
            return None

    async def deliver_vector(self, snapshot: TaskSnapshot, round_number: int) -> None:
        if self._handing_over.begun(snapshot.state.ctx):
            return
        found = self._committed_vector(snapshot, round_number)
        if found is not None:
            self._enter_ledger(round_number)
            self._handing_over.begin(snapshot, found[0])

    async def post_vector(self, snapshot: TaskSnapshot, round_number: int) -> None:
        me = snapshot.member(self._node.me)
        found = self._committed_vector(snapshot, round_number)
        if found is None or me is None:
            return
        stored, parts = found
        if len(parts) > 1:
            # Some may be on the chain from an earlier life, or from before a refusal.
            opening = await self._node.chain.opening(self._task, round_number, snapshot.block)
            posted = await self._node.chain.posted(opening, snapshot.block)
            there = {part.first_chunk for part in posted if part.seat == me.seat}
            parts = [part for part in parts if part.first_chunk not in there]
        if parts:
            self._enter_ledger(round_number)
        # All parts are queued at once; the queue keeps their order.
        for part in parts:
            key = f"post {round_number} {part.first_chunk}"
            arguments = (self._task, stored.ctx, part.first_chunk, part.data, part.next_link)
            self._send(snapshot, key, "post", *arguments, group=snapshot.group_of(me), phase="post")

    async def _settle(self, snapshot: TaskSnapshot) -> None:
        state = snapshot.state
        key = f"settle {state.round} {state.next_chunk}"
        if not self._wanted(snapshot, key):
            return
        if not await self._collect(snapshot):
            return
        assert self._settling is not None
        data = self._settling.settle_data(state.next_chunk)
        arguments = self._task, state.ctx, state.next_chunk, data
        most_gas = await self._settle_gas(snapshot, len(data))
        self._send(snapshot, key, "settle", *arguments, phase="settle", most_gas=most_gas)

    async def _settle_gas(self, snapshot: TaskSnapshot, size: int) -> int:
        """Gas that a settle call with so many bytes of data takes at most: what the contract reimburses."""
        params, groups = snapshot.params, snapshot.state.complete.bit_count()
        # For each owner a link, and its words of the chunk.
        words = size // (WORD_BYTES * groups * params.group_size) - 1
        last = snapshot.state.next_chunk == params.chunk_count - 1
        return await self._node.chain.settle_gas(groups, params.group_size, words, params.lane_bits, last)

    async def _collect(self, snapshot: TaskSnapshot) -> bool:
        """Whether all vectors of this round are at hand; if not, they are read, and put together off the event loop."""
        node, state, params = self._node, snapshot.state, snapshot.params
        if self._settling is not None and self._settling.ctx == state.ctx:
            return True
        if self._collecting == state.ctx:
            return False
        opening = self._opening
        if opening is None or opening.ctx != state.ctx:
            opening = await node.chain.opening(self._task, state.round, snapshot.block)
        parts = await node.chain.posted(opening, snapshot.block)
        self._collecting = state.ctx

        def work() -> PostedVectors:
            vectors = PostedVectors.collect(parts, params, state.ctx, bits(state.complete))
            vectors.settle_data(0)
            return vectors

        async def proceed(outcome: PostedVectors | OmniLyticsError) -> None:
            self._collecting = b""
            if isinstance(outcome, CommitmentError):
                node.log("logs.incomplete", str(outcome), "warning", code=outcome.code, task=self._task)
            elif isinstance(outcome, OmniLyticsError):
                raise outcome
            else:
                self._settling = outcome
                # Our turn may have come meanwhile.
                await self._perform_duties(self._snapshot_or_fail())

        node.in_thread(self._task, work, proceed)
        return False

    async def _prepare_to_settle(self, snapshot: TaskSnapshot) -> None:
        """Who has a turn in this round puts the vectors together before it comes: everybody waits for one settler."""
        state = snapshot.state
        if state.status is not TaskStatus.RUNNING or state.phase is not RoundPhase.SETTLE or not state.complete:
            return
        if snapshot.params.model_selection or snapshot.params.broker_delivery:
            return
        turns = range(state.next_chunk, snapshot.params.chunk_count)
        if any(snapshot.settler(chunk).account == self._node.me for chunk in turns):
            await self._collect(snapshot)

    async def _withdraw(self, snapshot: TaskSnapshot) -> None:
        node = self._node
        if not self._wanted(snapshot, "withdraw"):
            return
        # At the snapshot's own block: another one may be older, or of a fork that does not last.
        amount = await node.chain.withdrawable(node.me, [self._task], snapshot.state_block)
        if amount > 0:
            to = self._choices.withdraw_to or node.me
            self._send(snapshot, "withdraw", "withdraw", [self._task], to, wei_expected=amount)
        elif snapshot.state.over or snapshot.member(node.me) is not None:
            # Over, or we are out of it: not drawn, or our group was dissolved.
            node.log("task.done", "everything is collected", task=self._task)
            self._done = True
