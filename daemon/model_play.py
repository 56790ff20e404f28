"""The model owner's play of one round, up to its vectors: opens it, delivers keys and pads, says who is waited for.

What is made of the vectors is in model.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.chain import Chain
from omnilytics.daemon.log import show
from omnilytics.daemon.market_log import log_delivery
from omnilytics.daemon.node import Node
from omnilytics.daemon.posting import MAX_PART_BYTES
from omnilytics.daemon.protection.sealing import seal_model
from omnilytics.daemon.protection.sides import Learned, ModelSide
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_offer import TaskOffer
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.transactions import duty_key
from omnilytics.daemon.vector_handover import TakingOver
from omnilytics.daemon.waiting import awaited, place_name
from omnilytics.peers import model_round
from omnilytics.peers.errors import MessageError
from omnilytics.peers.hashing import base_context, blake2b_keyed, keccak, model_commitment
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import RoundPhase, TaskSnapshot, TaskStatus
from omnilytics.peers.model_round import ModelRound, Recipient
from omnilytics.peers.owner_round import CommitPhaseClosed, EnvelopeReceived, Note, SendEnvelope
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
    side: ModelSide = field(repr=False)
    # Rows to measure accuracy with, features scaled; never used to learn or to select.
    test: Dataset = field(repr=False)
    # What the weights are to be read with when all is over: trained_model.design_record. Journalled with the task.
    record: bytes = field(default=b"", repr=False)


class ModelRoundPlayer:
    """What a model owner's part needs for the round at hand."""

    def __init__(self, node: Node, choices: ModelChoices, task_id: int | None = None) -> None:
        self.task_id = task_id
        self._node = node
        self._choices = choices
        self._learned: Learned = choices.side.begin()
        self._snapshot: TaskSnapshot | None = None
        self._round: ModelRound | None = None
        self._round_ctx = b""
        self._early: deque[Arrived] = deque(maxlen=_EARLY_MESSAGES)
        # Messages that never reached a round's machine, which counts its own.
        self.dropped = 0
        self._last_place: tuple[object, ...] = ()
        self._last_waiting = ("", 0.0)
        self._round_started = 0.0
        self._taking_over = TakingOver(node)

    @property
    def snapshot(self) -> TaskSnapshot | None:
        """The task as last seen."""
        return self._snapshot

    @property
    def stage(self) -> str | None:
        """A model owner has none of an owner's stages."""
        return None

    @property
    def _task(self) -> int:
        assert self.task_id is not None
        return self.task_id

    @property
    def _spec(self) -> TaskSpec:
        return self._choices.spec

    def _round_entropy(self, round_number: int) -> bytes:
        """The secret that a round's payload is made with, 32 bytes: the same in every life of this daemon."""
        secret = self._node.journal.bind(f"protection of task {self._task}", self._node.entropy(32))
        self._node.log.protect(secret, keep=True)
        return blake2b_keyed(round_number.to_bytes(4, "big"), key=secret, person=b"omnilytics-prot")

    def _send(self, snapshot: TaskSnapshot, duty: str, function: str, *arguments: Any, **fields: Any) -> None:
        if self._wanted(snapshot, duty):
            named: dict[str, Any] = {"task": self._task, "round": snapshot.state.round, **fields}
            self._node.transactions.submit(duty_key(self._task, duty), function, *arguments, **named)

    def _wanted(self, snapshot: TaskSnapshot, duty: str) -> bool:
        """Whether a duty of this task still needs a transaction from us."""
        return self._node.transactions.wanted(duty_key(self._task, duty), snapshot.state_block)

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
        state = snapshot.state
        what, late = awaited(snapshot, self._node.me)
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
            phase=place_name(snapshot),
            waiting_for=[show(address) for address in late],
            deadline=state.phase_end,
        )

    async def _open(self, snapshot: TaskSnapshot, round_number: int) -> None:
        node, params = self._node, snapshot.params
        if not self._wanted(snapshot, f"openRound {round_number}"):
            return
        self._round_started = node.clock()
        plaintext = self._choices.side.publish(self._learned, round_number, self._round_entropy(round_number))
        secrets = node.journal.round_secrets(self._task, round_number)
        if secrets is None:
            pads = tuple(node.entropy(32) for _ in range(params.pad_count(snapshot.state.group_count)))
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
            duty, arguments = f"publishPart {round_number} {number}", (self._task, round_number, number, part)
            self._send(snapshot, duty, "publishPart", *arguments, round=round_number, phase="open")
        self._send(
            snapshot,
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
            Recipient(Peer(member.account, member.box_key), snapshot.params.pad_index(seat))
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
        elif ours and self._taking_over.hears(arrived):
            self._acknowledge()
        elif ours and arrived.round in (known, known + 1) and self._is_member(arrived.sender):
            # A full buffer loses its oldest.
            self.dropped += len(self._early) == _EARLY_MESSAGES
            self._early.append(arrived)
        else:
            self.dropped += 1
            self._node.log("message.dropped", NO_ROUND_AT_HAND, "debug", code=MessageError.code, peer_to=arrived.sender)

    def _collect(self, snapshot: TaskSnapshot) -> None:
        """Takes the vectors that owners hand over, those that came before we saw the phase first; acknowledges them."""
        if self._taking_over.collect(snapshot):
            early, self._early = self._early, deque(maxlen=_EARLY_MESSAGES)
            for arrived in early:
                self._arrived(arrived)
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Says on the chain whose vectors we have, when it is time for it."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.state.phase is not RoundPhase.POST or snapshot.time >= snapshot.state.phase_end:
            return
        seats = self._taking_over.acknowledged_now(snapshot)
        if seats:
            state = snapshot.state
            arguments = (self._task, state.ctx, seats)
            self._send(snapshot, f"acknowledge {state.round}", "acknowledge", *arguments, phase="post")

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
