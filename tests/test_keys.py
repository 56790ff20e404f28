import json
from pathlib import Path
from typing import Any

import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.peers.errors import KeyFileError, MessageError, ParameterError
from omnilytics.peers.keys import (
    BOX_OVERHEAD_BYTES,
    LOW_ORDER_POINTS,
    BoxIdentity,
    is_acceptable,
    is_canonical,
    is_low_order,
    open_box,
    public_from_secret,
    seal,
    shared_secret,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "keys.json").read_text())
CASES = [VECTORS[f"case{i}"] for i in range(VECTORS["count"])]
BAD = [VECTORS[f"bad{i}"] for i in range(VECTORS["badCount"])]
ALICE, BOB, CAROL = (BoxIdentity.from_entropy(bytes([i]) * 32) for i in (1, 2, 3))
NONCE = b"n" * 24


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["public"])
def test_public_keys_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    identity = BoxIdentity.from_entropy(bytes.fromhex(case["secret"][2:]))
    assert identity.public.hex() == case["public"][2:]
    assert is_acceptable(identity.public)


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case['reason']} {case['public']}")
def test_bad_public_keys_are_not_acceptable(case: dict[str, Any]) -> None:
    public = bytes.fromhex(case["public"][2:])
    assert not is_acceptable(public)
    assert is_low_order(public) == (case["reason"] == "point of low order") == (public in LOW_ORDER_POINTS)
    assert is_low_order(public) or not is_canonical(public)


def test_the_library_agrees_that_low_order_points_give_no_secret() -> None:
    assert len(set(LOW_ORDER_POINTS)) == 14
    for point in LOW_ORDER_POINTS:
        with pytest.raises(RuntimeError):
            nacl.bindings.crypto_scalarmult(ALICE.secret, point)


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex())
def test_nothing_is_sealed_opened_or_shared_with_a_low_order_point(point: bytes) -> None:
    with pytest.raises(MessageError):
        seal(ALICE.secret, point, b"text", NONCE)
    with pytest.raises(MessageError):
        open_box(ALICE.secret, point, bytes(100))
    with pytest.raises(MessageError):
        shared_secret(ALICE.secret, point)


def test_rfc_7748_section_5_2_iterated_once() -> None:
    # k = u = 9, the start of the RFC's iteration, and its published first result.
    nine = (9).to_bytes(32, "little")
    assert shared_secret(nine, nine).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"


@given(st.binary(max_size=300), st.binary(min_size=24, max_size=24))
def test_a_box_opens_at_its_receiver_only(plaintext: bytes, nonce: bytes) -> None:
    sealed = seal(ALICE.secret, BOB.public, plaintext, nonce)
    assert sealed[:24] == nonce and len(sealed) == len(plaintext) + BOX_OVERHEAD_BYTES
    assert open_box(BOB.secret, ALICE.public, sealed) == plaintext
    for secret, public in ((BOB.secret, CAROL.public), (CAROL.secret, ALICE.public)):
        with pytest.raises(MessageError):
            open_box(secret, public, sealed)


@given(st.integers(0, 10_000), st.integers(1, 255), st.integers(1, 60))
def test_a_changed_or_shortened_box_does_not_open(place: int, change: int, cut: int) -> None:
    sealed = bytearray(seal(ALICE.secret, BOB.public, b"plain text", NONCE))
    shortened = bytes(sealed[: max(0, len(sealed) - cut)])
    sealed[place % len(sealed)] ^= change
    for box in (bytes(sealed), shortened):
        with pytest.raises(MessageError):
            open_box(BOB.secret, ALICE.public, box)


@given(st.binary(max_size=200))
def test_random_bytes_raise_message_errors_only(box: bytes) -> None:
    with pytest.raises(MessageError):
        open_box(BOB.secret, ALICE.public, box)


def test_identities_hide_their_secret_and_fit_together() -> None:
    identity = BoxIdentity.from_entropy(b"SECRETKEY".ljust(32, b"!"))
    assert "SECRET" not in repr(identity) and "public=" in repr(identity)
    with pytest.raises(KeyFileError):
        BoxIdentity.from_entropy(bytes(31))
    with pytest.raises(KeyFileError):
        BoxIdentity(ALICE.secret, BOB.public)
    with pytest.raises(KeyFileError):
        BoxIdentity(b"short", BOB.public)


def test_wrong_lengths_are_the_callers_mistake() -> None:
    with pytest.raises(ParameterError):
        seal(ALICE.secret, BOB.public, b"", bytes(23))
    with pytest.raises(ParameterError):
        seal(ALICE.secret, bytes(31), b"", NONCE)
    with pytest.raises(ParameterError):
        seal(bytes(31), BOB.public, b"", NONCE)
    with pytest.raises(ParameterError):
        open_box(ALICE.secret, bytes(33), bytes(100))
    with pytest.raises(ParameterError):
        public_from_secret(bytes(31))
