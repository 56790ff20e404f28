"""A contract's ABI: the calldata of calls, and what is in answers, logs and refusals.

Answers that are looked at with every block have fixed sizes: their words are read without a decoder in between, which
takes a hundredth of the time. Everything else is eth_abi's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from omnilytics.peers.hashing import keccak

__all__ = ["ContractAbi", "DecodingError", "selector"]

_WORD = 32
_Entries = Sequence[Mapping[str, Any]]


def signature(item: Mapping[str, Any]) -> str:
    """As post(uint256,bytes32): what selectors and topics are hashed from."""
    return f"{item['name']}({','.join(type_of(entry) for entry in item['inputs'])})"


def type_of(entry: Mapping[str, Any]) -> str:
    """The type of an argument, tuples spelt out."""
    kind: str = entry["type"]
    if kind.startswith("tuple"):
        return f"({','.join(type_of(part) for part in entry['components'])}){kind[5:]}"
    return kind


def selector(item: Mapping[str, Any]) -> bytes:
    """The first four bytes of a call of a function, or of a refusal by an error."""
    return keccak(signature(item).encode())[:4]


class ContractAbi:
    """Of one contract; its functions have different names, and so have its events."""

    def __init__(self, items: _Entries) -> None:
        """items: the ABI as solc writes it."""
        self.functions = {item["name"]: item for item in items if item["type"] == "function"}
        self.events = {item["name"]: item for item in items if item["type"] == "event"}
        self._errors = {selector(item): item for item in items if item["type"] == "error"}
        self._prepared: dict[str, tuple[bytes, list[str]]] = {}
        self._readers: dict[str, Callable[[bytes], tuple[Any, ...]]] = {}
        self.topic = cache(lambda event: keccak(signature(self.events[event]).encode()))

    def call(self, function: str, arguments: Sequence[Any]) -> bytes:
        """The calldata of a call."""
        if function not in self._prepared:
            item = self.functions[function]
            self._prepared[function] = selector(item), [type_of(entry) for entry in item["inputs"]]
        head, types = self._prepared[function]
        return head + encode(types, arguments)

    def result(self, function: str, data: bytes) -> Any:
        """What a call has given: one value, or a tuple of several; structs are tuples, addresses text.

        Raises DecodingError or ValueError where the bytes are no answer of this function.
        """
        if function not in self._readers:
            self._readers[function] = _reader(self.functions[function]["outputs"])
        values = self._readers[function](data)
        return values[0] if len(values) == 1 else values

    def event(self, name: str, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """A log's arguments by name. Raises DecodingError or ValueError where it is no log of this event."""
        inputs = self.events[name]["inputs"]
        if not topics or topics[0] != self.topic(name):
            raise ValueError(f"a log of another event than {name}")
        indexed = [entry for entry in inputs if entry["indexed"]]
        rest = [entry for entry in inputs if not entry["indexed"]]
        values = {
            entry["name"]: decode([type_of(entry)], topic)[0] for entry, topic in zip(indexed, topics[1:], strict=True)
        }
        named = zip((entry["name"] for entry in rest), decode([type_of(entry) for entry in rest], data), strict=True)
        values.update(named)
        return {entry["name"]: values[entry["name"]] for entry in inputs}

    def error(self, data: bytes) -> tuple[str, dict[str, Any]] | None:
        """A refusal's name and arguments; None where it is no error of this contract.

        Raises DecodingError where its arguments are cut off.
        """
        item = self._errors.get(data[:4])
        if item is None:
            return None
        values = decode([type_of(entry) for entry in item["inputs"]], data[4:])
        return item["name"], dict(zip((entry["name"] for entry in item["inputs"]), values, strict=True))


# ------------------------------------------------------------------------ fixed sizes


def _reader(outputs: _Entries) -> Callable[[bytes], tuple[Any, ...]]:
    """Reads values of fixed sizes, or one array of them, by their words; leaves the rest to eth_abi."""
    types = [type_of(entry) for entry in outputs]
    if len(outputs) == 1:
        (only,) = outputs
        words = _words(only)
        if words is not None:
            return lambda data: (_read(words, data, only["type"] == "tuple"),)
        if only["type"] == "tuple[]":
            each = _words({**only, "type": "tuple"})
            if each is not None:
                return lambda data: (_read_array(each, data),)
    return lambda data: decode(types, data)


def _words(entry: Mapping[str, Any]) -> list[Callable[[bytes], Any]] | None:
    """How each word of a value is read; None where it has no fixed size, or more than one word a part."""
    if entry["type"] != "tuple":
        word = _word(entry["type"])
        return None if word is None else [word]
    words = [_word(part["type"]) for part in entry["components"]]
    return None if None in words else words  # type: ignore[return-value]


def _word(kind: str) -> Callable[[bytes], Any] | None:
    if kind == "bytes32":
        return bytes
    if kind == "bool":
        return lambda word: bool(_unsigned(word, 1))
    if kind == "address":
        return lambda word: f"0x{_unsigned(word, 160):040x}"
    if kind.startswith("uint") and kind[4:].isdecimal():
        bits = int(kind[4:])
        return lambda word: _unsigned(word, bits)
    return None


def _unsigned(word: bytes, bits: int) -> int:
    value = int.from_bytes(word, "big")
    if value >> bits:
        raise DecodingError(f"{value} does not fit {bits} bits")
    return value


def _read(words: Sequence[Callable[[bytes], Any]], data: bytes, is_tuple: bool) -> Any:
    if len(data) < _WORD * len(words):
        raise DecodingError(f"{len(data)} bytes are too few for {len(words)} words")
    values = tuple(read(data[_WORD * at : _WORD * (at + 1)]) for at, read in enumerate(words))
    return values if is_tuple else values[0]


def _read_array(words: Sequence[Callable[[bytes], Any]], data: bytes) -> tuple[tuple[Any, ...], ...]:
    """An array: where it begins, how long it is, and its elements."""
    start = _unsigned(data[:_WORD], 32) if len(data) >= _WORD else len(data)
    if len(data) < start + _WORD:
        raise DecodingError("the array is cut off")
    count, size = _unsigned(data[start : start + _WORD], 32), _WORD * len(words)
    begin = start + _WORD
    if len(data) < begin + count * size:
        raise DecodingError("the array is cut off")
    return tuple(_read(words, data[begin + size * at : begin + size * (at + 1)], True) for at in range(count))
