"""The systemd user unit of a daemon: text, and nothing else.

What it may do is taken away where that needs no rights and no user namespaces (`strict` adds what does): a unit that
does not start protects nobody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omnilytics.peers.errors import (
    ChainMismatchError,
    ConfigurationError,
    KeyFileError,
    LockError,
    PortError,
)

# Ends that a restart does not mend: wrong options, a port, keys, another chain, a folder in use. Not data and journal:
# a disk that was full, or a folder that was not mounted yet, is well again by itself.
NO_RESTART = tuple(
    sorted(error.exit_code for error in (ConfigurationError, PortError, KeyFileError, ChainMismatchError, LockError))
)
# What is after a watchdog's patience hangs; one step of a daemon has a deadline well below it (health.BUSY_SECONDS
# counts on the daemon's own loop, which this counts on the outside).
WATCHDOG_SECONDS = 120
STOP_SECONDS = 120
RESTART_SECONDS = 30

_UNIT = """\
[Unit]
Description=OmniLytics daemon in {home}
Documentation=https://www.freedesktop.org/software/systemd/man/systemd.service.html
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec={restart}
RestartPreventExitStatus={no_restart}
# It is ready when its chain answers, and waits for that for ever.
TimeoutStartSec=infinity
TimeoutStopSec={stop}
WatchdogSec={watchdog}
KillMode=mixed
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
{strict}
[Install]
WantedBy=default.target
"""
# In a user's own manager these need unprivileged user namespaces.
_STRICT = """\
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={home}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
"""


def unit_name(home: Path, name: str | None) -> str:
    """The file's name, omnilytics-NAME.service; NAME is the folder's where none is given. Raises ConfigurationError."""
    word = home.name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", word) or word.startswith("."):
        raise ConfigurationError(
            f"'{word}' cannot be a unit's name", help="give one with --name: letters, digits, _ . and -"
        )
    return "omnilytics.service" if word == "omnilytics" else f"omnilytics-{word}.service"


def unit_text(home: Path, program: Sequence[str], strict: bool = False) -> str:
    """The unit that runs the folder's daemon as it was started last. Raises ConfigurationError for an odd path."""
    command = " ".join(_quoted(word) for word in (*program, "start", "--foreground", "--home", str(home)))
    return _UNIT.format(
        home=str(home).replace("%", "%%"),
        command=command,
        restart=RESTART_SECONDS,
        no_restart=" ".join(map(str, NO_RESTART)),
        stop=STOP_SECONDS,
        watchdog=WATCHDOG_SECONDS,
        strict=_STRICT.format(home=_quoted(str(home), dollars=False)) if strict else "",
    )


def _quoted(word: str, dollars: bool = True) -> str:
    """A word as systemd reads it back: its own quotes, % of specifiers, $ of variables in command lines."""
    if any(not letter.isprintable() for letter in word):
        raise ConfigurationError("a path has unprintable letters", help="use a folder without them")
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if dollars:
        word = word.replace("$", "$$")
    return word if re.fullmatch(r"[A-Za-z0-9_./@:=+-]+", word) else f'"{word}"'
