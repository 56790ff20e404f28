"""A participant's keys, signing the same transactions in a twentieth of the time.

eth_account checks every field of every transaction in many ways. Here the bytes of EIP-1559 are put together from the
standard's words and signed by the same library (RFC 6979, so there is only one signature); an account's first
transaction is signed by the product, too, and must come out the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import coincurve
import rlp  # type: ignore[import-untyped]

from omnilytics.daemon.keystore import Keys
from omnilytics.peers.hashing import keccak


@dataclass(frozen=True)
class QuickKeys(Keys):
    """The keystore's keys, with another way to the same signatures."""

    compared: list[bytes] = field(default_factory=list, repr=False)

    @cached_property
    def _secret(self) -> coincurve.PrivateKey:
        return coincurve.PrivateKey(bytes(self.account.key))

    @cached_property
    def address(self) -> bytes:
        """The account's address, 20 bytes."""
        return super().address

    def sign(self, transaction: dict[str, Any]) -> tuple[bytes, bytes]:
        """Signs an EIP-1559 transaction: (raw bytes, hash)."""
        body = [
            *(transaction[name] for name in ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")),
            bytes.fromhex(transaction["to"][2:]),
            transaction["value"],
            transaction["data"],
            [],
        ]
        signature = self._secret.sign_recoverable(keccak(b"\x02" + rlp.encode(body)), hasher=None)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
        raw = b"\x02" + rlp.encode([*body, signature[64], r, s])
        signed = raw, keccak(raw)
        if not self.compared:
            self.compared.append(raw)
            if super().sign(transaction) != signed:
                raise AssertionError("a transaction is signed otherwise than by the product")
        return signed
