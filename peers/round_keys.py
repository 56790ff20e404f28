"""One participant's keys in one round: how messages are sealed to a peer and opened again.

Hellos travel under the registered keys; everything else under the ephemeral keys that the
hellos carry, which die with the round, so that a key stolen later opens nothing old.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omnilytics.peers.errors import MessageError
from omnilytics.peers.keys import BoxIdentity, is_low_order, open_box, seal
from omnilytics.peers.messages import (
    CHANNEL_EPHEMERAL,
    CHANNEL_REGISTERED,
    Hello,
    Message,
    decode,
    decode_envelope,
    encode_envelope,
)

# What stands in an ephemeral key pair's place once its round is over: a pair that everybody knows.
SPENT = BoxIdentity.from_entropy(bytes(32))


@dataclass(frozen=True)
class Peer:
    """Somebody to talk to: its address (20 bytes) and registered X25519 public key (32 bytes)."""

    address: bytes
    box_key: bytes


@dataclass(frozen=True)
class RoundKeys:
    """Own address, own registered and ephemeral keys, and the round's context."""

    address: bytes
    ctx: bytes
    registered: BoxIdentity = field(repr=False)
    ephemeral: BoxIdentity = field(repr=False)

    def hello(self, peer: Peer, wants_answer: bool, nonce: bytes) -> bytes:
        """An envelope with our ephemeral key for a peer."""
        message = Hello(self.ctx, self.address, peer.address, self.ephemeral.public, wants_answer)
        return self.registered_to(message, peer, nonce)

    def registered_to(self, message: Message, peer: Peer, nonce: bytes) -> bytes:
        """An envelope under the registered keys, for what must be understood after a restart."""
        return encode_envelope(CHANNEL_REGISTERED, seal(self.registered.secret, peer.box_key, message.encode(), nonce))

    def private(self, message: Message, peer_ephemeral: bytes, nonce: bytes) -> bytes:
        """An envelope under the ephemeral keys."""
        return encode_envelope(CHANNEL_EPHEMERAL, seal(self.ephemeral.secret, peer_ephemeral, message.encode(), nonce))

    def open(self, envelope: bytes, peer: Peer, peer_ephemeral: bytes | None) -> Message:
        """What a peer says, checked: its key, context, sender, receiver and channel.

        Raises MessageError for anything else; the caller drops and counts it.
        """
        channel, box = decode_envelope(envelope)
        if channel == CHANNEL_REGISTERED:
            plaintext = open_box(self.registered.secret, peer.box_key, box)
        elif peer_ephemeral is None:
            raise MessageError("a message under ephemeral keys came before its sender's hello")
        else:
            plaintext = open_box(self.ephemeral.secret, peer_ephemeral, box)
        message = decode(plaintext, self.ctx, peer.address, self.address, channel=channel)
        # Nothing can be sealed to such a key: whoever kept it would fail later, outside of any peer's message.
        if isinstance(message, Hello) and is_low_order(message.ephemeral):
            raise MessageError("the hello's ephemeral key is a point of low order")
        return message
