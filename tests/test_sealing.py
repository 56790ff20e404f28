"""Sealing: an owner opens the model that the chain names, or none."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.daemon.protection.sealing import open_model, seal_model
from omnilytics.peers.errors import ModelMismatchError
from omnilytics.peers.hashing import keccak, model_commitment
from omnilytics.peers.market import RoundOpening
from tests.round_network import secret

KEY, NONCE, BASE = secret("key"), secret("nonce")[:24], secret("base")
MODEL = b"weights " * 100


def opening(payload: bytes, key: bytes = KEY, plaintext: bytes = MODEL) -> RoundOpening:
    commit = model_commitment(BASE, key, plaintext)
    return RoundOpening(1, 1, secret("ctx"), BASE, commit, keccak(key), keccak(payload), 1, (), 1, 0, 0)


PAYLOAD = seal_model(MODEL, KEY, NONCE)


@given(st.binary(max_size=300))
def test_what_is_sealed_is_opened(plaintext: bytes) -> None:
    payload = seal_model(plaintext, KEY, NONCE)
    assert len(payload) == len(plaintext) + 40
    assert payload[:24] == NONCE
    assert open_model(payload, KEY, opening(payload, plaintext=plaintext)) == plaintext


def test_the_payload_does_not_show_the_model() -> None:
    assert MODEL[:8] not in PAYLOAD
    assert KEY not in PAYLOAD


def test_the_same_key_and_nonce_make_the_same_payload() -> None:
    """A round opened again after a crash is opened with the same bytes."""
    assert seal_model(MODEL, KEY, NONCE) == PAYLOAD


@pytest.mark.parametrize("place", [0, 23, 24, 40, -1])
def test_a_payload_that_is_not_the_chains_is_refused(place: int) -> None:
    changed = bytearray(PAYLOAD)
    changed[place] ^= 1
    with pytest.raises(ModelMismatchError, match="is not the chain's"):
        open_model(bytes(changed), KEY, opening(PAYLOAD))
    # Even where the chain names these very bytes, the box does not open.
    with pytest.raises(ModelMismatchError, match="does not open"):
        open_model(bytes(changed), KEY, opening(bytes(changed)))


def test_a_key_that_is_not_the_chains_is_refused() -> None:
    with pytest.raises(ModelMismatchError, match="model key is not the one"):
        open_model(PAYLOAD, secret("another"), opening(PAYLOAD))


def test_a_model_that_was_not_committed_to_is_refused() -> None:
    """Payload and key are the chain's: without the commitment two owners could be shown two models."""
    for commit in (
        model_commitment(BASE, KEY, MODEL + b"!"),
        model_commitment(BASE, secret("another"), MODEL),
        model_commitment(secret("another base"), KEY, MODEL),
    ):
        with pytest.raises(ModelMismatchError, match="committed to"):
            open_model(PAYLOAD, KEY, replace(opening(PAYLOAD), model_commit=commit))


@pytest.mark.parametrize("payload", [b"", b"short", bytes(39), bytes(40)])
def test_a_payload_too_short_for_a_box_is_refused(payload: bytes) -> None:
    with pytest.raises(ModelMismatchError):
        open_model(payload, KEY, opening(payload))


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_a_key_of_a_wrong_length_is_refused(key: bytes) -> None:
    hostile = replace(opening(PAYLOAD), key_hash=keccak(key))
    with pytest.raises(ModelMismatchError):
        open_model(PAYLOAD, key, hostile)


def test_no_refusal_shows_a_key_or_the_model() -> None:
    for key, told in ((secret("another"), opening(PAYLOAD)), (KEY, replace(opening(PAYLOAD), model_commit=bytes(32)))):
        with pytest.raises(ModelMismatchError) as caught:
            open_model(PAYLOAD, key, told)
        assert key.hex() not in str(caught.value)
        assert "weights" not in str(caught.value)
