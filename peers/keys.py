"""X25519 identities and NaCl boxes: who can read and write what.

A box (crypto_box: X25519, RFC 7748; XSalsa20-Poly1305, Bernstein's NaCl) authenticates its sender to
its receiver and to nobody else: both ends can make it, so a box is never evidence for a third party,
and it says nothing of its direction. Messages therefore name sender and receiver inside.
"""

from dataclasses import dataclass, field
from typing import Final

import nacl.bindings
import nacl.exceptions

from omnilytics.peers.errors import KeyFileError, MessageError
from omnilytics.peers.hashing import require_length

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
BOX_OVERHEAD_BYTES: Final = NONCE_BYTES + 16

_FIELD_PRIME: Final = 2**255 - 19
_HIGH_BIT_MASK: Final = (1 << 255) - 1
# u-coordinates of the points whose order divides 8, on the curve or its twist
# (cr.yp.to/ecdh.html#validate). X25519
# ignores the highest bit, so p and p + 1 are the only other encodings: of 0 and 1, not reduced.
_LOW_ORDER_COORDINATES: Final = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    _FIELD_PRIME - 1,
    _FIELD_PRIME,
    _FIELD_PRIME + 1,
)
LOW_ORDER_POINTS: Final = tuple(
    (coordinate | high_bit).to_bytes(KEY_BYTES, "little")
    for high_bit in (0, 1 << 255)
    for coordinate in _LOW_ORDER_COORDINATES
)
"""All 14 encodings with which X25519 gives the same secret, all zero, to everybody."""


def is_low_order(public: bytes) -> bool:
    """Whether a public key is one of the low-order points, in any encoding: never to be used.

    Raises ParameterError when it has not 32 bytes.
    """
    value = int.from_bytes(require_length("public key", public, KEY_BYTES), "little")
    return value & _HIGH_BIT_MASK in _LOW_ORDER_COORDINATES


def is_canonical(public: bytes) -> bool:
    """Whether a public key is the one encoding of its point: below 2^255 - 19. Others are duplicates in
    disguise.

    Raises ParameterError when it has not 32 bytes.
    """
    return int.from_bytes(require_length("public key", public, KEY_BYTES), "little") < _FIELD_PRIME


def is_acceptable(public: bytes) -> bool:
    """Whether the contract registers this key: canonical and not of low order. Twin of BoxKeys.acceptable.

    Raises ParameterError when it has not 32 bytes.
    """
    return is_canonical(public) and not is_low_order(public)


def public_from_secret(secret: bytes) -> bytes:
    """The X25519 public key of a secret (RFC 7748, section 6.1).

    32 bytes. ParameterError for another length.
    """
    return bytes(nacl.bindings.crypto_scalarmult_base(require_length("secret key", secret, KEY_BYTES)))


def shared_secret(own_secret: bytes, peer_public: bytes) -> bytes:
    """X25519(own secret, peer's public), 32 bytes; to be hashed before any use.

    Raises MessageError when the peer's key is of low order, so that the secret would be all zero (RFC 7748,
    section 6.1); ParameterError for wrong lengths.
    """
    require_length("secret key", own_secret, KEY_BYTES)
    if is_low_order(peer_public):
        raise MessageError("the peer's public key is a point of low order")
    return bytes(nacl.bindings.crypto_scalarmult(own_secret, peer_public))


@dataclass(frozen=True)
class BoxIdentity:
    """An X25519 key pair, registered or for one round. The secret is not in the repr.

    Python cannot wipe bytes; a round's pair is gone from memory when its last reference is, and is
    never stored.
    """

    secret: bytes = field(repr=False)
    public: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES or public_from_secret(self.secret) != self.public:
            raise KeyFileError("the box key's public half does not belong to its secret half")

    @classmethod
    def from_entropy(cls, entropy: bytes) -> "BoxIdentity":
        """A key pair from 32 bytes of a CSPRNG, or from a stored secret.

        Raises KeyFileError for another length.
        """
        if len(entropy) != KEY_BYTES:
            raise KeyFileError(f"box key has {len(entropy)} bytes, needs {KEY_BYTES}")
        return cls(entropy, public_from_secret(entropy))


def seal(own_secret: bytes, peer_public: bytes, plaintext: bytes, nonce: bytes) -> bytes:
    """A NaCl box for one peer: nonce (24 bytes), then ciphertext: 40 bytes longer than the plaintext.

    `nonce` is fresh from a CSPRNG for each box: two boxes under one nonce and pair of keys reveal both.
    Raises ParameterError for wrong lengths, MessageError for a peer's key of low order.
    """
    require_length("secret key", own_secret, KEY_BYTES)
    require_length("nonce", nonce, NONCE_BYTES)
    if is_low_order(peer_public):
        raise MessageError("the peer's public key is a point of low order")
    return nonce + bytes(nacl.bindings.crypto_box_easy(plaintext, nonce, peer_public, own_secret))


def open_box(own_secret: bytes, peer_public: bytes, sealed: bytes) -> bytes:
    """The plaintext of a box that this peer (or we) sealed. Raises MessageError for anything else.

    A secret or public key of a wrong length is the caller's mistake, and a ParameterError.
    """
    require_length("secret key", own_secret, KEY_BYTES)
    if is_low_order(peer_public):
        raise MessageError("the peer's public key is a point of low order")
    if len(sealed) < BOX_OVERHEAD_BYTES:
        raise MessageError(f"box has {len(sealed)} bytes, needs at least {BOX_OVERHEAD_BYTES}")
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return bytes(nacl.bindings.crypto_box_open_easy(ciphertext, nonce, peer_public, own_secret))
    except nacl.exceptions.CryptoError:
        # The cause is left out on purpose: all a forger may learn is that the box did not open.
        raise MessageError("box does not open with this sender's key") from None
