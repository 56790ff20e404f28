"""The config.toml that init writes: what was given, and every other setting as a comment with its default. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omnilytics.daemon.config import Settings
from omnilytics.daemon.data_registry import DataSource, entry_text, toml_text

_HEAD = """\
# Settings of one OmniLytics participant. A flag is stronger than the environment (OMNILYTICS_CHAIN, ..), the
# environment is stronger than this file, this file is stronger than the defaults, which stand here as comments.
# Check it with: omnilytics config validate
"""
_MEANINGS = {
    "chain": "Ethereum RPC, http or https.",
    "market": "The market contract: 0x and 40 hex digits.",
    "broker": "MQTT broker: mqtt://[user:password@]host:port, or mqtts:// for TLS.",
    "broker_ca": "Who vouches for the broker, in PEM; empty: HOME/broker/ca.pem where it is, or the system's own.",
    "broker_certificate": "Our certificate for the broker; empty: HOME/broker/certificate.pem where it is.",
    "broker_key": "The key of that certificate, mode 0600; empty: HOME/broker/key.pem where it is.",
    "broker_password_file": "Password of the user in the broker's address, mode 0600, for brokers that want one.",
    "chain_id": "Refuse any other chain.",
    "finality_depth": "Blocks under the head whose state is trusted; 0 is for local chains that cannot fork.",
    "gas_price_cap": "Never pay more wei than this for a gas.",
    "gas_tip": "Priority fee, wei a gas.",
    "poll_seconds": "How often the chain is asked for news.",
    "resend_seconds": "How often a message without an answer is sent again.",
    "away_grace_seconds": "How long a mate may be away before our group sits the round out.",
    "patience_seconds": "How long a silent mate is waited for before our group sits the round out.",
    "check_chain": "A second RPC: nothing is done while the two disagree.",
    "stall_seconds": "Warn when no new block has come for so long.",
    "skew_seconds": "Warn when our clock and the chain's differ by more.",
    "verbose": "Readable log on the terminal too.",
    "payout_address": "Where pay, stakes and refunds go, 0x and 40 hex digits; empty: to the daemon's own account.",
    "log_megabytes": "The log is put aside when it has so many megabytes; 0: never.",
    "log_files": "How many logs that were put aside are kept.",
    "log_level": "Lowest level that is written: debug, info, warning, error. The monitor's finer panels need debug.",
    "notify": "Notifications on the desktop: auto (where there is one), on, off.",
}
_TAIL = """\
# Rows of a data owner: omnilytics data add FILE writes such a table.
# [data.rows]
# file = "/home/me/rows.csv"
# label = "outcome"

# Which tasks are joined (docs/policy.md), and local noise (docs/privacy.md): omnilytics policy show lists the keys.
# [policy]
# minimum_reward = 0
# [privacy]
# noise_multiplier = 0.0
"""


def config_text(given: Mapping[str, Any], sources: Mapping[str, DataSource]) -> str:
    """TOML that load_settings reads; `given` are settings by name, None for those that were not given."""
    lines = [_HEAD]
    for entry in fields(Settings):
        if entry.name in ("home", "tables"):
            continue
        lines.append(f"# {_MEANINGS[entry.name]}")
        value = given.get(entry.name)
        if value is not None:
            lines.append(f"{entry.name} = {_toml(value)}\n")
        else:
            default = entry.default
            lines.append(f"# {entry.name} = {'31337' if default is None else _toml(default)}\n")
    lines.append(_TAIL)
    lines += [entry_text(name, source) for name, source in sources.items()]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return toml_text(value) if isinstance(value, str) else repr(value)
