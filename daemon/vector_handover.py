"""Masked vectors over the broker: an owner hands its own to the model owner, which keeps and acknowledges them.

What is sent and answered is peers.vector_delivery; here are journal, broker and log, and when the model owner says on
the chain what it has.
"""

from __future__ import annotations

from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.node import Node
from omnilytics.peers.commitment import kept_root
from omnilytics.peers.errors import MessageError
from omnilytics.peers.market import TaskSnapshot, bitmap
from omnilytics.peers.owner_round import EnvelopeReceived, Note, SendEnvelope, Tick
from omnilytics.peers.round_keys import SPENT, Peer, RoundKeys
from omnilytics.peers.vector_delivery import (
    Collection,
    Delivery,
    Sender,
    StoreVector,
    deliver,
    step_collection,
    step_delivery,
)


def _send_all(node: Node, task: int, round_number: int, effects: list[SendEnvelope | Note]) -> None:
    for effect in effects:
        match effect:
            case SendEnvelope(receiver, envelope):
                node.broker.send(task, round_number, receiver, envelope)
            case Note(event, text, peer):
                # Usually the last repetition of the exchange before it.
                node.log(event, text, "debug", code=MessageError.code, task=task, round=round_number, peer_to=peer)


class HandingOver:
    """An owner's vector of the round at hand, on its way to the model owner."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._task = self._round = 0
        self._delivery: Delivery | None = None
        self._wanted = False

    def begun(self, ctx: bytes) -> bool:
        """Whether the vector of this round is on its way, or there."""
        return self._delivery is not None and self._delivery.keys.ctx == ctx

    def begin(self, snapshot: TaskSnapshot, stored: StoredVector) -> None:
        """Sends a vector; the caller has checked that it may be seen."""
        node, state = self._node, snapshot.state
        keys = RoundKeys(node.me, stored.ctx, node.keys.box, SPENT)
        self._task, self._round = snapshot.task_id, state.round
        self._delivery, effects = deliver(
            keys, Peer(state.model_owner, state.box_key), stored.vector, node.pace.resend, node.clock(), node.entropy
        )
        _send_all(node, self._task, self._round, [*effects])

    def want(self, wanted: bool) -> None:
        """Whether the chain still shows the vector as awaited: else nothing is sent again."""
        self._wanted = wanted

    def hears(self, arrived: Arrived) -> bool:
        """Takes a message in, if it is about the vector."""
        delivery = self._delivery
        if delivery is None or arrived.sender != delivery.model_owner.address:
            return False
        if (arrived.task, arrived.round) != (self._task, self._round):
            return False
        self._step(delivery, EnvelopeReceived(arrived.sender, arrived.payload, self._node.clock()))
        return True

    def tick(self) -> None:
        """Sends again what was lost."""
        if self._delivery is not None and self._wanted:
            self._step(self._delivery, Tick(self._node.clock()))

    def _step(self, before: Delivery, event: EnvelopeReceived | Tick) -> None:
        after, effects = step_delivery(before, event, self._node.entropy)
        self._delivery = after
        _send_all(self._node, self._task, self._round, effects)
        if after.done and not before.done:
            self._node.log(
                "vector.handed-over",
                "the model owner says that it has our vector",
                task=self._task,
                round=self._round,
            )


class TakingOver:
    """The vectors that a model owner is handed in the round at hand."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._task = self._round = 0
        self._collection: Collection | None = None

    def collect(self, snapshot: TaskSnapshot) -> bool:
        """From now on takes the vectors of the snapshot's round, those that the journal knows apart; whether that is
        new."""
        node, state, params = self._node, snapshot.state, snapshot.params
        senders = {
            member.account: Sender(Peer(member.account, member.box_key), seat, member.kept_root)
            for seat, member in snapshot.seated().items()
            if state.committed >> (seat // params.group_size) & 1 and member.committed_in(state.round)
        }
        known = self._collection
        if known is not None and known.keys.ctx == state.ctx and dict(known.senders) == senders:
            return False
        kept = node.journal.received_roots(snapshot.task_id, state.round, state.ctx)
        whole = frozenset(
            address
            for address, sender in senders.items()
            # After a reorg its owner may have committed to another one.
            if sender.seat in kept and kept_root(kept[sender.seat]) == sender.root
        )
        self._task, self._round = snapshot.task_id, state.round
        keys = RoundKeys(node.me, state.ctx, node.keys.box, SPENT)
        self._collection = Collection(keys, params.layout.byte_count, params.chunk_words, senders, whole)
        return True

    def hears(self, arrived: Arrived) -> bool:
        """Takes a message in, if it is of the round whose vectors are collected."""
        before = self._collection
        if before is None or (arrived.task, arrived.round) != (self._task, self._round):
            return False
        node = self._node
        event = EnvelopeReceived(arrived.sender, arrived.payload, node.clock())
        self._collection, effects = step_collection(before, event, node.entropy)
        # In their order: what is said to be received is on disk by then.
        for effect in effects:
            if isinstance(effect, StoreVector):
                ctx = before.keys.ctx
                node.journal.store_received(self._task, self._round, effect.seat, ctx, effect.root, effect.vector)
                node.log("vector.received", "", "debug", task=self._task, round=self._round, peer_to=arrived.sender)
            else:
                _send_all(node, self._task, self._round, [effect])
        return True

    def acknowledged_now(self, snapshot: TaskSnapshot) -> int:
        """Bitmap of the seats to acknowledge now: once all are there; or, half-way to when owners post, those that are.

        0 for none. Whoever comes later is acknowledged with the next block.
        """
        collection, state = self._collection, snapshot.state
        if collection is None or collection.keys.ctx != state.ctx:
            return 0
        awaited = {
            sender.seat: address in collection.whole
            for address, sender in collection.senders.items()
            if (member := snapshot.member(address)) is not None and not member.posted_in(state.round)
        }
        patient = snapshot.time < snapshot.params.forced_from(state.phase_end) - snapshot.params.post_seconds // 4
        if patient and not all(awaited.values()):
            return 0
        return bitmap([seat for seat, there in awaited.items() if there])
