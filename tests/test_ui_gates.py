"""Who is let in by the local page's server: our own page with both secrets, and nobody else."""

from __future__ import annotations

import pytest

from omnilytics.daemon.ui.gates import (
    HEADERS,
    KEY_HEADER,
    Closed,
    Secrets,
    check_host,
    check_origin,
    check_session,
    check_token,
)

PORT = 4711
HELD = Secrets("t" * 43, "c" * 43, "k" * 43)


@pytest.mark.parametrize("host", ["127.0.0.1:4711", "localhost:4711"])
def test_our_own_names_are_answered_to(host: str) -> None:
    check_host(PORT, {"Host": host})
    check_origin(PORT, {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})
    check_origin(PORT, {"Host": host})


@pytest.mark.parametrize(
    "host",
    [
        "", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:47110", "evil.example:4711", "127.0.0.1.evil.example:4711",
        "localhost.:4711", "LOCALHOST:4711", "[::1]:4711", "0.0.0.0:4711", "127.1:4711", "2130706433:4711",
        "127.0.0.1:4711@evil.example", "127.0.0.1:4711, evil.example",
    ],
)  # fmt: skip
def test_any_other_name_is_refused(host: str) -> None:
    with pytest.raises(Closed) as caught:
        check_host(PORT, {"Host": host})
    assert caught.value.status == 421
    with pytest.raises(Closed):
        check_host(PORT, {})


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "https://127.0.0.1:4711"},
        {"Origin": "http://127.0.0.1:4712"},
        {"Origin": "http://localhost:4711"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://127.0.0.1:4711", "Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_another_page_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Closed) as caught:
        check_origin(PORT, {"Host": "127.0.0.1:4711"} | headers)
    assert caught.value.status == 403


@pytest.mark.parametrize("said", [None, "", "t" * 42, "t" * 44, HELD.cookie, HELD.key, "\udcff", "é" * 43])
def test_only_the_token_opens_a_session(said: str | None) -> None:
    check_token(HELD, {KEY_HEADER: HELD.token})
    with pytest.raises(Closed) as caught:
        check_token(HELD, {} if said is None else {KEY_HEADER: said})
    assert caught.value.status == 401 and HELD.token not in caught.value.why


@pytest.mark.parametrize(
    ("key", "cookie"),
    [
        (None, None), (HELD.key, None), (None, HELD.cookie), (HELD.key, ""), ("", HELD.cookie),
        (HELD.token, HELD.cookie), (HELD.cookie, HELD.key), (HELD.key, HELD.token), (HELD.key, HELD.key),
    ],
)  # fmt: skip
def test_a_session_needs_both_the_cookie_and_the_key(key: str | None, cookie: str | None) -> None:
    check_session(HELD, {KEY_HEADER: HELD.key}, HELD.cookie)
    with pytest.raises(Closed) as caught:
        check_session(HELD, {} if key is None else {KEY_HEADER: key}, cookie)
    assert caught.value.status == 401


def test_secrets_are_long_fresh_and_not_shown() -> None:
    one, other = Secrets(), Secrets()
    assert len({one.token, one.cookie, one.key, other.token, other.cookie, other.key}) == 6
    assert min(map(len, (one.token, one.cookie, one.key))) >= 43
    assert not any(secret in repr(one) for secret in (one.token, one.cookie, one.key))


def test_the_policy_allows_nothing_but_our_own() -> None:
    rules = dict(rule.split(" ", 1) for rule in HEADERS["Content-Security-Policy"].split("; "))
    assert rules.pop("default-src") == rules.pop("frame-ancestors") == "'none'"
    assert set(rules.values()) == {"'self'", "'none'"} and "unsafe" not in HEADERS["Content-Security-Policy"]
