"""Ways to attack with a message: inside boxes that open, and around the box."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from omnilytics.peers.hashing import keccak
from omnilytics.peers.keys import LOW_ORDER_POINTS, BoxIdentity
from omnilytics.peers.seeds import acknowledgement
from tests.fuzz.cast import TASK, Person, Round, secret
from tests.fuzz.oracle import Oracle, seal
from tests.fuzz.world import RUN

_FIELD_PRIME = 2**255 - 19
# So many are put into boxes sealed with somebody's real keys. Three quarters of these the receiver can open: the rest
# comes before it has told its ephemeral key, under another's name, or is too long. In all, half of all messages.
BOXED = 0.75
NONSENSE_TOPICS = (
    "", "/", "omnilytics", "omnilytics/", "#", "$SYS/broker", "a" * 65_000, "omnilytics/" * 50, "\0", "\ud800",
    "omnilytics/../../etc/passwd", "\x1b[2J", "%s%n{0}", "१/२",
)  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """One message: what it tries, whether it is in a valid box, topic and payload as aiomqtt gives them."""

    kind: str
    boxed: bool
    topic: str
    payload: object


class Mutator:
    """Makes messages against one participant in one round; knows the secrets of everybody else."""

    def __init__(self, entropy: random.Random, part_round: Round, before: Round, oracle: Oracle) -> None:
        self._random = entropy
        self._round = part_round
        self._before = before
        self._oracle = oracle
        self._peers = [who for who, _ in oracle.peers.values()]
        everybody = (*part_round.owners, part_round.model_owner)
        self._others = [who for who in everybody if who not in self._peers and who != oracle.victim]
        self._others.append(Person(entropy.randbytes(20), BoxIdentity.from_entropy(secret("stranger"))))
        self._ephemerals: dict[bytes, BoxIdentity] = {}
        # Envelopes that the attacked one has sent and been sent in this round.
        self.overheard: list[bytes] = []
        self.delivered: list[tuple[bytes, bytes]] = []
        self._boxed: list[Callable[[], Shot]] = [
            self._genuine, self._genuine, self._second_key, self._odd_key, self._odd_flag, self._plain_version,
            self._plain_kind, self._other_context, self._other_sender, self._other_receiver, self._wrong_channel,
            self._wrong_digest, self._anothers_digest, self._no_business, self._wrong_secret, self._plain_cut,
            self._plain_longer, self._plain_random, self._plain_flip, self._turned_round, self._under_anothers_name,
            self._huge_box,
        ]  # fmt: skip
        self._outer: list[Callable[[], Shot]] = [
            self._flip, self._flip, self._cut, self._longer, self._oversize, self._splice, self._replay_of_round_before,
            self._replay_before_key, self._repeat, self._reflect, self._anothers_envelope, self._channel_byte,
            self._version_byte, self._noise, self._no_bytes, self._topic_flip, self._topic_parts, self._topic_nonsense,
            self._presence, self._stranger,
        ]  # fmt: skip

    def shoot(self) -> Shot:
        """The next message."""
        boxed = self._random.random() < BOXED
        return self._random.choice(self._boxed if boxed else self._outer)()

    # ------------------------------------------------------------------ building

    def ephemeral(self, who: Person) -> BoxIdentity:
        """The ephemeral pair that a peer has told, or would tell, in this round."""
        said = self._oracle.hellos.get(who.address)
        known = self._oracle.secrets.get(said) if said is not None else None
        if said is not None and known is not None:
            return _Pair(known, said)  # type: ignore[return-value]  # an odd encoding is no BoxIdentity
        pair = self._ephemerals.get(who.address)
        if pair is None:
            pair = self._ephemerals[who.address] = self._round.ephemeral(who)
            self._oracle.secrets[pair.public] = pair.secret
        return pair

    def topic(self, sender: bytes, number: int | None = None, receiver: bytes | None = None) -> str:
        """The right topic, except for what is named."""
        to = self._oracle.victim.address if receiver is None else receiver
        return (
            f"omnilytics/{RUN}/{TASK}/{self._round.number if number is None else number}/in/{to.hex()}/{sender.hex()}"
        )

    def head(self, kind: int, who: Person) -> bytes:
        """What every message begins with."""
        return bytes([1, kind]) + self._round.opening.ctx + who.address + self._oracle.victim.address

    def plaintext(self, who: Person, kind: int, wants_answer: bool = True) -> bytes:
        """A right message of a peer, as far as it can be known."""
        body = b""
        if kind == 1:
            body = self.ephemeral(who).public + bytes([wants_answer])
        elif kind == 2:
            digest = self._oracle.acknowledgement(who.address) if self._oracle.open else None
            body = digest or secret("no seed")
        elif kind == 3:
            body = self._round.model_key + self._round.pad_seeds[max(self._oracle.position, 0)]
        elif kind == 4:
            place = self._oracle.peers[who.address][1] if who.address in self._oracle.peers else 0
            body = keccak(self._round.model_key, self._round.pad_seeds[place])
        return self.head(kind, who) + body

    def kinds(self, who: Person) -> tuple[int, ...]:
        """The kinds that a peer rightly sends to the attacked one."""
        if not self._oracle.is_owner:
            return (1, 4)
        return (1, 3) if who == self._round.model_owner else (1, 2)

    def sealed(self, who: Person, plaintext: bytes, channel: int) -> bytes:
        """An envelope that opens, where there is a key to open it with."""
        victim = self._oracle.victim
        nonce = self._random.randbytes(24)
        if channel == 0:
            return b"\1\0" + seal(victim.box.public, who.box.secret, plaintext, nonce)
        ours = self._oracle.ephemeral
        public = ours.public if ours is not None else victim.box.public
        return b"\1\1" + seal(public, self.ephemeral(who).secret, plaintext, nonce)

    def genuine(self, who: Person, kind: int, wants_answer: bool = True) -> Shot:
        """A right message."""
        envelope = self.sealed(who, self.plaintext(who, kind, wants_answer), 0 if kind == 1 else 1)
        return Shot("genuine", True, self.topic(who.address), envelope)

    def _peer(self) -> Person:
        return self._random.choice(self._peers)

    def _some(self) -> tuple[Person, int]:
        who = self._peer()
        return who, self._random.choice(self.kinds(who))

    def _in_box(self, what: str, who: Person, plaintext: bytes, channel: int) -> Shot:
        return Shot(what, True, self.topic(who.address), self.sealed(who, plaintext, channel))

    def _real(self, who: Person | None = None) -> bytes:
        """A right envelope to spoil: a fresh one, or one that was delivered."""
        if self.delivered and self._random.random() < 0.6:
            return self._random.choice(self.delivered)[1]
        who = who or self._peer()
        kind = self._random.choice(self.kinds(who))
        return self.sealed(who, self.plaintext(who, kind), 0 if kind == 1 else 1)

    # --------------------------------------------------------- inside a valid box

    def _genuine(self) -> Shot:
        who, kind = self._some()
        # Not too often the first hello, or rounds never last.
        if who.address not in self._oracle.hellos and self._random.random() < 0.7:
            return self._no_business()
        return self.genuine(who, kind, self._random.random() < 0.7)

    def _second_key(self) -> Shot:
        who = self._peer()
        if who.address not in self._oracle.hellos and self._random.random() < 0.98:
            return self._odd_flag()
        pair = BoxIdentity.from_entropy(self._random.randbytes(32))
        self._oracle.secrets[pair.public] = pair.secret
        return self._in_box("second ephemeral key", who, self.head(1, who) + pair.public + b"\1", 0)

    def _odd_key(self) -> Shot:
        who = self._peer()
        good = self.ephemeral(who)
        choice = self._random.randrange(6)
        key = self._random.choice(LOW_ORDER_POINTS)
        what = "ephemeral key of low order"
        if choice >= 4 and (who.address in self._oracle.hellos or self._random.random() < 0.03):
            what = "ephemeral key in an odd encoding, or nobody's"
            key = good.public[:31] + bytes([good.public[31] ^ 128])
            self._oracle.secrets[key] = good.secret
            if choice == 5:
                key = self._random.choice((self._random.randbytes(32), (_FIELD_PRIME + 9).to_bytes(32, "little")))
        elif choice == 3 and self._oracle.ephemeral is not None and 2 in self.kinds(who):
            what, key = "the receiver's own ephemeral key", self._oracle.ephemeral.public
        return self._in_box(what, who, self.head(1, who) + key + bytes([self._random.randrange(2)]), 0)

    def _odd_flag(self) -> Shot:
        who = self._peer()
        plain = self.plaintext(who, 1)[:-1] + bytes([self._random.randrange(2, 256)])
        return self._in_box("hello with an odd flag", who, plain, 0)

    def _plain_version(self) -> Shot:
        who, kind = self._some()
        version = self._random.choice((0, 2, 255))
        return self._in_box(
            "wrong version in the box", who, bytes([version]) + self.plaintext(who, kind)[1:], int(kind != 1)
        )

    def _plain_kind(self) -> Shot:
        who, kind = self._some()
        plain = self.plaintext(who, kind)
        other = self._random.choice((0, 5, 6, 127, 255, kind % 4 + 1))
        return self._in_box("another kind in the box", who, plain[:1] + bytes([other]) + plain[2:], int(kind != 1))

    def _other_context(self) -> Shot:
        who, kind = self._some()
        plain = self.plaintext(who, kind)
        ctx = self._random.choice((self._before.opening.ctx, self._round.opening.base_ctx, self._random.randbytes(32)))
        return self._in_box("another context in the box", who, plain[:2] + ctx + plain[34:], int(kind != 1))

    def _other_sender(self) -> Shot:
        who, kind = self._some()
        plain = self.plaintext(who, kind)
        name = self._random.choice([p.address for p in (*self._peers, *self._others) if p != who])
        return self._in_box("another sender in the box", who, plain[:34] + name + plain[54:], int(kind != 1))

    def _other_receiver(self) -> Shot:
        who, kind = self._some()
        plain = self.plaintext(who, kind)
        name = self._random.choice([p.address for p in (*self._peers, *self._others)])
        return self._in_box("another receiver in the box", who, plain[:54] + name + plain[74:], int(kind != 1))

    def _wrong_channel(self) -> Shot:
        who, kind = self._some()
        return self._in_box("wrong channel for the kind", who, self.plaintext(who, kind), int(kind == 1))

    def _wrong_digest(self) -> Shot:
        who = self._peer()
        kind = 2 if self._oracle.is_owner else 4
        plain = self.head(kind, who) + self._random.randbytes(32)
        return self._in_box("wrong digest", who, plain, 1)

    def _anothers_digest(self) -> Shot:
        who, other = self._peer(), self._peer()
        kind = 2 if self._oracle.is_owner else 4
        if kind == 4:
            body = keccak(self._round.model_key, self._random.choice(self._round.pad_seeds))
        elif self._oracle.open and other != self._round.model_owner:
            body = self._oracle.acknowledgement(other.address) or secret("no seed")
        else:
            body = acknowledgement(secret("some seed"))
        return self._in_box("another pair's digest", who, self.head(kind, who) + body, 1)

    def _no_business(self) -> Shot:
        who = self._peer()
        kind = self._random.choice([kind for kind in (2, 3, 4) if kind not in self.kinds(who)])
        body = self._round.model_key + self._round.pad_seeds[0] if kind == 3 else self._random.randbytes(32)
        return self._in_box("a kind that is not the sender's to send", who, self.head(kind, who) + body, 1)

    def _wrong_secret(self) -> Shot:
        who = self._round.model_owner if self._oracle.is_owner else self._peer()
        key, pad = self._round.model_key, self._round.pad_seeds[max(0, self._oracle.position)]
        match self._random.randrange(4):
            case 0:
                key = self._random.randbytes(32)
            case 1:
                pad = self._random.randbytes(32)
            case 2:
                pad = self._round.pad_seeds[(self._oracle.position + 1) % self._round.group_size]
            case _:
                key, pad = pad, key
        return self._in_box("wrong model key or pad", who, self.head(3, who) + key + pad, 1)

    def _plain_cut(self) -> Shot:
        who, kind = self._some()
        plain = self.plaintext(who, kind)
        return self._in_box("cut short in the box", who, plain[: self._random.randrange(len(plain))], int(kind != 1))

    def _plain_longer(self) -> Shot:
        who, kind = self._some()
        more = self._random.randbytes(self._random.choice((1, 1, 2, 31, 32, 64, 200)))
        return self._in_box("too long in the box", who, self.plaintext(who, kind) + more, int(kind != 1))

    def _plain_random(self) -> Shot:
        who = self._peer()
        plain = self._random.randbytes(self._random.choice((0, 1, 2, 73, 74, 75, 106, 107, 138, 139, 470)))
        if self._random.random() < 0.5:
            plain = self.head(self._random.randrange(6), who) + plain[: 512 - 42 - 74]
        return self._in_box("noise in the box", who, plain, self._random.randrange(2))

    def _plain_flip(self) -> Shot:
        who, kind = self._some()
        plain = bytearray(self.plaintext(who, kind))
        # A first hello with a flipped key would end most rounds at once.
        limit = len(plain) if who.address in self._oracle.hellos or kind != 1 else 74
        for _ in range(self._random.choice((1, 1, 1, 2, 5))):
            plain[self._random.randrange(limit)] ^= 1 << self._random.randrange(8)
        return self._in_box("bits flipped in the box", who, bytes(plain), int(kind != 1))

    def _turned_round(self) -> Shot:
        who, kind = self._some()
        plain = self.plaintext(who, kind)
        turned = plain[:34] + plain[54:74] + plain[34:54] + plain[74:]
        return self._in_box("sender and receiver swapped in the box", who, turned, int(kind != 1))

    def _under_anothers_name(self) -> Shot:
        who, kind = self._some()
        name = self._random.choice([p.address for p in (*self._peers, *self._others) if p != who])
        plain = self.plaintext(who, kind)
        if self._random.random() < 0.5:
            plain = plain[:34] + name + plain[54:]
        return Shot("sealed under another's name", True, self.topic(name), self.sealed(who, plain, int(kind != 1)))

    def _huge_box(self) -> Shot:
        who, kind = self._some()
        more = bytes(self._random.choice((4_055, 4_096, 5_000, 60_000)))
        return self._in_box("box beyond the size limit", who, self.plaintext(who, kind) + more, int(kind != 1))

    # ------------------------------------------------------------ around the box

    def _to(self, what: str, payload: object, sender: bytes | None = None) -> Shot:
        return Shot(what, False, self.topic(self._peer().address if sender is None else sender), payload)

    def _flip(self) -> Shot:
        who = self._peer()
        data = bytearray(self._real(who))
        for _ in range(self._random.choice((1, 1, 1, 2, 8))):
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return self._to("bits flipped", bytes(data), who.address)

    def _cut(self) -> Shot:
        data = self._real()
        return self._to("cut short", data[: self._random.randrange(len(data))])

    def _longer(self) -> Shot:
        data = self._real() + self._random.randbytes(self._random.choice((1, 2, 16, 40, 200)))
        return self._to("too long", data[:512])

    def _oversize(self) -> Shot:
        size = self._random.choice((4_097, 4_098, 4_200, 5_000, 100_000))
        return self._to("beyond the size limit", self._real() + bytes(size))

    def _splice(self) -> Shot:
        one, two = self._real(), self._real()
        place = self._random.choice((1, 2, 26, 42, self._random.randrange(1, len(one))))
        return self._to("splice of two", one[:place] + two[place:])

    def _replay_of_round_before(self) -> Shot:
        who, kind = self._some()
        plain = self.plaintext(who, kind)
        plain = plain[:2] + self._before.opening.ctx + plain[34:]
        victim = self._oracle.victim
        number = self._random.choice((self._round.number, self._round.number, self._before.number))
        nonce = self._random.randbytes(24)
        if kind == 1:
            plain = plain[:74] + self._before.ephemeral(who).public + b"\1"
            envelope = b"\1\0" + seal(victim.box.public, who.box.secret, plain, nonce)
        else:
            theirs = self._before.ephemeral(victim).public
            envelope = b"\1\1" + seal(theirs, self._before.ephemeral(who).secret, plain, nonce)
        return Shot("replay of the round before", False, self.topic(who.address, number), envelope)

    def _replay_before_key(self) -> Shot:
        """Under this round's context, but the keys of the round before."""
        who = self._peer()
        kind = self.kinds(who)[1]
        theirs = self._before.ephemeral(self._oracle.victim).public
        nonce = self._random.randbytes(24)
        envelope = b"\1\1" + seal(theirs, self._before.ephemeral(who).secret, self.plaintext(who, kind), nonce)
        return self._to("keys of the round before", envelope, who.address)

    def _repeat(self) -> Shot:
        if not self.delivered:
            return self._flip()
        sender, envelope = self._random.choice(self.delivered)
        return self._to("repeated", envelope, sender)

    def _reflect(self) -> Shot:
        if not self.overheard:
            return self._cut()
        return self._to("reflected", self._random.choice(self.overheard))

    def _anothers_envelope(self) -> Shot:
        who, other = self._peer(), self._peer()
        plain = bytearray(self.plaintext(who, 1))
        plain[54:74] = other.address
        envelope = b"\1\0" + seal(other.box.public, who.box.secret, bytes(plain), self._random.randbytes(24))
        return self._to("an envelope for somebody else", envelope, who.address)

    def _channel_byte(self) -> Shot:
        data = self._real()
        return self._to("wrong channel byte", data[:1] + bytes([self._random.choice((data[1] ^ 1, 2, 255))]) + data[2:])

    def _version_byte(self) -> Shot:
        return self._to("wrong version byte", bytes([self._random.choice((0, 2, 3, 255))]) + self._real()[1:])

    def _noise(self) -> Shot:
        size = self._random.choice((0, 1, 2, 41, 42, 115, 116, 117, 149, 200, 512))
        data = self._random.randbytes(size)
        return self._to("noise", bytes([1, self._random.randrange(2)]) + data[2:] if size > 2 else data)

    def _no_bytes(self) -> Shot:
        return self._to("no bytes at all", self._random.choice((None, "text", 7, 1.5, bytearray(self._real()))))

    def _topic_flip(self) -> Shot:
        where = list(self.topic(self._peer().address))
        place = self._random.randrange(len(where))
        where[place] = self._random.choice(
            (chr(ord(where[place]) ^ (1 << self._random.randrange(7))), "", "/", "é", "٣")
        )
        return Shot("topic with a wrong letter", False, "".join(where), self._real())

    def _topic_parts(self) -> Shot:
        who = self._peer()
        parts = self.topic(who.address).split("/")
        other = self._random.choice(self._others)
        match self._random.randrange(9):
            case 0:
                parts[1] = self._random.randbytes(8).hex()
            case 1:
                parts[2] = self._random.choice(
                    ("0", str(TASK + 1), "9" * 78, "9" * 79, "00005", "-5", "5 ", "1e3", "+5")
                )
            case 2:
                near = self._round.number + self._random.choice((-2, -1, 1, 2, 3))
                parts[3] = self._random.choice((str(near), "0", "9" * 78, "9" * 5_000, f"0{near}", f"{near}\n", "٣"))
            case 3:
                parts[5] = self._random.choice((other.address.hex(), who.address.hex(), "", "0x" + parts[5][2:]))
            case 4:
                parts[6] = self._random.choice(
                    (other.address.hex(), parts[5], parts[6].upper(), parts[6][:-1], "0" * 41)
                )
            case 5:
                parts.append(self._random.choice(("", "x", "\n")))
            case 6:
                del parts[self._random.randrange(len(parts))]
            case 7:
                parts[4] = self._random.choice(("out", "IN", "", "presence"))
            case _:
                parts[6] = other.address.hex()
        return Shot("topic with a wrong part", False, "/".join(parts), self._real(who))

    def _topic_nonsense(self) -> Shot:
        return Shot("no topic of ours", False, self._random.choice(NONSENSE_TOPICS), self._real())

    def _presence(self) -> Shot:
        # Never a peer's: who is away ends rounds, which is the campaign's business.
        name = self._random.choice(
            (self._random.randbytes(20).hex(), self._random.choice(self._others).address.hex(),
             self._oracle.victim.address.hex(), self._random.randbytes(19).hex(), "", "../x", "A" * 40, "00 " * 20)
        )  # fmt: skip
        payload = self._random.choice((b"0", b"1", b"0", b"1", b"", b"2", b"01", None, bytes(600)))
        return Shot("presence", False, f"omnilytics/{RUN}/presence/{name}", payload)

    def _stranger(self) -> Shot:
        who = self._random.choice(self._others)
        plain = self.plaintext(who, self._random.choice((1, 2, 3, 4)))
        name = self._random.choice((who.address, self._peer().address))
        return self._to("from somebody who does not play", self.sealed(who, plain, self._random.randrange(2)), name)


@dataclass(frozen=True)
class _Pair:
    secret: bytes
    public: bytes
