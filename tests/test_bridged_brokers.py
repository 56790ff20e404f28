"""Two bridged Mosquittos, open and secured: participants on either are one market."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from scripts.broker_authority import create_authority
from scripts.broker_process import BrokerSecurity, start_broker
from scripts.broker_rules import mosquitto_bridge
from scripts.launcher.participants import broker_of
from tests.broker_identities import HOST, admitted
from tests.test_broker import ALICE, BOB, CAROL, RUN, connection, eventually
from tests.test_broker_process import NEEDS_MOSQUITTO
from tests.test_broker_security import Market, participant


@NEEDS_MOSQUITTO
async def test_participants_on_two_brokers_talk_and_see_each_other(tmp_path: Path) -> None:
    async with start_broker("bridged", tmp_path) as first:
        here, there = first.urls
        assert len(first.processes) == 2
        async with connection(here, ALICE) as alice, connection(there, BOB) as bob, connection(here, CAROL) as carol:
            await eventually(lambda: (BOB, True) in alice.presence and (ALICE, True) in bob.presence)
            for number in range(20):
                alice.broker.send(1, 1, BOB, bytes([number]))
                bob.broker.send(1, 1, CAROL, bytes([number]))
            await eventually(lambda: len(bob.messages) == 20 and len(carol.messages) == 20)
            # Each once, and in order: nothing goes round in circles.
            assert [message.payload[0] for message in bob.messages] == list(range(20))
            assert [message.payload[0] for message in carol.messages] == list(range(20))
            await alice.broker.say_goodbye()
            await eventually(lambda: bob.presence[-1] == (ALICE, False))


@NEEDS_MOSQUITTO
async def test_secured_brokers_are_bridged_by_certificates_too(tmp_path: Path) -> None:
    authority = create_authority(tmp_path / "authority", [HOST], datetime.now(UTC))
    people = [admitted(authority, tmp_path, name) for name in ("alice", "bob")]
    async with start_broker("bridged", tmp_path / "brokers", BrokerSecurity(authority, RUN)) as first:
        assert first.other is not None
        here, there = (Market(broker, authority, *people, *people) for broker in (first, first.other))
        async with participant(here, here.alice) as alice, participant(there, there.bob) as bob:
            await eventually(lambda: (here.bob.address, True) in alice.presence)
            alice.broker.send(1, 1, there.bob.address, b"across")
            await eventually(lambda: [message.payload for message in bob.messages] == [b"across"])


def test_a_bridge_without_tls_names_no_files() -> None:
    assert "bridge_cafile" not in mosquitto_bridge("first", "h", 1883, None, None)


@pytest.mark.parametrize(("name", "url"), [("model", "a"), ("owner-00", "a"), ("owner-01", "b"), ("owner-02", "a")])
def test_a_testbed_spreads_its_participants_over_the_brokers(name: str, url: str) -> None:
    assert broker_of(Path("x") / name, {"broker_url": "a", "broker_urls": ["a", "b"]}) == url
    assert broker_of(Path("x") / name, {"broker_url": "c"}) == "c"
