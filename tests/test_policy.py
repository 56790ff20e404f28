"""The owner's policy: what is joined without one, what never is, and why not in one line."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from omnilytics.daemon.commands.policy import _toml
from omnilytics.daemon.ledger import Exposure, Ledger, Mechanism, kind_of
from omnilytics.daemon.policy import Offer, Policy, allow_round, consent, meanings, objections, read_policy
from omnilytics.daemon.spec import TaskSpec
from omnilytics.peers.errors import ConfigurationError, PolicyError
from scripts.toolchain import ROOT
from tests.local_market import PARAMS

OWNER, OTHER = bytes([7]) * 20, bytes([8]) * 20
SPEC = TaskSpec("softmax", 64, tuple("0123456789"), 8.0, 64)
TERMS = replace(PARAMS, value_count=650, rounds=20)
OFFER = Offer(7, OWNER, SPEC, TERMS, 80)
NOTHING = Ledger()


def offer(**changes: Any) -> Offer:
    """The ordinary offer with other terms: fields of the offer, of its description or of its parameters."""
    spec = {name: changes.pop(name) for name in list(changes) if name in TaskSpec.__dataclass_fields__}
    params = {name: changes.pop(name) for name in list(changes) if name in type(TERMS).__dataclass_fields__}
    return replace(OFFER, spec=replace(SPEC, **spec), params=replace(TERMS, **params), **changes)


def given(
    task: int = 1, rounds: int = 1, whom: bytes = OWNER, noise: float = 0.0, spec: TaskSpec = SPEC
) -> list[Exposure]:
    mechanism = Mechanism(noise, 64, 80)
    return [
        Exposure(task, number, bytes(20), whom, spec.architecture, kind_of(spec), 3, "envelope", mechanism)
        for number in range(1, rounds + 1)
    ]


def refused(policy: Policy, offered: Offer, ledger: Ledger = NOTHING) -> str:
    with pytest.raises(PolicyError) as caught:
        consent(policy, offered, ledger)
    assert "\n" not in caught.value.message
    (key,) = re.findall(r"\((\w+)\)$", caught.value.message)
    assert key in meanings()
    assert f"change {key} under [policy] in config.toml" in caught.value.help
    assert caught.value.exit_code == 2
    return caught.value.message


# ------------------------------------------------------------------------- defaults


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rows": None},
        {"rows": 9},
        {"architecture": "mlp:64,32", "value_count": 6570},
        {"architecture": "mlp:64,32", "value_count": 6570, "group_size": 5, "rows": 40},
        {"clip": 0.05},
        {"clip": 60},
        {"stake": 10**18},
        # A table of thirteen columns and three classes.
        {"feature_count": 13, "classes": ("a", "b", "c"), "value_count": 42, "rows": 9},
    ],
    ids=str,
)
def test_ordinary_tasks_are_joined_without_a_policy(changes: dict[str, Any]) -> None:
    assert list(objections(read_policy({}), offer(**changes), NOTHING)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "task 7 would take batches of 1 of our rows, the policy wants 8 (minimum_batch_rows)"),
        ({"rows": 5}, "task 7 would take batches of 5 of our rows, the policy wants 8 (minimum_batch_rows)"),
        ({"group_size": 2}, "task 7 has groups of 2 owners, the policy wants 3 (minimum_group_size)"),
        ({"clip": 1e-9}, "task 7 clips values at 1e-09, the policy wants 0.001 (minimum_clip)"),
        ({"clip": 10**200}, "task 7 clips values at 1e+200, the policy allows 1000 (maximum_clip)"),
        (
            {"stake": 10**18 + 1},
            "task 7 wants a stake of 1000000000000000001 wei, the policy allows 1000000000000000000 (maximum_stake)",
        ),
        (
            {"architecture": "mlp:65536,65536", "value_count": 650},
            "task 7 has a model of 4299948042 values, the policy allows 1000000 (maximum_values)",
        ),
        ({"value_count": 10**7}, "task 7 has a model of 10000000 values, the policy allows 1000000 (maximum_values)"),
        (
            {"architecture": "mlp:4096", "value_count": 307210, "batch_size": 8},
            "task 7 shows 200.0 values for each number in a group's rows, the policy allows 2 (maximum_value_share)",
        ),
        ({"rounds": 2**32 - 1}, "task 7 has 4294967295 rounds, the policy allows 1000 (maximum_rounds_per_task)"),
    ],
    ids=str,
)
def test_hostile_parameters_are_refused_without_a_policy(changes: dict[str, Any], message: str) -> None:
    assert refused(Policy(), offer(**changes)) == message


def test_numbers_that_no_float_holds_are_refused_in_words_too() -> None:
    endless = offer(batch_size=10**400, feature_count=10**400, value_count=1, rows=None)
    assert [found.key for found in objections(Policy(), endless, NOTHING)] == ["maximum_values"]
    wide = offer(architecture="mlp:65536", feature_count=1, batch_size=8, rows=8)
    assert "maximum_value_share" in [found.key for found in objections(Policy(maximum_values=10**9), wide, NOTHING)]


# ------------------------------------------------------------------------------ keys

ONE_KEY_EACH: dict[str, tuple[Any, Offer, Ledger, str]] = {
    "minimum_reward": (1000, offer(rate=5), NOTHING, "pays 5 wei an owner and round, the policy wants 1000"),
    "maximum_stake": (3, OFFER, NOTHING, "wants a stake of 4000000000000000 wei, the policy allows 3"),
    "minimum_group_size": (4, OFFER, NOTHING, "has groups of 3 owners, the policy wants 4"),
    "minimum_groups": (5, OFFER, NOTHING, "would run with 3 groups, the policy wants 5"),
    "minimum_batch_rows": (65, OFFER, NOTHING, "would take batches of 64 of our rows, the policy wants 65"),
    "minimum_group_samples": (193, OFFER, NOTHING, "has 192 rows behind a group's sum, the policy wants 193"),
    "minimum_clip": (9.0, OFFER, NOTHING, "clips values at 8, the policy wants 9"),
    "maximum_clip": (7.5, OFFER, NOTHING, "clips values at 8, the policy allows 7.5"),
    "maximum_values": (649, OFFER, NOTHING, "has a model of 650 values, the policy allows 649"),
    "maximum_value_share": (0.05, OFFER, NOTHING, "shows 0.1 values for each number in a group's rows, the policy "),
    "architectures": (("mlp:*", "cnn"), OFFER, NOTHING, "trains softmax, the policy allows mlp:*, cnn"),
    "trainers": (("mlp", "torch"), OFFER, NOTHING, "runs the trainer softmax, the policy allows mlp, torch"),
    "protections": ((), OFFER, NOTHING, "protects the model by envelope, the policy allows nothing"),
    "model_owners": (("0x" + OTHER.hex(),), OFFER, NOTHING, f"is offered by 0x{OWNER.hex()}, which is not on the"),
    "blocked_model_owners": (("0x" + OWNER.hex().upper(),), OFFER, NOTHING, "is offered by 0x07070707070707070707"),
    "maximum_rounds_per_task": (19, OFFER, NOTHING, "has 20 rounds, the policy allows 19"),
    "maximum_rounds_per_model_owner": (
        25,
        OFFER,
        Ledger.of([*given(1, 6), *given(2, 50, OTHER)]),
        "has 20 rounds and its model owner got 6 from us before, the policy allows 25 in all",
    ),
    "maximum_similar_tasks": (
        2,
        offer(batch_size=32, clip=3.0),
        Ledger.of([*given(1), *given(2), *given(3, whom=OTHER)]),
        "is like 2 earlier ones of its model owner, the policy allows 2",
    ),
    "maximum_rows_exposure": (
        20.0,
        OFFER,
        Ledger.of(given(1, 6)),
        "would bring a row into 20.8 rounds of its model owner on average, the policy allows 20",
    ),
    "maximum_epsilon": (8.0, OFFER, NOTHING, "would be played without noise, whose epsilon has no bound, and the"),
}


# The others do not say no by a task's terms.
NOT_OF_TERMS = ("maximum_unpaid_rounds", "allow_thin_sums", "most_tasks", "ask_first")
REFUSING = [key for key in meanings() if key not in NOT_OF_TERMS]


@pytest.mark.parametrize("key", REFUSING)
def test_each_key_refuses_what_it_names_and_nothing_else(key: str) -> None:
    value, offered, ledger, says = ONE_KEY_EACH[key]
    loose = Policy(**{key: value})
    assert refused(loose, offered, ledger).startswith(f"task 7 {says}")
    (only,) = objections(loose, offered, ledger)
    assert only.key == key
    assert list(objections(Policy(), offered, Ledger())) == []


def test_sums_of_too_few_rows_are_refused_unless_allowed() -> None:
    """88 random features of 64 columns: d = 4,895 values, which want 192 rows behind a group's sum."""
    thin = offer(protection="secret-head", architecture="random:88", value_count=4895, batch_size=63, rounds=1, rows=63)
    says = "has 189 rows behind a group's sum; secret-head with random:88 gives single rows away below 192"
    assert refused(Policy(), thin) == f"task 7 {says} (allow_thin_sums)"
    assert list(objections(Policy(allow_thin_sums=True), thin, NOTHING)) == []
    enough = replace(thin, spec=replace(thin.spec, batch_size=64), rows=64)
    assert list(objections(Policy(), enough, NOTHING)) == []
    seen = Ledger.of(given(3, spec=enough.spec))
    assert refused(Policy(), enough, seen).endswith("below 384, after 1 tasks like it (allow_thin_sums)")
    split = replace(enough, params=replace(enough.params, rounds=2))
    assert refused(Policy(), split).endswith("(allow_thin_sums)"), "half of the rows in each round"


def test_all_reasons_are_found_and_the_first_is_told() -> None:
    policy = Policy(minimum_reward=10**18, model_owners=(), architectures=(), maximum_rounds_per_task=1)
    keys = [found.key for found in objections(policy, offer(group_size=2), NOTHING)]
    assert keys == ["minimum_reward", "model_owners", "architectures", "minimum_group_size", "maximum_rounds_per_task"]
    assert refused(policy, offer(group_size=2)).endswith("(minimum_reward)")


def test_the_task_itself_does_not_count_against_it() -> None:
    """A daemon that asks again while it plays, as `policy check` does."""
    playing = Ledger.of(given(7, 20))
    policy = Policy(maximum_rounds_per_model_owner=20, maximum_similar_tasks=1, maximum_rows_exposure=16.0)
    assert list(objections(policy, OFFER, playing)) == []
    assert refused(policy, offer(task=8), playing).endswith("(maximum_rounds_per_model_owner)")


def test_differencing_with_near_identical_tasks_stops_at_two_by_default() -> None:
    """With groups of three, three tasks would give as many sums as there are owners."""
    again = offer(rate=1, batch_size=48, clip=2.0, rounds=3, group_size=4)
    assert list(objections(Policy(), again, Ledger.of(given(1)))) == []
    assert refused(Policy(), again, Ledger.of([*given(1), *given(2)])).endswith("(maximum_similar_tasks)")
    other = offer(architecture="mlp:8", value_count=610)
    assert list(objections(Policy(), other, Ledger.of([*given(1), *given(2)]))) == []


# --------------------------------------------------------------------------- epsilon


def test_a_task_is_joined_only_when_all_its_rounds_fit_into_epsilon() -> None:
    noisy = replace(OFFER, noise_multiplier=8.0)
    policy = Policy(maximum_epsilon=5.0)
    assert list(objections(policy, noisy, NOTHING)) == []
    longer = replace(noisy, params=replace(TERMS, rounds=21))
    assert refused(policy, longer) == (
        "task 7 would bring epsilon to 5.13 with 21 more rounds, the policy allows 5 (maximum_epsilon)"
    )
    # Whoever the rounds were for, and what is left of this very task counts once.
    assert refused(policy, noisy, Ledger.of(given(1, 1, OTHER, noise=8.0))).endswith("(maximum_epsilon)")
    assert list(objections(policy, noisy, Ledger.of(given(7, 15, noise=8.0)))) == []


def test_one_round_without_noise_leaves_epsilon_without_a_bound() -> None:
    noisy = replace(OFFER, noise_multiplier=8.0)
    assert refused(Policy(maximum_epsilon=100.0), noisy, Ledger.of(given(1, 1))) == (
        "task 7 comes after rounds posted without noise, whose epsilon has no bound, and the policy allows 100 "
        "(maximum_epsilon)"
    )


def test_a_round_is_allowed_as_long_as_it_fits() -> None:
    noisy = replace(OFFER, noise_multiplier=8.0)
    policy = Policy(maximum_epsilon=5.0)
    allow_round(policy, noisy, Ledger.of(given(7, 19, noise=8.0)))
    with pytest.raises(PolicyError, match=r"would bring epsilon to 5\.13 with 1 more round, .*maximum_epsilon"):
        allow_round(policy, noisy, Ledger.of(given(7, 20, noise=8.0)))
    allow_round(Policy(), OFFER, Ledger.of(given(7, 999)))


def test_a_group_that_is_never_paid_is_left() -> None:
    policy = Policy(maximum_unpaid_rounds=3)
    allow_round(policy, OFFER, NOTHING, unpaid_in_a_row=3)
    with pytest.raises(PolicyError, match=r"task 7 left our group unpaid 4 times in a row, .* \(maximum_unpaid_rounds"):
        allow_round(policy, OFFER, NOTHING, unpaid_in_a_row=4)


# ------------------------------------------------------------------------ the table


def test_the_table_gives_every_key_and_no_limit_is_inf() -> None:
    policy = read_policy({"architectures": ["softmax"], "maximum_value_share": 3, "maximum_rows_exposure": math.inf})
    assert policy == Policy(architectures=("softmax",), maximum_value_share=3.0, maximum_rows_exposure=math.inf)
    assert isinstance(policy.maximum_value_share, float)
    assert read_policy({"allow_thin_sums": True, "ask_first": True}) == Policy(allow_thin_sums=True, ask_first=True)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"minimum_rewrad": 1}, r"unknown key 'minimum_rewrad' in \[policy\]; did you mean 'minimum_reward'\?"),
        ({"xyzzy": 1}, r"unknown key 'xyzzy' in \[policy\]$"),
        ({"minimum_reward": 1.5}, "'minimum_reward' in .policy. has a value of the wrong type; it is a whole number"),
        ({"minimum_reward": True}, "wrong type"),
        ({"minimum_reward": "1"}, "wrong type"),
        ({"maximum_epsilon": "8"}, "wrong type; it is a number"),
        ({"maximum_epsilon": math.nan}, "wrong type; it is a number"),
        ({"architectures": "softmax"}, "wrong type; it is a list of texts"),
        ({"architectures": [1]}, "wrong type; it is a list of texts"),
        ({"ask_first": 1}, "'ask_first' in .policy. has a value of the wrong type; it is true or false"),
        ({"minimum_reward": -1}, "'minimum_reward' in .policy. is negative: -1"),
        ({"maximum_stake": 2**256}, "beyond 256 bits"),
        ({"most_tasks": 0}, "'most_tasks' in .policy. is 0"),
        ({"minimum_group_size": 2}, "'minimum_group_size' in .policy. is 2; no group may be below 3"),
        ({"model_owners": ["0x12"]}, "'0x12' in model_owners of .policy. is not 0x and 40 hex digits"),
        ({"blocked_model_owners": ["11" * 20]}, "is not 0x and 40 hex digits"),
        ({"model_owners": ["0x " + "11" * 19 + "1"]}, "is not 0x and 40 hex digits"),
    ],
    ids=str,
)
def test_mistakes_in_the_table_are_told(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_policy(table)


def test_the_documents_table_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    said = [
        line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 4 and "tests/" not in line
    ]
    default = vars(Policy())
    assert said == [f"| `{key}` | {_toml(default[key])} | {meaning} |" for key, meaning in meanings().items()]


def test_the_documents_examples_can_be_read() -> None:
    import tomllib

    from omnilytics.daemon.training.private import read_privacy

    for name in ("policy.md", "privacy.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        (example,) = [block for block in re.findall(r"```\n(.*?)```", page, re.DOTALL) if block.startswith("[")]
        tables = tomllib.loads(example)
        assert read_policy(tables["policy"]) != Policy()
        assert read_privacy(tables.get("privacy", {})).active is (name == "privacy.md")
