"""Ethereum addresses as people write them: hex, and EIP-55's checksum in the case of its letters."""

from omnilytics.peers.errors import ParameterError
from omnilytics.peers.hashing import ADDRESS_BYTES, keccak


def checksum_address(address: bytes) -> str:
    """0x and 40 hex digits with EIP-55's checksum. Raises ParameterError for other than 20 bytes."""
    if len(address) != ADDRESS_BYTES:
        raise ParameterError(f"an address has {ADDRESS_BYTES} bytes, not {len(address)}")
    digits = address.hex()
    # A letter is upper case where the same digit of the hash of the lower-case text is 8 or more.
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(d.upper() if mark >= "8" else d for d, mark in zip(digits, marks, strict=False))


def parse_address(text: str) -> bytes:
    """20 bytes of an address; where it has letters of both cases, they are its checksum.

    Raises ParameterError for what is no address, for a wrong checksum, and for the zero address, which nobody owns.
    """
    digits = text.removeprefix("0x")
    try:
        address = bytes.fromhex(digits)
    except ValueError:
        address = b""
    if len(address) != ADDRESS_BYTES or len(digits) != 2 * ADDRESS_BYTES:
        raise ParameterError(f"'{text}' is not an address", help="an address is 0x and 40 hex digits")
    if not any(address):
        raise ParameterError("the zero address belongs to nobody", help="name an address of your own")
    both = digits != digits.lower() and digits != digits.upper()
    if both and checksum_address(address)[2:] != digits:
        raise ParameterError(
            f"'{text}' has a wrong checksum: a digit or a letter's case is not as it was (EIP-55)",
            help="copy the address again, whole",
        )
    return address
