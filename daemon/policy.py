"""An owner's consent: which tasks its daemon joins, decided from the offer, the ledger and [policy]. Pure.

The defaults let a first-time owner join any task with ordinary terms, and refuse terms that serve to look at single
rows. They are a fence against hostile parameters, not a proof: a model owner chooses the weights too, and weights
made for the purpose can make a few rows stand out in any sum (docs/security.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

from omnilytics.daemon.accounting import epsilon_of
from omnilytics.daemon.config import read_table
from omnilytics.daemon.ledger import Ledger, Mechanism, Promise, kind_of
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.training.trainers import trainer_name
from omnilytics.peers.errors import ConfigurationError, PolicyError
from omnilytics.peers.market import TaskParams
from omnilytics.peers.quantise import MINIMUM_GROUP_SIZE


def _key(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Policy:
    """The keys of [policy] with their defaults; each one's meaning is in its metadata, and in docs/policy.md.

    In lists of patterns * stands for anything, as in a shell; an empty list allows nothing. Raises
    ConfigurationError for a group below the protocol's minimum and for a model owner that is no address.
    """

    minimum_reward: int = _key(0, "wei an owner and round")
    maximum_stake: int = _key(10**18, "wei at stake in one task; `--max-stake` is stronger")
    minimum_group_size: int = _key(MINIMUM_GROUP_SIZE, "owners whose updates are only ever seen as a sum")
    minimum_groups: int = _key(3, "groups without which the task does not run, 2f + 3")
    minimum_batch_rows: int = _key(8, "own rows in the batch of a round")
    minimum_group_samples: int = _key(24, "rows behind a group's sum, mates' batches taken as the task asks for them")
    minimum_clip: float = _key(1e-3, "the task's clip of a gradient's value; below it only signs are left")
    maximum_clip: float = _key(1e3, "the same from above; beyond it rounding drowns what there is to learn")
    maximum_values: int = _key(
        1_000_000, "values of a vector, of which an owner holds some ten copies while it trains and masks"
    )
    maximum_value_share: float = _key(2.0, "values of a group's sum for each number in the rows behind it")
    allow_thin_sums: bool = _key(
        False, "whether a group's sum may hold fewer rows than the protection needs to hide single ones"
    )
    architectures: tuple[str, ...] = _key(("*",), 'patterns, as "softmax" or "mlp:*"')
    trainers: tuple[str, ...] = _key(
        ("softmax", "mlp"), "names of trainers whose code may run here; the default is what is built in"
    )
    protections: tuple[str, ...] = _key(("*",), 'patterns, as "envelope"')
    model_owners: tuple[str, ...] = _key(("*",), "addresses whose tasks are joined")
    blocked_model_owners: tuple[str, ...] = _key((), "addresses whose tasks are never joined")
    maximum_rounds_per_task: int = _key(1000, "rounds that a task may have")
    maximum_rounds_per_model_owner: int = _key(2000, "rounds posted to one model owner, over all tasks")
    maximum_similar_tasks: int = _key(2, "tasks of one model owner with the same architecture, columns and classes")
    maximum_rows_exposure: float = _key(2000.0, "rounds of one model owner that a row is in on average, over all tasks")
    maximum_unpaid_rounds: int = _key(20, "rounds in a row that our group may go unpaid before the rest is sat out")
    maximum_epsilon: float = _key(float("inf"), "epsilon over all posted rounds; any limit needs noise: [privacy]")
    most_tasks: int = _key(1, "tasks at once; with more than one the daemon stays when a task is over; `--max-tasks`")
    ask_first: bool = _key(False, "whether a task that all this allows waits for your word on it, too")

    def __post_init__(self) -> None:
        if self.minimum_group_size < MINIMUM_GROUP_SIZE:
            raise ConfigurationError(
                f"'minimum_group_size' in [policy] is {self.minimum_group_size}; no group may be below "
                f"{MINIMUM_GROUP_SIZE}"
            )
        if self.most_tasks < 1:
            raise ConfigurationError("'most_tasks' in [policy] is 0; a daemon that joins nothing is better not started")
        for name in ("model_owners", "blocked_model_owners"):
            for text in getattr(self, name):
                if text != "*" and _address(text) is None:
                    raise ConfigurationError(f"'{text}' in {name} of [policy] is not 0x and 40 hex digits")


def read_policy(table: Mapping[str, Any]) -> Policy:
    """The policy that a configuration file says. Raises ConfigurationError."""
    return read_table(Policy, "policy", table)


def meanings() -> dict[str, str]:
    """What each key of a policy limits, in order."""
    return {entry.name: entry.metadata["meaning"] for entry in fields(Policy)}


@dataclass(frozen=True)
class Offer:
    """A task as an owner weighs it, with what the owner would bring.

    rows are the owner's own; None where they are not known, and then as many as the batch is assumed.
    noise_multiplier, delta and secret_batch are those of the owner's own [privacy].
    """

    task: int
    model_owner: bytes
    spec: TaskSpec
    params: TaskParams
    rows: int | None = None
    noise_multiplier: float = 0.0
    delta: float = 1e-5
    secret_batch: bool = True

    @property
    def batch_rows(self) -> int:
        """Own rows in a round's batch: where each row is used once, an equal part of all."""
        if self.rows is None:
            return self.spec.batch_size
        if self.spec.means.fresh_rows:
            return self.rows // self.params.rounds if self.params.rounds else 0
        return min(self.spec.batch_size, self.rows)

    @property
    def group_samples(self) -> int:
        """Rows behind a group's sum: ours, and for every mate as many as the task asks for."""
        return (self.params.group_size - 1) * self.spec.batch_size + self.batch_rows

    @property
    def mechanism(self) -> Mechanism:
        """What a round of this task would be to an accountant."""
        rows = self.batch_rows if self.rows is None else self.rows
        return Mechanism(self.noise_multiplier, self.batch_rows, rows, self.secret_batch)

    def promise(self, rounds: int) -> Promise:
        """So many rounds of this task, as they weigh on others that are played at the same time."""
        return Promise(self.task, rounds, self.model_owner, kind_of(self.spec), self.mechanism)


def promises(active: Iterable[Offer], posted: Ledger, besides: int) -> list[Promise]:
    """What the tasks that are played now may still take, the task `besides` left out; all rounds are counted."""
    return [
        offer.promise(max(0, offer.params.rounds - posted.rounds_of(offer.task)))
        for offer in active
        if offer.task != besides
    ]


@dataclass(frozen=True)
class Objection:
    """Why a policy does not allow something: the key, and one line that ends with it."""

    key: str
    reason: str

    def error(self) -> PolicyError:
        """The same as an error."""
        return PolicyError(
            self.reason, help=f"change {self.key} under [policy] in config.toml, or leave the task alone"
        )


def consent(policy: Policy, offer: Offer, ledger: Ledger) -> None:
    """Raises PolicyError with the first reason not to join; ConfigurationError where epsilon cannot be computed."""
    for objection in objections(policy, offer, ledger):
        raise objection.error()


def objections(policy: Policy, offer: Offer, ledger: Ledger) -> Iterator[Objection]:
    """All reasons not to join, in the order of their weight: money, who asks, what shows, how often."""
    for key, complaint in _complaints(policy, offer, ledger):
        yield Objection(key, f"task {offer.task} {complaint} ({key})")


def _complaints(policy: Policy, offer: Offer, ledger: Ledger) -> Iterator[tuple[str, str]]:
    params = offer.params
    if params.stake > policy.maximum_stake:
        yield (
            "maximum_stake",
            f"wants a stake of {params.stake} wei, the policy allows {policy.maximum_stake}",
        )
    if params.rate < policy.minimum_reward:
        yield (
            "minimum_reward",
            f"pays {params.rate} wei an owner and round, the policy wants {policy.minimum_reward}",
        )
    yield from _whose(policy, offer)
    yield from _what_shows(policy, offer, ledger)
    yield from _how_often(policy, offer, ledger)
    yield from _epsilon(policy, offer, ledger)


def _whose(policy: Policy, offer: Offer) -> Iterator[tuple[str, str]]:
    name = "0x" + offer.model_owner.hex()
    if _among(offer.model_owner, policy.blocked_model_owners):
        yield "blocked_model_owners", f"is offered by {name}, which the policy blocks"
    if not _among(offer.model_owner, policy.model_owners):
        yield "model_owners", f"is offered by {name}, which is not on the policy's list"
    for key, said, patterns in (
        ("architectures", offer.spec.architecture, policy.architectures),
        ("protections", offer.spec.protection, policy.protections),
    ):
        if not any(fnmatchcase(said, pattern) for pattern in patterns):
            what = "trains" if key == "architectures" else "protects the model by"
            yield key, f"{what} {said}, the policy allows {', '.join(patterns) or 'nothing'}"
    if offer.spec.means.any_trainer:
        trainer = trainer_name(offer.spec.architecture)
        if not any(fnmatchcase(trainer, pattern) for pattern in policy.trainers):
            yield "trainers", f"runs the trainer {trainer}, the policy allows {', '.join(policy.trainers) or 'none'}"


def _what_shows(policy: Policy, offer: Offer, ledger: Ledger) -> Iterator[tuple[str, str]]:
    spec, params = offer.spec, offer.params
    least = policy.minimum_group_size
    if params.group_size < least:
        yield "minimum_group_size", f"has groups of {params.group_size} owners, the policy wants {least}"
    if params.minimum_groups < policy.minimum_groups:
        yield (
            "minimum_groups",
            f"would run with {params.minimum_groups} groups, the policy wants {policy.minimum_groups}",
        )
    if offer.batch_rows < policy.minimum_batch_rows:
        yield (
            "minimum_batch_rows",
            f"would take batches of {offer.batch_rows} of our rows, the policy wants {policy.minimum_batch_rows}",
        )
    if offer.group_samples < policy.minimum_group_samples:
        yield (
            "minimum_group_samples",
            f"has {offer.group_samples} rows behind a group's sum, the policy wants {policy.minimum_group_samples}",
        )
    if spec.clip < policy.minimum_clip:
        yield "minimum_clip", f"clips values at {spec.clip:g}, the policy wants {policy.minimum_clip:g}"
    if spec.clip > policy.maximum_clip:
        yield "maximum_clip", f"clips values at {spec.clip:g}, the policy allows {policy.maximum_clip:g}"
    yield from _thin_sums(policy, offer, ledger)
    count = max(spec.side.value_count, params.value_count)
    if count > policy.maximum_values:
        yield "maximum_values", f"has a model of {count} values, the policy allows {policy.maximum_values}"
    # Fractions: a hostile description can hold numbers that no float does.
    share = Fraction(count, offer.group_samples * spec.feature_count)
    if share > policy.maximum_value_share and not policy.allow_thin_sums:
        yield (
            "maximum_value_share",
            f"shows {_number(share)} values for each number in a group's rows, the policy allows "
            f"{policy.maximum_value_share:g}",
        )


def _thin_sums(policy: Policy, offer: Offer, ledger: Ledger) -> Iterator[tuple[str, str]]:
    spec, needed, again = offer.spec, offer.spec.least_group_rows, ""
    if spec.means.fresh_rows:
        # Another task over the same rows says as much of them again, though it uses each only once itself.
        earlier = ledger.similar_tasks(offer.model_owner, kind_of(spec), besides=offer.task)
        needed *= 1 + earlier
        again = f", after {earlier} tasks like it" if earlier else ""
    if offer.group_samples < needed and not policy.allow_thin_sums:
        yield (
            "allow_thin_sums",
            f"has {offer.group_samples} rows behind a group's sum; {spec.protection} with {spec.architecture} gives "
            f"single rows away below {needed}{again}",
        )


def _how_often(policy: Policy, offer: Offer, ledger: Ledger) -> Iterator[tuple[str, str]]:
    rounds, task, model_owner = offer.params.rounds, offer.task, offer.model_owner
    if rounds > policy.maximum_rounds_per_task:
        yield "maximum_rounds_per_task", f"has {rounds} rounds, the policy allows {policy.maximum_rounds_per_task}"
    before = ledger.rounds(model_owner, besides=task)
    if before + rounds > policy.maximum_rounds_per_model_owner:
        yield (
            "maximum_rounds_per_model_owner",
            f"has {rounds} rounds and its model owner got {before} from us before, the policy allows "
            f"{policy.maximum_rounds_per_model_owner} in all",
        )
    similar = ledger.similar_tasks(model_owner, kind_of(offer.spec), besides=task)
    if similar + 1 > policy.maximum_similar_tasks:
        yield (
            "maximum_similar_tasks",
            f"is like {similar} earlier ones of its model owner, the policy allows {policy.maximum_similar_tasks}",
        )
    mechanism = offer.mechanism
    exposed = ledger.row_exposure(model_owner, besides=task) + float(
        Fraction(rounds * mechanism.batch_rows, mechanism.rows)
    )
    if exposed > policy.maximum_rows_exposure:
        yield (
            "maximum_rows_exposure",
            f"would bring a row into {exposed:.1f} rounds of its model owner on average, the policy allows "
            f"{policy.maximum_rows_exposure:g}",
        )


def _epsilon(policy: Policy, offer: Offer, ledger: Ledger) -> Iterator[tuple[str, str]]:
    if policy.maximum_epsilon == float("inf"):
        return
    left = max(1, offer.params.rounds - ledger.rounds_of(offer.task))
    told = _epsilon_objection(policy, offer, ledger, left)
    if told is not None:
        yield "maximum_epsilon", told


def _epsilon_objection(policy: Policy, offer: Offer, ledger: Ledger, rounds: int) -> str | None:
    limit = f"the policy allows {policy.maximum_epsilon:g}"
    if offer.noise_multiplier <= 0.0:
        return f"would be played without noise, whose epsilon has no bound, and {limit}"
    spent = ledger.mechanisms
    if any(each.noise_multiplier <= 0.0 for each in spent):
        return f"comes after rounds posted without noise, whose epsilon has no bound, and {limit}"
    spent[offer.mechanism] += rounds
    epsilon = epsilon_of(spent, offer.delta)
    if epsilon <= policy.maximum_epsilon:
        return None
    return f"would bring epsilon to {epsilon:.2f} with {rounds} more round{'s'[: rounds > 1]}, {limit}"


def allow_round(policy: Policy, offer: Offer, ledger: Ledger, unpaid_in_a_row: int = 0) -> None:
    """Raises PolicyError when one more round of a joined task is too much: it is sat out, and so are the next.

    unpaid_in_a_row counts the rounds that our group posted for since it was last paid.
    """
    if unpaid_in_a_row > policy.maximum_unpaid_rounds:
        key = "maximum_unpaid_rounds"
        text = f"left our group unpaid {unpaid_in_a_row} times in a row"
        limit = f"the policy allows {policy.maximum_unpaid_rounds}"
        raise Objection(key, f"task {offer.task} {text}, {limit} ({key})").error()
    if policy.maximum_epsilon < float("inf"):
        told = _epsilon_objection(policy, offer, ledger, 1)
        if told is not None:
            raise Objection("maximum_epsilon", f"task {offer.task} {told} (maximum_epsilon)").error()


def _among(account: bytes, addresses: tuple[str, ...]) -> bool:
    return any(text == "*" or _address(text) == account for text in addresses)


def _address(text: str) -> bytes | None:
    try:
        account = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return None
    return account if text.startswith("0x") and len(text) == 42 and len(account) == 20 else None


def _number(share: Fraction) -> str:
    return f"{float(share):.1f}" if share < 10**6 else "millions of"
