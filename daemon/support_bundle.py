"""What a report of a problem needs, in one archive, without secrets: settings, versions, checks, files, last log lines.

Everything that goes in is text, and every text is searched for the secrets of this participant: passwords, keys in
URLs, whatever settings with a secret's name hold, and, where the key files can be opened, the keys themselves. The
log has never had keys in it; it is searched all the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omnilytics.daemon.config import Settings
from omnilytics.daemon.doctor import Finding
from omnilytics.daemon.keystore import Keys
from omnilytics.daemon.log_reading import LogTail
from omnilytics.daemon.redaction import redacted, secret_texts, secrets_in_config

LOG_LINES = 2000
_MOST_FILES = 500


def texts(
    shown_settings: Mapping[str, Any] | None,
    versions: Mapping[str, str],
    findings: list[Finding],
    home: Path,
) -> dict[str, str]:
    """The archive's files by name, not yet searched for secrets; no settings where they could not be read."""
    with LogTail(home / "log.jsonl") as tail:
        lines = tail.last(LOG_LINES, lambda line: True)
    return {
        "versions.json": _json(versions),
        "doctor.json": _json([asdict(finding) for finding in findings]),
        "config.json": _json(shown_settings or {"problem": "config.toml cannot be read; doctor.json says why"}),
        "files.txt": "\n".join(_listing(home)) + "\n",
        "log.jsonl": "".join(line.decode(errors="replace") + "\n" for line in lines),
    }


def secrets_of(settings: Settings | None, config_path: Path, password: str | None, keys: Keys | None) -> list[str]:
    """What must not be in the archive, in the ways in which it could be written."""
    found: list[str] = [password] if password else []
    # The file itself too: its settings may be unusable, and what a flag covers stands in it all the same.
    with contextlib.suppress(OSError):
        found += secrets_in_config(config_path.read_text(encoding="utf-8", errors="replace"))
    if settings is not None:
        for name, value in vars(settings).items():
            found += secret_texts(name, value)
            # Settings that only name the file of a password.
            if name.endswith("password_file") and value:
                with contextlib.suppress(OSError, ValueError):
                    found.append((settings.home / value).read_text(encoding="utf-8").strip())
    for secret in keys.secrets() if keys is not None else ():
        found += [
            secret.hex(),
            secret.hex().upper(),
            repr(secret)[2:-1],
            str(list(secret)),
            str(int.from_bytes(secret)),
        ]
    # As JSON writes them too.
    found += [json.dumps(text)[1:-1] for text in found]
    return list(dict.fromkeys(found))


def write_bundle(path: Path, files: Mapping[str, str], secrets: Iterable[str], made: int) -> None:
    """Writes a .tar.gz of mode 0600 that must not be there yet; made: Unix seconds. Raises FileExistsError."""
    hidden = list(secrets)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            content = redacted(text, hidden).encode()
            entry = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), made, 0o600
            archive.addfile(entry, io.BytesIO(content))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(packed.getvalue())


def _listing(home: Path) -> list[str]:
    """Mode, size and name of the files of a data folder."""
    lines = []
    for path in sorted(home.rglob("*"))[:_MOST_FILES]:
        try:
            status = path.lstat()
        except OSError as error:
            lines.append(f"{path.relative_to(home)}: {error.strerror}")
            continue
        lines.append(f"{stat.filemode(status.st_mode)} {status.st_size:>12} {path.relative_to(home)}")
    return lines


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str) + "\n"
