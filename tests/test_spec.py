"""A task's description: it comes from a stranger, so nothing in it is believed before it is checked."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.spec import MAX_SPEC_BYTES, TaskSpec, decode_spec
from omnilytics.peers.errors import ParameterError

SPEC = TaskSpec("mlp:8", 4, ("no", "yes"), 0.25, 32)


SECRET_HEAD = TaskSpec("random:6", 4, ("no", "yes"), 1.0, 32, "secret-head")
PERTURBED = TaskSpec("mlp:8", 4, ("no", "yes"), 1.0, 32, "perturbed")
SPECS = [SPEC, SECRET_HEAD, PERTURBED]
EACH = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.protection)


def changed(spec: TaskSpec = SPEC, **changes: Any) -> bytes:
    return json.dumps(json.loads(spec.encode()) | changes).encode()


def test_what_is_encoded_is_decoded() -> None:
    assert decode_spec(SPEC.encode()) == SPEC
    assert decode_spec(changed()) == SPEC
    assert decode_spec(changed(clip=1)).clip == 1


@EACH
def test_every_protections_description_is_read_back(spec: TaskSpec) -> None:
    read = decode_spec(spec.encode())
    assert read == spec
    assert read.means.name == spec.protection and read.side == spec.side
    assert read.least_group_rows == spec.least_group_rows >= 1
    assert decode_spec(changed(spec)) == spec


@EACH
@pytest.mark.parametrize(
    "architecture",
    ["softmax", "mlp:8", "mlp:8,4", "random:6", "trunk:6", "trunk:8,6", "random:8,6", "random:", "trunk:", "random:0"],
)
def test_a_protection_has_its_own_architectures(spec: TaskSpec, architecture: str) -> None:
    fitting = {
        "envelope": {"softmax", "mlp:8", "mlp:8,4"},
        "perturbed": {"mlp:8", "mlp:8,4"},
        "secret-head": {"random:6", "trunk:6", "trunk:8,6"},
    }[spec.protection]
    if architecture in fitting:
        assert decode_spec(changed(spec, architecture=architecture)).architecture == architecture
    else:
        with pytest.raises(ParameterError, match="the task's description cannot be used"):
            decode_spec(changed(spec, architecture=architecture))


@EACH
@pytest.mark.parametrize("protection", ["none", "", "Secret-head", "secret_head", 1, None, ["perturbed"]])
def test_an_unknown_protection_is_refused(spec: TaskSpec, protection: object) -> None:
    with pytest.raises(ParameterError, match="unknown protection"):
        decode_spec(changed(spec, protection=protection))


@pytest.mark.parametrize("spec", [SECRET_HEAD, PERTURBED], ids=lambda spec: spec.protection)
@pytest.mark.parametrize("clip", [0.5, 2.0, 1e-9, 1e9])
def test_where_the_protection_says_the_clip_no_other_is_taken(spec: TaskSpec, clip: float) -> None:
    """Statistics are in [0, 1] or [-1, 1]: another clip would cut them, or drown them in their rounding."""
    assert decode_spec(changed(spec, clip=1)).clip == 1
    with pytest.raises(ParameterError, match="clip"):
        decode_spec(changed(spec, clip=clip))


def test_the_same_spec_has_the_same_bytes() -> None:
    """The model owner finds its own task again by them."""
    assert SPEC.encode() == TaskSpec("mlp:8", 4, ("no", "yes"), 0.25, 32).encode()
    assert b" " not in SPEC.encode()


def test_it_describes_the_model() -> None:
    assert SPEC.side.value_count == 4 * 8 + 8 + 8 * 2 + 2
    assert TaskSpec("softmax", 64, tuple("0123456789"), 1.0, 1).side.value_count == 650


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": "1"},
        {"protection": "none"},
        {"protection": ["envelope"]},
        {"clip": 0},
        {"clip": -1.0},
        {"clip": "1"},
        {"clip": None},
        {"clip": True},
        {"clip": 1e400},
        {"clip": 10**400},
        {"batch_size": 0},
        {"batch_size": -5},
        {"batch_size": 2.5},
        {"batch_size": True},
        {"feature_count": 0},
        {"feature_count": -3},
        {"feature_count": "4"},
        {"feature_count": True},
        {"classes": []},
        {"classes": ["only"]},
        {"classes": ["same", "same"]},
        {"classes": [1, 2]},
        {"classes": "ab"},
        {"classes": {"a": 1, "b": 2}},
        {"classes": None},
        {"architecture": "transformer"},
        {"architecture": "mlp:"},
        {"architecture": "mlp:-1"},
        {"architecture": 3},
        {"architecture": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_used_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="the task's description cannot be used") as caught:
        decode_spec(changed(**changes))
    assert "do not join" in caught.value.help


@pytest.mark.parametrize("name", ["architecture", "feature_count", "classes", "clip", "batch_size"])
def test_a_missing_field_is_refused(name: str) -> None:
    said = json.loads(SPEC.encode())
    del said[name]
    with pytest.raises(ParameterError):
        decode_spec(json.dumps(said).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b"{" * 10_000, b"[" * 19_000, b'{"clip": NaN}', b"\x00"],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_spec_is_refused(data: bytes) -> None:
    with pytest.raises(ParameterError):
        decode_spec(data)


def test_nan_and_infinity_are_no_clip() -> None:
    for word in (b"NaN", b"Infinity", b"-Infinity"):
        with pytest.raises(ParameterError):
            decode_spec(SPEC.encode().replace(b"0.25", word))


def test_a_spec_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(ParameterError, match="too long"):
        decode_spec(changed(padding="x" * MAX_SPEC_BYTES))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_whatever_raise_anything_else(data: bytes) -> None:
    with pytest.raises(ParameterError):
        decode_spec(data)


@EACH
@given(
    st.dictionaries(
        st.sampled_from(list(json.loads(SPEC.encode()))),
        st.recursive(
            st.none()
            | st.booleans()
            | st.floats()
            | st.integers()
            | st.text(max_size=5)
            | st.sampled_from(["softmax", "mlp:8", "random:6", "trunk:8,6", "envelope", "perturbed", "secret-head"]),
            st.lists,
            max_leaves=4,
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_no_values_whatever_raise_anything_else(spec: TaskSpec, changes: dict[str, Any]) -> None:
    try:
        read = decode_spec(changed(spec, **changes))
    except ParameterError:
        return
    assert read.clip > 0
    assert read.batch_size >= 1
    assert read.side.value_count >= 1
    assert read.least_group_rows >= 1
    assert read.means.clip in (None, read.clip)
    assert decode_spec(read.encode()) == read
