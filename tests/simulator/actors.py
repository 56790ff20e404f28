"""Who plays: parts that the monitor watches, and those that do not follow the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omnilytics.daemon.model import ModelPart
from omnilytics.daemon.node import Event, SnapshotSeen
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.posting import post_parts
from omnilytics.daemon.protection.sides import StatisticFunction
from omnilytics.peers.keys import BoxIdentity, seal
from omnilytics.peers.market import RoundPhase, TaskSnapshot, TaskStatus
from omnilytics.peers.masking import PairMask
from omnilytics.peers.messages import (
    CHANNEL_EPHEMERAL,
    CHANNEL_REGISTERED,
    Hello,
    Message,
    ModelKey,
    ModelKeyReceived,
    SeedAcknowledgement,
    encode_envelope,
)
from omnilytics.peers.model_round import ModelEffect
from omnilytics.peers.owner_round import OwnerEffect, OwnerRound, SendEnvelope
from omnilytics.peers.quantise import Signed
from tests.adversaries.model import vanishing_part
from tests.adversaries.owner import adversarial_part
from tests.adversaries.poisons import POISONS
from tests.simulator.plan import Absence, Plan

if TYPE_CHECKING:
    from tests.simulator.scenario import Participant, World


@dataclass
class Stage:
    """What a participant has done of its role, over all its lives."""

    # Of the plan's absences: those that have come.
    absences: set[Absence] = field(default_factory=set)
    gone: bool = False
    acted: int = 0


def owner_statistic(plan: Plan, index: int) -> StatisticFunction | None:
    """The gradient of a poisoner."""
    role = plan.roles.get(index, ("", 0))[0]
    return POISONS[role.removeprefix("poison ")] if role.startswith("poison ") else None


def owner_class(world: World, person: Participant) -> type[OwnerPart]:
    """The part of one owner: its role, watched."""
    role, start = world.plan.roles.get(person.index, ("", 0))
    base: type[OwnerPart] = OwnerPart
    if role == "dies before posting" and not person.stage.gone:

        def die() -> None:
            person.stage.gone = True
            world.counters["role: dies before posting"] += 1
            person.die_now(30.0)

        base = adversarial_part(None, -1, start, die=die)
    elif role == "hostile group":
        base = adversarial_part("noise", 1, None)
    if role and role != "dies before posting":
        base = _misbehaving_owner(base, role, start, world, person)
    return _watched_owner(base, world, person)


def _at_step(step: str, start: int, snapshot: TaskSnapshot, part: OwnerPart | ModelPart) -> bool:
    """Whether a participant has come to the step at which it goes away."""
    state = snapshot.state
    if step == "join":
        return state.status is TaskStatus.JOINING
    if step == "reveal":
        return state.status is TaskStatus.REVEALING
    if step == "draw":
        return state.status is TaskStatus.DRAWING
    if step == "end":
        return state.over
    if state.status is not TaskStatus.RUNNING or state.round < start:
        return False
    in_round = getattr(part, "_round", None) is not None
    match step:
        case "seeding":
            return state.phase is RoundPhase.COMMIT and in_round
        case "committed":
            me = snapshot.member(part._node.me)
            return me is not None and me.committed_in(state.round)
        case "posting":
            return state.phase is RoundPhase.POST
        case "settling":
            return state.phase is RoundPhase.SETTLE
        case "between rounds":
            return state.phase is RoundPhase.IDLE
    return False


def _due(world: World, person: Participant) -> list[Absence]:
    """The absences of the plan that have not come yet."""
    return [a for a in world.plan.absences.get(person.index, ()) if a not in person.stage.absences]


def _watched_owner(base: type[OwnerPart], world: World, person: Participant) -> type[OwnerPart]:

    def go_away(absence: Absence) -> None:
        person.stage.absences.add(absence)
        world.counters[f"absence at {absence.step}"] += 1
        person.die_now(absence.seconds)

    class Watched(base):  # type: ignore[misc, valid-type]
        # A round's state is never changed, only replaced: each is looked at once.
        _told: OwnerRound | None = None

        async def handle(self, event: Event) -> None:
            if isinstance(event, SnapshotSeen):
                for absence in _due(world, person):
                    if _at_step(absence.step, absence.round, event.snapshot, self):
                        go_away(absence)
            await super().handle(event)
            self._tell_seeds()

        def _tell_seeds(self) -> None:
            round_: OwnerRound | None = self._round
            if round_ is not None and round_ is not self._told:
                self._told = round_
                world.monitor.saw_seeds(person.keys.address, round_.opening.ctx, dict(round_.seeds))
                world.monitor.keep_secret(round_.keys.ephemeral.secret, "ephemeral key")

        def _mask(self, round_: OwnerRound, quantised: Signed, pairs: tuple[PairMask, ...], pad_seed: bytes) -> None:
            self._tell_seeds()
            world.monitor.saw_mask(
                person.keys.address,
                round_.opening.round,
                round_.opening.ctx,
                round_.group,
                round_.position,
                pairs,
                pad_seed,
                quantised,
                world.plan.params,
            )
            for absence in _due(world, person):
                if absence.step == "masked" and round_.opening.round >= absence.round:
                    go_away(absence)
            super()._mask(round_, quantised, pairs, pad_seed)

    return Watched


def _misbehaving_owner(
    base: type[OwnerPart], role: str, start: int, world: World, person: Participant
) -> type[OwnerPart]:
    entropy = world.plan.entropy(f"role {person.name}")

    def act() -> None:
        world.counters[f"role: {role}"] += 1

    class Misbehaving(base):  # type: ignore[misc, valid-type]
        async def handle(self, event: Event) -> None:
            if isinstance(event, SnapshotSeen):
                state = event.snapshot.state
                if role == "never reveals" and state.status is TaskStatus.REVEALING:
                    act()
                    return
                if role == "old data folder":
                    self._go_back_in_time(event.snapshot)
                if role == "gone for good" and state.status is TaskStatus.RUNNING and state.round >= start:
                    act()
                    person.die_now(None)
                if role == "post after the end" and state.phase is RoundPhase.SETTLE:
                    self._post_late(event.snapshot)
            await super().handle(event)

        def statistic_function(self) -> StatisticFunction:
            # A hostile group's owner poisons where it sits in that group.
            if role.startswith("poison ") or (role == "hostile group" and self._round.group == 0):
                act()
            found: StatisticFunction = super().statistic_function()
            return found

        async def deliver_vector(self, snapshot: TaskSnapshot, round_number: int) -> None:
            if role in ("no post", "post after the end", "late post") and round_number >= start:
                act()
                return
            await super().deliver_vector(snapshot, round_number)

        async def post_vector(self, snapshot: TaskSnapshot, round_number: int) -> None:
            if role in ("no post", "post after the end") and round_number >= start:
                act()
                return
            if role == "late post" and round_number >= start and snapshot.time < snapshot.state.phase_end - 3:
                act()
                return
            await super().post_vector(snapshot, round_number)

        def _go_back_in_time(self, snapshot: TaskSnapshot) -> None:
            """Keeps a copy of its folder, and comes back with that after it has committed."""
            state, me = snapshot.state, snapshot.member(self._node.me)
            if state.status is not TaskStatus.RUNNING or state.round < start or me is None or person.stage.gone:
                return
            if not me.committed_in(state.round):
                person.copy_folder()
            elif person.has_copy:
                act()
                person.stage.gone = True
                person.die_now(1.0)

        def _post_late(self, snapshot: TaskSnapshot) -> None:
            stored = self._node.journal.vector(self._task, snapshot.state.round)
            me = snapshot.member(self._node.me)
            if stored is None or me is None or stored.ctx != snapshot.state.ctx or me.posted_in(snapshot.state.round):
                return
            act()
            for part in post_parts(stored, snapshot.params, me.seat):
                arguments = (self._task, stored.ctx, part.first_chunk, part.data, part.next_link)
                self._send(snapshot, f"late {snapshot.state.round} {part.first_chunk}", "post", *arguments)

        async def _settle(self, snapshot: TaskSnapshot) -> None:
            if role == "silent settler":
                act()
                return
            await super()._settle(snapshot)

        async def _play(self, snapshot: TaskSnapshot, round_number: int) -> None:
            if role == "sits out" and round_number >= start and snapshot.state.ctx not in self._refused_rounds:
                act()
                self._sit_out(snapshot.state.ctx, round_number, "for no reason", ())
            await super()._play(snapshot, round_number)

        async def _perform(self, effects: list[OwnerEffect]) -> None:
            round_: OwnerRound | None = self._round
            if round_ is not None and round_.opening.round >= start:
                for effect in list(effects):
                    if isinstance(effect, SendEnvelope):
                        for envelope in self._hostile(round_, effect.receiver):
                            act()
                            self._node.broker.send(self._task, round_.opening.round, effect.receiver, envelope)
            await super()._perform(effects)

        def _hostile(self, round_: OwnerRound, receiver: bytes) -> list[bytes]:
            """Valid boxes with something wrong inside."""
            keys, peer = round_.keys, round_.peer(receiver)
            assert peer is not None
            theirs = round_.hellos.get(receiver)
            nonce = entropy.randbytes(24)
            if role == "second hello":
                other = BoxIdentity.from_entropy(entropy.randbytes(32))
                hello = Hello(keys.ctx, keys.address, receiver, other.public, entropy.random() < 0.5)
                return [_sealed(keys.registered.secret, peer.box_key, hello, nonce)]
            if role == "wrong acknowledgement" and theirs is not None:
                wrong = SeedAcknowledgement(keys.ctx, keys.address, receiver, entropy.randbytes(32))
                return [keys.private(wrong, theirs, nonce)]
            if role != "wrong messages" or entropy.random() < 0.3:
                return []
            return [self._wrong_message(round_, receiver, peer.box_key, theirs, nonce)]

        def _wrong_message(
            self, round_: OwnerRound, receiver: bytes, box_key: bytes, theirs: bytes | None, nonce: bytes
        ) -> bytes:
            keys, me, random_ = round_.keys, round_.keys.address, entropy.randbytes
            ephemeral = keys.ephemeral.public
            choices: list[Message | bytes] = [
                Hello(random_(32), me, receiver, ephemeral),
                Hello(keys.ctx, random_(20), receiver, ephemeral),
                Hello(keys.ctx, me, random_(20), ephemeral),
                SeedAcknowledgement(keys.ctx, me, receiver, random_(32)),
                ModelKey(keys.ctx, me, receiver, random_(32), random_(32)),
                ModelKeyReceived(keys.ctx, me, receiver, random_(32)),
                random_(entropy.choice((1, 74, 75, 107, 138, 300))),
                bytes([1, entropy.randrange(6)]) + keys.ctx + me + receiver + random_(entropy.randrange(80)),
                bytes([entropy.randrange(4), 1]) + keys.ctx + me + receiver + random_(33),
            ]
            wrong = entropy.choice(choices)
            plain = wrong if isinstance(wrong, bytes) else wrong.encode()
            if theirs is not None and entropy.random() < 0.5:
                return bytes([1, CHANNEL_EPHEMERAL]) + seal(keys.ephemeral.secret, theirs, plain, nonce)
            return bytes([1, CHANNEL_REGISTERED]) + seal(keys.registered.secret, box_key, plain, nonce)

    return Misbehaving


def _sealed(secret: bytes, public: bytes, message: Message, nonce: bytes) -> bytes:
    return encode_envelope(CHANNEL_REGISTERED, seal(secret, public, message.encode(), nonce))


def model_class(world: World, person: Participant) -> type[ModelPart]:
    """The model owner's part: its role, watched."""
    role, start = world.plan.model_role or ("", 0)
    entropy = world.plan.entropy(f"model role {person.lives}")
    base: type[ModelPart] = ModelPart
    if role == "vanishes before settling":

        def die() -> None:
            world.counters[f"role: model owner {role}"] += 1
            person.die_now(None)

        base = vanishing_part(start, die)

    def act() -> None:
        world.counters[f"role: model owner {role}"] += 1

    class Acting(base):  # type: ignore[misc, valid-type]
        async def handle(self, event: Event) -> None:
            if isinstance(event, SnapshotSeen):
                snapshot = event.snapshot
                for absence in _due(world, person):
                    if _at_step(absence.step, absence.round, snapshot, self):
                        person.stage.absences.add(absence)
                        world.counters[f"absence of the model owner at {absence.step}"] += 1
                        person.die_now(absence.seconds)
                running = snapshot.state.status is TaskStatus.RUNNING
                if role == "silent for good" and running and snapshot.state.round >= start - 1:
                    act()
                    person.die_now(None)
            await super().handle(event)

        async def _open(self, snapshot: TaskSnapshot, round_number: int) -> None:
            params = snapshot.params
            if role == "silent for some rounds" and round_number >= start:
                silent_until = snapshot.state.phase_end + (params.max_empty_rounds - 1) * params.open_seconds
                if person.stage.acted < 2 and snapshot.time < silent_until - 5:
                    person.stage.acted += 1 if snapshot.time >= silent_until - 7 else 0
                    act()
                    return
            if role == "same weights again" and round_number > start:
                newest = self._node.journal.newest_model(self._task)
                # Under secret-head what is published is the same in every round anyway.
                if newest is not None and world.plan.spec.means.same_model_once:
                    act()
                    self._learned = self._choices.side.begin()
            await super()._open(snapshot, round_number)

        def _perform(self, effects: list[ModelEffect]) -> None:
            round_ = self._round
            assert round_ is not None and self._snapshot is not None
            number = self._snapshot.state.round
            kept: list[ModelEffect] = []
            for effect in effects:
                if not isinstance(effect, SendEnvelope) or number < start or not role:
                    kept.append(effect)
                    continue
                theirs = round_.hellos.get(effect.receiver)
                victim = effect.receiver[-1] % 3 == 0
                ctx, me = round_.keys.ctx, round_.keys.address
                pads, nonce = round_.pad_seeds, entropy.randbytes(24)
                pad = pads[round_.recipients[effect.receiver].pad_index]
                if role == "never delivers":
                    act()
                    continue
                if role == "wrong keys to some" and victim and theirs is not None:
                    act()
                    wrong = ModelKey(ctx, me, effect.receiver, entropy.randbytes(32), pad)
                    kept.append(SendEnvelope(effect.receiver, round_.keys.private(wrong, theirs, nonce)))
                elif role == "wrong pads to some" and victim and theirs is not None:
                    act()
                    wrong = ModelKey(ctx, me, effect.receiver, round_.model_key, entropy.choice(pads[::-1]))
                    kept.append(SendEnvelope(effect.receiver, round_.keys.private(wrong, theirs, nonce)))
                elif role == "garbage to some" and victim:
                    act()
                    kept.append(SendEnvelope(effect.receiver, entropy.randbytes(entropy.randrange(600))))
                elif role == "two hellos" and victim:
                    act()
                    other = BoxIdentity.from_entropy(entropy.randbytes(32))
                    peer = round_.recipients[effect.receiver].peer
                    hello = Hello(ctx, me, effect.receiver, other.public)
                    secret = round_.keys.registered.secret
                    kept += [SendEnvelope(effect.receiver, _sealed(secret, peer.box_key, hello, nonce)), effect]
                else:
                    kept.append(effect)
            super()._perform(kept)

    part: type[ModelPart] = Acting
    if role in ("model unlike its commitment", "payload unlike its hash"):
        part = _lying_on_chain(part, role, start, act)
    return part


def _lying_on_chain(base: type[ModelPart], role: str, start: int, act: Any) -> type[ModelPart]:
    class Lying(base):  # type: ignore[misc, valid-type]
        async def _open(self, snapshot: TaskSnapshot, round_number: int) -> None:
            queue = self._node.transactions
            honest = queue.submit

            def submit(key: str, function: str, *arguments: Any, **more: Any) -> Any:
                if function == "openRound" and round_number >= start:
                    act()
                    told = list(arguments)
                    if role == "model unlike its commitment":
                        told[2] = told[2][::-1]
                    else:
                        told[7] = told[7][:-1] + bytes([told[7][-1] ^ 1])
                    arguments = tuple(told)
                return honest(key, function, *arguments, **more)

            queue.submit = submit
            try:
                await super()._open(snapshot, round_number)
            finally:
                queue.submit = honest

    return Lying
