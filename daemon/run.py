"""Puts a participant together from its options and runs it: what the commands, and the testbed's adversaries, call."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.accounting import load_library
from omnilytics.daemon.broker import parse_broker_url
from omnilytics.daemon.config import Settings
from omnilytics.daemon.keystore import load_keys, read_password
from omnilytics.daemon.model import ModelChoices, ModelPart
from omnilytics.daemon.node import Node, lock_home
from omnilytics.daemon.owner import OwnerPart
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Policy, read_policy
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_offer import Terms, Timing, make_offer
from omnilytics.daemon.training.batch import DEFAULT_BATCH_SIZE
from omnilytics.daemon.training.clip import suggest_clip
from omnilytics.daemon.training.data import Dataset, read_dataset
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import default_optimiser, parse_optimiser
from omnilytics.daemon.training.private import PrivacyOptions, private_gradient, read_privacy
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.daemon.training.update import GradientFunction, honest_gradient
from omnilytics.peers.errors import ConfigurationError, DataError


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


@dataclass(frozen=True)
class ModelOptions:
    """The options of `omnilytics model run`."""

    test: Path
    label: str | None
    architecture: str
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


def batch_entropy(seed: str | None) -> Callable[[int], bytes]:
    """Entropy of a round's batch: the operating system's, or a function of seed and round that can be replayed."""
    if seed is None:
        return lambda round_number: os.urandom(32)
    return lambda round_number: hashlib.sha256(f"{seed}/{round_number}".encode()).digest()


def owner_policy(settings: Settings, max_stake: int | None = None) -> Policy:
    """The policy in force: [policy] of the folder's file, with --max-stake over it. Raises ConfigurationError."""
    policy = read_policy(settings.table("policy"))
    return policy if max_stake is None else replace(policy, maximum_stake=max_stake)


def initial_weights(model: Model, seed: int) -> NDArray[np.float64]:
    """The first weights, float64[d]."""
    return model.init(np.random.default_rng(seed))


def _node(settings: Settings, password_file: Path, role: str) -> Node:
    # Mistakes are said before anything is opened, and not by a daemon that tries again for ever.
    _ = settings.market_address, settings.chain_url, parse_broker_url(settings.broker)
    return Node(settings, load_keys(settings.keys_folder, read_password(password_file)), role)


def run_owner(
    settings: Settings,
    password_file: Path,
    options: OwnerOptions,
    gradient: GradientFunction = honest_gradient,
    part_class: type[OwnerPart] = OwnerPart,
) -> None:
    """Runs a data owner until its task is over or a signal comes."""
    dataset = read_dataset(options.data, options.label)
    withdraw_to = None
    if options.withdraw_to is not None:
        try:
            withdraw_to = bytes.fromhex(options.withdraw_to.removeprefix("0x"))
        except ValueError:
            withdraw_to = b""
        if len(withdraw_to) != 20:
            raise ConfigurationError(f"--withdraw-to '{options.withdraw_to}' is not an address")
    # A testbed's hostile owner has its own gradient, and no privacy to keep.
    privacy = read_privacy(settings.table("privacy")) if gradient is honest_gradient else PrivacyOptions()
    if privacy.noise_multiplier > 0.0:
        load_library()
    if privacy.active:
        gradient = private_gradient(privacy)
    choices = OwnerChoices(
        dataset,
        batch_entropy(options.seed),
        policy=owner_policy(settings, options.max_stake),
        privacy=privacy,
        secret_batch=options.seed is None,
        restore_stake=options.restore_stake,
        gradient=gradient,
        withdraw_to=withdraw_to,
    )
    with lock_home(settings.home):
        node = _node(settings, password_file, "owner")
        asyncio.run(node.run(part_class(node, options.task, choices)))


def choose_spec(options: ModelOptions, own: Dataset) -> tuple[TaskSpec, FeatureScaling]:
    """The task's description from the model owner's own rows alone."""
    own.check_trainable()
    scaling = FeatureScaling.fit(own.features)
    architecture = Architecture.parse(options.architecture)
    model = Model(architecture, own.column_count, len(own.classes))
    batch_size = options.batch_size or DEFAULT_BATCH_SIZE
    clip = options.clip
    if clip is None:
        scaled = Dataset(scaling.apply(own.features), own.labels, own.classes)
        weights = initial_weights(model, options.seed)
        generator = np.random.default_rng(options.seed)
        clip = suggest_clip(model, weights, scaled, batch_size, generator, lane_bits=int(options.lane_bits))
    return TaskSpec(architecture.describe(), own.column_count, own.classes, clip, batch_size), scaling


def run_model(
    settings: Settings,
    password_file: Path,
    options: ModelOptions,
    part_class: type[ModelPart] = ModelPart,
) -> None:
    """Runs a model owner until its task is over or a signal comes."""
    own = read_dataset(options.test, options.label)
    if len(own.classes) < 2:
        raise DataError("the model owner's rows are of one class only; nothing to learn to tell apart")
    spec, scaling = choose_spec(options, own)
    optimiser = (
        parse_optimiser(options.optimiser)
        if options.optimiser
        else default_optimiser(Architecture.parse(options.architecture))
    )
    terms = Terms(
        rounds=options.rounds,
        group_size=options.group_size,
        max_groups=options.groups,
        faulty_groups=options.faulty,
        lane_bits=int(options.lane_bits),
        strict_selection=options.strict,
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
    choices = ModelChoices(
        lambda chain: make_offer(chain, spec, terms, timing),
        spec,
        optimiser,
        initial_weights(spec.model, options.seed),
        scaling,
        own,
    )
    with lock_home(settings.home):
        node = _node(settings, password_file, "model")
        asyncio.run(node.run(part_class(node, choices, options.task)))
