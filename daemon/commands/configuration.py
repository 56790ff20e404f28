"""omnilytics config: which settings are in force, where they come from, and whether they can be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import network_options, overrides_from

if TYPE_CHECKING:
    from omnilytics.daemon.config import Settings


@click.group()
def config() -> None:
    """The settings: flags over the environment over config.toml over defaults."""


@config.command()
@network_options
@json_option
def show(as_json: bool, **options: Any) -> None:
    """Show every setting with its value and where that comes from; passwords and keys in URLs are hidden.

    \b
    Example: omnilytics config show --home ./alice
    """
    from omnilytics.daemon.config import find_settings

    home, _, overrides = overrides_from(options)
    settings, sources = find_settings(home, overrides)
    shown = shown_settings(settings, sources)
    lines = [f"{name:<20} {_text(entry['value']):<44} {entry['source']}" for name, entry in shown["settings"].items()]
    lines += [f"[{name}] {_text(table)}" for name, table in shown["tables"].items()]
    emit("config show", shown, as_json, "\n".join(lines))


@config.command()
@network_options
@json_option
def validate(as_json: bool, **options: Any) -> None:
    """Check all settings without reaching out to anybody; exit code 2 names the first that cannot be.

    \b
    Example: omnilytics config validate --home ./alice
    """
    from omnilytics.daemon.config import find_settings
    from omnilytics.daemon.settings_check import check_settings

    home, _, overrides = overrides_from(options)
    settings, _ = find_settings(home, overrides)
    check_settings(settings)
    text = f"{settings.config_path} is fine" if settings.config_path.exists() else "no config.toml; all is fine"
    emit("config validate", {"file": str(settings.config_path), "valid": True}, as_json, text)


def shown_settings(settings: Settings, sources: dict[str, str]) -> dict[str, Any]:
    """Settings and tables as they may be shown."""
    from omnilytics.daemon.redaction import shown_value

    return {
        "file": str(settings.config_path),
        "settings": {
            name: {"value": shown_value(name, getattr(settings, name)), "source": source}
            for name, source in sources.items()
        },
        "tables": {name: shown_value(name, table) for name, table in settings.tables.items()},
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return str(value)
    return "-" if value in (None, "") else str(value)
