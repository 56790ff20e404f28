"""A second opinion on every message: what the protocol's page says must become of it, written without the product.

It opens boxes from the other end, with the secrets of the peers, and keeps its own books of who said what. The fuzzer
compares: nothing may be heard that the oracle refuses, nothing refused that it accepts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import lru_cache

import nacl.bindings
import nacl.exceptions

from omnilytics.peers.hashing import keccak
from omnilytics.peers.keys import BoxIdentity
from omnilytics.peers.seeds import EphemeralKey, acknowledgement, derive_pair_seed
from tests.fuzz.cast import TASK, Person, Round
from tests.fuzz.world import RUN

LOW_ORDER = {
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
}
HEX = set("0123456789abcdef")


class Verdict(Enum):
    """What must become of a message."""

    BROKER = "dropped by the broker adapter"
    PART = "dropped: no round at hand"
    EARLY = "kept for the round"
    MACHINE = "dropped by the round"
    PRESENCE = "presence"
    HEARD = "heard"


@lru_cache(maxsize=512)
def shared(public: bytes, secret: bytes) -> bytes:
    """The key of all boxes between two keys."""
    return bytes(nacl.bindings.crypto_box_beforenm(public, secret))


def seal(public: bytes, secret: bytes, plaintext: bytes, nonce: bytes) -> bytes:
    """A NaCl box, made fast: nonce and ciphertext."""
    return nonce + bytes(nacl.bindings.crypto_box_easy_afternm(plaintext, nonce, shared(public, secret)))


def _open(public: bytes, secret: bytes, box: bytes) -> bytes | None:
    try:
        return bytes(nacl.bindings.crypto_box_open_easy_afternm(box[24:], box[:24], shared(public, secret)))
    except nacl.exceptions.CryptoError:
        return None


def is_low_order(public: bytes) -> bool:
    """Whether everybody has the same secret with this key; the highest bit says nothing."""
    return public[:31] + bytes([public[31] & 127]) in LOW_ORDER


def _number(text: str) -> int | None:
    if not text or len(text) > 78 or set(text) - set("0123456789") or (text[0] == "0" and text != "0"):
        return None
    return int(text)


class Oracle:
    """What the attacked participant must know after what it was told."""

    def __init__(self, part_round: Round, victim: Person, seat: int | None, early_limit: int) -> None:
        self.round = part_round
        self.victim = victim
        self.is_owner = seat is not None
        size = part_round.group_size
        self.peers: dict[bytes, tuple[Person, int]] = {}
        self.members = {owner.address for owner in part_round.owners}
        if seat is None:
            self.peers = {owner.address: (owner, place % size) for place, owner in enumerate(part_round.owners)}
        else:
            first = seat - seat % size
            mates = part_round.owners[first : first + size]
            self.peers = {mate.address: (mate, place) for place, mate in enumerate(mates) if mate != victim}
            self.peers[part_round.model_owner.address] = (part_round.model_owner, -1)
            self.members.add(part_round.model_owner.address)
        self.position = -1 if seat is None else seat % size
        # Secrets of ephemeral keys that somebody among the peers has.
        self.secrets: dict[bytes, bytes] = {}
        self.known_round = 0
        self.open = False
        self.ephemeral: BoxIdentity | None = None
        self.hellos: dict[bytes, bytes] = {}
        self.agreed: set[bytes] = set()
        self.has_key = False
        self.early: deque[tuple[int, bytes, bytes]] = deque(maxlen=early_limit)
        # Messages whose box opened at the other end.
        self.boxes_opened = 0
        self.broker_dropped = 0
        self.part_dropped = 0
        self.machine_dropped = 0

    # ------------------------------------------------------------------ facts

    def opened(self, ephemeral: BoxIdentity) -> None:
        """The round began; what was early is heard now."""
        self.open, self.ephemeral = True, ephemeral
        waiting = list(self.early)
        self.early.clear()
        for number, sender, data in waiting:
            self.part_dropped += self._of_member(number, sender, data) is Verdict.PART

    def all_agreed(self) -> bool:
        """Whether everybody that an owner needs has agreed with it."""
        return self.has_key and self.agreed == self.peers.keys() - {self.round.model_owner.address}

    # --------------------------------------------------------------- messages

    def judge(self, where: str, payload: object) -> Verdict:
        """What must become of a message; the books are kept."""
        verdict = self._judge(where, payload if isinstance(payload, bytes) else b"")
        if verdict is Verdict.BROKER:
            self.broker_dropped += 1
        elif verdict is Verdict.PART:
            self.part_dropped += 1
        return verdict

    def _judge(self, where: str, data: bytes) -> Verdict:
        parts = where.split("/")
        if len(data) > 4096:
            return Verdict.BROKER
        if parts[:3] == ["omnilytics", RUN, "presence"] and len(parts) == 4:
            good = len(parts[3]) == 40 and not set(parts[3]) - HEX and data in (b"0", b"1")
            return Verdict.PRESENCE if good else Verdict.BROKER
        if len(parts) != 7 or parts[0] != "omnilytics" or parts[1] != RUN or parts[4] != "in":
            return Verdict.BROKER
        task, number = _number(parts[2]), _number(parts[3])
        if task is None or number is None or parts[5] != self.victim.address.hex():
            return Verdict.BROKER
        if len(parts[6]) != 40 or set(parts[6]) - HEX:
            return Verdict.BROKER
        sender = bytes.fromhex(parts[6])
        return self._of_member(number, sender, data) if task == TASK else Verdict.PART

    def _of_member(self, number: int, sender: bytes, data: bytes) -> Verdict:
        if self.open and number == self.round.number:
            return self._machine(sender, data)
        fits = number in (self.known_round, self.known_round + 1) and self.known_round > 0
        if fits and sender in self.members:
            self.part_dropped += len(self.early) == self.early.maxlen
            self.early.append((number, sender, data))
            return Verdict.EARLY
        return Verdict.PART

    def _machine(self, sender: bytes, data: bytes) -> Verdict:
        note = self._read(sender, data)
        if note is None:
            self.machine_dropped += 1
            return Verdict.MACHINE
        note()
        return Verdict.HEARD

    def _read(self, sender: bytes, data: bytes) -> Callable[[], object] | None:
        """What to note of a message that must be heard; None for any other."""
        assert self.ephemeral is not None
        if sender not in self.peers or len(data) < 116 or data[0] != 1 or data[1] > 1:
            return None
        peer, place = self.peers[sender]
        if data[1] == 0:
            plain = _open(self.victim.box.public, peer.box.secret, data[2:])
        else:
            secret = self.secrets.get(self.hellos.get(sender, b""))
            plain = None if secret is None else _open(self.ephemeral.public, secret, data[2:])
        self.boxes_opened += plain is not None
        head = self.round.opening.ctx + sender + self.victim.address
        if plain is None or plain[:1] != b"\1" or plain[2:74] != head:
            return None
        kind, body = plain[1], plain[74:]
        if kind == 1 and len(body) == 33 and data[1] == 0:
            return self._read_hello(sender, body)
        if data[1] != 1:
            return None
        from_model_owner = self.is_owner and place < 0
        if kind == 2 and self.is_owner and not from_model_owner and body == self.acknowledgement(sender):
            return lambda: self.agreed.add(sender)
        if kind == 3 and from_model_owner:
            return self._note_key if body == self.round.model_key + self.round.pad_seeds[self.position] else None
        if kind == 4 and not self.is_owner and body == keccak(self.round.model_key, self.round.pad_seeds[place]):
            return lambda: self.agreed.add(sender)
        return None

    def _read_hello(self, sender: bytes, body: bytes) -> Callable[[], object] | None:
        assert self.ephemeral is not None
        key = body[:32]
        if body[32] > 1 or is_low_order(key) or self.hellos.get(sender, key) != key:
            return None
        # A mate's key that is our own would make a seed of nobody's.
        is_mate = self.is_owner and self.peers[sender][1] >= 0
        if is_mate and key == self.ephemeral.public and sender not in self.hellos:
            return None
        return lambda: self.hellos.setdefault(sender, key)

    def _note_key(self) -> None:
        self.has_key = True

    def seed(self, mate: bytes) -> bytes | None:
        """The pair's seed as the mate has it; None where the mate cannot have one."""
        assert self.ephemeral is not None
        public = self.hellos.get(mate, b"")
        secret = self.secrets.get(public)
        if secret is None:
            return None
        place = self.peers[mate][1]
        return _seed(
            secret,
            public,
            self.ephemeral.public,
            self.round.opening.ctx,
            mate,
            self.victim.address,
            place < self.position,
        )

    def acknowledgement(self, mate: bytes) -> bytes | None:
        """What the mate says of that seed."""
        seed = self.seed(mate)
        return None if seed is None else acknowledgement(seed)


@lru_cache(maxsize=256)
def _seed(
    secret: bytes, public: bytes, theirs: bytes, ctx: bytes, own: bytes, other: bytes, own_is_lower: bool
) -> bytes:
    if public[31] & 128:
        # Another encoding of the same key: X25519 takes it, and the seed is bound to the bytes that were sent.
        return _seed_by_hand(secret, public, theirs, ctx, own, other, own_is_lower)
    return derive_pair_seed(EphemeralKey(secret, public), theirs, ctx, own, other, own_is_lower)


def _seed_by_hand(
    secret: bytes, public: bytes, theirs: bytes, ctx: bytes, own: bytes, other: bytes, own_is_lower: bool
) -> bytes:
    from omnilytics.peers.hashing import blake2b_keyed
    from omnilytics.peers.keys import shared_secret

    mine, yours = (own, public), (other, theirs)
    (low, low_key), (high, high_key) = (mine, yours) if own_is_lower else (yours, mine)
    data = b"seed" + ctx + low + high + low_key + high_key
    return blake2b_keyed(data, key=shared_secret(secret, theirs), person=b"omnilytics-seed")
