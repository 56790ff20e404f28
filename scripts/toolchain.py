"""Where the programs are that a local market runs on: anvil and mosquitto.

`scripts/setup` looks for anvil in the same places and in the same order; it installs, this module only finds.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FOUNDRY_SERIES = "1.7"
"""The series of anvil and forge that contracts/package.json pins; others are not taken from PATH."""


class MissingProgramError(Exception):
    """A program is not installed. The text says how to get it."""


def find_anvil() -> Path:
    """$ANVIL, or a fitting anvil on PATH, or the one that scripts/setup installed."""
    chosen = os.environ.get("ANVIL")
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise MissingProgramError(f"ANVIL={chosen} is not a program; unset ANVIL or give the path of anvil")
        return Path(chosen)
    on_path = shutil.which("anvil")
    if on_path and _version(on_path).startswith(f"{FOUNDRY_SERIES}."):
        return Path(on_path)
    return _from_npm("anvil")


def find_forge() -> Path:
    """The forge that scripts/setup installed: never another one, so that the artifacts come out the same."""
    return _from_npm("forge")


def find_mosquitto() -> Path:
    """Mosquitto on PATH, or in the folders of system programs, which are not on every user's PATH."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
    if not found:
        raise MissingProgramError("mosquitto is not installed; run: sudo apt install mosquitto")
    return Path(found)


def _version(program: str) -> str:
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    match = re.search(r"Version: (\d+\.\d+\.\d+)", printed)
    return match.group(1) if match else ""


def _from_npm(name: str) -> Path:
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower()
    )
    package = f"node_modules/@foundry-rs/{name}-{platform.system().lower()}-{machine}/bin/{name}"
    for folder in (ROOT / "contracts", ROOT / ".venv" / "foundry"):
        if (folder / package).is_file():
            return folder / package
    raise MissingProgramError(f"{name} is not installed; run: scripts/setup")
