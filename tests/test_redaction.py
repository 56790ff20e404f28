"""What may be shown of URLs and settings, and that what is hidden is what is looked for."""

import tomllib

import pytest

from omnilytics.daemon.redaction import (
    HIDDEN,
    is_secret_name,
    redacted,
    secret_texts,
    secrets_in_config,
    secrets_in_url,
    shown_url,
    shown_value,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("http://127.0.0.1:8545/", "http://127.0.0.1:8545"),
        ("https://mainnet.infura.io/v3/0123456789abcdef", f"https://mainnet.infura.io/{HIDDEN}"),
        ("https://rpc.example/?apikey=0123456789", f"https://rpc.example/{HIDDEN}"),
        ("https://alice:pw@rpc.example:444/x", f"https://alice:{HIDDEN}@rpc.example:444/{HIDDEN}"),
        ("https://token@rpc.example", f"https://{HIDDEN}@rpc.example"),
        ("mqtts://alice:p%40ss@broker", f"mqtts://alice:{HIDDEN}@broker"),
        ("http://[::1]:8545", "http://[::1]:8545"),
        ("http://host:port", HIDDEN),
        ("nonsense with a secret", HIDDEN),
    ],
)
def test_a_url_is_shown_without_what_opens_doors(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("http://127.0.0.1:8545", []),
        ("", []),
        ("mqtts://alice:p%40ss@broker", ["p%40ss", "p@ss"]),
        ("https://user:pw1@rpc.example", ["pw1"]),
        ("https://token-of-mine@rpc.example", ["token-of-mine"]),
        ("https://rpc.example/v3/0123456789abcdef", ["0123456789abcdef"]),
        ("https://rpc.example/?key=0123456789", ["key=0123456789", "0123456789"]),
    ],
)
def test_the_pieces_that_are_hidden_are_known(url: str, secrets: list[str]) -> None:
    assert secrets_in_url(url) == ([url, *secrets] if secrets else [])
    for secret in secrets:
        assert secret not in shown_url(url)


def test_the_longest_secret_is_cut_out_first() -> None:
    assert redacted("at abcdef and abc", ["abc", "abcdef", ""]) == f"at {HIDDEN} and {HIDDEN}"


def test_settings_are_hidden_by_their_names_in_tables_and_lists_too() -> None:
    table = {
        "level": "warning",
        "smtp_password": "hunter2",
        "webhook": "https://hooks.example/T0/B0/secretsecret",
        "inner": {"token": ["one-token", "two-token"], "count": 3},
    }
    shown = shown_value("notify", table)
    assert shown["level"] == "warning"
    assert shown["smtp_password"] == HIDDEN
    assert shown["webhook"] == f"https://hooks.example/{HIDDEN}"
    assert shown["inner"] == {"token": [HIDDEN, HIDDEN], "count": 3}
    hidden = secret_texts("notify", table)
    assert {"hunter2", "one-token", "two-token", "secretsecret"} <= set(hidden)
    assert "warning" not in hidden


@pytest.mark.parametrize(
    "text",
    [
        'chian = "https://rpc/v3/0123456789abcdef"\n[notify]\nsmtp_password = "hunter2"\n',
        'chain = "https://rpc/v3/0123456789abcdef"\n[[[\nsmtp_password = "hunter2" # mine\n',
        "chain = 'https://rpc/v3/0123456789abcdef\nsmtp_password = hunter2\n",
    ],
    ids=["unknown key", "no TOML", "no quotes"],
)
def test_a_file_that_cannot_be_used_gives_its_secrets_away_to_the_redactor_only(text: str) -> None:
    assert {"0123456789abcdef", "hunter2"} <= set(secrets_in_config(text))


def test_what_is_nested_too_deep_is_hidden_whole() -> None:
    table = tomllib.loads("a" + ".a" * 5_000 + " = 'hunter2'")
    assert "hunter2" not in repr(shown_value("policy", table))
    assert secret_texts("policy", table) == []


def test_names_tell_secrets() -> None:
    assert is_secret_name("SMTP_Password")
    assert not is_secret_name("finality_depth")
    assert not is_secret_name("broker_password_file")
    assert secret_texts("chain_id", 5) == []
