"""The doctor at a secured broker, Mosquitto and the embedded one alike: TLS, certificates, topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from omnilytics.daemon.broker import round_trip
from omnilytics.daemon.broker_access import BrokerAccess
from omnilytics.daemon.doctor import Finding, Patient, broker, configuration, examine
from omnilytics.daemon.home_lock import lock_home
from omnilytics.peers.errors import BrokerError
from scripts.broker_authority import Authority, create_authority
from scripts.broker_process import Broker, BrokerSecurity, start_broker
from scripts.broker_rules import LIMITS
from tests.broker_identities import HOST, Identity, admitted
from tests.test_broker import RUN
from tests.test_broker_process import NEEDS_MOSQUITTO

NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Secured:
    """A broker with TLS and client certificates, and one who is admitted."""

    broker: Broker
    authority: Authority
    alice: Identity
    folder: Path

    async def finding(self, who: Identity, run: str | None = RUN, **overrides: Any) -> Finding:
        """What the doctor says of the broker, and of nothing else."""

        @dataclass
        class Chain:
            run_name: str = RUN

        patient = Patient(who.home, {"broker": self.broker.url, "market": "0x" + "11" * 20} | overrides)

        async def known(patient: Patient) -> str:
            patient.connected, patient.chain, patient.keys = run is not None, Chain(run or ""), who.keys  # type: ignore[assignment]
            return ""

        found = await examine(patient, (("configuration", configuration), ("known", known), ("broker", broker)))
        return found[-1]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(tmp_path_factory.mktemp("authority"), [HOST, "localhost"], NOW)


@pytest_asyncio.fixture(params=["embedded", pytest.param("mosquitto", marks=NEEDS_MOSQUITTO)])
async def secured(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> AsyncIterator[Secured]:
    (tmp_path / "people").mkdir()
    alice = admitted(authority, tmp_path / "people", "alice")
    async with start_broker(request.param, tmp_path, BrokerSecurity(authority, RUN, LIMITS)) as started:
        yield Secured(started, authority, alice, tmp_path)


async def test_a_message_comes_back_over_tls(secured: Secured) -> None:
    finding = await secured.finding(secured.alice)
    assert (finding.status, finding.help) == ("passed", "")
    assert "brought a message back" in finding.detail


async def test_without_the_chain_the_certificate_is_tried_all_the_same(secured: Secured) -> None:
    """The topics are named after chain and market, and no others are let through."""
    finding = await secured.finding(secured.alice, run=None)
    assert finding.status == "passed"
    assert "knows our certificate" in finding.detail


async def test_beside_the_daemon_its_session_is_left_alone(secured: Secured) -> None:
    with lock_home(secured.alice.home):
        finding = await secured.finding(secured.alice)
    assert finding.status == "passed"
    assert "is the running daemon's" in finding.detail


async def test_a_broker_of_another_authority_is_told(secured: Secured, tmp_path: Path) -> None:
    other = create_authority(tmp_path / "other", [HOST], NOW)
    stranger = admitted(other, tmp_path, "stranger")
    finding = await secured.finding(stranger)
    assert (finding.status, finding.code) == ("failed", BrokerError.code)
    assert "unknown CA" in finding.detail and "broker_ca" in finding.help


async def test_a_certificate_that_the_broker_does_not_know_is_told(secured: Secured, tmp_path: Path) -> None:
    """We trust the broker; it does not trust whoever signed ours."""
    other = create_authority(tmp_path / "other", [HOST], NOW)
    stranger = admitted(other, tmp_path, "stranger")
    finding = await secured.finding(stranger, broker_ca=str(secured.authority.ca_path))
    assert finding.status == "failed"
    assert "certificate" in finding.detail + finding.help and finding.help


async def test_without_a_certificate_the_way_to_one_is_told(secured: Secured, tmp_path: Path) -> None:
    bare = replace(secured.alice, home=tmp_path / "bare")
    bare.home.mkdir()
    finding = await secured.finding(bare, broker_ca=str(secured.authority.ca_path))
    assert finding.status == "failed"
    assert "certificate" in finding.detail + finding.help


async def test_a_certificate_that_has_expired_is_told_before_it_is_shown(secured: Secured, tmp_path: Path) -> None:
    late = admitted(secured.authority, tmp_path, "late", NOW - timedelta(days=100), days=90)
    finding = await secured.finding(late)
    assert finding.status == "failed"
    assert "expired" in finding.detail and "omnilytics broker request" in finding.help


async def test_topics_that_the_broker_does_not_let_through_are_told(secured: Secured) -> None:
    """Another market than the broker serves."""
    with pytest.raises(BrokerError, match="not authorised for a topic"):
        await round_trip(secured.broker.url, "f" * 16, secured.alice.address, secured.alice.access, 2.0)


async def test_no_tls_where_the_broker_wants_it_is_told(secured: Secured) -> None:
    plain = secured.broker.url.replace("mqtts://", "mqtt://")
    with pytest.raises(BrokerError) as caught:
        async with asyncio.timeout(20):
            await round_trip(plain, RUN, secured.alice.address, BrokerAccess(), 2.0)
    assert caught.value.help
