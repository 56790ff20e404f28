"""Hashes and contexts: what every commitment, key and message is bound to.

Keccak-256 as Ethereum uses it where the contract computes the same hash; keyed BLAKE2b (RFC 7693) where
only peers do. Integers in hashes are static ABI words as `abi.encode` writes them (Solidity ABI
specification).
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from eth_hash.auto import keccak as _keccak

from omnilytics.peers.errors import ParameterError

HASH_BYTES: Final = 32
ADDRESS_BYTES: Final = 20
_WORD_LIMIT: Final = 1 << 256


def require_length(name: str, value: bytes, length: int) -> bytes:
    """Return `value`, or raise ParameterError when it has not `length` bytes.

    The text never shows the bytes.
    """
    if len(value) != length:
        raise ParameterError(f"{name} has {len(value)} bytes, needs {length}")
    return value


def keccak(*parts: bytes) -> bytes:
    """Keccak-256 of the parts put together (Ethereum's padding, not that of FIPS 202's SHA3-256).

    32 bytes.
    """
    return bytes(_keccak(b"".join(parts)))


def abi_words(*values: int | bytes) -> bytes:
    """Static ABI words, 32 bytes each, as Solidity's abi.encode writes them.

    An int is an unsigned big-endian word; 32 bytes stand as they are; 20 bytes are an address, padded
    on the left. Raises ParameterError for an int outside uint256 and for bytes of any other length.
    """
    words: list[bytes] = []
    for value in values:
        if isinstance(value, int):
            if not 0 <= value < _WORD_LIMIT:
                raise ParameterError("integer does not fit an unsigned 256-bit word")
            words.append(value.to_bytes(32, "big"))
        elif len(value) == HASH_BYTES:
            words.append(bytes(value))
        elif len(value) == ADDRESS_BYTES:
            words.append(bytes(value).rjust(32, b"\0"))
        else:
            raise ParameterError(f"a static word is made of 20 or 32 bytes, not {len(value)}")
    return b"".join(words)


def blake2b_keyed(data: bytes, key: bytes, person: bytes) -> bytes:
    """BLAKE2b with a 32-byte digest, a key of up to 64 bytes (empty: none) and a personalisation of up
    to 16 (RFC 7693).

    Raises ParameterError when key or person is too long. Python would say so too, but not in our tree.
    """
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE or len(person) > hashlib.blake2b.PERSON_SIZE:
        raise ParameterError("BLAKE2b takes a key of at most 64 and a personalisation of at most 16 bytes")
    return hashlib.blake2b(data, digest_size=HASH_BYTES, key=key, person=person).digest()


def base_context(
    chain_id: int,
    market: bytes,
    task_id: int,
    round_number: int,
    params_hash: bytes,
    payload_hash: bytes,
    part_count: int,
    key_hash: bytes,
    pad_hashes: Sequence[bytes],
) -> bytes:
    """The context of a round without its model commitment: twin of the contract's openRound. 32 bytes.

    `market` is a 20-byte address, hashes are 32 bytes, `pad_hashes` are keccak of the pad seeds by position.
    Raises ParameterError for wrong lengths and for integers outside uint256.
    """
    require_length("market", market, ADDRESS_BYTES)
    require_length("params_hash", params_hash, HASH_BYTES)
    require_length("payload_hash", payload_hash, HASH_BYTES)
    require_length("key_hash", key_hash, HASH_BYTES)
    for position, pad_hash in enumerate(pad_hashes):
        require_length(f"pad hash {position}", pad_hash, HASH_BYTES)
    return keccak(
        abi_words(
            keccak(b"OmniLytics round"),
            chain_id,
            market,
            task_id,
            round_number,
            params_hash,
            payload_hash,
            part_count,
            key_hash,
            keccak(*pad_hashes),
        )
    )


def round_context(base_ctx: bytes, model_commit: bytes) -> bytes:
    """The context that everything in a round is bound to: keccak(abi.encode(baseCtx, modelCommit)). 32 bytes.

    Raises ParameterError when one of them has not 32 bytes.
    """
    require_length("base context", base_ctx, HASH_BYTES)
    require_length("model commitment", model_commit, HASH_BYTES)
    return keccak(abi_words(base_ctx, model_commit))


def model_commitment(base_ctx: bytes, key: bytes, plaintext: bytes) -> bytes:
    """What the model owner binds itself to: one key and one plaintext for everybody. 32 bytes.

    A secret box alone does not commit to its key, so different owners could be shown different models
    under one ciphertext (Pasquini et al., arXiv 2111.07380). Raises ParameterError when context or key
    has not 32 bytes.
    """
    # Fixed lengths in front: no other split into key and plaintext gives the same bytes.
    require_length("base context", base_ctx, HASH_BYTES)
    require_length("model key", key, HASH_BYTES)
    return keccak(base_ctx, key, plaintext)
