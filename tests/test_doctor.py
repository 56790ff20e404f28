"""The doctor: each problem is found and told with a cure, and one does not hide the others."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from omnilytics.daemon.broker_access import BrokerAccess
from omnilytics.daemon.chain import ContractRefused, Head
from omnilytics.daemon.doctor import CHECKS, ROUND_GAS, ROUNDS_AHEAD, Finding, Patient, examine, healthy
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import create_keys
from omnilytics.peers.errors import BrokerError, ChainError, ChainMismatchError
from scripts import chain_process
from scripts.broker_process import Broker
from scripts.chain_process import rpc_call
from tests.local_market import open_market

NOW = 1_000_000.0
MARKET = "0x" + "11" * 20


@dataclass
class ChainFake:
    """What the checks ask of a chain."""

    url: str
    market: bytes
    time: float = NOW - 3
    has: int = 10**18
    problems: dict[str, ChainError] = field(default_factory=dict)
    chain_id: int = 31337
    genesis: bytes = bytes(32)
    run_name: str = "0" * 16
    closed: bool = False

    def _trouble(self, where: str) -> None:
        if where in self.problems:
            raise self.problems[where]

    async def head(self) -> Head:
        self._trouble("head")
        return Head(7, int(self.time), bytes(32), 10**9, bytes(32))

    async def connect(self, expected_chain_id: int | None = None) -> None:
        self._trouble("connect")

    async def task_count(self) -> int:
        self._trouble("task_count")
        return 2

    async def credits(self, account: bytes) -> int:
        return 0

    async def balance(self, account: bytes) -> int:
        return self.has

    async def close(self) -> None:
        self.closed = True


class World:
    """A participant for whom all is well, and what can be changed for the worse."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.chain = ChainFake("", b"")
        self.free = 10**9
        self.trips: list[tuple[str, str | None, bytes]] = []
        self.broker_problem: BrokerError | None = None

    def _make_chain(self, url: str, market: bytes) -> Any:
        self.chain.url, self.chain.market = url, market
        return self.chain

    async def _trip(self, url: str, run: str | None, me: bytes, access: BrokerAccess) -> float:
        self.trips.append((url, run, me))
        if self.broker_problem is not None:
            raise self.broker_problem
        return 0.0123

    async def findings(self, **overrides: Any) -> dict[str, Finding]:
        patient = Patient(
            self.home,
            overrides,
            make_chain=self._make_chain,
            trip=self._trip,
            wall=lambda: NOW,
            free_bytes=lambda _path: self.free,
        )
        found = await examine(patient)
        assert [finding.name for finding in found] == [name for name, _ in CHECKS], "all checks run, in order"
        assert all(bool(finding.help) is (finding.status == "failed") for finding in found)
        return {finding.name: finding for finding in found}


@pytest.fixture
def world(tmp_path: Path) -> World:
    home = tmp_path / "home"
    create_keys(home / "keys", "password", light=True)
    (home / "password").write_text("password\n")
    (home / "password").chmod(0o400)
    rows = tmp_path / "rows.npz"
    np.savez(rows, X=np.ones((8, 3)), y=np.arange(8) % 2)
    (home / "config.toml").write_text(f'market = "{MARKET}"\n[data.rows]\nfile = "{rows}"\n')
    return World(home)


def failed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.status == "failed"}


def skipped(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.status == "skipped"}


async def test_where_all_is_well_all_pass_but_the_journal_that_is_not_there_yet(world: World) -> None:
    findings = await world.findings()
    assert (failed(findings), skipped(findings)) == (set(), {"journal"})
    assert healthy(list(findings.values()))
    assert findings["data"].detail == "rows: 8 rows, 3 columns, 2 classes"
    assert findings["head age"].detail == "the newest block is 3 s old"
    assert findings["broker"].detail.endswith("brought a message back in 12 ms")
    assert world.chain.closed
    assert list(world.home.glob("**/.doctor-*")) == []
    ((_, run, me),) = world.trips
    assert (run, me.hex()) == ("0" * 16, findings["keys"].detail.split("0x")[1].lower())


async def test_a_chain_that_is_away_hides_nothing_else(world: World) -> None:
    world.chain.problems["head"] = ChainError("cannot reach RPC", help="start it")
    world.broker_problem = BrokerError("cannot reach broker")
    findings = await world.findings()
    assert failed(findings) == {"rpc", "broker"}
    assert skipped(findings) == {"contract", "head age", "clock", "journal", "balance"}
    assert (findings["rpc"].help, findings["rpc"].code) == ("start it", "chain")
    assert findings["broker"].help == BrokerError.default_help
    assert not healthy(list(findings.values()))


async def test_a_configuration_that_cannot_be_read_leaves_keys_and_disk_to_look_at(world: World) -> None:
    (world.home / "config.toml").write_text("chian = 5\n")
    findings = await world.findings()
    assert failed(findings) == {"configuration"}
    assert "did you mean 'chain'" in findings["configuration"].detail
    assert findings["keys"].status == "passed"
    assert {"data", "rpc", "contract", "balance", "broker"} <= skipped(findings)


async def test_a_bad_policy_or_no_market_is_no_reason_not_to_look_at_the_chain(world: World) -> None:
    (world.home / "config.toml").write_text("[policy]\nminimum_rewards = 1\n")
    findings = await world.findings(market=MARKET)
    assert failed(findings) == {"configuration"}
    assert findings["contract"].status == "passed"
    (world.home / "config.toml").write_text("")
    findings = await world.findings()
    assert failed(findings) == {"configuration"}
    assert findings["rpc"].status == "passed"
    assert skipped(findings) >= {"contract", "balance"}


async def test_folders_that_are_missing_or_not_ours_are_told(world: World, tmp_path: Path) -> None:
    findings = await World(tmp_path / "nobody").findings(market=MARKET)
    assert failed(findings) == {"folders", "keys"}
    assert "omnilytics init" in findings["folders"].help
    (world.home / "keys").rename(world.home / "gone")
    (world.home / "keys").symlink_to("/proc/self")
    findings = await world.findings()
    assert {"folders", "keys"} <= failed(findings)
    assert f"{world.home / 'keys'} cannot be written" in findings["folders"].detail


async def test_a_full_disk_is_told_before_the_journal_cannot_be_written(world: World) -> None:
    world.free = 12 * 2**20
    findings = await world.findings()
    assert failed(findings) == {"disk"}
    assert findings["disk"].detail == "only 12 MB free; need 64 MB"


async def test_keys_in_trouble_are_told_with_the_command_that_helps(world: World) -> None:
    (world.home / "keys" / "box.json").chmod(0o644)
    findings = await world.findings()
    assert (failed(findings), findings["keys"].help) == ({"keys"}, f"run: chmod 600 {world.home / 'keys' / 'box.json'}")
    assert "balance" in skipped(findings)
    (world.home / "keys" / "box.json").chmod(0o600)
    world.home.chmod(0o777)
    findings = await world.findings()
    assert (failed(findings), findings["keys"].help) == ({"keys"}, f"run: chmod 700 {world.home}")


async def test_data_that_cannot_be_learnt_from_is_told_and_none_is_no_failure(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", X=np.ones((8, 3)), y=np.ones(8))
    findings = await world.findings()
    assert (failed(findings), findings["data"].code) == ({"data"}, "data")
    assert findings["data"].detail.startswith("rows: all rows have label")
    (world.home / "config.toml").write_text(f'market = "{MARKET}"\n')
    findings = await world.findings()
    assert "data" in skipped(findings)
    assert healthy(list(findings.values()))


@pytest.mark.parametrize(
    ("where", "error", "says"),
    [
        ("connect", ChainMismatchError("RPC chain id 1, config expects 31337"), "RPC chain id 1"),
        ("task_count", ContractRefused("revert", {"reason": ""}), "does not answer as a market"),
    ],
)
async def test_the_wrong_contract_is_told_and_its_balance_is_nobodys_business(
    world: World, where: str, error: ChainError, says: str
) -> None:
    world.chain.problems[where] = error
    findings = await world.findings()
    assert (failed(findings), findings["contract"].code) == ({"contract"}, "chain.mismatch")
    assert says in findings["contract"].detail
    assert "balance" in skipped(findings)
    assert world.trips[0][1] is None, "the broker is tried all the same"


async def test_an_old_head_and_a_slow_clock_are_two_things(world: World) -> None:
    world.chain.time = NOW - 300
    findings = await world.findings()
    assert (failed(findings), findings["head age"].detail) == ({"head age"}, "the newest block is 300 s old")
    world.chain.time = NOW + 300
    findings = await world.findings()
    assert (failed(findings), findings["clock"].detail) == ({"clock"}, "our clock is 300 s behind the chain's")
    world.chain.time = NOW - 300
    (world.home / "config.toml").write_text(f'market = "{MARKET}"\nstall_seconds = 400\n')
    assert failed(await world.findings()) == set()


async def test_a_poor_account_is_told_how_much_is_missing(world: World) -> None:
    needed = ROUNDS_AHEAD * ROUND_GAS * 3 * 10**9
    world.chain.has = needed
    assert failed(await world.findings()) == set()
    world.chain.has = needed - 5
    findings = await world.findings()
    assert failed(findings) == {"balance"}
    assert findings["balance"].help.startswith("send at least 5 wei to 0x")


async def test_the_journal_of_a_chain_that_was_reset_is_told(world: World) -> None:
    journal = Journal(world.home / "journal.sqlite")
    journal.bind("chain", bytes(32) + bytes.fromhex(MARKET[2:]))
    journal.close()
    assert (await world.findings())["journal"].detail == "whole, and of this chain and market"
    world.chain.genesis = b"\x01" * 32
    findings = await world.findings()
    assert failed(findings) == {"journal"}
    assert "belongs to another chain or market" in findings["journal"].detail
    (world.home / "journal.sqlite").write_bytes(b"no journal" * 500)
    assert failed(await world.findings()) == {"journal"}


async def test_an_error_of_the_system_in_one_check_is_a_finding(world: World) -> None:
    async def broken(_patient: Patient) -> str:
        raise PermissionError(13, "Permission denied", "/some/where")

    async def fine(_patient: Patient) -> str:
        return "fine"

    found = await examine(Patient(world.home, {}), (("broken", broken), ("fine", fine)))
    assert [(finding.status, finding.detail) for finding in found] == [
        ("failed", "/some/where: Permission denied"),
        ("passed", "fine"),
    ]


@pytest_asyncio.fixture
async def real(world: World, anvil: chain_process.Chain, broker: Broker) -> AsyncIterator[tuple[World, dict[str, Any]]]:
    async with open_market(anvil) as market:
        where = {"chain": anvil.rpc_url, "broker": broker.url, "market": "0x" + market.chain.market.hex()}
        yield world, where


async def test_on_a_real_chain_and_broker(real: tuple[World, dict[str, Any]]) -> None:
    world, where = real
    findings = {finding.name: finding for finding in await examine(Patient(world.home, where))}
    # A new account has nothing, and anvil's blocks of a test stand still: whether the head is old depends on both.
    assert failed(findings) - {"head age"} == {"balance"}
    assert "with 0 tasks" in findings["contract"].detail
    assert "brought a message back" in findings["broker"].detail
    findings = {finding.name: finding for finding in await examine(Patient(world.home, where | {"market": MARKET}))}
    assert "no contract code" in findings["contract"].detail


async def test_a_contract_that_is_no_market_is_told(real: tuple[World, dict[str, Any]]) -> None:
    world, where = real
    # PUSH0 PUSH0 REVERT: code that answers nothing.
    address = "0x" + "77" * 20
    await asyncio.to_thread(rpc_call, where["chain"], "anvil_setCode", address, "0x5f5ffd")
    findings = {finding.name: finding for finding in await examine(Patient(world.home, where | {"market": address}))}
    assert "does not answer as a market" in findings["contract"].detail
