"""Pair seeds: the secret that two mates share for one round, and what proves that both have it.

Ephemeral X25519 (RFC 7748), so that a key stolen later opens nothing old; then keyed BLAKE2b (RFC 7693)
over the round, both addresses and both ephemeral keys, so that a seed belongs to one pair in one round
and to nothing else.
"""

from omnilytics.peers.errors import MessageError, ParameterError
from omnilytics.peers.hashing import ADDRESS_BYTES, HASH_BYTES, blake2b_keyed, require_length
from omnilytics.peers.keys import KEY_BYTES, BoxIdentity, public_from_secret, shared_secret

__all__ = ["EphemeralKey", "acknowledgement", "derive_pair_seed", "public_from_secret"]

EphemeralKey = BoxIdentity
"""A key pair for one round, made with EphemeralKey.from_entropy(32 fresh bytes); never stored."""


def derive_pair_seed(
    own: EphemeralKey,
    mate_public: bytes,
    ctx: bytes,
    own_address: bytes,
    mate_address: bytes,
    own_is_lower: bool,
) -> bytes:
    """The pair's seed, 32 bytes, the same on both ends; `own_is_lower` by position in the group, not by
    address.

    All of it never leaves the two ends. `own` is a pair by its type. Raises MessageError when the mate's key is of low
    order or our own sent back; ParameterError for wrong lengths and for one address twice.
    """
    require_length("mate's ephemeral key", mate_public, KEY_BYTES)
    require_length("context", ctx, HASH_BYTES)
    require_length("own address", own_address, ADDRESS_BYTES)
    require_length("mate's address", mate_address, ADDRESS_BYTES)
    if own_address == mate_address:
        raise ParameterError("a pair needs two different addresses")
    if mate_public == own.public:
        raise MessageError("the mate sent our own ephemeral key back")
    shared = shared_secret(own.secret, mate_public)
    ours, theirs = (own_address, own.public), (mate_address, mate_public)
    (lower_address, lower_public), (higher_address, higher_public) = (ours, theirs) if own_is_lower else (theirs, ours)
    return blake2b_keyed(
        b"seed" + ctx + lower_address + higher_address + lower_public + higher_public,
        key=shared,
        person=b"omnilytics-seed",
    )


def acknowledgement(seed: bytes) -> bytes:
    """What both ends send to show that they have the same seed; gives nothing of it away. 32 bytes.

    Raises ParameterError when the seed has not 32 bytes.
    """
    return blake2b_keyed(b"ack" + require_length("seed", seed, HASH_BYTES), key=b"", person=b"omnilytics-ack")
