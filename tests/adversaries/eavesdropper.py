"""An attacker who is handed everything that is ever public, and the secrets of whoever colludes with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.chain import Chain, PostedPart
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.spec import TaskSpec, decode_spec
from omnilytics.peers.errors import MessageError
from omnilytics.peers.keys import open_box
from omnilytics.peers.market import Member, RoundOpening, TaskParams
from omnilytics.peers.masking import add_vectors
from omnilytics.peers.messages import CHANNEL_REGISTERED, decode_envelope
from omnilytics.peers.prg import PAD, PAIR, add_stream, pad_context, pair_context
from omnilytics.peers.quantise import lift, unpack
from scripts.chain_process import rpc_call


@dataclass
class BrokerTap:
    """Every message that crosses a broker: (topic, payload)."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)

    async def run(self, host: str, port: int) -> None:
        """Listens until cancelled."""
        async with aiomqtt.Client(host, port) as client:
            await client.subscribe("#", qos=1)
            async for message in client.messages:
                self.messages.append((str(message.topic), bytes(message.payload)))


@dataclass
class ChainTap:
    """Every transaction and event of a chain, as bytes to search and as values to attack with."""

    raw: list[bytes] = field(default_factory=list)
    openings: dict[int, RoundOpening] = field(default_factory=dict)
    posts: dict[int, list[PostedPart]] = field(default_factory=dict)
    # The encrypted payloads, and what the model owner selected: (complete, selected) as bitmaps.
    payloads: dict[int, bytes] = field(default_factory=dict)
    selections: dict[int, tuple[int, int]] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    params: TaskParams | None = None
    spec: TaskSpec | None = None

    async def read(self, market: Mapping[str, Any], task: int) -> None:
        """Reads the whole chain."""
        url = market["rpc_url"]
        height = int(await asyncio.to_thread(rpc_call, url, "eth_blockNumber"), 16)
        for number in range(height + 1):
            block = await asyncio.to_thread(rpc_call, url, "eth_getBlockByNumber", hex(number), True)
            self.raw += [bytes.fromhex(transaction["input"][2:]) for transaction in block["transactions"]]
        logs = await asyncio.to_thread(rpc_call, url, "eth_getLogs", {"fromBlock": "0x0", "toBlock": hex(height)})
        self.raw += [bytes.fromhex(log["data"][2:]) for log in logs]
        chain = Chain(url, bytes.fromhex(market["market"][2:]))
        try:
            await chain.connect()
            state = await chain.state(task)
            self.spec = decode_spec((await chain.created_task(task, height))[0])
            self.params, self.members = await chain.params(task), await chain.members(task)
            for round_number in range(1, state.round + 1):
                opening = await chain.opening(task, round_number, height)
                self.openings[round_number] = opening
                self.posts[round_number] = await chain.posted(opening, height)
                self.payloads[round_number] = await chain.payload(opening)
                for entry in await chain.round_events("GroupsSelected", opening, height):
                    self.selections[round_number] = entry["complete"], entry["selected"]
        finally:
            await chain.close()

    def vector(self, round_number: int, seat: int) -> bytes:
        """A posted vector."""
        parts = [part for part in self.posts[round_number] if part.seat == seat]
        return b"".join(part.data for part in sorted(parts, key=lambda part: part.first_chunk))


@dataclass
class Knowledge:
    """What colluders gave away: their rounds' secrets by (address, round), and the model owner's journal."""

    rounds: dict[tuple[bytes, int], dict[str, Any]] = field(default_factory=dict)
    pads: dict[int, tuple[bytes, ...]] = field(default_factory=dict)

    def collude(self, leak: Path) -> None:
        """An owner hands over its file of secrets."""
        for line in leak.read_text(encoding="utf-8").splitlines():
            secrets = json.loads(line)
            self.rounds[bytes.fromhex(secrets["address"]), secrets["round"]] = secrets

    def collude_model_owner(self, journal: Journal, task: int, rounds: Iterable[int]) -> None:
        """The model owner hands over its pads."""
        for round_number in rounds:
            stored = journal.round_secrets(task, round_number)
            assert stored is not None
            self.pads[round_number] = stored[1]

    def pad(self, params: TaskParams, round_number: int, index: int) -> bytes | None:
        """The seed of a round's pad: from the model owner, or from any owner that was given the same one."""
        if round_number in self.pads:
            return self.pads[round_number][index]
        for (_, number), secrets in self.rounds.items():
            seat = secrets["group"] * params.group_size + secrets["position"]
            if number == round_number and params.pad_index(seat) == index:
                return bytes.fromhex(secrets["pad_seed"])
        return None

    def all_secrets(self) -> set[bytes]:
        """Every 32-byte secret known."""
        found = {seed for pads in self.pads.values() for seed in pads}
        for secrets in self.rounds.values():
            names = ("registered_secret", "ephemeral_secret", "model_key", "pad_seed")
            found |= {bytes.fromhex(secrets[name]) for name in names}
            found |= {bytes.fromhex(seed) for seed in secrets["pair_seeds"].values()}
        return found


def strip_known_masks(
    tap: ChainTap, known: Knowledge, round_number: int, victim: Member, guesses: Sequence[bytes] = ()
) -> list[NDArray[np.int64]]:
    """The victim's posted vector without all masks that the attacker can make; one result a guess of the seeds
    that it cannot (none: those masks stay on). int64 of shape (d,), lifted."""
    params = tap.params
    assert params is not None
    size, layout = params.group_size, params.layout
    group, position = divmod(victim.seat, size)
    ctx = tap.openings[round_number].ctx
    mates = {member.seat % size: member for member in tap.members if member.seat // size == group}
    del mates[position]
    lanes = unpack(tap.vector(round_number, victim.seat), layout)
    index = params.pad_index(victim.seat)
    unknown: list[tuple[bytes, bytes, bool]] = []
    pad = known.pad(params, round_number, index)
    if pad is None:
        unknown.append((PAD, pad_context(ctx, index), True))
    else:
        add_stream(lanes, pad, PAD, pad_context(ctx, index), subtract=True)
    for mate_position, mate in mates.items():
        lower, higher = (victim, mate) if position < mate_position else (mate, victim)
        context = pair_context(ctx, group, lower.account, higher.account)
        # The victim added where it is lower, so the attacker subtracts there.
        subtract = position < mate_position
        secrets = known.rounds.get((mate.account, round_number))
        if secrets is None:
            unknown.append((PAIR, context, subtract))
        else:
            seed = bytes.fromhex(secrets["pair_seeds"][victim.account.hex()])
            add_stream(lanes, seed, PAIR, context, subtract=subtract)
    results = [lift(lanes, layout)[: params.value_count]]
    for guess in guesses:
        tried = lanes.copy()
        for kind, context, subtract in unknown:
            add_stream(tried, guess, kind, context, subtract=subtract)
        results.append(lift(tried, layout)[: params.value_count])
    return results


def strip_known_pads(
    tap: ChainTap, known: Knowledge, round_number: int, group: int, guesses: Sequence[bytes] = ()
) -> list[NDArray[np.int64]]:
    """The sum of a group's posted vectors without all pads that the attacker can make; one result a guess of the
    seeds that it cannot (none: those pads stay on). int64 of shape (d,), lifted."""
    params = tap.params
    assert params is not None
    ctx, seats = tap.openings[round_number].ctx, range(group * params.group_size, (group + 1) * params.group_size)
    total = add_vectors([unpack(tap.vector(round_number, seat), params.layout) for seat in seats])
    unknown: list[bytes] = []
    for index in params.group_pads(group):
        pad = known.pad(params, round_number, index)
        if pad is None:
            unknown.append(pad_context(ctx, index))
        else:
            add_stream(total, pad, PAD, pad_context(ctx, index), subtract=True)
    results = [lift(total, params.layout)[: params.value_count]]
    for guess in guesses:
        tried = total.copy()
        for context in unknown:
            add_stream(tried, guess, PAD, context, subtract=True)
        results.append(lift(tried, params.layout)[: params.value_count])
    return results


def open_everything(messages: Sequence[tuple[str, bytes]], secrets: Iterable[bytes], publics: Iterable[bytes]) -> int:
    """Tries every known secret key with every known public key on every envelope; how many opened."""
    opened = 0
    for _, payload in messages:
        try:
            _channel, box = decode_envelope(payload)
        except MessageError:
            continue
        for secret in secrets:
            for public in publics:
                try:
                    open_box(secret, public, box)
                    opened += 1
                except MessageError:
                    continue
    return opened


def registered_hellos(messages: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The envelopes under registered keys."""
    return [
        (topic, payload)
        for topic, payload in messages
        if len(payload) > 2 and "/in/" in topic and payload[1] == CHANNEL_REGISTERED
    ]
