"""Which task an owner's daemon joins: what stands open in the market, and what is said of each.

Three have a say. Data and program: a task that cannot be computed on is refused. The policy: terms that it does not
allow are refused. The owner in person (Journal.decide): a task that it refused is never joined, and where [policy] says
ask_first its yes is waited for. A no is a no, whoever else says yes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from omnilytics.daemon.ledger import Ledger
from omnilytics.daemon.node import Node
from omnilytics.daemon.owner_play import OwnerChoices
from omnilytics.daemon.policy import Offer, consent, promises
from omnilytics.daemon.spec import TaskSpec, decode_spec
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.trainers import BUILT_IN, trainer_name
from omnilytics.peers.errors import DataError, ModelMismatchError, ParameterError, PolicyError
from omnilytics.peers.market import TaskParams, TaskState, TaskStatus

# What a task can have against it; anything else that goes wrong is no fault of the task's.
_REFUSALS = (DataError, ParameterError, ModelMismatchError, PolicyError)


class Verdict(StrEnum):
    """What data, policy and the owner's own word make of an open task."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    WAITING = "waiting for your word"


@dataclass(frozen=True)
class Candidate:
    """An open task, and whether it would be joined; `reason` is one line.

    model_owner is an address of 20 bytes. spec is None where the task's description cannot be used. Every text in spec
    is a stranger's: whoever prints it takes the unprintable out.
    """

    task: int
    model_owner: bytes
    spec: TaskSpec | None
    params: TaskParams
    verdict: Verdict
    reason: str
    # The error code of a refusal.
    code: str | None = None


@dataclass(frozen=True)
class AcceptedTask:
    """A task that fits: the offer, and our rows with the task's classes."""

    offer: Offer
    dataset: Dataset


@dataclass(frozen=True)
class _Described:
    """What the chain says of a task; `wrong` is why its description cannot be used, where spec is None."""

    task: int
    model_owner: bytes
    params: TaskParams
    spec: TaskSpec | None
    wrong: ParameterError | None


# The market is looked through with every new block, and this often in any case.
LOOK_SECONDS = 2.0


class TaskFinder:
    """Looks through the market for a task to join, newest first."""

    def __init__(self, node: Node, choices: OwnerChoices) -> None:
        self._node = node
        self._choices = choices
        # The verdict on a task, and under which circumstances it stands.
        self._judged: dict[int, tuple[tuple[object, ...], Candidate]] = {}
        # Tasks that were seen closed: they never open again.
        self._closed: set[int] = set()
        self._told: dict[int, str] = {}
        self._candidates: tuple[Candidate, ...] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The open tasks that the last look came by, newest first; it ends with the one that was picked, if any."""
        return self._candidates

    async def find(self) -> AcceptedTask:
        """A task to join, waiting for one. Raises ChainError when the chain cannot be read."""
        node, seen, looked = self._node, b"", -LOOK_SECONDS
        while True:
            # A block that was looked through already offers nothing new; but its owner may have said a word since.
            head, now = await node.chain.head(), node.clock()
            node.heads.observe(head)
            if head.hash != seen or now - looked >= LOOK_SECONDS:
                seen, looked = head.hash, now
                found = await self.look()
                if found is not None:
                    return found
            await asyncio.sleep(node.heads.pause(node.settings.poll_seconds))

    async def accept(self, task: int) -> AcceptedTask:
        """The task that was named; naming it is the owner's word for it, unless it has been refused before.

        Raises DataError, ParameterError, ModelMismatchError or PolicyError when it does not fit, and ChainError.
        """
        described = await self._read(task)
        if self._node.journal.decision(task) is False and not self._node.journal.joins(task):
            raise _refused_before(task)
        return self._weigh(described)

    async def look(self, pick: bool = True) -> AcceptedTask | None:
        """One pass through the market: a task to join, or None. Raises ChainError when the chain cannot be read.

        Tasks that are joined already are passed over. Without `pick` all open tasks are listed, and none is picked.
        """
        listed: list[Candidate] = []
        found = None
        for task in range(await self._node.chain.task_count(), 0, -1):
            # What was joined once is played now, or over.
            if task in self._closed or task in self._choices.active or self._node.journal.joins(task):
                continue
            state = await self._node.chain.state(task)
            if state.status is not TaskStatus.JOINING:
                # A task never opens again; one that a fork does not know yet may come back.
                if state.status is not TaskStatus.NONE:
                    self._closed.add(task)
                    self._judged.pop(task, None)
                continue
            found, candidate = await self._consider(task, state, pick)
            listed.append(candidate)
            if found is not None:
                break
        self._candidates = tuple(listed)
        return found

    async def judge(self, task: int, state: TaskState) -> Candidate:
        """What is said of a task, open or not, for who decides in person: nothing is picked. Raises ChainError."""
        known, circumstances = self._judged.get(task), self._circumstances(task, state)
        if known is None or known[0] != circumstances:
            self._judged[task] = circumstances, self._judge(await self._read(task))[1]
        return self._judged[task][1]

    def _circumstances(self, task: int, state: TaskState) -> tuple[object, ...]:
        # Every other task that is played takes of what the policy allows in all.
        return (state.model_owner, frozenset(self._choices.active), self._node.journal.decision(task))

    async def _consider(self, task: int, state: TaskState, pick: bool) -> tuple[AcceptedTask | None, Candidate]:
        """What is said of an open task; the task, where it is to be joined."""
        known = self._judged.get(task)
        circumstances = self._circumstances(task, state)
        accepted = None
        # What was read long ago may be of a fork: what is joined is what the chain says today.
        if known is None or known[0] != circumstances or (pick and known[1].verdict is Verdict.ACCEPTED):
            accepted, candidate = self._judge(await self._read(task))
            self._judged[task] = circumstances, candidate
        candidate = self._judged[task][1]
        self._tell(candidate)
        return accepted if pick else None, candidate

    async def _read(self, task: int) -> _Described:
        chain = self._node.chain
        head = await chain.head()
        spec_bytes, model_owner = await chain.created_task(task, head.number)
        spec, wrong = None, None
        try:
            spec = decode_spec(spec_bytes)
        except ParameterError as error:
            wrong = error
        return _Described(task, model_owner, await chain.params(task), spec, wrong)

    def _judge(self, described: _Described) -> tuple[AcceptedTask | None, Candidate]:
        task, word = described.task, self._node.journal.decision(described.task)
        said = Candidate(task, described.model_owner, described.spec, described.params, Verdict.REFUSED, "")
        try:
            if word is False:
                raise _refused_before(task)
            accepted = self._weigh(described)
        except _REFUSALS as error:
            return None, replace(said, reason=str(error), code=error.code)
        spec = accepted.offer.spec
        if self._choices.policy.ask_first and word is None:
            reason = f"data and policy allow {spec.architecture} over {described.params.rounds} rounds (ask_first)"
            return None, replace(said, verdict=Verdict.WAITING, reason=reason)
        return accepted, replace(said, verdict=Verdict.ACCEPTED, reason=spec.means.promise)

    def _tell(self, candidate: Candidate) -> None:
        """Logs a refusal, or that a word is waited for, once."""
        if candidate.verdict is Verdict.ACCEPTED or self._told.get(candidate.task) == candidate.reason:
            return
        self._told[candidate.task] = candidate.reason
        refused = candidate.verdict is Verdict.REFUSED
        said: dict[str, Any] = {"code": candidate.code, "task": candidate.task}
        self._node.log("task.refused" if refused else "task.waiting", candidate.reason, **said)

    def _weigh(self, described: _Described) -> AcceptedTask:
        """Checks our data and policy against a task. Raises the errors that `accept` names."""
        if described.spec is None:
            assert described.wrong is not None
            raise described.wrong
        task, spec, params = described.task, described.spec, described.params
        dataset, choices, journal = self._choices.dataset, self._choices, self._node.journal
        noise, delta = choices.privacy.noise_multiplier, choices.privacy.delta
        rows, secret = dataset.row_count, choices.secret_batch
        offer = Offer(task, described.model_owner, spec, params, rows, noise, delta, secret)
        _check_rows(offer)
        # Who has joined has agreed, and has a stake to lose: a policy made stricter since then is for other tasks.
        if not journal.joins(task):
            posted = Ledger.of(journal.exposures())
            promised = promises(choices.active.values(), posted, besides=task)
            consent(choices.policy, offer, replace(posted, promises=tuple(promised)))
        if choices.privacy.active and spec.protection != "envelope":
            raise ParameterError(
                f"[privacy] is set, and there is no local noise for the protection {spec.protection}",
                help="join envelope tasks, or take [privacy] out of config.toml",
            )
        if choices.privacy.active and trainer_name(spec.architecture) not in BUILT_IN:
            raise ParameterError(
                f"[privacy] is set, and rows' gradients are clipped only where the trainer is built in, not in "
                f"{spec.architecture}",
                help="join tasks of softmax or mlp, or take [privacy] out of config.toml",
            )
        _check_terms(offer)
        if dataset.column_count != spec.feature_count:
            raise DataError(
                f"dataset has {dataset.column_count} feature columns, the task needs {spec.feature_count}",
                help="check --data, and that columns are in the order the task describes",
            )
        return AcceptedTask(offer, dataset.with_classes(spec.classes))


def _refused_before(task: int) -> PolicyError:
    return PolicyError(f"you have refused task {task}", help="accept it first, or leave it alone")


def _check_rows(offer: Offer) -> None:
    """Raises DataError where some row would have to be used twice."""
    spec, rounds = offer.spec, offer.params.rounds
    if spec.means.fresh_rows and offer.rows is not None and offer.rows < spec.batch_size * rounds:
        raise DataError(
            f"dataset has {offer.rows} rows, the task needs {spec.batch_size * rounds}: {rounds} rounds of "
            f"at least {spec.batch_size}, each row used once",
            help="bring more rows, or join another task",
        )


def _check_terms(offer: Offer) -> None:
    """Raises ModelMismatchError where the chain's terms are not those that the description needs."""
    spec, params = offer.spec, offer.params
    if spec.side.value_count != params.value_count:
        raise ModelMismatchError(
            f"the task's model has {spec.side.value_count} values, its vectors {params.value_count}"
        )
    if spec.means.model_selection != params.model_selection:
        who = "model owner" if params.model_selection else "contract"
        raise ModelMismatchError(f"the {who} selects, which protection {spec.protection} does not allow")
