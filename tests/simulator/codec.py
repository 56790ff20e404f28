"""The market's ABI, compiled once: calls, results and logs without web3's price of a millisecond each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from eth_abi.abi import decode, encode

from omnilytics.daemon.chain import load_artifact
from omnilytics.peers.hashing import keccak


def _type(entry: dict[str, Any]) -> str:
    kind: str = entry["type"]
    if kind.startswith("tuple"):
        return f"({','.join(_type(part) for part in entry['components'])}){kind[5:]}"
    return kind


@dataclass(frozen=True)
class Function:
    """A function of the market."""

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def call(self, *arguments: Any) -> bytes:
        """Its calldata."""
        return self.selector + encode(self.inputs, arguments)

    def call_once(self, *arguments: Any) -> bytes:
        """The same, remembered: for views that are asked for again and again."""
        plain = tuple(tuple(a) if isinstance(a, list) else a for a in arguments)
        return _remembered(self.name, plain)

    def arguments(self, data: bytes) -> tuple[Any, ...]:
        """The arguments in calldata."""
        return tuple(decode(self.inputs, data[4:]))

    def result(self, data: bytes) -> Any:
        """What it returned: the value itself where there is one."""
        values = decode(self.outputs, data)
        return values[0] if len(values) == 1 else values


@dataclass(frozen=True)
class Event:
    """An event of the market."""

    name: str
    topic: bytes
    inputs: tuple[tuple[str, str, bool], ...]

    def decode(self, topics: list[bytes], data: bytes) -> dict[str, Any]:
        """Its arguments by name."""
        plain = [(name, kind) for name, kind, indexed in self.inputs if not indexed]
        values = dict(zip((n for n, _ in plain), decode([k for _, k in plain], data), strict=True))
        indexed = [(name, kind) for name, kind, is_indexed in self.inputs if is_indexed]
        for (name, kind), topic in zip(indexed, topics[1:], strict=True):
            values[name] = decode([kind], topic)[0]
        return values


@dataclass(frozen=True)
class Interface:
    """Everything of the market's ABI, by name and by selector or topic."""

    functions: dict[str, Function]
    selectors: dict[bytes, Function]
    events: dict[str, Event]
    topics: dict[bytes, Event]
    errors: dict[bytes, dict[str, Any]]


@lru_cache(4096)
def _remembered(name: str, arguments: tuple[Any, ...]) -> bytes:
    return interface().functions[name].call(*arguments)


@cache
def interface() -> Interface:
    """The market's."""
    functions, events, errors = {}, {}, {}
    for item in load_artifact()["abi"]:
        if item["type"] not in ("function", "event", "error"):
            continue
        inputs = [_type(entry) for entry in item["inputs"]]
        digest = keccak(f"{item['name']}({','.join(inputs)})".encode())
        if item["type"] == "function":
            outputs = tuple(_type(entry) for entry in item["outputs"])
            functions[item["name"]] = Function(item["name"], digest[:4], tuple(inputs), outputs)
        elif item["type"] == "event":
            named = zip(item["inputs"], inputs, strict=True)
            events[item["name"]] = Event(
                item["name"], digest, tuple((entry["name"], kind, entry["indexed"]) for entry, kind in named)
            )
        else:
            errors[digest[:4]] = item
    return Interface(
        functions,
        {function.selector: function for function in functions.values()},
        events,
        {event.topic: event for event in events.values()},
        errors,
    )
