"""The participants of a testbed: their folders, keys, data and command lines."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from omnilytics.daemon.broker_request import install, make_request
from omnilytics.daemon.keystore import create_keys, load_keys, read_password
from omnilytics.daemon.log import show
from omnilytics.daemon.protection.catalogue import protection_named
from omnilytics.daemon.protection.secret_head import least_group_rows
from omnilytics.daemon.training.batch import DEFAULT_BATCH_SIZE
from omnilytics.daemon.training.data import (
    Dataset,
    dirichlet_split,
    load_digits,
    read_dataset,
    split_holdout,
    write_npz,
)
from omnilytics.daemon.training.models import Architecture
from omnilytics.peers.errors import ConfigurationError
from scripts.launcher.options import TestbedOptions

HOLDOUT_FRACTION = 0.2
# Random features are chosen in steps, up to where a settled choice is needed.
STEP, MAX_FEATURES = 8, 1024
# Where a profiled daemon leaves what it spent its time on (cProfile's format).
PROFILE = "profile"


@dataclass(frozen=True)
class Participant:
    """A process to be: its name, folder, address, and the command to run."""

    name: str
    home: Path
    address: bytes
    command: list[str]
    # What runs it after it was killed: the honest program, on the same folder.
    honest_command: list[str]

    def revived(self) -> Participant:
        """The same participant, honest from now on."""
        return replace(self, command=self.honest_command)


@dataclass(frozen=True)
class Cast:
    """Everybody in a run, and the data that they hold."""

    model: Participant
    owners: list[Participant]
    owner_data: list[Dataset] = field(repr=False)
    model_data: Dataset = field(repr=False)


def owner_seed(options: TestbedOptions, index: int) -> str:
    """From which an owner draws its batches, so that the run can be replayed in one process."""
    return f"{options.seed}-{index}"


def load_data(options: TestbedOptions) -> tuple[list[Dataset], Dataset]:
    """The owners' rows and the model owner's: a stratified hold-out, the rest split with a Dirichlet skew."""
    whole = load_digits() if options.data is None else read_dataset(options.data, options.label)
    generator = np.random.default_rng(options.seed)
    rest, own = split_holdout(whole, HOLDOUT_FRACTION, generator)
    parts = dirichlet_split(rest.labels, options.owners, options.skew, generator)
    return [rest.take(part) for part in parts], own


def model_arguments(options: TestbedOptions, test: Path) -> list[str]:
    """The options of `omnilytics model run` that make the task."""
    silent_model = any(kill.role == "model" for kill in options.kills)
    arguments = [
        f"--test={test}",
        f"--model={options.model}",
        f"--protection={options.protection}",
        f"--rounds={options.rounds}",
        f"--groups={options.groups}",
        f"--group-size={options.group_size}",
        f"--faulty={options.faulty}",
        f"--lane-bits={options.lane_bits}",
        f"--rate={options.rate}",
        f"--depth={options.depth}",
        f"--block-seconds={options.block_seconds}",
        f"--phase-seconds={options.phase_seconds}",
        # The owners end the task of a silent model owner after some unopened rounds: do not make people wait.
        f"--open-seconds={15 if silent_model else options.phase_seconds}",
        f"--seed={options.seed}",
    ]
    if options.features is not None:
        arguments.append(f"--features={options.features}")
    if options.strict:
        arguments.append("--strict")
    if options.delivery != "chain":
        arguments.append(f"--delivery={options.delivery}")
    if options.batch_size is not None:
        arguments.append(f"--batch-size={options.batch_size}")
    if options.optimiser is not None:
        arguments.append(f"--optimiser={options.optimiser}")
    if options.join_seconds is not None:
        arguments.append(f"--join-seconds={options.join_seconds}")
    return arguments


def fill_in(options: TestbedOptions, owner_data: list[Dataset]) -> TestbedOptions:
    """Chooses what the options leave open, from the data.

    Raises ConfigurationError where the owners have too few rows for what they ask for.
    """
    if options.protection != "secret-head":
        return options
    per_round = min(data.row_count for data in owner_data) // options.rounds
    if per_round < 1:
        raise ConfigurationError(
            f"some owner has fewer rows than {options.rounds} rounds, and each row is used once", help="fewer --rounds"
        )
    features, columns, classes = options.features, owner_data[0].column_count, len(owner_data[0].classes)
    if features is None and options.model == "softmax":
        rows = per_round * options.group_size
        fitting = [w for w in range(STEP, MAX_FEATURES, STEP) if least_group_rows(columns, w, classes) <= rows]
        features = max(fitting, default=STEP)
    return replace(options, features=features, batch_size=options.batch_size or per_round)


def thin_sums(options: TestbedOptions, owner_data: list[Dataset]) -> int:
    """Rows that a group's sum lacks to hide single rows; 0 where it lacks none."""
    architecture, columns, classes = options.model, owner_data[0].column_count, len(owner_data[0].classes)
    if options.protection == "secret-head":
        hidden = Architecture.parse(options.model).hidden
        architecture = f"random:{options.features}" if not hidden else f"trunk:{','.join(map(str, hidden))}"
    needed = protection_named(options.protection).least_group_rows(architecture, columns, classes)
    return max(0, needed - options.group_size * (options.batch_size or DEFAULT_BATCH_SIZE))


def write_participants(options: TestbedOptions, folder: Path, data: tuple[list[Dataset], Dataset]) -> Cast:
    """Makes all folders, throw-away keys and data files of a run."""
    owner_data, model_data = data
    model_home = folder / "participants" / "model"
    model_address = _write_keys(model_home)
    test = model_home / "data.npz"
    write_npz(test, model_data)
    kills = {kill.role: kill for kill in options.kills}
    killed = options.killed_owners
    honest = [str(options.program or Path(sys.executable).parent / "omnilytics")]
    profiled = [*_profiler(model_home), *honest] if options.profile else honest
    hostile = [sys.executable, "-m", "tests.adversaries.owner"]
    model_command = [*profiled, "model", "run"]
    if "model" in kills or options.ignored_owners:
        model_command = [sys.executable, "-m", "tests.adversaries.model", f"--ignore-owners={options.ignored_owners}"]
    if "model" in kills:
        model_command.append(f"--die-in-round={kills['model'].round}")
    arguments = model_arguments(options, test)
    model = Participant(
        "model", model_home, model_address, [*model_command, *arguments], [*honest, "model", "run", *arguments]
    )

    homes = [folder / "participants" / f"owner-{index:02d}" for index in range(len(owner_data))]
    owner_addresses = [_write_keys(home) for home in homes]
    spared = [f"--spare={show(owner_addresses[index])}" for index in sorted(killed)]
    owners: list[Participant] = []
    for index, (home, address, rows) in enumerate(zip(homes, owner_addresses, owner_data, strict=True)):
        write_npz(home / "data.npz", rows)
        # The first owners are the single poisoners; the last ones are those to be killed.
        adversary: list[str] = []
        if options.poison_owners is not None and index < options.poison_owners.count:
            adversary += [f"--poison={options.poison_owners.kind}"]
        elif options.poison is not None:
            # Groups are drawn on the chain, so every owner must be ready to be in a hostile one.
            adversary += [f"--poison={options.poison.kind}", f"--hostile-groups={options.poison.count}", *spared]
        if index in killed:
            adversary += [f"--die-in-round={killed[index].round}"]
        if options.leak_secrets:
            adversary.append(f"--leak={home / 'leak.jsonl'}")
        arguments = [f"--data={home / 'data.npz'}", f"--seed={owner_seed(options, index)}"]
        if options.chaos:
            arguments.append("--restore-stake")
        if thin_sums(options, owner_data):
            arguments.append("--allow-thin-sums")
        honest_command = [*honest, "owner", "run", *arguments]
        command = [*hostile, *adversary, *arguments] if adversary else honest_command
        if options.profile and index == 0 and not adversary:
            command = [*_profiler(home), *command]
        owners.append(Participant(f"owner-{index:02d}", home, address, command, honest_command))
    return Cast(model, owners, owner_data, model_data)


def network_arguments(options: TestbedOptions, home: Path, market: dict[str, object]) -> list[str]:
    """Where everything is, for a participant's command line."""
    return [
        f"--home={home}",
        f"--chain={market['rpc_url']}",
        f"--chain-id={market['chain_id']}",
        f"--market={market['market']}",
        f"--broker={broker_of(home, market)}",
        f"--finality-depth={options.finality_depth}",
    ]


def broker_of(home: Path, market: dict[str, object]) -> object:
    """Where brokers are bridged, participants are spread over them in turn."""
    urls = market.get("broker_urls") or [market["broker_url"]]
    assert isinstance(urls, list)
    number = home.name.rpartition("-")[2]
    return urls[(int(number) if number.isdecimal() else 0) % len(urls)]


def ask_for_certificates(cast: Cast) -> list[Path]:
    """Everybody's request for a broker's client certificate, as `omnilytics broker request` makes it."""
    now = datetime.now(UTC)
    requests = []
    for person in (cast.model, *cast.owners):
        keys = load_keys(person.home / "keys", read_password(person.home / "password"))
        requests.append(make_request(person.home, keys, "127.0.0.1", now))
    return requests


def install_certificates(cast: Cast, authority: Path) -> None:
    """Gives everybody what the broker's authority made for it."""
    for person in (cast.model, *cast.owners):
        admission = authority / "admitted" / f"{person.address.hex()}.pem"
        install(person.home, admission.read_bytes(), datetime.now(UTC))


def _profiler(home: Path) -> list[str]:
    """What runs a program so that it leaves a profile in its folder."""
    return [sys.executable, "-m", "scripts.launcher.profiled", str(home / PROFILE)]


def _write_keys(home: Path) -> bytes:
    home.mkdir(parents=True, mode=0o700)
    password = secrets.token_urlsafe(24)
    handle = os.open(home / "password", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(password + "\n")
    return create_keys(home / "keys", password, light=True).address


def addresses(cast: Cast) -> list[str]:
    """Of everybody, as text."""
    return [show(cast.model.address), *(show(owner.address) for owner in cast.owners)]
