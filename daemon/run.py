"""Puts a participant together from its options and runs it: what the commands, and the testbed's adversaries, call."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from omnilytics.daemon.accounting import load_library
from omnilytics.daemon.broker import Broker, parse_broker_url
from omnilytics.daemon.broker_access import read_access
from omnilytics.daemon.config import Settings
from omnilytics.daemon.control.methods import DaemonControl
from omnilytics.daemon.control.report import policy_report
from omnilytics.daemon.control.task_list import TaskList
from omnilytics.daemon.home_lock import lock_home
from omnilytics.daemon.keystore import load_keys, read_password
from omnilytics.daemon.model import ModelChoices, ModelPart
from omnilytics.daemon.node import Node, Surroundings
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.owner_tasks import OwnerTasks
from omnilytics.daemon.policy import Policy, read_policy
from omnilytics.daemon.protection.catalogue import check_trainer
from omnilytics.daemon.protection.sides import StatisticFunction, honest_statistic
from omnilytics.daemon.task_design import Wishes, design_task
from omnilytics.daemon.task_finder import TaskFinder
from omnilytics.daemon.task_offer import Terms, Timing, make_offer
from omnilytics.daemon.trained_model import design_record
from omnilytics.daemon.training.data import Dataset, read_dataset
from omnilytics.daemon.training.models import Architecture
from omnilytics.daemon.training.private import PrivacyOptions, private_gradient, read_privacy
from omnilytics.daemon.training.trainers import allow, trainer_name
from omnilytics.peers.addresses import checksum_address, parse_address
from omnilytics.peers.errors import ConfigurationError, DataError, ParameterError

# A width that a few hundred rows a group can hide behind: see protection.secret_head.least_group_rows.
DEFAULT_FEATURES = 96


@dataclass(frozen=True)
class OwnerOptions:
    """The options of `omnilytics owner run`."""

    data: Path
    label: str | None = None
    task: int | None = None
    max_stake: int | None = None
    withdraw_to: str | None = None
    seed: str | None = None
    restore_stake: bool = False
    allow_thin_sums: bool = False
    stay: bool = False
    max_tasks: int | None = None


@dataclass(frozen=True)
class ModelOptions:
    """The options of `omnilytics model run`."""

    test: Path
    label: str | None
    architecture: str
    protection: str
    features: int | None
    rounds: int
    groups: int
    group_size: int
    faulty: int
    strict: bool
    lane_bits: str
    rate: int
    batch_size: int | None
    optimiser: str | None
    clip: float | None
    depth: int
    block_seconds: int
    join_seconds: int
    open_seconds: int
    phase_seconds: int
    turn_seconds: int
    settle_price_cap: int
    seed: int
    task: int | None
    # "chain": owners post their vectors; "broker": they hand them to the model owner.
    delivery: str = "chain"

    def wishes(self) -> Wishes:
        """What concerns the design of the task. Raises ConfigurationError for options that exclude each other."""
        architecture = self.architecture
        if self.protection == "secret-head":
            check_trainer(self.protection, architecture)
            hidden = Architecture.parse(architecture).hidden
            if self.features is not None and hidden:
                raise ConfigurationError(
                    "--features and --model exclude each other under secret-head",
                    help="--features for random features, --model mlp:WIDTH,.. for a trunk of your own",
                )
            trunk = "trunk:" + ",".join(str(width) for width in hidden)
            architecture = trunk if hidden else f"random:{self.features or DEFAULT_FEATURES}"
        elif self.features is not None:
            raise ConfigurationError(
                "--features is for --protection secret-head", help="leave it out, or name that protection"
            )
        return Wishes(
            architecture,
            self.protection,
            self.group_size,
            int(self.lane_bits),
            self.batch_size,
            self.optimiser,
            self.clip,
            self.seed,
        )


def batch_entropy(seed: str | None) -> Callable[[int], bytes]:
    """Entropy of a round's batch: the operating system's, or a function of seed and round that can be replayed."""
    if seed is None:
        return lambda round_number: os.urandom(32)
    return lambda round_number: hashlib.sha256(f"{seed}/{round_number}".encode()).digest()


def owner_policy(
    settings: Settings, max_stake: int | None = None, allow_thin_sums: bool = False, max_tasks: int | None = None
) -> Policy:
    """The policy in force: [policy] of the folder's file, with the flags over it. Raises ConfigurationError."""
    policy = read_policy(settings.table("policy"))
    if allow_thin_sums:
        policy = replace(policy, allow_thin_sums=True)
    if max_tasks is not None:
        policy = replace(policy, most_tasks=max_tasks)
    return policy if max_stake is None else replace(policy, maximum_stake=max_stake)


def _node(settings: Settings, password_file: Path, role: str, payout: bytes | None = None) -> Node:
    # Mistakes are said before anything is opened, and not by a daemon that tries again for ever.
    _ = settings.market_address, settings.chain_url
    access = read_access(settings)
    if parse_broker_url(settings.broker).tls:
        access.tls_context()
    access.password()
    keys = load_keys(settings.keys_folder, read_password(password_file))
    node = Node(settings, keys, role, Surroundings(broker=partial(Broker, access=access)))
    announce_payout(node, payout or node.me)
    return node


def _payout(settings: Settings, withdraw_to: str | None) -> bytes | None:
    """Where earnings go: --withdraw-to over payout_address over None, the own account. Raises ConfigurationError."""
    if withdraw_to is None:
        return settings.payout
    try:
        return parse_address(withdraw_to)
    except ParameterError as error:
        raise ConfigurationError(f"--withdraw-to {error.message}", help=error.help) from error


def announce_payout(node: Node, payout: bytes) -> None:
    """Journals where earnings go, and says when that is another address than before: nobody may find out by chance."""
    before = node.journal.replace("payout", payout)
    if before is not None and before != payout:
        node.log(
            "payout.changed",
            f"earnings go to {checksum_address(payout)} from now on, no more to {checksum_address(before)}",
            "warning",
            peer_to=payout,
            before=checksum_address(before),
        )


def run_owner(
    settings: Settings,
    password_file: Path,
    options: OwnerOptions,
    statistic: StatisticFunction = honest_statistic,
    part_class: type[OwnerPart] = OwnerPart,
) -> None:
    """Runs a data owner until its task is over or a signal comes; one that stays, until a signal comes.

    What was joined in earlier lives is played on in any case. Raises OmniLyticsError for what only people can mend.
    """
    if options.task is not None and (options.stay or (options.max_tasks or 1) > 1):
        raise ConfigurationError(
            "--task names the only task to join, --stay and --max-tasks look for more",
            help="leave one of them out; [policy] model_owners says whose tasks are joined",
        )
    dataset = read_dataset(options.data, options.label)
    payout = _payout(settings, options.withdraw_to)
    # A testbed's hostile owner has its own statistic, and no privacy to keep.
    privacy = read_privacy(settings.table("privacy")) if statistic is honest_statistic else PrivacyOptions()
    if privacy.noise_multiplier > 0.0:
        load_library()
    if privacy.active:
        statistic = private_gradient(privacy)
    policy = owner_policy(settings, options.max_stake, options.allow_thin_sums, options.max_tasks)
    # Before any task is read: which trainers' code may run is the owner's word, not the task's.
    allow(policy.trainers)
    choices = OwnerChoices(
        dataset,
        batch_entropy(options.seed),
        policy=policy,
        privacy=privacy,
        secret_batch=options.seed is None,
        restore_stake=options.restore_stake,
        statistic=statistic,
        withdraw_to=payout,
    )
    with lock_home(settings.home):
        node = _node(settings, password_file, "owner", payout)
        stays = options.task is None and (options.stay or choices.policy.most_tasks > 1)
        known = options.task or int.from_bytes(node.journal.get("task") or b"", "big")
        report = policy_report(policy, privacy, settings.tables)
        if stays or set(node.journal.unfinished_tasks()) - {known}:
            tasks = OwnerTasks(node, choices, stays, options.task, part_class)
            control = DaemonControl(node, "owner", _offers(node, choices, tasks.finder, tasks.look_again), report)
            asyncio.run(node.run_all(tasks.play, control.run))
        else:
            part = part_class(node, options.task, choices)
            control = DaemonControl(node, "owner", _offers(node, choices, part.finder), report)
            asyncio.run(node.run(part, control.run))


def _offers(
    node: Node, choices: OwnerChoices, finder: TaskFinder, decided: Callable[[], None] = lambda: None
) -> TaskList:
    return TaskList(node.chain, node.journal, finder.judge, choices.policy.ask_first, decided)


def run_model(
    settings: Settings,
    password_file: Path,
    options: ModelOptions,
    part_class: type[ModelPart] = ModelPart,
) -> None:
    """Runs a model owner until its task is over or a signal comes."""
    choices = model_choices(options, read_dataset(options.test, options.label))
    with lock_home(settings.home):
        node = model_node(settings, password_file)
        play_model(node, part_class(node, choices, options.task))


def play_model(node: Node, part: ModelPart) -> None:
    """Plays a model owner's part to its end, and answers on the control socket meanwhile.

    What the task leaves over is collected when it is over, to the payout address of the settings.
    """
    part.withdraw_to = node.settings.payout
    asyncio.run(node.run(part, DaemonControl(node, "model", None, {}).run))


def model_node(settings: Settings, password_file: Path) -> Node:
    """The node of a model owner's process; the folder is locked already."""
    return _node(settings, password_file, "model", settings.payout)


def model_choices(options: ModelOptions, own: Dataset) -> ModelChoices:
    """A model owner's decisions, from its options and its own rows alone.

    Raises ConfigurationError, ParameterError and DataError for what cannot be.
    """
    if len(own.classes) < 2:
        raise DataError("the model owner's rows are of one class only; nothing to learn to tell apart")
    # Whoever types the trainer's name has allowed it.
    allow((trainer_name(options.architecture),))
    design = design_task(options.wishes(), own)
    terms = Terms(
        rounds=options.rounds,
        group_size=options.group_size,
        max_groups=options.groups,
        faulty_groups=options.faulty,
        lane_bits=int(options.lane_bits),
        strict_selection=options.strict,
        broker_delivery=options.delivery == "broker",
        rate=options.rate,
        gas_price_cap=options.settle_price_cap,
    )
    timing = Timing(
        join=options.join_seconds,
        reveal=options.phase_seconds,
        open=options.open_seconds,
        commit=options.phase_seconds,
        post=options.phase_seconds,
        settle=options.phase_seconds,
        turn=options.turn_seconds,
        depth=options.depth,
        block=options.block_seconds,
    )
    return ModelChoices(
        lambda chain: make_offer(chain, design.spec, terms, timing),
        design.spec,
        design.side,
        design.test,
        design_record(design.spec, design.side),
    )
