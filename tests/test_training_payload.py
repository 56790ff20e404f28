"""payload.py and scaling.py: strict decoding, one encoding, features that cannot explode."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.payload import ModelPayload, as_published, decode_payload, encode_payload
from omnilytics.daemon.training.scaling import FEATURE_LIMIT, FeatureScaling
from omnilytics.peers.errors import ModelMismatchError, ParameterError

MODEL = Model(Architecture((4,)), 3, 2)
ROUND = 7


def payload(seed: int = 0, model: Model = MODEL, round_number: int = ROUND) -> ModelPayload:
    rng = np.random.default_rng(seed)
    scaling = FeatureScaling.fit(rng.normal(5.0, 2.0, (30, model.feature_count)))
    return ModelPayload.of(model, rng.normal(size=model.value_count), scaling, round_number)


def with_header(data: bytes, header: bytes) -> bytes:
    """The same payload with another header."""
    length = struct.unpack_from(">4sBI", data)[2]
    return struct.pack(">4sBI", b"OLMP", 1, len(header)) + header + data[9 + length :]


def changed(**fields: object) -> bytes:
    """A payload whose header says something else."""
    said = {"architecture": "mlp:4", "class_count": 2, "feature_count": 3, "round": ROUND} | fields
    header = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    return with_header(encode_payload(payload()), header)


def with_value(index: int, value: float) -> bytes:
    """A payload with one of its float32 values replaced."""
    data = bytearray(encode_payload(payload()))
    values = MODEL.value_count + 2 * MODEL.feature_count
    struct.pack_into("<f", data, len(data) - 4 * (values - index), value)
    return bytes(data)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(1, 9),
    st.integers(2, 9),
    st.integers(0, 2**32),
    st.integers(0, 2**32),
)
def test_round_trip(widths: list[int], features: int, classes: int, number: int, seed: int) -> None:
    model = Model(Architecture(tuple(widths)), features, classes)
    sent = payload(seed, model, number)
    data = encode_payload(sent)
    read = decode_payload(data, model, number)
    assert (read.model, read.round) == (model, number)
    assert np.array_equal(read.weights, sent.weights)
    assert np.array_equal(read.scaling.mean, sent.scaling.mean)
    assert np.array_equal(read.scaling.scale, sent.scaling.scale)
    assert read.digest == sent.digest
    assert read.weights.dtype == np.float64
    assert encode_payload(read) == data


def test_both_sides_scale_alike() -> None:
    sent = payload()
    read = decode_payload(encode_payload(sent), MODEL, ROUND)
    rows = np.random.default_rng(5).normal(5.0, 2.0, (9, 3))
    assert np.array_equal(sent.scaling.apply(rows), read.scaling.apply(rows))


def test_digest_is_of_the_weights_alone() -> None:
    first = payload()
    later = ModelPayload(first.model, first.weights, FeatureScaling(np.zeros(3), np.ones(3)), 9)
    assert first.digest == later.digest != payload(1).digest
    zeros = ModelPayload.of(MODEL, np.zeros(MODEL.value_count), first.scaling, 1)
    minus = ModelPayload.of(MODEL, -np.zeros(MODEL.value_count), first.scaling, 2)
    assert zeros.digest == minus.digest


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "first bytes"),
        (b"OLMP", "first bytes"),
        (b"OLMQ" + encode_payload(payload())[4:], "first bytes"),
        (b"OLMP\x02" + encode_payload(payload())[5:], "version 2"),
        (struct.pack(">4sBI", b"OLMP", 1, 2**32 - 1), "header of 4294967295 bytes"),
        (struct.pack(">4sBI", b"OLMP", 1, 5) + b"{}", "header of 5 bytes"),
        (encode_payload(payload())[:-1], "bytes, its header asks for"),
        (encode_payload(payload()) + b"\0", "bytes, its header asks for"),
        (with_header(encode_payload(payload()), b"[" * 1000), "not JSON"),
        (with_header(encode_payload(payload()), b"\xff"), "not JSON"),
        (with_header(encode_payload(payload()), b"[]"), "missing or unknown fields"),
        (changed(extra=1), "missing or unknown fields"),
        (changed(round="7"), "wrong type"),
        (changed(round=7.0), "wrong type"),
        (changed(class_count=True), "wrong type"),
        (changed(architecture=4), "wrong type"),
        (changed(architecture="mlp:0"), "is a mlp:0 of 3 features and 2 classes, the task's is a mlp:4"),
        (changed(architecture="\x1b[2J"), r"is a '\\x1b\[2J' of 3"),
        (changed(feature_count=0), "is a mlp:4 of 0 features"),
        (changed(feature_count=10**30), "the task's is a"),
        (changed(architecture="softmax"), "is a softmax of 3 features and 2 classes, the task's is a mlp:4"),
        (changed(class_count=3), "the task's is a"),
        (changed(round=8), "is of round 8, not 7"),
        (changed(round=-7), "is of round -7, not 7"),
        (with_value(5, float("nan")), "weight 5 is NaN; not training"),
        (with_value(25, float("-inf")), "weight 25 is infinite"),
        (with_value(26, float("nan")), "mean of column 1 is not finite"),
        (with_value(30, 0.0), "scale of column 2 is not positive"),
    ],
)
def test_bad_payloads_are_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(ModelMismatchError, match=words):
        decode_payload(data, MODEL, ROUND)


def test_another_spelling_of_the_header_is_refused() -> None:
    data = encode_payload(payload())
    header = b'{"round":7,"architecture":"mlp:4","class_count":2,"feature_count":3}'
    with pytest.raises(ModelMismatchError, match="one encoding"):
        decode_payload(with_header(data, header), MODEL, ROUND)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_read_as_such_or_refused(position: int, flip: int) -> None:
    data = bytearray(encode_payload(payload()))
    data[position % len(data)] ^= flip
    try:
        read = decode_payload(bytes(data), MODEL, ROUND)
    except ModelMismatchError:
        return
    assert encode_payload(read) == bytes(data)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for prefix in (b"", b"OLMP\x01\x00\x00\x00"):
        with pytest.raises(ModelMismatchError):
            decode_payload(prefix + data, MODEL, ROUND)


def test_what_cannot_be_published_is_refused() -> None:
    good = payload()
    count = MODEL.value_count
    with pytest.raises(ParameterError, match=f"weights have {count + 1} values"):
        ModelPayload.of(MODEL, np.zeros(count + 1), good.scaling, 1)
    with pytest.raises(ParameterError, match="weight 0 is infinite"):
        ModelPayload.of(MODEL, np.full(count, 1e39), good.scaling, 1)
    with pytest.raises(ParameterError, match="not rounded"):
        ModelPayload(MODEL, np.full(count, 0.1), good.scaling, 1)
    with pytest.raises(ParameterError, match="negative"):
        ModelPayload.of(MODEL, np.zeros(count), good.scaling, -1)
    with pytest.raises(ParameterError, match="scaling has 2 columns"):
        ModelPayload.of(MODEL, np.zeros(count), FeatureScaling(np.zeros(2), np.ones(2)), 1)


def test_publishing_twice_rounds_once() -> None:
    weights = np.random.default_rng(0).normal(size=100)
    assert not np.array_equal(as_published(weights), weights)
    assert np.array_equal(as_published(as_published(weights)), as_published(weights))


# ------------------------------------------------------------------ scaling


def test_columns_of_any_unit_are_standardised() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0.0, 1.0, (500, 4)) * [1e-9, 1.0, 255.0, 1e12] + [0.0, 1e3, 128.0, -1e12]
    scaled = FeatureScaling.fit(rows).apply(rows)
    assert scaled.mean(axis=0) == pytest.approx(np.zeros(4), abs=0.05)
    assert scaled.std(axis=0) == pytest.approx(np.ones(4), abs=0.05)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(-1e30, 1e30), st.floats(0.0, 1e30))
def test_nothing_explodes(seed: int, level: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    sample = level + spread * rng.normal(size=(20, 3))
    sample[:, 0] = level  # constant
    sample[1:, 1] = level  # lit in one row only
    scaling = FeatureScaling.fit(sample)
    for rows in (sample, level + 100.0 * spread * rng.normal(size=(20, 3)), rng.normal(size=(20, 3))):
        assert np.abs(scaling.apply(rows)).max() <= FEATURE_LIMIT


def test_a_rare_pixel_does_not_stand_out() -> None:
    sample = np.zeros((360, 1))
    sample[7] = 1.0
    scaling = FeatureScaling.fit(sample)
    assert scaling.apply(np.array([[16.0]]))[0, 0] == FEATURE_LIMIT
    assert scaling.scale[0] == pytest.approx(0.1)


def test_scaling_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ParameterError, match="0 rows"):
        FeatureScaling.fit(np.zeros((0, 2)))
    with pytest.raises(ParameterError, match="mean of column 2 is not finite"):
        FeatureScaling.fit(np.array([[1.0, 1e300], [2.0, 1e300]]))
    with pytest.raises(ParameterError, match="mean has shape"):
        FeatureScaling(np.zeros(2), np.ones(3))
    with pytest.raises(ParameterError, match="features have 3 columns, the task has 2"):
        FeatureScaling(np.zeros(2), np.ones(2)).apply(np.zeros((1, 3)))
