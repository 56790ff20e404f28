"""What must hold, whatever happens: checked with every block, every message, every call of the chain, and at the end.

Nothing here trusts the product: masks, vectors and commitment chains are computed anew from the protocol's words.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from omnilytics.peers.errors import MessageError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.keys import BoxIdentity, open_box
from omnilytics.peers.krum import select, squared_distances
from omnilytics.peers.market import Outcome, TaskParams, bits
from omnilytics.peers.masking import PairMask, add_vectors
from omnilytics.peers.quantise import Signed, unpack
from tests.simulator.codec import interface
from tests.simulator.evm import EvmError
from tests.simulator.ledger import Block, Ledger, Log
from tests.simulator.life import Faults
from tests.vectors.reference import blake2b, word

MONEY_EVENTS = frozenset(
    ("TaskCreated", "Joined", "Left", "TaskCancelled", "CommitClosed", "PostClosed", "ChunkSettled", "RoundEnded")
) | frozenset(("Slashed", "StakeRestored", "GroupDissolved", "TaskEnded", "Withdrawn"))


@dataclass(frozen=True)
class Masked:
    """A vector that an owner made: what went in, and what must have come out."""

    owner: bytes
    round: int
    ctx: bytes
    group: int
    position: int
    pairs: tuple[PairMask, ...] = field(repr=False)
    pad: bytes = field(repr=False)
    quantised: NDArray[np.int64] = field(repr=False)
    vector: bytes = field(repr=False)
    root: bytes = b""


def key_of(seed: bytes, kind: str, context: bytes) -> bytes:
    """The key of a mask's stream, in the protocol's words."""
    return blake2b(kind.encode() + context, seed, "omnilytics-prg")


def stream(key: bytes, bits_: int, count: int) -> NDArray[np.int64]:
    """The stream's lanes, as int64."""
    size = count * bits_ // 8
    raw = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))
    return np.frombuffer(raw, f"<u{bits_ // 8}").astype(np.int64)


def vector_of(params: TaskParams, quantised: NDArray[np.int64], keys: list[tuple[bytes, int]]) -> bytes:
    """A masked vector from its stream keys and signs, in the protocol's words."""
    width = params.lane_bits
    lanes = -(-params.value_count * width // 256) * 256 // width
    total = np.zeros(lanes, np.int64)
    total[: params.value_count] = quantised
    for key, sign in keys:
        total += sign * stream(key, width, lanes)
    return (total % (1 << width)).astype(f">u{width // 8}").tobytes()


def root_of(vector: bytes, chunk_words: int, ctx: bytes, seat: int) -> bytes:
    """The head of a vector's commitment chain, in the protocol's words."""
    size = chunk_words * 32
    pieces = [vector[start : start + size] for start in range(0, len(vector), size)]
    tag = keccak(word(0) + ctx + word(seat))
    link = keccak(word(2) + ctx + word(seat))
    for index in reversed(range(len(pieces))):
        link = keccak(tag + word(index) + link + pieces[index])
    return link


@dataclass
class Monitor:
    """Watches one scenario. The first violation stops it."""

    ledger: Ledger
    faults: Faults
    on_violation: Callable[[], None]
    now: Callable[[], float]
    accounts: list[bytes] = field(default_factory=list)
    homes: dict[bytes, Path] = field(default_factory=dict)
    boxes: dict[bytes, BoxIdentity] = field(default_factory=dict)
    # Participants whose misconduct is part of the scenario: their own losses are no violation.
    hostile: set[bytes] = field(default_factory=set)
    names: dict[bytes, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    checks: int = 0
    params: TaskParams | None = None
    masked: dict[tuple[bytes, bytes], list[Masked]] = field(default_factory=lambda: defaultdict(list))
    seeds: dict[tuple[bytes, bytes], dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    roots: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    posts: dict[tuple[bytes, int], dict[int | str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    keys: dict[bytes, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    closes: dict[bytes, list[tuple[int, int, float]]] = field(default_factory=lambda: defaultdict(list))
    secrets: dict[bytes, str] = field(default_factory=dict)
    _unsearched: dict[bytes, None] = field(default_factory=dict)
    _said: list[bytes] = field(default_factory=list)
    _said_size: int = 0
    _logged: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------ helpers

    def fail(self, invariant: str, text: str) -> None:
        """A violation."""
        self.violations.append(f"{invariant}: {text} (at {self.now():.2f} s, block {self.ledger.blocks[-1].number})")
        self.on_violation()

    def require(self, holds: bool, invariant: str, text: str) -> None:
        """One check."""
        self.checks += 1
        if not holds:
            self.fail(invariant, text)

    def name(self, account: bytes | str) -> str:
        """Who it is."""
        raw = bytes.fromhex(account[2:]) if isinstance(account, str) else account
        return self.names.get(raw, raw.hex()[:8])

    # ------------------------------------------------------- what owners do inside

    def saw_seeds(self, owner: bytes, ctx: bytes, seeds: dict[bytes, bytes]) -> None:
        """An owner holds these pair seeds, by mate."""
        known = self.seeds[owner, ctx]
        for mate, seed in seeds.items():
            if mate not in known:
                known[mate] = seed
                self.keep_secret(seed, "pair seed")
            self.require(known[mate] == seed, "one seed a pair and round", f"{self.name(owner)} changed a seed")

    def keep_secret(self, value: bytes, label: str) -> None:
        """These bytes must never be seen anywhere but at their two ends."""
        if len(value) == 32 and value not in self.secrets:
            self.secrets[value] = label
            self._unsearched[value] = None

    def saw_mask(
        self,
        owner: bytes,
        round_number: int,
        ctx: bytes,
        group: int,
        position: int,
        pairs: tuple[PairMask, ...],
        pad: bytes,
        quantised: Signed,
        params: TaskParams,
    ) -> None:
        """An owner is about to mask a vector."""
        self.params = params
        # The daemon's are as wide as a lane; ours are compared with sums over any owners.
        wide = quantised.astype("<i8")
        digest = keccak(wide.tobytes())
        keys: list[tuple[bytes, int]] = []
        for pair in pairs:
            lower = pair.own_position < pair.mate_position
            ends = (owner, pair.mate_address) if lower else (pair.mate_address, owner)
            key = key_of(pair.seed, "pair", ctx + bytes([group]) + ends[0] + ends[1])
            keys.append((key, 1 if lower else -1))
            self._use_key(key, owner, ctx + ends[0] + ends[1], digest)
            mine = self.seeds[owner, ctx].get(pair.mate_address)
            self.require(mine == pair.seed, "masks come from agreed seeds", f"{self.name(owner)} masks with another")
        expected = {seat for seat in range(params.group_size)} - {position}
        self.require(
            {pair.mate_position for pair in pairs} == expected and len({pair.seed for pair in pairs}) == len(pairs),
            "no sum over fewer than a whole group",
            f"{self.name(owner)} masks towards {len(pairs)} of {len(expected)} mates",
        )
        pad_key = key_of(pad, "pad", ctx + bytes([params.pad_index(group * params.group_size + position)]))
        self._use_key(pad_key, owner, ctx + b"pad" + owner, digest, shared=True)
        vector = vector_of(params, wide, [*keys, (pad_key, 1)])
        seat = group * params.group_size + position
        root = root_of(vector, params.chunk_words, ctx, seat)
        made = Masked(owner, round_number, ctx, group, position, pairs, pad, wide, vector, root)
        self.masked[owner, ctx].append(made)

    def _use_key(self, key: bytes, owner: bytes, place: bytes, digest: bytes, shared: bool = False) -> None:
        """No key for two places, and none for two vectors of one owner."""
        used = self.keys.setdefault(key if not shared else key + owner, (place, owner, digest))
        self.require(
            used[0] == place, "no (seed, context) twice", f"{self.name(owner)} uses a mask key elsewhere again"
        )
        if used[1] == owner:
            self.require(
                used[2] == digest, "no (seed, context) twice", f"{self.name(owner)} masks two vectors with one key"
            )

    # ------------------------------------------------------------- what goes out

    def saw_message(self, sender: bytes, where: str, payload: bytes) -> None:
        """Bytes on the broker."""
        self._hear(where.encode() + b"\0" + payload)
        receiver = self.boxes.get(bytes.fromhex(where.split("/")[-2])) if "/in/" in where else None
        if receiver is None or payload[:2] != b"\1\0":
            return
        try:
            plain = open_box(receiver.secret, self.boxes[sender].public, payload[2:])
        except (MessageError, KeyError):
            return
        if plain[1] == 5:
            # A part of a vector: what is true of a post must be true of it.
            at = int.from_bytes(plain[74:78], "big") * 3968
            self._saw_vector(sender, plain[2:34], at, plain[78:], f"broker {at}")

    def _saw_acknowledge(self, sender: bytes, _task: int, ctx: bytes, seats: int) -> None:
        """Whom it acknowledges it must be able to settle, also after a crash."""
        assert self.params is not None
        path = self.homes[sender] / "journal.sqlite"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT seat, vector FROM received_vectors WHERE ctx = ?", (ctx,)).fetchall()
        db.close()
        kept = dict(rows)
        for seat in bits(seats):
            made = [m for (_, c), many in self.masked.items() if c == ctx for m in many]
            own = [m for m in made if divmod(seat, self.params.group_size) == (m.group, m.position)]
            self.require(
                any(kept.get(seat) == m.vector for m in own),
                "journal first",
                f"the model owner acknowledges seat {seat}, whose vector its disk does not hold",
            )

    def saw_log(self, line: str) -> None:
        """A line of somebody's log."""
        self._logged.append(line)
        self._said_size += len(line)
        if self._said_size > 4_000_000:
            self.search()

    def _hear(self, data: bytes) -> None:
        self._said.append(data)
        self._said_size += len(data)
        if self._said_size > 4_000_000:
            self.search()

    def saw_call(self, sender: bytes, data: bytes, stage: str) -> None:
        """Calldata reaches an RPC: from here on it is public."""
        self._hear(data)
        function = interface().selectors.get(data[:4])
        if function is None:
            return
        if function.name == "commit":
            self._saw_commit(sender, *function.arguments(data))
        elif function.name == "post":
            self._saw_post(sender, *function.arguments(data))
        elif function.name == "acknowledge":
            self._saw_acknowledge(sender, *function.arguments(data))

    def _saw_commit(self, sender: bytes, _task: int, ctx: bytes, root: bytes) -> None:
        who = self.name(sender)
        made = self.masked.get((sender, ctx), [])
        chosen = next((m for m in made if m.root == root), None)
        self.require(chosen is not None, "a root is that of the masked vector", f"{who} commits another root")
        if chosen is None:
            return
        first = self.roots.setdefault((sender, chosen.round), root)
        self.require(
            first == root, "never two vectors for one round and owner", f"{who} commits twice in {chosen.round}"
        )
        for pair in chosen.pairs:
            theirs = self.seeds.get((pair.mate_address, ctx), {}).get(sender)
            self.require(
                theirs == pair.seed,
                "no commitment before all mates hold the seeds",
                f"{who} commits, {self.name(pair.mate_address)} does not hold the pair's seed",
            )
        self.require(
            (root, chosen.vector) in self._durable(sender, chosen.round),
            "journal first",
            f"{who} commits a vector that its disk does not hold",
        )

    def _durable(self, owner: bytes, round_number: int) -> list[tuple[bytes, bytes]]:
        """What a restarted daemon would find."""
        path = self.homes[owner] / "journal.sqlite"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT root, vector FROM vectors WHERE round = ?", (round_number,)).fetchall()
        db.close()
        return rows

    def _saw_post(self, sender: bytes, _task: int, ctx: bytes, first: int, data: bytes, _next: bytes) -> None:
        assert self.params is not None
        self._saw_vector(sender, ctx, first * self.params.chunk_words * 32, data, first)

    def _saw_vector(self, sender: bytes, ctx: bytes, start: int, data: bytes, first: int | str) -> None:
        """Bytes of a vector, from `start` on, leave their owner."""
        assert self.params is not None
        who = self.name(sender)
        made = self.masked.get((sender, ctx), [])
        chosen = next((m for m in made if m.vector[start : start + len(data)] == data), None)
        self.require(
            chosen is not None, "a post is the masked vector", f"{who} posts bytes that are no part of its vector"
        )
        if chosen is None:
            return
        before = self.posts[sender, chosen.round].setdefault(first, data)
        self.require(before == data, "never two vectors for one round and owner", f"{who} posts two vectors")
        head = self.ledger.blocks[-1].number
        closed = any(
            committed >> chosen.group & 1 and head >= block + self.params.depth
            for committed, block, _ in self.closes[ctx]
        )
        self.require(closed, "no post before all have committed", f"{who} shows its vector too early")

    # -------------------------------------------------------------------- secrets

    def search(self) -> None:
        """Looks for every secret in everything that was said and logged."""
        self.checks += 1
        spoken = b"\xff".join(self._said)
        written = "\n".join(self._logged).encode()
        self._said, self._logged, self._said_size = [], [], 0
        wanted = list(self.secrets)
        if not wanted:
            return
        for text, needles in ((spoken, wanted), (written, [secret.hex().encode() for secret in wanted])):
            for found in _find(text, needles):
                self.fail(
                    "no secret leaves its ends", f"a {self.secrets[wanted[found]]} stands in what was sent or logged"
                )

    # --------------------------------------------------------------------- blocks

    def saw_block(self, block: Block) -> None:
        """Every block, also of forks that lose."""
        money = False
        for log in block.logs:
            money = money or log.name in MONEY_EVENTS
            if log.name == "CommitClosed" and log.arguments["postDeadline"]:
                self.closes[self._ctx(log.arguments["round"])].append(
                    (log.arguments["committed"], block.number, self.now())
                )
            elif log.name == "KrumSelected":
                self._check_selection(log)
            elif log.name == "RoundEnded":
                self._check_ending(log)
            elif log.name == "Slashed":
                self._check_slash(log)
        if money:
            self.check_money(block)

    def contexts(self, round_number: int) -> set[bytes]:
        """Every context under which anybody made a vector of this round, on whatever fork."""
        return {ctx for (_, ctx), many in self.masked.items() if any(m.round == round_number for m in many)}

    def _ctx(self, round_number: int) -> bytes:
        opened = self._round_logs("RoundOpened", round_number)
        return bytes(opened[-1].arguments["ctx"])

    def _round_logs(self, name: str, round_number: int) -> list[Log]:
        return [log for log in self.ledger.by_name[name] if log.arguments["round"] == round_number]

    def _posted(self, round_number: int) -> dict[int, bytes]:
        """Whole vectors of a round by seat, as the chain's logs have them; of seats that are acknowledged what their
        owners have committed to."""
        assert self.params is not None
        parts: dict[int, dict[int, bytes]] = defaultdict(dict)
        for log in self._round_logs("Posted", round_number):
            parts[log.arguments["seat"]][log.arguments["firstChunk"]] = log.arguments["data"]
        whole = {seat: b"".join(own[first] for first in sorted(own)) for seat, own in parts.items()}
        size = self.params.layout.byte_count
        found = {seat: vector for seat, vector in whole.items() if len(vector) == size}
        acknowledged = {
            seat for log in self._round_logs("Acknowledged", round_number) for seat in bits(log.arguments["seats"])
        }
        for log in self._round_logs("Committed", round_number):
            seat, account = log.arguments["seat"], bytes.fromhex(log.arguments["account"][2:])
            if seat in acknowledged and seat not in found:
                made = self.masked.get((account, self._ctx(round_number)), [])
                for m in made:
                    if m.root == log.arguments["root"]:
                        found[seat] = m.vector
        return found

    def _complete(self, round_number: int) -> list[int]:
        """The groups whose members all have posted, by the logs alone."""
        assert self.params is not None
        seats = self._posted(round_number)
        size = self.params.group_size
        return [g for g in range(24) if all(g * size + p in seats for p in range(size))]

    def _check_selection(self, log: Log) -> None:
        assert self.params is not None
        params, posted = self.params, self._posted(log.arguments["round"])
        complete = self._complete(log.arguments["round"])
        size = params.group_size
        sums = [add_vectors([unpack(posted[g * size + p], params.layout) for p in range(size)]) for g in complete]
        distances = squared_distances(sums, params.layout)
        chosen = [complete[i] for i in select(distances, params.faulty_groups, params.strict_selection)]
        flat = [distances[a][b] for a in range(len(sums)) for b in range(a + 1, len(sums))]
        self.require(
            bits(log.arguments["selected"]) == chosen and list(log.arguments["distances"]) == flat,
            "the contract selects as Krum does",
            f"round {log.arguments['round']}: {bits(log.arguments['selected'])}, not {chosen}",
        )

    def _check_ending(self, log: Log) -> None:
        """A complete group is paid, or was rightly not selected; and nobody else is."""
        said = log.arguments
        number, outcome = said["round"], Outcome(said["outcome"])
        endings = self._round_logs("RoundEnded", number)
        self.require(len(endings) == 1, "a round is paid once", f"round {number} ended {len(endings)} times")
        paid = bits(said["paidGroups"])
        if outcome is Outcome.VOID:
            expected: list[int] = []
            self.require(not self._round_logs("Posted", number), "nobody posts in a void round", f"round {number}")
        elif outcome is Outcome.SELECTED and self.params is not None and self.params.model_selection:
            expected = self._complete(number)
            chosen = bits(self._round_logs("GroupsSelected", number)[-1].arguments["selected"])
            count = len(expected) - self.params.faulty_groups - 2 * self.params.strict_selection
            fine = len(chosen) == count and set(chosen) <= set(expected)
            self.require(fine, "the model owner names as many groups as it must", f"round {number}: {chosen}")
        elif outcome is Outcome.SELECTED:
            expected = bits(self._round_logs("KrumSelected", number)[-1].arguments["selected"])
        else:
            expected = self._complete(number)
        self.require(paid == expected, "complete groups are paid", f"round {number}: {paid} paid, {expected} due")
        if self.params is not None:
            wei = len(paid) * self.params.group_size * self.params.rate
            self.require(said["paidWei"] == wei, "complete groups are paid", f"round {number}: {said['paidWei']} wei")
        self._check_sums_exist(number)

    def _check_sums_exist(self, number: int) -> None:
        """Every posted vector of a whole group cancels to the sum of what its owners quantised, plus the pads."""
        if self.params is None:
            return
        params, posted = self.params, self._posted(number)
        by_root = {made.vector: made for many in self.masked.values() for made in many if made.round == number}
        for group in self._complete(number):
            seats = [group * params.group_size + p for p in range(params.group_size)]
            made = [by_root.get(posted[seat]) for seat in seats]
            if any(m is None for m in made):
                self.fail("a post is the masked vector", f"round {number}, group {group}")
                continue
            width = params.lane_bits
            vectors = [np.frombuffer(posted[seat], f">u{width // 8}").astype(np.int64) for seat in seats]
            total: NDArray[np.int64] = np.sum(vectors, axis=0)
            for seat, m in zip(seats, made, strict=True):
                assert m is not None
                pad = key_of(m.pad, "pad", m.ctx + bytes([params.pad_index(seat)]))
                total = total - stream(pad, width, len(total))
            bare = total[: params.value_count] % (1 << width)
            bare = np.where(bare >= 1 << (width - 1), bare - (1 << width), bare)
            true = sum(m.quantised for m in made if m is not None)
            self.require(
                np.array_equal(bare, true), "decrypted sums are sums of updates", f"round {number}, group {group}"
            )

    def _check_slash(self, log: Log) -> None:
        account = bytes.fromhex(log.arguments["account"][2:])
        if account in self.hostile or log.arguments["round"] == 0:
            return
        if log.arguments["amount"] == self._deposit():
            self.require(
                self.faults.touched_since(self.name(account), self.now() - 90.0),
                "who is there is not expelled",
                f"{self.name(account)} was expelled after round {log.arguments['round']}, and was never away",
            )
            return
        closed = self.closes.get(self._ctx(log.arguments["round"]), [])
        since = min((moment for _, _, moment in closed), default=self.now()) - 45.0
        self.require(
            self.faults.touched_since(self.name(account), since),
            "who follows the protocol is not slashed",
            f"{self.name(account)} was slashed in round {log.arguments['round']} without any trouble",
        )

    def _deposit(self) -> int:
        return self.params.deposit if self.params is not None else 0

    # ---------------------------------------------------------------------- money

    def check_money(self, block: Block | None = None) -> None:
        """Every wei in the contract has one owner, or is burned; nothing is owed that is not there."""
        ledger = self.ledger
        block = block or ledger.blocks[-1]
        try:
            state = interface().functions["getTask"].result(ledger.view(ledger._calls()[0], block))
        except EvmError:
            return
        asked: list[tuple[str, tuple[object, ...]]] = [("getPaidRounds", (1,)), ("totalBurned", ())]
        asked += [("credits", ("0x" + account.hex(),)) for account in self.accounts]
        ledger.view_all([interface().functions[name].call_once(*arguments) for name, arguments in asked], block)
        members = ledger.read("getMembers", 1, block=block)
        paid_rounds = ledger.read("getPaidRounds", 1, block=block)
        escrow, paid, settlement, refunded, stakes_in, stakes_out, slashed, compensation, burned = state[-9:]
        locked = escrow - paid - settlement - refunded
        self.require(locked >= 0, "paid + refunded + locked = escrowed", f"locked {locked}")
        self.require(slashed == compensation + burned, "slashed = compensation + burned", f"{slashed}")
        held = sum(member[1] for member in members)
        self.require(
            stakes_in == stakes_out + slashed + held,
            "stakes in = out + slashed + held",
            f"{stakes_in} != {stakes_out} + {slashed} + {held}",
        )
        rate = self.params.rate if self.params is not None else 0
        size = self.params.group_size if self.params is not None else 1
        uncollected = 0
        if rate:
            uncollected = rate * sum(
                paid_rounds[member[2] // size] - member[6] for member in members if member[2] != 255
            )
        credit = sum(ledger.read("credits", "0x" + account.hex(), block=block) for account in self.accounts)
        balance = int(ledger.evm.rpc("eth_getBalance", "0x" + ledger.market.hex(), hex(block.number)), 16)
        total_burned = ledger.read("totalBurned", block=block)
        owed = credit + locked + held + uncollected + total_burned
        self.require(balance == owed, "the balance is what is owed and burned", f"{balance} != {owed} wei")

    def paid_once(self) -> None:
        """No owner is paid twice for a round: collected pay is the rate times the rounds its group was paid in."""
        if self.params is None:
            return
        endings = self.ledger.by_name["RoundEnded"]
        numbers = [log.arguments["round"] for log in endings]
        self.require(len(numbers) == len(set(numbers)), "an owner is paid once a round", f"{numbers}")
        collected: dict[str, int] = defaultdict(int)
        for log in self.ledger.by_name["Collected"]:
            collected[log.arguments["account"]] += log.arguments["pay"]
        for member in self.ledger.read("getMembers", 1):
            due = 0
            if member[2] != 255:
                group = member[2] // self.params.group_size
                due = self.params.rate * sum(log.arguments["paidGroups"] >> group & 1 for log in endings)
            self.require(
                collected[member[0]] == due,
                "an owner is paid once a round",
                f"{self.name(member[0])} got {collected[member[0]]} wei, not {due}",
            )


def _find(text: bytes, needles: list[bytes]) -> list[int]:
    """The indices of the needles that stand in a text. Compares eight bytes everywhere, then whole needles."""
    if len(text) < 16:
        return []
    starts = np.array([int.from_bytes(needle[:8], "little") for needle in needles], np.uint64)
    # Most words differ from every needle in their first two bytes: a table tells.
    possible = np.zeros(1 << 16, np.bool_)
    possible[(starts & np.uint64(0xFFFF)).astype(np.intp)] = True
    suspects: set[int] = set()
    for offset in range(8):
        usable = (len(text) - offset) // 8 * 8
        words = np.frombuffer(text, "<u8", usable // 8, offset)
        likely = words[possible[np.frombuffer(text, "<u2", usable // 2, offset)[::4]]]
        hits = np.isin(starts, likely)
        suspects |= set(np.flatnonzero(hits).tolist())
    return [index for index in sorted(suspects) if needles[index] in text]
