"""Where a daemon's control socket is: HOME/control.sock, or a short name of the same where that is too long.

A Unix socket's path has 107 bytes at most (sun_path). For a longer one the socket is in XDG_RUNTIME_DIR/omnilytics, or
without that variable in a folder of our own under the system's temporary one, named by a hash of HOME; and
HOME/control.path, one line, says where. Whoever looks for a daemon reads that line first.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from omnilytics.peers.errors import ControlError

#: 108 on Linux with the final zero; the smallest of the common systems has 104.
MAX_PATH_BYTES = 103
_MAX_RECORD_BYTES = 4096


def preferred_path(home: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the socket of the daemon of this folder should be: absolute, and short enough to be one.

    Raises ControlError where no place is short enough.
    """
    home = home.resolve()
    inside = home / "control.sock"
    if _fits(inside):
        return inside
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:24] + ".sock"
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    folders = [Path(runtime) / "omnilytics"] if os.path.isabs(runtime) else []  # noqa: PTH117  (a text, no path yet)
    folders.append(Path(tempfile.gettempdir()) / f"omnilytics-{os.getuid()}")
    for folder in folders:
        if _fits(folder / name):
            return folder / name
    raise ControlError(
        f"the path of {home} is too long for a control socket, and so is every other place",
        help="set XDG_RUNTIME_DIR to a short folder of your own, or use a --home with a shorter path",
    )


def make_folder(path: Path, home: Path) -> None:
    """Makes the folder of a socket that is not in HOME, for us alone. Raises ControlError where others may enter it."""
    folder = path.parent
    if folder == home.resolve():
        return
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ControlError(f"the folder {folder} cannot be had: {error.strerror}") from error
    # In a shared temporary folder the name may have been taken by somebody who would like to be asked.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ControlError(
            f"the folder {folder} is not ours alone",
            help=f"remove it, or set XDG_RUNTIME_DIR to a folder of your own; needed is {folder} with mode 0700",
        )


def record(home: Path, path: Path) -> None:
    """Writes down where the socket is, if it is not where everybody looks."""
    note = home / "control.path"
    if path == home.resolve() / "control.sock":
        note.unlink(missing_ok=True)
        return
    half = home / f".control.path.{os.getpid()}"
    with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
        file.write(os.fsencode(path) + b"\n")
    half.replace(note)


def recorded_path(home: Path) -> Path:
    """Where the running daemon of this folder says that its socket is. Raises ControlError for a note of no sense."""
    note = home / "control.path"
    try:
        with note.open("rb") as file:
            text = file.read(_MAX_RECORD_BYTES)
    except FileNotFoundError:
        return home.resolve() / "control.sock"
    path = Path(os.fsdecode(text.removesuffix(b"\n")))
    if b"\0" in text or not path.is_absolute() or not _fits(path):
        raise ControlError(f"{note} names no socket", help=f"remove {note} and start the daemon again")
    return path


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_PATH_BYTES
