"""A group of owners and a model owner in memory: the round machines with a network that does what a test says."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass

import numpy as np
from numpy.typing import NDArray

from omnilytics.peers import model_round, owner_round
from omnilytics.peers.commitment import root
from omnilytics.peers.hashing import keccak
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import RoundOpening
from omnilytics.peers.masking import add_vectors, mask_vector, remove_pads
from omnilytics.peers.model_round import ModelRound, Recipient
from omnilytics.peers.owner_round import (
    CommitVector,
    ComputeUpdate,
    DeclareSitOut,
    EnvelopeReceived,
    MaskVector,
    Note,
    OwnerRound,
    Pace,
    SendEnvelope,
    Tick,
    UpdateReady,
    VectorMasked,
)
from omnilytics.peers.quantise import RingLayout, lift, pack, to_ring, unpack
from omnilytics.peers.round_keys import Peer, RoundKeys

LAYOUT = RingLayout(20, 16)
CHUNK_WORDS = 1
CTX = hashlib.sha256(b"the round").digest()
GROUP = 2


def secret(name: str) -> bytes:
    """32 bytes that look random and are always the same."""
    return hashlib.sha256(name.encode()).digest()


@dataclass
class Entropy:
    """Bytes for nonces, never the same twice."""

    name: str
    count: int = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return hashlib.shake_256(f"{self.name}/{self.count}".encode()).digest(size)


@dataclass(frozen=True)
class Flight:
    """An envelope on its way."""

    sender: bytes
    receiver: bytes
    envelope: bytes


@dataclass(frozen=True)
class Person:
    """Somebody's address and keys; `restarted` is the same one with another ephemeral key."""

    address: bytes
    keys: RoundKeys

    @property
    def peer(self) -> Peer:
        return Peer(self.address, self.keys.registered.public)


def person(name: str, life: int = 1, ctx: bytes = CTX) -> Person:
    registered = BoxIdentity.from_entropy(secret(f"{name} registered"))
    ephemeral = BoxIdentity.from_entropy(secret(f"{name} ephemeral {life}"))
    address = secret(f"{name} address")[:20]
    return Person(address, RoundKeys(address, ctx, registered, ephemeral))


MODEL_KEY = secret("model key")


def pads(size: int) -> tuple[bytes, ...]:
    return tuple(secret(f"pad {position}") for position in range(size))


def opening_of(size: int, pad_count: int | None = None) -> RoundOpening:
    """Of a round with a pad for each position, or with `pad_count` of them."""
    pad_hashes = tuple(keccak(seed) for seed in pads(size if pad_count is None else pad_count))
    return RoundOpening(1, 1, CTX, bytes(32), bytes(32), keccak(MODEL_KEY), bytes(32), 1, pad_hashes, 1, 0, 0)


@dataclass
class Network:
    """n owners of one group and the model owner; effects are performed, messages wait in `flights`."""

    size: int = 3
    pace: Pace = field(default_factory=Pace)
    # Train and mask at once; otherwise the work waits in `work` for `do_work`.
    prompt: bool = True
    # Every group has pads of its own: the pad of an owner is that of its seat.
    own_pads: bool = False
    now: float = 0.0
    flights: list[Flight] = field(default_factory=list)
    sent: list[Flight] = field(default_factory=list)
    work: list[tuple[bytes, ComputeUpdate | MaskVector]] = field(default_factory=list)
    commits: dict[bytes, list[CommitVector]] = field(default_factory=lambda: defaultdict(list))
    masked: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    sat_out: dict[bytes, list[DeclareSitOut]] = field(default_factory=lambda: defaultdict(list))
    notes: list[tuple[bytes, Note]] = field(default_factory=list)
    effects: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owners = [person(f"owner {number}") for number in range(self.size)]
        self.model_person = person("model owner")
        self.positions = {owner.address: position for position, owner in enumerate(self.owners)}
        self.updates: dict[bytes, NDArray[np.int64]] = {
            owner.address: np.random.default_rng(position).integers(-500, 500, LAYOUT.value_count)
            for position, owner in enumerate(self.owners)
        }
        # Ours is not the last group.
        self.pad_count = self.size * (GROUP + 2 if self.own_pads else 1)
        self.first_pad = self.size * GROUP if self.own_pads else 0
        self.entropy = Entropy("network")
        self.states: dict[bytes, OwnerRound] = {}
        for owner in self.owners:
            mates = tuple((p, mate.peer) for p, mate in enumerate(self.owners) if mate is not owner)
            state, effects = owner_round.begin(
                owner.keys,
                opening_of(self.size, self.pad_count),
                GROUP,
                self.positions[owner.address],
                self.model_person.peer,
                mates,
                self.pace,
                self.now,
                self.entropy,
            )
            self.states[owner.address] = state
            self._perform(owner.address, effects)
        recipients = tuple(Recipient(owner.peer, self.first_pad + p) for p, owner in enumerate(self.owners))
        self.model: ModelRound
        self.model, sends = model_round.begin(
            self.model_person.keys, MODEL_KEY, pads(self.pad_count), recipients, self.pace, self.now, self.entropy
        )
        self._perform_model(sends)

    # ------------------------------------------------------------------ driving

    def step(self, address: bytes, event: owner_round.OwnerInput) -> list[owner_round.OwnerEffect]:
        self.states[address], effects = owner_round.step(self.states[address], event, self.entropy)
        self._perform(address, effects)
        return effects

    def step_model(self, event: model_round.ModelInput) -> list[model_round.ModelEffect]:
        self.model, effects = model_round.step(self.model, event, self.entropy)
        self._perform_model(effects)
        return effects

    def deliver(self, flight: Flight) -> None:
        event = EnvelopeReceived(flight.sender, flight.envelope, self.now)
        if flight.receiver == self.model_person.address:
            self.step_model(event)
        else:
            self.step(flight.receiver, event)

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        for owner in self.owners:
            self.step(owner.address, Tick(self.now))
        self.step_model(Tick(self.now))

    def drain(self, limit: int = 10_000) -> None:
        """Delivers in order until nothing is on its way. A network that never falls silent fails the test."""
        for _ in range(limit):
            if not self.flights and not self.work:
                return
            while self.work:
                self.do_work()
            if self.flights:
                self.deliver(self.flights.pop(0))
        raise AssertionError("the participants answer each other for ever")

    def do_work(self, number: int = 0) -> None:
        """Training or masking ends."""
        address, order = self.work.pop(number)
        match order:
            case ComputeUpdate(model_key):
                assert model_key == MODEL_KEY
                self.step(address, UpdateReady(self.updates[address], self.now))
            case MaskVector(quantised, pairs, pad_seed):
                position = self.positions[address]
                lanes = to_ring(quantised, LAYOUT)
                index = self.first_pad + position
                masked = mask_vector(
                    lanes, CTX, GROUP, position, pairs, pad_seed, pad_index=index, group_size=self.size
                )
                vector = pack(masked, LAYOUT)
                seat = GROUP * self.size + position
                self.step(address, VectorMasked(vector, root(vector, CHUNK_WORDS, CTX, seat), self.now))

    def _send(self, sender: bytes, effect: SendEnvelope) -> None:
        flight = Flight(sender, effect.receiver, effect.envelope)
        self.flights.append(flight)
        self.sent.append(flight)

    def _perform(self, address: bytes, effects: list[owner_round.OwnerEffect]) -> None:
        self.effects += effects
        for effect in effects:
            match effect:
                case SendEnvelope():
                    self._send(address, effect)
                case ComputeUpdate() | MaskVector():
                    self.masked[address] += isinstance(effect, MaskVector)
                    self.work.append((address, effect))
                    if self.prompt:
                        self.do_work(len(self.work) - 1)
                case CommitVector():
                    self.commits[address].append(effect)
                case DeclareSitOut():
                    self.sat_out[address].append(effect)
                case Note():
                    self.notes.append((address, effect))

    def _perform_model(self, effects: list[model_round.ModelEffect]) -> None:
        self.effects += effects
        for effect in effects:
            match effect:
                case SendEnvelope():
                    self._send(self.model_person.address, effect)
                case Note():
                    self.notes.append((self.model_person.address, effect))

    # ------------------------------------------------------------------ judging

    def agreed_everywhere(self, address: bytes) -> bool:
        """Whether an owner and each of its mates have the very same seed, and the owner knows it."""
        own = self.states[address]
        return all(
            own.seeds.get(mate.address) is not None
            and own.seeds[mate.address] == self.states[mate.address].seeds.get(address)
            and mate.address in own.agreed
            for mate in self.owners
            if mate.address != address
        )

    def sum_is_right(self) -> bool:
        """Whether the vectors, pads taken off, add up to the sum of the updates: integer for integer."""
        vectors = [unpack(self.commits[owner.address][0].vector, LAYOUT) for owner in self.owners]
        own = pads(self.pad_count)[self.first_pad :][: self.size]
        bare = lift(remove_pads(add_vectors(vectors), CTX, own, self.first_pad), LAYOUT)[: LAYOUT.value_count]
        return bool(np.array_equal(bare, np.sum(list(self.updates.values()), axis=0)))


def bytes_in(value: object, seen: set[int] | None = None) -> Iterator[bytes]:
    """All bytes that a state holds, however deep: what a memory dump of it would show."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            yield from bytes_in(getattr(value, entry.name), seen)
    elif hasattr(value, "items"):
        for key, item in value.items():
            yield from bytes_in(key, seen)
            yield from bytes_in(item, seen)
    elif isinstance(value, (tuple, list, frozenset, set)):
        for item in value:
            yield from bytes_in(item, seen)
