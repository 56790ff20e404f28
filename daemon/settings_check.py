"""Whether settings can be used, without reaching out to anybody."""

from __future__ import annotations

from omnilytics.daemon.broker import parse_broker_url
from omnilytics.daemon.config import Settings
from omnilytics.daemon.data_registry import read_registry
from omnilytics.daemon.policy import read_policy
from omnilytics.daemon.training.private import read_privacy


def check_settings(settings: Settings) -> None:
    """Raises ConfigurationError for the first setting, or key of a table, that no daemon could use."""
    _ = settings.chain_url
    parse_broker_url(settings.broker)
    read_policy(settings.table("policy"))
    read_privacy(settings.table("privacy"))
    read_registry(settings.table("data"), settings.home)
    # Last: a folder that init has just made has none, and all else may be said first.
    _ = settings.market_address
