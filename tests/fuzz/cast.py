"""Who takes part: everybody's keys and rounds, all from one seed. The fuzzer knows every secret but what it attacks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.protection.sealing import seal_model
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.payload import ModelPayload, encode_payload
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.hashing import base_context, keccak, model_commitment, round_context
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.market import (
    Member,
    MemberStatus,
    RoundOpening,
    RoundPhase,
    TaskParams,
    TaskSnapshot,
    TaskState,
    TaskStatus,
)
from tests.envelope_sides import model_of

GROUPS = 3
TASK = 5
CHAIN_ID = 31337
MARKET = b"\x0a" * 20
SPEC = TaskSpec("softmax", 2, ("no", "yes"), 1.0, 4)
MODEL = model_of(SPEC.side)
BLOCK_SECONDS = 12


def secret(*parts: object) -> bytes:
    """32 bytes that look random and are always the same."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


@dataclass(frozen=True)
class Person:
    """A participant's address and registered key."""

    address: bytes
    box: BoxIdentity


@cache
def person(name: str) -> Person:
    """Everybody keeps address and registered key over all rounds, as on the chain."""
    return Person(secret(name, "address")[:20], BoxIdentity.from_entropy(secret(name, "registered")))


@dataclass(frozen=True)
class Round:
    """One round of one task, as an omniscient being knows it."""

    number: int
    group_size: int
    owners: tuple[Person, ...]
    model_owner: Person
    params: TaskParams
    opening: RoundOpening
    model_key: bytes = field(repr=False)
    pad_seeds: tuple[bytes, ...] = field(repr=False)
    payload: bytes = field(repr=False)
    seed: str

    def ephemeral(self, who: Person) -> BoxIdentity:
        """The pair of keys that a peer uses in this round (the attacked one makes its own)."""
        return BoxIdentity.from_entropy(secret(self.seed, self.number, who.address.hex(), "ephemeral"))

    def snapshot(self, phase: RoundPhase, number: int, block: int, committed: frozenset[bytes]) -> TaskSnapshot:
        """The task as a block shows it."""
        members = tuple(
            Member(
                owner.address,
                10,
                seat,
                MemberStatus.SEATED,
                owner.box.public,
                self.number.to_bytes(4, "big") + bytes([owner.address in committed]),
                0,
            )
            for seat, owner in enumerate(self.owners)
        )
        ctx = self.opening.ctx if number == self.number else keccak(b"the round before", self.opening.ctx)
        now = block * BLOCK_SECONDS
        state = TaskState(
            model_owner=self.model_owner.address, box_key=self.model_owner.box.public, params_hash=bytes(32),
            status=TaskStatus.RUNNING, phase=phase, group_count=GROUPS, member_count=len(members), round=number,
            phase_end=now + 600, close_block=0, empty_rounds=0, next_chunk=0, turn_end=0, ctx=ctx, dissolved=0,
            short=0, sat_out=0, committed=0, complete=0, selected=0, escrow=0, paid=0, settlement_paid=0, refunded=0,
            stakes_in=0, stakes_out=0, slashed=0, compensation=0, burned=0,
        )  # fmt: skip
        return TaskSnapshot(TASK, self.params, state, members, block, now)


@cache
def _params(group_size: int) -> TaskParams:
    return TaskParams(
        group_size=group_size, max_groups=GROUPS, faulty_groups=0, strict_selection=False,
        model_selection=False, broker_delivery=False, lane_bits=16,
        max_magnitude=1000, value_count=MODEL.value_count, chunk_words=1, rounds=10**9, max_empty_rounds=3,
        max_missed_rounds=3, depth=1, block_seconds=1, join_seconds=60, reveal_seconds=60, open_seconds=60,
        commit_seconds=60, post_seconds=60, settle_seconds=60, turn_seconds=5, rate=1, stake=10, deposit=1,
        gas_price_cap=10**9, gas_tip=1,
    )  # fmt: skip


SCALING = FeatureScaling(np.zeros(2), np.ones(2))


def dataset() -> Dataset:
    """Rows to train on."""
    rows = np.random.default_rng(1).normal(size=(12, 2))
    return Dataset(rows, (rows[:, 0] > 0).astype(np.int64), SPEC.classes)


def make_round(seed: str, number: int, group_size: int) -> Round:
    """A round whose model, keys and pads are nobody else's."""
    params = _params(group_size)
    owners = tuple(person(f"owner {seat}") for seat in range(GROUPS * group_size))
    model_key = secret(seed, number, "model key")
    pads = tuple(secret(seed, number, "pad", position) for position in range(group_size))
    # Other weights in every round, as after a step.
    weights = np.random.default_rng([number, int.from_bytes(secret(seed)[:4], "big")]).normal(size=MODEL.value_count)
    plaintext = encode_payload(ModelPayload.of(MODEL, weights, SCALING, number))
    payload = seal_model(plaintext, model_key, secret(seed, number, "nonce")[:24])
    pad_hashes = tuple(keccak(pad) for pad in pads)
    base = base_context(
        CHAIN_ID, MARKET, TASK, number, bytes(32), keccak(payload), 1, keccak(model_key), list(pad_hashes)
    )
    commit = model_commitment(base, model_key, plaintext)
    opening = RoundOpening(
        TASK, number, round_context(base, commit), base, commit, keccak(model_key), keccak(payload), 1, pad_hashes,
        (1 << GROUPS) - 1, 0, 100,
    )  # fmt: skip
    return Round(number, group_size, owners, person("model owner"), params, opening, model_key, pads, payload, seed)


def keys_of(who: Person) -> Keys:
    """Key files' content, as far as a node looks at it."""
    return _StillKeys(who)  # type: ignore[return-value]  # without an Ethereum account, which costs a millisecond


@dataclass(frozen=True)
class _StillKeys:
    who: Person

    @property
    def address(self) -> bytes:
        return self.who.address

    @property
    def box(self) -> BoxIdentity:
        return self.who.box

    def secrets(self) -> tuple[bytes, ...]:
        return (self.who.box.secret,)
