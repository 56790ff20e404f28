"""What all vectors are made with: deterministic entropy, and the shape of a file."""

import hashlib
from typing import Any

Case = dict[str, Any]


def entropy(label: str, count: int) -> bytes:
    return hashlib.shake_256(b"OmniLytics vectors " + label.encode()).digest(count)


def number(label: str, limit: int) -> int:
    return int.from_bytes(entropy(label, 16), "big") % limit


def text(value: bytes) -> str:
    return "0x" + value.hex()


def bundle(cases: list[Case], bad: list[Case]) -> Case:
    result: Case = {"count": len(cases), "badCount": len(bad)}
    result |= {f"case{i}": case for i, case in enumerate(cases)}
    return result | {f"bad{i}": case for i, case in enumerate(bad)}


def pairs(count: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(count) for b in range(a + 1, count)]
