"""Who may ask the local page's server for what. Pure: decides from a request's facts.

The page is for one browser of one user. Against it stand other web pages in the same browser (which can send requests
to any port of this machine, also by a name of theirs that leads here: DNS rebinding), and other users of the machine
(which can open the port, but do not know the token). So every request must name us as its host. What is not the bare
page must come from our own origin and carry two secrets: a cookie that no script can read, and a key that only a page
of this very origin can. One alone is not enough: cookies do not tell ports apart, and any other server on this machine
that the user visits gets to see it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_HEADER = "X-OmniLytics-Key"
#: On every answer: nothing from anywhere else, no frames, no script but ours, nothing kept.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Closed(Exception):
    """A request that is not let in: the HTTP status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(frozen=True)
class Secrets:
    """One run's: the token of the address, and the cookie and the key that it is traded for."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)


def check_host(port: int, headers: Mapping[str, str]) -> None:
    """Every request. Raises Closed where it is for another host's name than ours."""
    if headers.get("Host", "") not in hosts(port):
        raise Closed(421, "this is 127.0.0.1, and answers to no other name")


def check_origin(port: int, headers: Mapping[str, str]) -> None:
    """Whatever is not the bare page. Raises Closed where another page sent it."""
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{headers.get('Host', '')}":
        raise Closed(403, "another page may not ask this")
    if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise Closed(403, "another page may not ask this")


def check_token(held: Secrets, headers: Mapping[str, str]) -> None:
    """For a session. Raises Closed."""
    if not _same(headers.get(KEY_HEADER), held.token):
        raise Closed(401, "the token is not this run's")


def check_session(held: Secrets, headers: Mapping[str, str], cookie: str | None) -> None:
    """For everything that the daemon is asked. Raises Closed."""
    # Both are looked at whatever the first is: how long it takes tells nothing.
    if not _same(cookie, held.cookie) & _same(headers.get(KEY_HEADER), held.key):
        raise Closed(401, "open the address that omnilytics ui printed")


def hosts(port: int) -> tuple[str, str]:
    """The names that we answer to."""
    return f"127.0.0.1:{port}", f"localhost:{port}"


def _same(said: str | None, held: str) -> bool:
    return hmac.compare_digest((said or "").encode("utf-8", "surrogateescape"), held.encode())
