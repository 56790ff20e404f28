"""Addresses with EIP-55's own test vectors."""

import pytest

from omnilytics.peers.addresses import checksum_address, parse_address
from omnilytics.peers.errors import ParameterError

# https://eips.ethereum.org/EIPS/eip-55
VECTORS = (
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
)


@pytest.mark.parametrize("text", VECTORS)
def test_the_standards_vectors(text: str) -> None:
    address = parse_address(text)
    assert checksum_address(address) == text
    for written in (text.lower(), text[2:], "0x" + text[2:].upper()):
        assert parse_address(written) == address


@pytest.mark.parametrize("text", VECTORS[4:])
def test_a_changed_digit_or_case_is_noticed(text: str) -> None:
    place = next(place for place in range(2, 42) if text[place].isalpha())
    for wrong in (
        text[:place] + text[place].swapcase() + text[place + 1 :],
        text[:-1] + ("0" if text[-1] != "0" else "1"),
    ):
        with pytest.raises(ParameterError, match="wrong checksum"):
            parse_address(wrong)


@pytest.mark.parametrize(
    "text", ["", "0x", "alice", "0x" + "11" * 19, "0x" + "11" * 21, "0x" + "1 " * 20, "0x" + "zz" * 20]
)
def test_what_is_no_address_is_quoted(text: str) -> None:
    with pytest.raises(ParameterError, match="is not an address"):
        parse_address(text)


def test_nobody_is_paid_at_the_zero_address() -> None:
    with pytest.raises(ParameterError, match="belongs to nobody"):
        parse_address("0x" + "00" * 20)
    with pytest.raises(ParameterError, match="20 bytes"):
        checksum_address(bytes(19))
