"""URLs and settings as they may be shown: without passwords, and without the keys that RPC providers put in URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from omnilytics.daemon.config import parse_toml

HIDDEN = "[redacted]"
# Names of settings, in whatever table, whose texts are nobody else's business.
_SECRET_NAME = re.compile(r"password|passphrase|secret|token|private|credential|webhook|url|command", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'')
# Shorter pieces of a URL, as v3, occur everywhere and hide nothing.
_LEAST_SECRET = 6
# TOML's dotted keys nest by the thousand in a small file.
_DEEPEST = 16


def shown_url(url: str) -> str:
    """A URL without password, path, query and fragment; a text that is none is hidden whole."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return HIDDEN
    if not parts.scheme or not host:
        return HIDDEN if url else ""
    user = ""
    if parts.username is not None:
        user = f"{parts.username}:{HIDDEN}@" if parts.password is not None else f"{HIDDEN}@"
    host = f"[{host}]" if ":" in host else host
    rest = parts.path.strip("/") or parts.query or parts.fragment
    return f"{parts.scheme}://{user}{host}{f':{port}' if port else ''}{f'/{HIDDEN}' if rest else ''}"


def secrets_in_url(url: str) -> list[str]:
    """The pieces of a URL that `shown_url` hides, as they stand and decoded; the URL itself is the first."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url] if url else []
    password = parts.password or ""
    pieces = [*parts.path.split("/"), parts.query, parts.fragment]
    pieces += [value for pair in parts.query.split("&") for value in pair.split("=")[1:]]
    if not password:
        pieces.append(parts.username or "")
    if not password and not any(pieces):
        return []
    kept = [piece for piece in pieces if len(piece) >= _LEAST_SECRET]
    # A password is one however short; of a letter or two it would blacken whole texts.
    kept += [password] if len(password) >= 3 else []
    return list(dict.fromkeys([url, *kept, *map(unquote, kept)]))


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text with every one of these secrets cut out, the longest first."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if secret:
            text = text.replace(secret, HIDDEN)
    return text


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name may hold a secret; one that names a file holds none."""
    return _SECRET_NAME.search(name) is not None and not name.lower().endswith("_file")


def shown_value(name: str, value: Any, depth: int = 0) -> Any:
    """A setting's value as it may be shown: URLs shortened, texts under secret names hidden, in tables too."""
    if depth > _DEEPEST:
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: shown_value(key, inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown_value(name, inner, depth + 1) for inner in value]
    if not isinstance(value, str) or not value:
        return value
    if _URL.match(value):
        return shown_url(value)
    return HIDDEN if is_secret_name(name) else value


def secrets_in_config(text: str) -> list[str]:
    """What may be secret in a configuration file, usable or not, TOML or not: URLs, texts under secret names."""
    try:
        return secret_texts("", parse_toml(text))
    except (ValueError, RecursionError):
        found = []
        for line in text.splitlines():
            name, _, rest = line.partition("=")
            texts = [match[1:-1] for match in _QUOTED.findall(rest)] or [rest.strip().strip("'\"")]
            found += [secret for piece in texts for secret in secret_texts(name, piece)]
        return found


def secret_texts(name: str, value: Any, depth: int = 0) -> list[str]:
    """The texts that `shown_value` hides, but for those that it hides only because they are nested too deep."""
    if depth > _DEEPEST:
        return []
    if isinstance(value, Mapping):
        return [text for key, inner in value.items() for text in secret_texts(key, inner, depth + 1)]
    if isinstance(value, (list, tuple)):
        return [text for inner in value for text in secret_texts(name, inner, depth + 1)]
    if not isinstance(value, str) or not value:
        return []
    if _URL.match(value):
        return secrets_in_url(value)
    return [value] if is_secret_name(name) else []
