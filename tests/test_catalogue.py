"""The protections by name: what each promises and asks, and that its numbers are those of its own module."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.protection.catalogue import PROTECTIONS, Protection, protection_named
from omnilytics.daemon.protection.secret_head import (
    DEFAULT_LEAST_CLASS_ROWS,
    SecretHeadOwner,
    least_class_rows,
    least_group_rows,
)
from omnilytics.daemon.protection.sides import OwnerSide
from omnilytics.peers.errors import OmniLyticsError, ParameterError

EACH = pytest.mark.parametrize("means", PROTECTIONS.values(), ids=PROTECTIONS)
# One that each of them takes, for 6 columns and 3 classes.
ARCHITECTURES = {"envelope": "softmax", "perturbed": "mlp:5", "secret-head": "random:7"}


def test_these_are_the_protections() -> None:
    """Whoever adds one says here what it means for a task."""
    told = {
        name: (means.model_selection, means.fresh_rows, means.same_model_once, means.clip, means.least_lane_bits)
        for name, means in PROTECTIONS.items()
    }
    assert told == {
        "envelope": (False, False, True, None, 8),
        "perturbed": (True, False, True, 1.0, 32),
        "secret-head": (True, True, False, 1.0, 16),
    }
    assert list(ARCHITECTURES) == list(PROTECTIONS)


@EACH
def test_every_protection_promises_something_in_one_line(means: Protection) -> None:
    assert protection_named(means.name) is means
    assert "\n" not in means.promise and 40 < len(means.promise) <= 240
    assert means.promise.isascii()
    # It says what becomes of the model, and who sees what of the owner's rows or posts.
    assert "model" in means.promise and ("see" in means.promise or "hidden" in means.promise)


def test_promises_differ() -> None:
    assert len({means.promise for means in PROTECTIONS.values()}) == len(PROTECTIONS)


@EACH
def test_every_protection_makes_an_owners_side(means: Protection) -> None:
    side: OwnerSide = means.owner_side(ARCHITECTURES[means.name], 6, 3, False)
    assert side.value_count > 0 and side.class_count == 3
    assert means.least_group_rows(ARCHITECTURES[means.name], 6, 3) >= 1


@EACH
def test_a_protection_takes_its_own_architectures_alone(means: Protection) -> None:
    taken = {
        "envelope": {"softmax", "mlp:5", "mlp:5,4"},
        "perturbed": {"mlp:5", "mlp:5,4"},
        "secret-head": {"random:7", "trunk:5", "trunk:5,4"},
    }[means.name]
    for architecture in ("softmax", "mlp:5", "mlp:5,4", "random:7", "trunk:5", "trunk:5,4"):
        for rule in (False, True):
            if rule and means.name == "envelope":
                continue
            with contextlib.nullcontext() if architecture in taken else pytest.raises(ParameterError):
                if rule:
                    means.least_group_rows(architecture, 6, 3)
                else:
                    means.owner_side(architecture, 6, 3, False)


@EACH
@given(st.text(max_size=12) | st.sampled_from(["random:", "mlp:0", "trunk:-1", "random:7,7", "mlp:99999999999"]))
@settings(max_examples=60, deadline=None)
def test_no_architecture_whatever_raises_anything_else(means: Protection, architecture: str) -> None:
    try:
        side = means.owner_side(architecture, 6, 3, False)
        rows = means.least_group_rows(architecture, 6, 3)
    except OmniLyticsError:
        return
    assert side.value_count >= 1 and rows >= 1


@EACH
@pytest.mark.parametrize(("features", "classes"), [(0, 3), (-1, 3), (6, 1), (6, 0)])
def test_impossible_shapes_are_refused(means: Protection, features: int, classes: int) -> None:
    with pytest.raises(ParameterError):
        means.owner_side(ARCHITECTURES[means.name], features, classes, False)


def test_secret_head_leaves_out_classes_that_one_row_could_be_read_from() -> None:
    for columns, width in ((64, 96), (4, 30), (1, 8), (200, 10)):
        side = PROTECTIONS["secret-head"].owner_side(f"random:{width}", columns, 3, False)
        assert isinstance(side, SecretHeadOwner)
        assert side.least_class_rows == least_class_rows(columns, width) >= 2
        careless = PROTECTIONS["secret-head"].owner_side(f"random:{width}", columns, 3, True)
        assert isinstance(careless, SecretHeadOwner)
        assert careless.least_class_rows == DEFAULT_LEAST_CLASS_ROWS == 2
        rows = PROTECTIONS["secret-head"].least_group_rows(f"random:{width}", columns, 3)
        assert rows == least_group_rows(columns, width, 3)


def test_an_unknown_protection_is_told_what_there_is() -> None:
    for name in ("none", "", "Envelope", None, 3, ["envelope"], {"envelope": 1}):
        with pytest.raises(ParameterError, match="use one of envelope, perturbed, secret-head"):
            protection_named(name)
