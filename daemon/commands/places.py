"""omnilytics paths and version: where everything is, and what runs."""

from __future__ import annotations

import platform
from pathlib import Path

import click

from omnilytics.daemon.commands.envelope import emit, json_option
from omnilytics.daemon.commands.options import home_option

# What behaves differently from one version to the next; docs for a report of a problem.
_LIBRARIES = ("aiomqtt", "web3", "eth-account", "numpy", "scikit-learn", "pynacl", "coincurve", "cryptography")


@click.command()
@home_option
@json_option
def paths(home: Path, as_json: bool) -> None:
    """Show the files of this participant, and which of them are there.

    \b
    Example: omnilytics paths --home ./alice
    """
    from omnilytics.daemon.config import Settings

    settings = Settings(home)
    named = {
        "home": home,
        "config": settings.config_path,
        "keys": settings.keys_folder,
        "password": settings.password_path,
        "journal": settings.journal_path,
        "log": settings.log_path,
        "lock": home / "lock",
    }
    lines = [f"{name:<9} {path}{'' if path.exists() else '  (not there)'}" for name, path in named.items()]
    answer = {name: {"path": str(path.absolute()), "exists": path.exists()} for name, path in named.items()}
    emit("paths", answer, as_json, "\n".join(lines))


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the versions of OmniLytics, Python, the system and the libraries that matter.

    \b
    Example: omnilytics version --json
    """
    found = versions()
    emit("version", found, as_json, "\n".join(f"{name:<13} {value}" for name, value in found.items()))


def versions() -> dict[str, str]:
    """Names and versions."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    found = {"omnilytics": version_of("omnilytics"), "python": platform.python_version(), "system": platform.platform()}
    for library in _LIBRARIES:
        try:
            found[library] = version_of(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found
