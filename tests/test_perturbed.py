"""perturbation.py and perturbed.py: what the model owner recovers is the gradient, through the ring and in sums."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.protection.perturbation import (
    STRENGTH,
    Secret,
    factor_of_weights,
    perturb,
    recover,
    report,
    restore,
    tensor_sizes,
)
from omnilytics.daemon.protection.perturbed import (
    PerturbedModel,
    PerturbedOwner,
    PublishedPerturbation,
    decode_perturbation,
    encode_perturbation,
    least_group_rows,
)
from omnilytics.daemon.protection.sides import Learned, ModelSide, OwnerSide
from omnilytics.daemon.training import squared_error
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import Momentum, OptimiserState, Sgd
from omnilytics.daemon.training.payload import ModelPayload, as_published, encode_payload
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.errors import ModelMismatchError, ParameterError, VectorError
from scripts.perturbed_figures_main import GROUP_SIZE, group_mean, run

COLUMNS, ROUND = 6, 7
CLASSES = ("a", "b", "c", "d")
ENTROPY = bytes(range(32))
SCALING = FeatureScaling(np.linspace(-1.0, 1.0, COLUMNS), np.full(COLUMNS, 0.5))
MODEL = Model(Architecture((5, 4)), COLUMNS, len(CLASSES))

architectures = pytest.mark.parametrize("hidden", [(1,), (5,), (6, 4), (4, 7), (7, 5, 3)])


def data(rows: int, seed: int, columns: int = COLUMNS) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, max(rows - 4, 0))])[:rows]
    return Dataset(rng.normal(size=(rows, columns)) + np.eye(4, columns)[labels], labels, CLASSES)


def weights(model: Model, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return model.init(rng) + rng.normal(0.0, 0.1, model.value_count)


def model_side(model: Model = MODEL, seed: int = 0) -> PerturbedModel:
    return PerturbedModel(model, weights(model, seed), Momentum(0.1), SCALING, data(60, 99))


def payload(entropy: bytes = ENTROPY) -> bytes:
    side = model_side()
    return side.publish(side.begin(), ROUND, entropy)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@architectures
@pytest.mark.parametrize("rows", [1, 3, 32])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_recovered_gradient_is_that_of_the_squared_error(hidden: tuple[int, ...], rows: int, seed: int) -> None:
    model = Model(Architecture(hidden), COLUMNS, 4)
    flat, batch = weights(model, seed), data(rows, 10 + seed)
    secret = Secret.draw(model, flat, data(50, 3).features, bytes([seed]) * 32)
    perturbed = perturb(model, flat, secret)
    posted = report(model, perturbed, secret.direction, batch.features, batch.labels)
    assert posted.shape == (sum(tensor_sizes(model)),)
    wanted = squared_error.gradient(model, flat, batch.features, batch.labels)
    assert relative(recover(model, secret, posted), wanted) < 1e-9
    # And the perturbation does perturb: neither what owners compute nor a part of it is the gradient.
    assert relative(posted[: model.value_count], wanted) > 1.0


@architectures
def test_scores_of_the_perturbed_network_are_shifted_by_alpha_v(hidden: tuple[int, ...]) -> None:
    model = Model(Architecture(hidden), COLUMNS, 4)
    flat, rows = weights(model, 4), data(20, 5).features
    secret = Secret.draw(model, flat, rows, ENTROPY)
    perturbed = perturb(model, flat, secret)
    last = squared_error.hidden_outputs(model.unflatten(perturbed), rows)[-1]
    alpha = 1.0 + last.sum(axis=1, keepdims=True)
    shifted = model.logits(flat, rows) + alpha * secret.gamma * secret.direction
    assert model.logits(perturbed, rows) == pytest.approx(shifted, rel=1e-12, abs=1e-12)
    assert restore(model, perturbed, secret) == pytest.approx(flat, rel=1e-12, abs=1e-12)
    signal = max(math.sqrt(np.mean(model.logits(flat, rows) ** 2)), 0.5)
    noise = math.sqrt(np.mean((alpha * secret.gamma * secret.direction) ** 2))
    assert STRENGTH / 2 <= noise / signal <= STRENGTH * 2


def test_secrets_are_fresh_and_follow_from_the_entropy() -> None:
    rows = data(30, 1).features
    flat = weights(MODEL)
    one, same, other = (Secret.draw(MODEL, flat, rows, e) for e in (ENTROPY, ENTROPY, bytes(32)))
    assert one.gamma == same.gamma != other.gamma
    assert all(np.array_equal(a, b) for a, b in zip(one.factors, same.factors, strict=True))
    assert not np.array_equal(np.concatenate(one.factors), np.concatenate(other.factors))
    draws = [Secret.draw(MODEL, flat, rows, bytes([n]) * 32) for n in range(60)]
    assert {-1.0, 1.0} == {math.copysign(1.0, draw.gamma) for draw in draws}
    assert {float(r) for draw in draws for part in draw.factors for r in part} == {0.25, 0.5, 1.0, 2.0}
    assert "gamma" not in repr(one)
    assert factor_of_weights(MODEL, one).shape == flat.shape


@architectures
@pytest.mark.parametrize("seed", [0, 1])
def test_through_the_ring_in_groups_of_three(hidden: tuple[int, ...], seed: int) -> None:
    """Tolerance: 1e-4 of the gradient's norm, at 32 bits; a batch's noise is a thousand times as large."""
    model = Model(Architecture(hidden), COLUMNS, 4)
    side, owner = model_side(model, seed), PerturbedOwner(model)
    learned = side.begin()
    published = owner.read(side.publish(learned, ROUND, ENTROPY), ROUND)
    batches = [data(16, 50 + 3 * seed + k) for k in range(GROUP_SIZE)]
    statistics = [owner.statistic(published, batch.features, batch.labels) for batch in batches]
    assert all(np.abs(values).max() <= 1.0 for values in statistics)
    wanted = np.mean(
        [squared_error.gradient(model, side.weights, batch.features, batch.labels) for batch in batches], axis=0
    )
    found = side.gradient(learned, ENTROPY, group_mean(statistics, np.random.default_rng(seed)))
    assert relative(found, wanted) < 1e-4


def test_the_gradient_is_exactly_that_of_what_was_published() -> None:
    """Rounding to float32 moves the model by a hair; at the model that the payload stands for, it is exact."""
    side, owner = model_side(), PerturbedOwner(MODEL)
    published = owner.read(side.publish(side.begin(), ROUND, ENTROPY), ROUND)
    batch = data(20, 8)
    posted = owner.statistic(published, batch.features, batch.labels)
    secret = Secret.draw(MODEL, side.weights, side.sample.features, ENTROPY)
    meant = restore(MODEL, published.payload.weights, secret)
    assert np.abs(meant - side.weights).max() < 1e-6
    wanted = squared_error.gradient(MODEL, meant, batch.features, batch.labels)
    assert relative(side.gradient(side.begin(), ENTROPY, posted), wanted) < 1e-9


def test_reports_are_linear() -> None:
    """The mean over owners recovers the mean gradient, and parts add up to the whole."""
    side, owner = model_side(), PerturbedOwner(MODEL)
    published = owner.read(side.publish(side.begin(), ROUND, ENTROPY), ROUND)
    batch = data(40, 12)
    whole = owner.statistic(published, batch.features, batch.labels)
    parts = [owner.statistic(published, batch.features[k::4], batch.labels[k::4]) for k in range(4)]
    assert np.mean(parts, axis=0) == pytest.approx(whole, abs=1e-14)
    recovered = [side.gradient(side.begin(), ENTROPY, part) for part in parts]
    assert np.mean(recovered, axis=0) == pytest.approx(side.gradient(side.begin(), ENTROPY, whole), abs=1e-12)


def test_neither_gamma_nor_r_nor_v_is_in_the_payload() -> None:
    side = model_side()
    secret = Secret.draw(MODEL, side.weights, side.sample.features, ENTROPY)
    plaintext = side.publish(side.begin(), ROUND, ENTROPY)
    assert ENTROPY not in plaintext
    published = decode_perturbation(plaintext, MODEL, ROUND)
    numbers = np.concatenate([published.payload.weights, published.direction])
    hidden_values = np.concatenate([[secret.gamma, -secret.gamma], secret.gamma * secret.direction])
    for value in hidden_values:
        for form in ("<f4", "<f8", ">f4", ">f8"):
            assert np.array([value]).astype(form).tobytes() not in plaintext
        assert not (np.abs(numbers - value) < 1e-6 * abs(value)).any()
    for part in secret.factors:
        for form in ("<f4", "<f8", ">f4", ">f8"):
            assert part.astype(form).tobytes() not in plaintext
        assert np.log2(part).astype("i1").tobytes() not in plaintext


def test_both_sides_are_what_the_interface_says() -> None:
    owner: OwnerSide = PerturbedOwner(MODEL)
    model: ModelSide = model_side()
    assert owner.class_count == 4
    hidden = (COLUMNS + 1) * 5 + 6 * 4
    assert owner.value_count == MODEL.value_count + 2 * hidden + 4 + 1
    assert model.publish(model.begin(), 3, ENTROPY) == model.publish(model.begin(), 3, ENTROPY)
    assert not PerturbedOwner.fresh_rows
    assert "recovers nearly the whole model" in PerturbedOwner.promise


def test_learning_is_a_step_of_the_optimiser() -> None:
    side, owner = model_side(), PerturbedOwner(MODEL)
    learned = side.begin()
    batch = data(30, 2)
    state, flat = Momentum(0.1).initial_state(MODEL.value_count), side.weights
    for number in range(3):
        entropy = bytes([number]) * 32
        published = owner.read(side.publish(learned, number, entropy), number)
        learned = side.learn(learned, entropy, owner.statistic(published, batch.features, batch.labels))
        gradient = squared_error.gradient(MODEL, flat, batch.features, batch.labels)
        state, flat = Momentum(0.1).step(state, flat, gradient)
    assert learned.weights == pytest.approx(flat, abs=1e-6)
    assert OptimiserState.from_bytes(learned.memory).velocity == pytest.approx(state.velocity, abs=1e-5)
    assert side.accuracy(learned, batch) == MODEL.accuracy(as_published(learned.weights), batch.features, batch.labels)


def test_groups_are_chosen_by_their_recovered_gradients() -> None:
    side, owner = model_side(), PerturbedOwner(MODEL)
    published = owner.read(side.publish(side.begin(), ROUND, ENTROPY), ROUND)
    means = {}
    for group in range(7):
        batch = data(200, 300 + group)
        values = owner.statistic(published, batch.features, batch.labels)
        means[2 * group] = -values if group in (2, 5) else values
    assert side.choose(side.begin(), ENTROPY, means, 2, False) == (0, 2, 6, 8, 12)
    assert set(side.choose(side.begin(), ENTROPY, means, 2, True)) < {0, 2, 6, 8, 12}
    with pytest.raises(ParameterError, match="need 9"):
        side.choose(side.begin(), ENTROPY, means, 3, False)


def test_digits_train_as_without_the_perturbation_and_hide_nothing_from_who_tries() -> None:
    """20 rounds: within a point of plain training on the same batches; and what the docstring says of attackers."""
    outcome = run("mlp:32", 1, 20, 64)
    assert outcome.plain > 0.85
    assert abs(outcome.market - outcome.plain) <= 0.01
    assert outcome.largest <= 1.0
    assert outcome.without_rows > outcome.plain - 0.03


def test_models_and_losses_that_cannot_be_perturbed_are_refused() -> None:
    softmax = Model(Architecture(), COLUMNS, 4)
    with pytest.raises(ParameterError, match="hidden ReLU layers"):
        PerturbedOwner(softmax)
    with pytest.raises(ParameterError, match="hidden ReLU layers"):
        PerturbedModel(softmax, np.zeros(softmax.value_count), Sgd(0.1), SCALING, data(9, 1))
    with pytest.raises(ParameterError, match="cannot train with cross-entropy"):
        PerturbedOwner(MODEL, "cross-entropy")
    with pytest.raises(ParameterError, match="hidden ReLU layers"):
        least_group_rows(softmax)


def test_bad_sides_and_averages_are_refused() -> None:
    with pytest.raises(ParameterError, match="sample"):
        PerturbedModel(MODEL, weights(MODEL), Sgd(0.1), SCALING, data(9, 1, COLUMNS + 1))
    with pytest.raises(ParameterError, match="weights have"):
        PerturbedModel(MODEL, weights(MODEL)[1:], Sgd(0.1), SCALING, data(9, 1))
    side = model_side()
    count = PerturbedOwner(MODEL).value_count
    for bad in (np.zeros(count - 1), np.full(count, np.nan), np.full(count, np.inf)):
        with pytest.raises(VectorError):
            side.learn(side.begin(), ENTROPY, bad)
    with pytest.raises(VectorError, match="diverged"):
        side.learn(side.begin(), ENTROPY, np.full(count, 1e60))
    loud = Learned(side.weights * 1e300, side.begin().memory)
    with np.errstate(all="ignore"), pytest.raises(ParameterError):
        side.publish(loud, 0, ENTROPY)


def test_the_rule_on_rows() -> None:
    assert least_group_rows(Model(Architecture((32,)), 64, 10)) == 128
    assert least_group_rows(Model(Architecture((64, 32)), 64, 10)) == 128
    assert least_group_rows(Model(Architecture((16, 64)), 64, 10)) == 68
    assert least_group_rows(Model(Architecture((100,)), 4, 10)) == 20


def test_the_last_hidden_tensor_of_beta_has_one_rank_a_row() -> None:
    """What the rule on rows is about: with few rows, the tensor's span is that of the rows."""
    model = Model(Architecture((12,)), 15, 4)
    flat = weights(model)
    secret = Secret.draw(model, flat, data(30, 1, 15).features, ENTROPY)
    for rows in (1, 3, 6):
        batch = data(rows, 20, 15)
        posted = report(model, perturb(model, flat, secret), secret.direction, batch.features, batch.labels)
        beta = posted[-(16 * 12) :].reshape(16, 12)
        assert np.linalg.matrix_rank(beta) <= rows
        # And every row of the batch can be found in it: the residual of its projection is nothing.
        basis = np.linalg.svd(beta)[0][:, : np.linalg.matrix_rank(beta)]
        if basis.shape[1] == rows:
            inside = np.hstack([batch.features, np.ones((rows, 1))])
            assert np.abs(inside - inside @ basis @ basis.T).max() < 1e-9


def read(plaintext: bytes) -> PublishedPerturbation:
    return PerturbedOwner(MODEL).read(plaintext, ROUND)


def test_a_payload_round_trips() -> None:
    published = read(payload())
    assert encode_perturbation(published) == payload()
    assert np.array_equal(published.scaling.mean, as_published(SCALING.mean))
    assert published.scales.shape == (PerturbedOwner(MODEL).value_count,)
    assert (np.frexp(published.scales)[0] == 0.5).all()


def test_the_digest_is_of_the_values_and_not_of_the_round() -> None:
    side = model_side()
    learned = side.begin()
    digests = [
        PerturbedOwner(MODEL).read(side.publish(learned, number, entropy), number).digest
        for number, entropy in ((0, ENTROPY), (1, ENTROPY), (0, bytes(32)))
    ]
    assert digests[0] == digests[1] != digests[2]
    published = read(payload())
    direction, exponents = published.direction.copy(), published.exponents.copy()
    direction[0] *= 2
    exponents[-1] += 1
    others = [
        PublishedPerturbation(published.payload, direction, published.exponents),
        PublishedPerturbation(published.payload, published.direction, exponents),
    ]
    assert len({published.digest, *(other.digest for other in others)}) == 3


def with_bytes(place: int, new: bytes) -> bytes:
    return payload()[:place] + new + payload()[place + len(new) :]


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"OLPB",
        b"OLMP" + payload()[4:],
        with_bytes(4, b"\2"),
        payload()[:30],
        payload()[:-1],
        payload() + b"\0",
        payload()[5:],
        with_bytes(5, struct.pack("<f", math.nan)),
        with_bytes(9, struct.pack("<f", math.inf)),
        with_bytes(9, struct.pack("<f", -17.0)),
        with_bytes(5 + 16, b"\x61"),
        with_bytes(5 + 16 + 3, b"\x80"),
        with_bytes(len(payload()) - 8 * COLUMNS - 4, struct.pack("<f", math.nan)),
        payload()[:5]
        + payload()[5 : 5 + 16 + len(tensor_sizes(MODEL))]
        + encode_payload(ModelPayload.of(Model(Architecture((5, 5)), COLUMNS, 4), np.zeros(89), SCALING, ROUND)),
    ],
)
def test_any_other_payload_is_refused(plaintext: bytes) -> None:
    with pytest.raises(ModelMismatchError):
        read(plaintext)


def test_another_round_is_refused() -> None:
    with pytest.raises(ModelMismatchError, match="round 7, not 8"):
        PerturbedOwner(MODEL).read(payload(), 8)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_that_differ_never_read_as_the_same(draw: st.DataObject) -> None:
    plaintext = GOOD
    place = draw.draw(st.integers(0, len(plaintext) - 1))
    cut = draw.draw(st.integers(0, 2))
    other = plaintext[:place] + draw.draw(st.binary(min_size=0, max_size=4)) + plaintext[place + cut :]
    try:
        published = read(other)
    except ModelMismatchError:
        assert other != plaintext
    else:
        assert encode_perturbation(published) == other


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused_in_words(noise: bytes) -> None:
    for start in (b"", b"OLPB\1", GOOD[:40]):
        with pytest.raises(ModelMismatchError):
            read(start + noise)


GOOD = payload()
