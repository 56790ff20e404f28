"""Posting a task: what it costs, said before it is paid; paid once, whatever happens in between; then played.

The order (options, and which rows they were for) is in the journal before money moves. A second post of the same order
finishes the first; another order is refused while the first may be on its way. What was created is found again by the
transaction of the journal, and by the task's description on the chain (model.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from omnilytics.daemon.amounts import format_amount
from omnilytics.daemon.chain import Chain
from omnilytics.daemon.config import Settings
from omnilytics.daemon.home_lock import lock_home
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import load_keys, read_password
from omnilytics.daemon.model import ModelChoices, ModelPart, RoundResult, design_name
from omnilytics.daemon.node import Node
from omnilytics.daemon.run import ModelOptions, model_choices, model_node, play_model
from omnilytics.daemon.task_offer import TaskOffer
from omnilytics.daemon.training.data import read_dataset
from omnilytics.daemon.training.trainers import allow, trainer_name
from omnilytics.peers.errors import ConfigurationError, DataError, FundsError, JournalError, ParameterError

_ORDER = "order"
_CREATE = "createTask"
# What may differ between two posts of one order: where the rows lie, not which they are.
_PLACES = ("test", "label", "task")

#: What the model is hidden from, in words for its owner.
HIDDEN_FROM = {
    "envelope": "owners that join see the model; nobody else does",
    "perturbed": "owners that join see disguised weights, from which one that tries recovers nearly the whole model",
    "secret-head": "nobody but you ever sees the model",
}


def share_of(reward: int, rounds: int, owners: int) -> int:
    """Wei an owner and round, of a reward for all of them. Raises ParameterError where nothing is left for each."""
    rate = reward // (rounds * owners) if rounds > 0 and owners > 0 else 0
    if rate < 1:
        raise ParameterError(
            f"a reward of {format_amount(reward)} leaves nothing for each of {owners} owners in {rounds} rounds",
            help="raise --reward",
        )
    return rate


def with_defaults(said: dict[str, Any]) -> dict[str, Any]:
    """The options of a post, those that are None chosen: in order protection, model, rounds, faulty groups, lanes.

    Where no model is named it stays secret: secret-head, whose first round of all rows is as good as many. A model
    that is named is trained by its gradients, under the envelope.
    """
    chosen = dict(said)
    if chosen["protection"] is None:
        named = chosen["architecture"] is not None and chosen["features"] is None
        chosen["protection"] = "envelope" if named else "secret-head"
    secret = chosen["protection"] == "secret-head"
    defaults = {
        "architecture": "softmax",
        "rounds": 1 if secret else 20,
        "faulty": 1 if chosen["groups"] >= 5 else 0,
        "lane_bits": "32" if chosen["protection"] == "perturbed" else "16",
    }
    return chosen | {name: value for name, value in defaults.items() if chosen[name] is None}


@dataclass(frozen=True)
class TaskOrder:
    """What was ordered: options, and the digest (32 bytes) of the rows that they were for."""

    options: ModelOptions
    rows: bytes

    def encode(self) -> bytes:
        """JSON for the journal."""
        said = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self.options).items()}
        return json.dumps({"v": 1, "options": said, "rows": self.rows.hex()}, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> TaskOrder:
        """Reads what `encode` wrote. Raises JournalError for anything else."""
        try:
            said = json.loads(data)
            if said["v"] != 1:
                raise ValueError("of another version")
            options = dict(said["options"])
            options["test"] = Path(options["test"])
            # What a version did not know yet has its default.
            known = {entry.name for entry in fields(ModelOptions)} & set(options)
            return cls(ModelOptions(**{name: options[name] for name in known}), bytes.fromhex(said["rows"]))
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"the journal's record of what was posted cannot be read: {error}",
                help="upgrade the program, or restore the journal from a backup",
            ) from error

    def same_task(self, other: TaskOrder) -> bool:
        """Whether both order the same task."""
        mine, theirs = (
            {name: value for name, value in asdict(order.options).items() if name not in _PLACES}
            for order in (self, other)
        )
        return mine == theirs and self.rows == other.rows


@dataclass(frozen=True)
class Quote:
    """What a task would cost: an offer that the contract takes, and who would pay it from what. Wei."""

    offer: TaskOffer
    account: str
    balance: int
    reward: int
    pot: int

    @property
    def escrow(self) -> int:
        """What is paid at once."""
        return self.reward + self.pot

    def lines(self) -> list[str]:
        """For people, before they say yes."""
        params, spec = self.offer.params, self.offer.spec
        tolerated = f"{params.faulty_groups} poisoned group{'s' * (params.faulty_groups != 1)} tolerated"
        batch = "at least " if spec.means.fresh_rows else ""
        settlement = (
            f"at most {format_amount(self.pot)} for the gas of owners that settle; the rest comes back"
            if self.pot
            else "nothing: you select, and pay the gas of it"
        )
        return [
            f"task        {spec.architecture} under {spec.protection}: {HIDDEN_FROM[spec.protection]}",
            f"data        {spec.feature_count} columns, {len(spec.classes)} classes; {batch}{spec.batch_size} rows of "
            "an owner in each round",
            f"rounds      {params.rounds}, up to {params.max_groups} groups of {params.group_size} owners, {tolerated}",
            f"pay         {format_amount(params.rate)} an owner and round, {format_amount(self.reward)} in all; what "
            "no round pays comes back",
            f"settlement  {settlement}",
            f"stake       {format_amount(params.stake)} of each owner",
            f"escrow      {format_amount(self.escrow)} now, from {self.account}, which has "
            f"{format_amount(self.balance)}; gas comes on top",
        ]


async def quote(chain: Chain, chain_id: int | None, choices: ModelChoices, account: bytes) -> Quote:
    """Asks the contract. Raises ParameterError for what it would not take, FundsError where the account has less."""
    try:
        await chain.connect(chain_id)
        offer = await choices.make_offer(chain)
        reward, pot = await chain.escrow_required(offer.params)
        balance = await chain.balance(account)
    finally:
        await chain.close()
    shown = "0x" + account.hex()
    if balance < reward + pot:
        raise FundsError(
            f"account {shown} has {format_amount(balance)}, the task's escrow is {format_amount(reward + pot)}",
            help="send the missing amount and some for gas, or lower --reward",
        )
    return Quote(offer, shown, balance, reward, pot)


@dataclass(frozen=True)
class Callbacks:
    """What a command does on the way: ask before money moves, tell the task's number, tell each round's end."""

    confirm: Callable[[Quote], bool]
    posted: Callable[[int, bool], None]
    round_done: Callable[[int, RoundResult], None] = lambda number, result: None


class _OrderedPart(ModelPart):
    """The model owner's part, which tells how it goes; it leaves once the task is there, unless it is to stay."""

    def __init__(self, node: Node, choices: ModelChoices, callbacks: Callbacks, stay: bool, again: bool) -> None:
        super().__init__(node, choices)
        self._callbacks, self._stay, self._again = callbacks, stay, again

    @property
    def finished(self) -> bool:
        """See ModelPart."""
        return super().finished or not self._stay

    async def prepare(self) -> None:
        """See ModelPart."""
        await super().prepare()
        self._callbacks.posted(self._task, self._again)

    def _take(self, round_number: int, result: RoundResult, slashed: list[str], ending: bytes) -> None:
        super()._take(round_number, result, slashed, ending)
        self._callbacks.round_done(round_number, result)


def post_task(settings: Settings, password_file: Path, options: ModelOptions, callbacks: Callbacks, stay: bool) -> None:
    """Posts a task, and plays it to its end where it is to stay.

    Raises ConfigurationError where this folder has posted, or is posting, another one; otherwise as `quote` and
    `Node.run` do. Nothing is paid where `confirm` says no, nor twice.
    """
    own = read_dataset(options.test, options.label)
    choices = model_choices(options, own)
    order = TaskOrder(replace(options, test=options.test.absolute(), task=None), own.digest)
    with lock_home(settings.home):
        begun = _standing(settings, order)
        if not begun:
            account = load_keys(settings.keys_folder, read_password(password_file)).address
            chain = Chain(settings.chain_url, settings.market_address)
            if not callbacks.confirm(asyncio.run(quote(chain, settings.chain_id, choices, account))):
                return
        node = model_node(settings, password_file)
        node.journal.replace(_ORDER, order.encode())
        play_model(node, _OrderedPart(node, choices, callbacks, stay, begun))


def resume_task(
    settings: Settings, password_file: Path, test: Path | None, label: str | None, callbacks: Callbacks
) -> None:
    """Plays on with the task that was posted from this folder, by its own options.

    `test` is where its rows are now, None for where they were. Raises ConfigurationError where nothing was posted,
    DataError for other rows.
    """
    with lock_home(settings.home):
        with contextlib.closing(_journal(settings)) as journal:
            order, task = _ordered(journal), journal.get("task")
            record = None if task is None else journal.get(design_name(int.from_bytes(task, "big")))
        if order is None:
            raise ConfigurationError(
                f"no task was posted from {settings.home}", help="post one: omnilytics model post --help"
            )
        options = order.options if test is None else replace(order.options, test=test, label=label)
        own = read_dataset(options.test, options.label)
        if own.digest != order.rows:
            raise DataError(
                f"{options.test}: not the rows that the task was posted with",
                help="bring those back, or say where they are: --test FILE",
            )
        allow((trainer_name(options.architecture),))
        choices = model_choices(options, own)
        if record is not None and record != choices.record:
            raise ConfigurationError(
                "this program would design another task from the same rows and options than the one that was posted",
                help="run it with the version that posted the task",
            )
        node = model_node(settings, password_file)
        play_model(node, _OrderedPart(node, choices, callbacks, stay=True, again=True))


def has_posted(settings: Settings) -> bool:
    """Whether a task was posted from this folder, or is being posted."""
    if not settings.journal_path.exists():
        return False
    with contextlib.closing(_journal(settings)) as journal:
        return _ordered(journal) is not None


def rounds_ordered(journal: Journal) -> int | None:
    """Rounds of the task that was posted from this journal's folder, where one was."""
    order = _ordered(journal)
    return None if order is None else order.options.rounds


def _journal(settings: Settings) -> Journal:
    return Journal(settings.journal_path)


def _ordered(journal: Journal) -> TaskOrder | None:
    stored = journal.get(_ORDER)
    return None if stored is None else TaskOrder.decode(stored)


def _standing(settings: Settings, order: TaskOrder) -> bool:
    """Whether this very order was begun before, and money may have moved. Raises ConfigurationError for another one."""
    with contextlib.closing(_journal(settings)) as journal:
        before, task = _ordered(journal), journal.get("task")
        sent = any(duty == _CREATE for _, duty, _, _ in journal.transactions_between(0, 2**62))
    if before is not None and before.same_task(order):
        return task is not None or sent
    go_on = f"go on with it: omnilytics model run --home {settings.home}"
    if task is not None:
        raise ConfigurationError(
            f"this folder has posted task {int.from_bytes(task, 'big')}, with other options; nothing was paid again",
            help=f"{go_on}; for another task use another folder: omnilytics init --home FOLDER",
        )
    if sent:
        raise ConfigurationError(
            "this folder is posting another task, and its escrow may be on its way; nothing was paid again",
            help=go_on,
        )
    return False
