"""Amounts of money as people write and read them. Exact, in wei. Pure.

Read and written back: "1eth", "0.5 eth", "3 finney", "5gwei", "7wei" (`parse_amount`, `format_amount`). For the eye:
columns of one width (`ether`, `ether_digits`) and words (`ether_words`); neither rounds without saying so.
"""

from __future__ import annotations

import re

from omnilytics.peers.errors import ParameterError

#: Powers of ten of a wei.
UNITS = {"wei": 0, "kwei": 3, "mwei": 6, "gwei": 9, "szabo": 12, "finney": 15, "eth": 18, "ether": 18}

_AMOUNT = re.compile(r"\s*([0-9]{1,40})(?:\.([0-9]{1,40}))?\s*([a-z]*)\s*")


def parse_amount(text: str) -> int:
    """Wei. Raises ParameterError, in words for the user, for no number, no unit, and parts of a wei."""
    match = _AMOUNT.fullmatch(text.lower())
    if match is None:
        raise ParameterError(f"amount {text[:60]!r} is not a number and a unit", help="write it as 1eth or 5gwei")
    whole, part, unit = match[1], match[2] or "", match[3]
    if not unit:
        # Nothing is guessed where money is spent: who means wei says so.
        raise ParameterError(f"amount {text.strip()!r} has no unit", help=f"write {text.strip()}eth or {whole}wei")
    if unit not in UNITS:
        raise ParameterError(f"unknown unit {unit[:20]!r} in {text[:60]!r}", help=f"use one of {', '.join(UNITS)}")
    part = part.rstrip("0")
    if len(part) > UNITS[unit]:
        raise ParameterError(f"amount {text.strip()!r} has parts of a wei", help="nothing is smaller than 1wei")
    scale: int = 10 ** (UNITS[unit] - len(part))
    return int(whole + part) * scale


def format_amount(wei: int) -> str:
    """The shortest exact spelling among eth, gwei and wei that is not below 0.001 of its unit."""
    for unit in ("eth", "gwei"):
        scale = 10 ** UNITS[unit]
        if wei * 1000 >= scale:
            whole, rest = divmod(wei, scale)
            digits = f"{rest:0{UNITS[unit]}d}".rstrip("0")
            return f"{whole}.{digits} {unit}" if digits else f"{whole} {unit}"
    return f"{wei} wei"


def ether_digits(wei: int) -> str:
    """Ether with six digits after the point, for columns; an ellipsis stands for what is cut off."""
    whole, rest = divmod(abs(wei), 10**18)
    digits = f"{rest:018d}"
    tail = "" if not digits[6:].strip("0") else "…"
    return f"{'-' if wei < 0 else ''}{whole}.{digits[:6]}{tail}"


def ether(wei: int) -> str:
    """The same with its unit."""
    return f"{ether_digits(wei)} ETH"


def ether_words(wei: int) -> str:
    """For sentences: as the columns, and to the wei what they could not show."""
    return f"{wei} wei" if abs(wei) < 10**12 else f"{ether_digits(wei)} ether"
