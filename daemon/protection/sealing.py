"""Sealing: the model travels encrypted under a fresh key a round, and the chain pins both.

It keeps the model from everybody but the registered owners of the task, and nothing from them.
The commitment is to key and plaintext together: a NaCl box alone does not commit to its key, so
without it a model owner could show different owners different models (Pasquini et al., arXiv 2111.07380).
"""

from __future__ import annotations

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from omnilytics.peers.errors import ModelMismatchError
from omnilytics.peers.hashing import keccak, model_commitment
from omnilytics.peers.market import RoundOpening


def seal_model(plaintext: bytes, key: bytes, nonce: bytes) -> bytes:
    """The payload: nonce (24 bytes) and secret box of the plaintext under the round's key (32 bytes)."""
    return bytes(SecretBox(key).encrypt(plaintext, nonce))


def open_model(payload: bytes, key: bytes, opening: RoundOpening) -> bytes:
    """The plaintext of a round's payload, checked against everything that the chain says of it.

    Raises ModelMismatchError when the payload, the key or the plaintext is not the one on the chain.
    """
    if keccak(payload) != opening.payload_hash:
        raise ModelMismatchError(
            f"model keccak {keccak(payload).hex()[:8]} is not the chain's {opening.payload_hash.hex()[:8]}; "
            "not training"
        )
    if keccak(key) != opening.key_hash:
        raise ModelMismatchError("the model key is not the one that the chain names; not training")
    try:
        plaintext = bytes(SecretBox(key).decrypt(payload))
    except (CryptoError, ValueError) as error:
        raise ModelMismatchError("the encrypted model does not open under its key; not training") from error
    if model_commitment(opening.base_ctx, key, plaintext) != opening.model_commit:
        raise ModelMismatchError("the model is not the one that the model owner committed to; not training")
    return plaintext
