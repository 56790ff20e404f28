"""Mutated messages through a daemon's whole handler, mutated files through its readers; and that the fuzzer sees."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon import node as node_module
from omnilytics.daemon import part_runner
from omnilytics.daemon.broker import Broker
from omnilytics.daemon.log import Logger
from omnilytics.peers import model_round, owner_round
from omnilytics.peers.messages import Message, decode
from omnilytics.peers.phases import OwnerStage
from tests.fuzz.campaign import MESSAGES_A_ROUND, Episode, Failure, Tally, attack, play_one
from tests.fuzz.readers import READERS, ReaderTally, judge, read_mutated
from tests.fuzz.world import RUN

MESSAGES = 20_000
# Sockets, processes and most of the time: a sample of these is enough here.
SLOW = {"command line": 120}


def test_no_message_makes_a_daemon_do_what_it_must_not() -> None:
    seen = [(tally, failure) for tally, failure in attack(1, MESSAGES)]
    assert [failure for _, failure in seen if failure is not None] == []
    tally = seen[-1][0]
    assert tally.messages == MESSAGES
    assert 0.65 < tally.boxed / tally.messages < 0.8
    # At least half of all messages are opened at their receiver.
    assert tally.opened >= tally.messages / 2
    # Rounds do get to their end, and every stage has its share of messages.
    assert tally.ends["owner ended committed"] > tally.rounds / 4
    assert tally.ends["vectors ordered"] >= tally.ends["vectors committed"]
    for stage in (*OwnerStage, "before the round", "after the round"):
        name = stage.value if isinstance(stage, OwnerStage) else stage
        assert tally.stages[f"owner: {name}"] > 50, name
    assert tally.stages["model owner: delivering"] > 50
    assert tally.stages["model owner: watching"] > 50
    assert len(tally.kinds) > 35
    assert len(tally.reasons) > 20


def test_the_same_seed_attacks_the_same_way() -> None:
    def run() -> list[tuple[int, str, object, str]]:
        seen: list[tuple[int, str, object, str]] = []

        def trace(number: int, shot: Any, verdict: Any) -> None:
            seen.append((number, shot.topic, shot.payload, verdict.value))

        assert play_one(3, 2, Tally(), trace) is None
        return seen

    first = run()
    assert len(first) == MESSAGES_A_ROUND
    assert first[0][0] == 2 * MESSAGES_A_ROUND
    assert first == run()


# ------------------------------------------------------------------ planted mistakes


def _forget_context(plaintext: bytes, ctx: bytes, sender: bytes, receiver: bytes, **more: Any) -> Message:
    return decode(plaintext, plaintext[2:34].ljust(32, b"\0"), sender, receiver, **more)


def _forget_sender(plaintext: bytes, ctx: bytes, sender: bytes, receiver: bytes, **more: Any) -> Message:
    return decode(plaintext[:34] + sender + plaintext[54:], ctx, sender, receiver, **more)


def _forget_channel(plaintext: bytes, ctx: bytes, sender: bytes, receiver: bytes, **more: Any) -> Message:
    return decode(plaintext, ctx, sender, receiver)


def _found(seed: int, rounds: int) -> Failure | None:
    return next((failure for _, failure in attack(seed, rounds * MESSAGES_A_ROUND) if failure is not None), None)


@pytest.mark.parametrize("mistake", [_forget_context, _forget_sender, _forget_channel])
def test_a_check_of_the_box_that_is_left_out_is_noticed(
    mistake: Callable[..., Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnilytics.peers.round_keys.decode", mistake)
    failure = _found(1, 8)
    assert failure is not None
    # And its index brings it back.
    again = play_one(1, failure.index // MESSAGES_A_ROUND, Tally())
    assert again == failure


def test_a_digest_that_nobody_compares_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Equal(bytes):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    right = owner_round.__dict__["acknowledgement"]
    monkeypatch.setattr(owner_round, "acknowledgement", lambda seed: Equal(right(seed)))
    assert _found(1, 8) is not None


def test_an_exception_of_a_handler_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise KeyError("planted")

    monkeypatch.setattr(model_round, "receipt_digest", broken)
    failure = _found(1, 8)
    assert failure is not None
    assert "planted" in failure.error


def test_a_message_that_is_not_counted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncounted(state: Any, event: Any, entropy: Any) -> Any:
        after, effects = right(state, event, entropy)
        return (state, []) if after.dropped > state.dropped else (after, effects)

    right = owner_round._received
    monkeypatch.setattr(owner_round, "_received", uncounted)
    assert _found(1, 8) is not None


# --------------------------------------------------------------------------- floods


def test_a_flood_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages faster than they are read are dropped and counted; so is presence, of whatever strangers."""
    monkeypatch.setattr(part_runner, "MAX_WAITING_EVENTS", 50)
    monkeypatch.setattr(node_module, "MAX_PRESENCES", 20)
    episode = Episode(1, 0, Tally())
    node, broker = episode.attacked.node, episode.attacked.node.broker
    where = episode.mutator.topic(bytes(20))
    for _ in range(200):
        broker._arrived(where, bytes(200))
    assert episode.attacked.runner.waiting == 50
    assert node.dropped == 150
    episode.attacked.pump()
    for number in range(300):
        episode.attacked.hand_over(f"omnilytics/{RUN}/presence/{number:040x}", b"1")
    assert len(node.online) == 20
    assert bytes(19) + b"\xff" not in node.online


# ------------------------------------------------------------------- a hostile broker


def _publish(topic: bytes, payload: bytes = b"x") -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + payload
    return bytes([0x30, len(body)]) + body


@pytest.mark.parametrize(
    "packet",
    [
        _publish(b"\xff\xfe"),
        _publish(b"a/+/b"),
        _publish(b""),
        b"\x30\x00",
        b"\x30\x01\x00",
        b"\x90\x00",
        b"\x40\x01\x00",
    ],
    ids=["not UTF-8", "wildcard", "empty topic", "empty", "cut short", "subscribed to nothing", "half a receipt"],
)
async def test_a_broker_that_sends_nonsense_costs_a_connection_and_no_more(packet: bytes, tmp_path: Path) -> None:
    sessions = 0
    again = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 2:
            again.set()
        with contextlib.suppress(ConnectionError):
            await reader.read(1000)
            writer.write(b"\x20\x02\x00\x00")
            for identifier in (1, 2):
                await reader.read(1000)
                writer.write(b"\x90\x03" + identifier.to_bytes(2, "big") + b"\x01")
            await reader.read(1000)
            # Our presence is acknowledged; then the nonsense.
            writer.write(b"\x40\x02\x00\x03" + packet)
            await reader.read(1000)
            await asyncio.sleep(30)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    log = Logger(tmp_path / "log.jsonl", "owner", "0x")
    broker = Broker(f"mqtt://127.0.0.1:{port}", RUN, bytes(20), log, lambda arrived: None, lambda who, there: None)
    running = asyncio.create_task(broker.run())
    try:
        await asyncio.sleep(0.5)
        # Either it was let pass, or the session was begun anew: never is it the end of the daemon.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(again.wait(), 3.0)
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server.close()
        log.close()


# -------------------------------------------------------------------------- readers


@pytest.mark.parametrize("name", sorted(READERS))
def test_whatever_stands_in_a_file_has_an_answer_in_words(name: str) -> None:
    reader, tally = READERS[name], ReaderTally()
    for data in reader.hostile[: SLOW.get(name)]:
        problem = judge(reader, data, tally)
        assert problem is None, f"{problem} for {data[:80]!r}"
    for sample in reader.samples[: SLOW.get(name)]:
        assert judge(reader, sample, tally) is None
    if name not in SLOW:
        for index in range(len(reader.hostile), len(reader.hostile) + 60):
            problem = read_mutated(reader, 1, index, tally)
            assert problem is None, f"{problem}; scripts/fuzz --seed 1 --reader {name!r} --only {index}"
    assert tally.read
    assert tally.refused or name in ("log", "command line")


def test_nesting_stays_bounded_whatever_is_imported() -> None:
    """py_ecc raises Python's bound to 100,000, where deep JSON ends the process instead of raising."""
    from omnilytics.daemon import chain, keystore

    assert chain and keystore
    assert sys.getrecursionlimit() <= 10_000
