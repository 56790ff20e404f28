"""Flower's client stage in a process of its own, from an environment of its own: asked in turns with ours."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from omnilytics.peers.errors import OmniLyticsError

_HERE = Path(__file__).parent
REQUIREMENTS = _HERE / "flower-requirements.txt"
PROGRAM = _HERE / "flower_stage.py"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Taken:
    """One run of a stage: seconds by the clock, and bytes that leave the client."""

    seconds: float
    bytes: int


def environment() -> Path:
    """The Python of an environment with what is pinned in flower-requirements.txt, made where it is missing.

    It stands in the user's cache folder, and never in ours: nothing of this project depends on it. Raises
    OmniLyticsError where pip cannot install it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "omnilytics"
    wanted = REQUIREMENTS.read_bytes() + sys.version.encode()
    folder = cache / f"bench-flower-{hashlib.sha256(wanted).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OmniLyticsError(
                f"Flower cannot be installed: {done.stderr.strip().splitlines()[-1:]}", help="is the registry there?"
            )
        (folder / "complete").touch()
    return python


class FlowerStage:
    """A running flower_stage.py. Use it as a context."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": ""},
        )
        self._answer()

    def __enter__(self) -> FlowerStage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, values: int, neighbours: int) -> Taken:
        """The stage once, for so many values (float32) and neighbours."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"values": values, "neighbours": neighbours}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Taken(answer["seconds"], answer["bytes"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OmniLyticsError("Flower's stage ended without an answer", help="its own words stand above")
        answer: dict[str, Any] = json.loads(line)
        return answer
