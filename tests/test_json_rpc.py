"""JSON-RPC 2.0: what is understood, and that everything else is an error of the specification, in few words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnilytics.daemon.control.json_rpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REFUSED,
    BadRequest,
    Method,
    Request,
    RpcError,
    Whole,
    Word,
    as_rpc_error,
    error_line,
    find,
    read_answer,
    read_request,
    request_line,
    result_line,
)
from omnilytics.peers.errors import ChainError, ControlError, OmniLyticsError


async def echo(**arguments: Any) -> Any:
    return arguments


METHODS = {
    "plain": Method(echo),
    "both": Method(echo, {"task": Whole(1, 9), "level": Word(("debug", "info")), "text": Word(most=4)}, ("task",)),
}


def test_a_request_is_read() -> None:
    asked = read_request(b'{"jsonrpc": "2.0", "id": 7, "method": "both", "params": {"task": 3}}\n')
    assert asked == Request(7, "both", {"task": 3}, answered=True)
    method, arguments = find(METHODS, asked)
    assert method is METHODS["both"] and arguments == {"task": 3}
    assert read_request(b'{"jsonrpc":"2.0","id":"a","method":"plain"}') == Request("a", "plain", {}, answered=True)
    assert read_request(b'{"jsonrpc":"2.0","id":null,"method":"plain"}').answered
    assert not read_request(b'{"jsonrpc":"2.0","method":"plain"}').answered


WELL = {"jsonrpc": "2.0", "id": 1, "method": "plain"}
# What is sent, and the code of what it is.
HOSTILE: list[tuple[bytes, int]] = [
    (b"", PARSE_ERROR),
    (b"\xff\xfe\n", PARSE_ERROR),
    (b"{", PARSE_ERROR),
    (b"{'a': 1}", PARSE_ERROR),
    (b'{"jsonrpc":"2.0","id":NaN,"method":"plain"}', PARSE_ERROR),
    (b'{"jsonrpc":"2.0","id":1,"method":"plain","params":{"task":-Infinity}}', PARSE_ERROR),
    (b"[" * 5000, PARSE_ERROR),
    (b'{"id":' + b"9" * 5000 + b"}", PARSE_ERROR),
    (b"[]", INVALID_REQUEST),
    (json.dumps([WELL, WELL]).encode(), INVALID_REQUEST),
    (b"7", INVALID_REQUEST),
    (b"null", INVALID_REQUEST),
    (b'"status"', INVALID_REQUEST),
    (b"{}", INVALID_REQUEST),
    (b" " * (MAX_REQUEST_BYTES + 1), INVALID_REQUEST),
    (json.dumps(WELL | {"id": 1.5}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"id": True}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"id": [1]}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"id": 2**63}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"id": "x" * 65}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"jsonrpc": "1.0"}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"jsonrpc": 2.0}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"method": 1}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"method": ""}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"method": "m" * 65}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"more": 1}).encode(), INVALID_REQUEST),
    (json.dumps(WELL | {"method": "nothing"}).encode(), METHOD_NOT_FOUND),
    (json.dumps(WELL | {"method": "__class__"}).encode(), METHOD_NOT_FOUND),
    (json.dumps(WELL | {"params": []}).encode(), INVALID_PARAMS),
    (json.dumps(WELL | {"params": None}).encode(), INVALID_PARAMS),
    (json.dumps(WELL | {"params": {"task": 1}}).encode(), INVALID_PARAMS),
    (json.dumps(WELL | {"method": "both"}).encode(), INVALID_PARAMS),
    *(
        (json.dumps(WELL | {"method": "both", "params": {"task": 3} | params}).encode(), INVALID_PARAMS)
        for params in (
            {"task": 0},
            {"task": 10},
            {"task": -(2**70)},
            {"task": 3.0},
            {"task": True},
            {"task": "3"},
            {"task": None},
            {"level": "loud"},
            {"level": 1},
            {"level": ["info"]},
            {"text": "12345"},
            {"self": 1},
            {"": 1},
        )
    ),
]


@pytest.mark.parametrize(("line", "code"), HOSTILE, ids=lambda value: str(value)[:50])
def test_what_is_no_request_is_an_error_of_the_specification(line: bytes, code: int) -> None:
    with pytest.raises(RpcError) as caught:
        find(METHODS, read_request(line))
    assert caught.value.code == code
    assert 0 < len(caught.value.message) < 200
    said = json.loads(error_line(None, caught.value))
    assert said == {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": caught.value.message}}


def test_an_error_never_repeats_what_was_sent() -> None:
    planted = "0f" * 16
    for line in (
        json.dumps(WELL | {"method": planted}),
        json.dumps(WELL | {"params": {planted: planted}}),
        json.dumps(WELL | {"method": "both", "params": {"task": 1, "level": planted}}),
        json.dumps(WELL | {planted: planted}),
        f'{{"jsonrpc": "{planted}", "method": "{planted}',
    ):
        with pytest.raises(RpcError) as caught:
            find(METHODS, read_request(line.encode()))
        assert planted not in error_line(1, caught.value).decode()


def test_a_bad_request_keeps_the_id_that_could_be_read() -> None:
    with pytest.raises(BadRequest) as caught:
        read_request(b'{"jsonrpc": "2.0", "id": "x", "method": 5}')
    assert caught.value.id == "x"


def test_exceptions_become_errors_in_their_words_or_without_a_word() -> None:
    told = as_rpc_error(ChainError("no block", help="wait"))
    assert (told.code, told.message, told.data) == (REFUSED, "no block", {"code": "chain", "help": "wait"})
    planted = "aa" * 16
    hidden = as_rpc_error(KeyError(planted))
    assert hidden.code == INTERNAL_ERROR and planted not in hidden.message and hidden.data is None
    own = RpcError(INVALID_PARAMS, "x")
    assert as_rpc_error(own) is own


def test_lines_are_lines_and_an_answer_has_an_end() -> None:
    assert result_line(1, {"text": "a\nb"}).count(b"\n") == 1
    said = json.loads(result_line(1, "x" * MAX_ANSWER_BYTES))
    assert said["error"]["code"] == REFUSED and "ask for less" in said["error"]["message"]


def test_an_answer_is_read() -> None:
    assert json.loads(request_line(3, "status", {})) == {"jsonrpc": "2.0", "id": 3, "method": "status", "params": {}}
    assert read_answer(result_line(3, [1]), 3) == [1]
    with pytest.raises(RpcError, match="no block"):
        read_answer(error_line(3, as_rpc_error(ChainError("no block"))), 3)
    for nonsense in (b"", b"{", b"[]", b'{"result": 1}', result_line(4, 1), b'{"jsonrpc":"2.0","id":3}'):
        with pytest.raises(ValueError):
            read_answer(nonsense, 3)


def test_a_silent_daemon_is_a_matter_of_communications() -> None:
    assert ControlError("x").exit_code == 3 and issubclass(ControlError, OmniLyticsError)
