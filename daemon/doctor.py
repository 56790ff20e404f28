"""What could keep a participant from working, looked at one by one: a check passes, fails with a cure, or is skipped.

A check is a small function of a Patient: it returns what it saw, or raises. An OmniLyticsError is the problem and its
cure; Skipped is the word for what cannot be looked at, because something that it needs has failed, or that does not
concern this participant. All checks run, whatever happens to one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnilytics.daemon.broker import parse_broker_url, round_trip
from omnilytics.daemon.broker_access import BrokerAccess, read_access
from omnilytics.daemon.chain import Chain, Head
from omnilytics.daemon.config import Settings, find_settings
from omnilytics.daemon.data_registry import read_registry
from omnilytics.daemon.home_lock import holder
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import Keys, load_keys, read_password
from omnilytics.daemon.redaction import shown_url
from omnilytics.daemon.settings_check import check_settings
from omnilytics.daemon.training.data import read_dataset
from omnilytics.peers.errors import (
    ChainError,
    ChainMismatchError,
    ConfigurationError,
    DataError,
    FundsError,
    KeyFileError,
    OmniLyticsError,
)

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
LEAST_FREE_BYTES = 64 * 2**20
# Twice what commit and post of the testbed's model (4,895 values) cost an owner in a round, 474,000 gas, for turns of
# settling too; gas grows with the values of a vector, so a large model needs more.
ROUND_GAS = 1_000_000
ROUNDS_AHEAD = 10


class Skipped(Exception):
    """A check that cannot be made, or does not concern this participant; the text says why."""


@dataclass(frozen=True)
class Finding:
    """What a check found. help is what to do where it failed, "" otherwise; code is the error's, for machines."""

    name: str
    status: str
    detail: str
    help: str = ""
    code: str = ""


@dataclass
class Patient:
    """One participant, and what the checks have learnt of it so far; later ones need what earlier ones found."""

    home: Path
    overrides: Mapping[str, Any]
    password_file: Path | None = None
    make_chain: Callable[[str, bytes], Chain] = Chain
    trip: Callable[[str, str | None, bytes, BrokerAccess], Awaitable[float]] = round_trip
    wall: Callable[[], float] = time.time
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    settings: Settings | None = None
    chain: Chain | None = None
    head: Head | None = None
    keys: Keys | None = None
    # Set once chain id, code and genesis are known to be right.
    connected: bool = False
    _close: list[Chain] = field(default_factory=list)

    @property
    def read_settings(self) -> Settings:
        """The settings. Raises Skipped where they could not be read."""
        if self.settings is None:
            raise Skipped("the configuration cannot be read")
        return self.settings

    @property
    def answering_chain(self) -> Chain:
        """The chain. Raises Skipped where it does not answer."""
        if self.chain is None:
            raise Skipped("the RPC does not answer")
        return self.chain

    @property
    def right_chain(self) -> Chain:
        """The chain with our contract. Raises Skipped."""
        chain = self.answering_chain
        if not self.connected:
            raise Skipped("chain or contract is not the right one")
        return chain

    @property
    def newest_head(self) -> Head:
        """The newest block. Raises Skipped."""
        if self.head is None:
            raise Skipped("the RPC does not answer")
        return self.head

    @property
    def opened_keys(self) -> Keys:
        """Our keys. Raises Skipped."""
        if self.keys is None:
            raise Skipped("the keys cannot be opened")
        return self.keys


Check = Callable[[Patient], Awaitable[str]]


async def configuration(patient: Patient) -> str:
    """config.toml, environment and flags."""
    settings, _ = find_settings(patient.home, patient.overrides)
    # Known from here on: a broken [policy] is no reason not to look at the chain.
    patient.settings = settings
    check_settings(settings)
    where = settings.config_path
    return f"{where} is fine" if where.exists() else f"no {where}; flags, environment and defaults are fine"


async def folders(patient: Patient) -> str:
    """Whether home, keys and log can be written."""
    home = patient.home
    if not home.is_dir():
        raise ConfigurationError(f"no folder {home}", help="make it: omnilytics init")
    for folder in (home, home / "keys"):
        if folder.is_dir():
            try:
                handle, name = tempfile.mkstemp(prefix=".doctor-", dir=folder)
                os.close(handle)
                Path(name).unlink()
            except OSError as error:
                raise ConfigurationError(
                    f"{folder} cannot be written: {error.strerror}", help=f"make it yours: chown -R $USER {home}"
                ) from error
    for file in (home / "journal.sqlite", home / "log.jsonl"):
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            raise ConfigurationError(f"{file} cannot be written", help=f"make it yours: chown $USER {file}")
    return f"{home} can be written"


async def disk(patient: Patient) -> str:
    """Free space where the journal is."""
    place = patient.home
    while not place.exists():
        place = place.parent
    free = patient.free_bytes(place)
    if free < LEAST_FREE_BYTES:
        raise OmniLyticsError(
            f"only {free // 2**20} MB free; need {LEAST_FREE_BYTES // 2**20} MB",
            help="free space: the daemon stops when its journal cannot be written",
        )
    return f"{free // 2**20} MB free"


async def key_files(patient: Patient) -> str:
    """Modes, owners and password of the key files."""
    home = patient.home
    password = read_password(patient.password_file or home / "password")
    patient.keys = await asyncio.to_thread(load_keys, home / "keys", password)
    mode = home.stat().st_mode & 0o777
    if mode & 0o022:
        raise KeyFileError(
            f"folder {home} has mode {mode:04o}: others could replace keys", help=f"run: chmod 700 {home}"
        )
    return f"account {patient.keys.account.address}"


async def data(patient: Patient) -> str:
    """All registered rows."""
    settings = patient.read_settings
    sources = read_registry(settings.table("data"), settings.home)
    if not sources:
        raise Skipped("none is registered; a data owner does it with: omnilytics data add FILE")
    told = []
    for name, source in sources.items():
        rows = await asyncio.to_thread(read_dataset, source.file, source.label)
        try:
            rows.check_trainable()
        except DataError as error:
            raise DataError(f"{name}: {error.message}", help=error.help) from error
        told.append(f"{name}: {rows.row_count} rows, {rows.column_count} columns, {len(rows.classes)} classes")
    return "; ".join(told)


async def rpc(patient: Patient) -> str:
    """Whether the RPC answers."""
    settings = patient.read_settings
    # The address matters later; here any will do.
    with contextlib.suppress(ConfigurationError):
        chain = patient.make_chain(settings.chain_url, settings.market_address)
        return await _ask(patient, chain)
    return await _ask(patient, patient.make_chain(settings.chain_url, bytes(20)))


async def _ask(patient: Patient, chain: Chain) -> str:
    patient._close.append(chain)
    started = time.monotonic()
    patient.head = await chain.head()
    patient.chain = chain
    took = int(1000 * (time.monotonic() - started))
    return f"{shown_url(chain.url)} shows block {patient.head.number}, in {took} ms"


async def contract(patient: Patient) -> str:
    """Chain id, code at the market's address, and that it answers as a market."""
    settings, chain = patient.read_settings, patient.answering_chain
    if chain.market == bytes(20):
        raise Skipped("the configuration names no market")
    await chain.connect(settings.chain_id)
    try:
        count = await chain.task_count()
        await chain.credits(bytes(20))
    except ChainError as error:
        raise ChainMismatchError(
            f"the contract at {settings.market} does not answer as a market", help="check --market"
        ) from error
    patient.connected = True
    return f"chain id {chain.chain_id}, market {settings.market} with {count} tasks"


async def head_age(patient: Patient) -> str:
    """Whether the chain moves."""
    settings, head = patient.read_settings, patient.newest_head
    age = patient.wall() - head.time
    if age > settings.stall_seconds:
        raise ChainError(
            f"the newest block is {age:.0f} s old",
            help="wait for the node to synchronise, or use another RPC; if blocks come, our clock is ahead: set it",
        )
    return f"the newest block is {max(age, 0.0):.0f} s old"


async def clock(patient: Patient) -> str:
    """Our clock beside the chain's: a block cannot come from the future."""
    settings, head = patient.read_settings, patient.newest_head
    ahead = head.time - patient.wall()
    if ahead > settings.skew_seconds:
        raise ConfigurationError(
            f"our clock is {ahead:.0f} s behind the chain's", help="set the clock: timedatectl set-ntp true"
        )
    return f"within {settings.skew_seconds:.0f} s of the chain's, as far as a block's time tells"


async def journal(patient: Patient) -> str:
    """Whether the journal is whole, and of this chain and market."""
    path = patient.home / "journal.sqlite"
    if not path.exists():
        raise Skipped("none yet; the daemon makes it")
    with contextlib.closing(await asyncio.to_thread(Journal, path)) as opened:
        bound = opened.get("chain")
    if bound is None or not patient.connected or patient.chain is None:
        return "whole"
    if bound != patient.chain.genesis + patient.chain.market:
        raise ChainMismatchError(
            "this data folder belongs to another chain or market", help="use another --home for every chain and market"
        )
    return "whole, and of this chain and market"


async def balance(patient: Patient) -> str:
    """Whether the account can pay for the next rounds."""
    settings, chain, keys, head = (
        patient.read_settings, patient.right_chain, patient.opened_keys, patient.newest_head,
    )  # fmt: skip
    price = min(2 * head.base_fee + settings.gas_tip, settings.gas_price_cap)
    needed = ROUNDS_AHEAD * ROUND_GAS * price
    has = await chain.balance(keys.address)
    if has < needed:
        raise FundsError(
            f"account {keys.account.address} has {has} wei; {ROUNDS_AHEAD} rounds of a million gas each may cost "
            f"{needed} wei",
            help=f"send at least {needed - has} wei to {keys.account.address}; stakes and escrow come on top",
        )
    return (
        f"{has} wei; {ROUNDS_AHEAD} rounds of a million gas each may cost {needed} wei, stakes and escrow come on top"
    )


async def broker(patient: Patient) -> str:
    """A message to ourselves, beside the daemon."""
    settings = patient.read_settings
    where = parse_broker_url(settings.broker)
    run = patient.chain.run_name if patient.connected and patient.chain is not None else None
    me = patient.keys.address if patient.keys is not None else bytes(20)
    access = read_access(settings)
    if access.certificate is not None and holder(settings.home) is not None:
        return f"{where.host}:{where.port} is the running daemon's: omnilytics status says whether it is connected"
    took = await patient.trip(settings.broker, run, me, access)
    if access.certificate is not None and run is None:
        return (
            f"{where.host}:{where.port} knows our certificate; what we may say there hangs on chain and market, which "
            "are not known to be right"
        )
    return f"{where.host}:{where.port} brought a message back in {1000 * took:.0f} ms"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("configuration", configuration),
    ("folders", folders),
    ("disk", disk),
    ("keys", key_files),
    ("data", data),
    ("rpc", rpc),
    ("contract", contract),
    ("head age", head_age),
    ("clock", clock),
    ("journal", journal),
    ("balance", balance),
    ("broker", broker),
)


async def examine(patient: Patient, checks: tuple[tuple[str, Check], ...] = CHECKS) -> list[Finding]:
    """Makes all checks, one after the other."""
    found = []
    try:
        for name, check in checks:
            found.append(await _made(name, check, patient))
    finally:
        for chain in patient._close:
            await chain.close()
    return found


async def _made(name: str, check: Check, patient: Patient) -> Finding:
    try:
        return Finding(name, PASSED, await check(patient))
    except Skipped as reason:
        return Finding(name, SKIPPED, str(reason))
    except OmniLyticsError as error:
        return Finding(name, FAILED, error.message, error.help, error.code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Finding(name, FAILED, f"{where}{error.strerror or error}", "see who may read and write there", "os")


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.status != FAILED for finding in findings)
