"""JSON-RPC 2.0, one JSON object a line: reads a request, finds its method, words the answer. No I/O.

What is asked may be hostile: it is bounded, checked to the last key, and answered with the codes of the
specification (https://www.jsonrpc.org/specification). Batches are not offered. An error never holds a traceback, and
never what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnilytics.peers.errors import OmniLyticsError

MAX_REQUEST_BYTES = 8_192
MAX_ANSWER_BYTES = 1_048_576
MAX_ID_LETTERS = 64
_MAX_METHOD_LETTERS = 64

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# Ours, in the range that the specification leaves to servers.
REFUSED = -32000
TOO_SLOW = -32001
BUSY = -32002

Id = str | int | None


class RpcError(Exception):
    """An answer that is an error: its code, words, and data where there are some."""

    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


@dataclass(frozen=True)
class Whole:
    """A parameter that is a whole number within bounds, both included."""

    least: int
    most: int

    def accepts(self, value: object) -> bool:
        return type(value) is int and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


@dataclass(frozen=True)
class Word:
    """A parameter that is a text: one of a few, or any of so many characters at most."""

    among: tuple[str, ...] = ()
    most: int = 64

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and len(value) <= self.most and (not self.among or value in self.among)

    def __str__(self) -> str:
        return f"one of {', '.join(self.among)}" if self.among else f"a text of at most {self.most} characters"


@dataclass(frozen=True)
class Method:
    """What can be asked: who answers, and its parameters by name. Those in `needed` must be there."""

    answer: Callable[..., Awaitable[Any]]
    parameters: Mapping[str, Whole | Word] = field(default_factory=dict)
    needed: tuple[str, ...] = ()

    def check(self, params: object) -> dict[str, Any]:
        """The parameters as keywords. Raises RpcError."""
        if not isinstance(params, dict):
            raise RpcError(INVALID_PARAMS, "params must be an object")
        for name, value in params.items():
            kind = self.parameters.get(name)
            if kind is None:
                known = ", ".join(self.parameters) or "none"
                raise RpcError(INVALID_PARAMS, f"unknown parameter; there are: {known}")
            if not kind.accepts(value):
                raise RpcError(INVALID_PARAMS, f"{name} must be {kind}")
        for name in self.needed:
            if name not in params:
                raise RpcError(INVALID_PARAMS, f"{name} is missing")
        return params


@dataclass(frozen=True)
class Request:
    """A request that is well formed. One that is not `answered` is a notification: it is done and not answered."""

    id: Id
    method: str
    params: object
    answered: bool


def read_request(line: bytes) -> Request:
    """Reads one line. Raises RpcError."""
    if len(line) > MAX_REQUEST_BYTES:
        raise RpcError(INVALID_REQUEST, f"a request has at most {MAX_REQUEST_BYTES} bytes")
    try:
        said = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    # Not UTF-8, not JSON, NaN, a number of thousands of digits, brackets without end.
    except (ValueError, RecursionError):
        raise RpcError(PARSE_ERROR, "the line is not one JSON value in UTF-8") from None
    if not isinstance(said, dict):
        raise RpcError(INVALID_REQUEST, "a request is one JSON object; batches are not offered")
    number = said.get("id")
    if not _is_id(number):
        raise RpcError(INVALID_REQUEST, f"id must be a whole number, a text of at most {MAX_ID_LETTERS}, or null")
    if said.get("jsonrpc") != "2.0":
        raise BadRequest(number, 'jsonrpc must be "2.0"')
    method = said.get("method")
    if not isinstance(method, str) or not 0 < len(method) <= _MAX_METHOD_LETTERS:
        raise BadRequest(number, "method must be a text")
    if not said.keys() <= {"jsonrpc", "id", "method", "params"}:
        raise BadRequest(number, "a request has jsonrpc, id, method, params and nothing else")
    return Request(number, method, said.get("params", {}), "id" in said)


class BadRequest(RpcError):
    """A request of which at least the id could be read."""

    def __init__(self, number: Id, message: str) -> None:
        super().__init__(INVALID_REQUEST, message)
        self.id = number


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID_LETTERS
    return value is None or (type(value) is int and abs(value) < 2**63)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def find(methods: Mapping[str, Method], request: Request) -> tuple[Method, dict[str, Any]]:
    """The method that is asked for, and its checked parameters. Raises RpcError."""
    method = methods.get(request.method)
    if method is None:
        raise RpcError(METHOD_NOT_FOUND, f"no such method; there are: {', '.join(sorted(methods))}")
    return method, method.check(request.params)


def result_line(number: Id, result: Any) -> bytes:
    """An answer, with its end of line. One that would be too long becomes an error."""
    line = _line({"jsonrpc": "2.0", "id": number, "result": result})
    if len(line) > MAX_ANSWER_BYTES:
        return error_line(number, RpcError(REFUSED, f"the answer has {len(line)} bytes: ask for less"))
    return line


def error_line(number: Id, error: RpcError) -> bytes:
    """An answer that is an error."""
    said: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        said["data"] = dict(error.data)
    return _line({"jsonrpc": "2.0", "id": number, "error": said})


def as_rpc_error(error: BaseException) -> RpcError:
    """What an asker is told of an exception: our own errors in their words, anything else without a word."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, OmniLyticsError):
        return RpcError(REFUSED, error.message, {"code": error.code, "help": error.help})
    return RpcError(INTERNAL_ERROR, "internal error; the daemon's log says which")


def request_line(number: int, method: str, params: Mapping[str, Any]) -> bytes:
    """What a client sends, with its end of line."""
    return _line({"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params)})


def read_answer(line: bytes, number: int) -> Any:
    """What a client got for the request of this number: its result. Raises RpcError, ValueError for nonsense."""
    said = json.loads(line)
    if not isinstance(said, dict) or said.get("jsonrpc") != "2.0":
        raise ValueError("no JSON-RPC 2.0")
    error = said.get("error")
    if isinstance(error, dict):
        data = error.get("data")
        raise RpcError(
            int(error.get("code", INTERNAL_ERROR)),
            str(error.get("message", "")),
            data if isinstance(data, dict) else None,
        )
    if said.get("id") != number or "result" not in said:
        raise ValueError("an answer to something else")
    return said["result"]


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
