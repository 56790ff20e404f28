"""scripts/setup against a stand-in for Python's venv and pip and for npm: no network, nothing installed."""

import importlib.metadata
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import venv_intact
from scripts.toolchain import ROOT

COPIED = (
    "scripts/setup",
    "scripts/venv_intact.py",
    "scripts/node-requirements.txt",
    "requirements.lock",
    "pyproject.toml",
    "contracts/package.json",
    "contracts/package-lock.json",
)

# Makes environments that hold itself, and notes what pip was asked. Everything else is the real Python's.
PYTHON = """#!/bin/bash
case "$*" in
  *ensurepip*) [[ ! -e "$STANDIN/no-venv" ]] || exit 1 ;;
  *version_info\\[:2\\]*) if [[ -e "$STANDIN/old" ]]; then echo 3.9; exit 0; fi ;;
  *version_info*) [[ ! -e "$STANDIN/old" ]] || exit 1 ;;
esac
if [[ "$1 $2" == "-m venv" ]]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
elif [[ "$1 $2" == "-m pip" ]]; then
  touch "$(dirname "$0")/half"
  echo "pip $*" >>"$STANDIN/calls"
  [[ ! -e "$STANDIN/slow" ]] || sleep "$(<"$STANDIN/slow")"
  if [[ -e "$STANDIN/offline" ]]; then echo "no route to the package index"; exit 1; fi
  rm "$(dirname "$0")/half"
elif [[ "$*" == *venv_intact.py ]]; then
  [[ ! -e "$(dirname "$0")/half" ]]
else
  exec REAL "$@"
fi
"""

NPM = """#!/bin/bash
if [[ "$1" == --version ]]; then echo 10.0.0; exit 0; fi
echo "npm $*" >>"$STANDIN/calls"
if [[ "$1" == ci ]]; then
  for name in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
    mkdir -p "node_modules/@foundry-rs/anvil-$name/bin"
    printf '#!/bin/sh\\n' >"node_modules/@foundry-rs/anvil-$name/bin/anvil"
    chmod +x "node_modules/@foundry-rs/anvil-$name/bin/anvil"
  done
fi
"""


class Clone:
    """A clone in which scripts/setup runs with stand-ins on PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.standin = folder / "standin"
        self.standin.mkdir()
        for name in COPIED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "peers").mkdir()
        (self.root / ".ns" / "omnilytics").mkdir(parents=True)
        (self.root / ".ns" / "omnilytics" / "peers").symlink_to("../../peers")
        self.program("python3", PYTHON.replace("REAL", sys.executable))
        self.program("npm", NPM)
        self.program("node", "#!/bin/sh\necho v20.0.0\n")

    def program(self, name: str, text: str) -> None:
        path = self.standin / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(stat.S_IRWXU)

    def say(self, name: str, text: str = "") -> None:
        (self.standin / name).write_text(text)

    def unsay(self, name: str) -> None:
        (self.standin / name).unlink()

    def environment(self, **extra: str) -> dict[str, str]:
        path = f"{self.standin / 'bin'}:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self.standin), "STANDIN": str(self.standin), **extra}

    def setup(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.root / "scripts" / "setup", *options],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == ""
        return done

    @property
    def calls(self) -> list[str]:
        file = self.standin / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_first_run_installs_with_hashes_and_a_second_does_nothing(clone: Clone) -> None:
    first = clone.setup()
    assert first.returncode == 0, first.stderr
    assert "Setting up OmniLytics" in first.stderr
    assert [call.split(" --no-audit")[0] for call in clone.calls] == [
        "pip -m pip install --require-hashes -r requirements.lock",
        "pip -m pip install --no-deps --no-build-isolation -e .",
        "npm ci",
    ]
    began = time.monotonic()
    second = clone.setup()
    assert time.monotonic() - began < 3
    assert (second.returncode, second.stderr) == (0, "")
    assert len(clone.calls) == 3


def test_only_what_changed_is_installed_again(clone: Clone) -> None:
    clone.setup()
    with (clone.root / "contracts" / "package-lock.json").open("a") as file:
        file.write("\n")
    clone.setup()
    assert [call.split()[0] for call in clone.calls[3:]] == ["npm"]
    with (clone.root / "requirements.lock").open("a") as file:
        file.write("# newer\n")
    clone.setup()
    assert [call.split()[0] for call in clone.calls[4:]] == ["pip", "pip"]


def test_a_moved_clone_is_set_up_anew(clone: Clone) -> None:
    clone.setup()
    clone.root = clone.root.rename(clone.root.with_name("moved"))
    assert clone.setup().returncode == 0
    assert [call.split()[0] for call in clone.calls[3:]] == ["pip", "pip"]


def test_missing_venv_is_told_in_one_line(clone: Clone) -> None:
    clone.say("no-venv")
    # No other Python of this machine may be found instead.
    done = clone.setup(PYTHON="python3")
    assert (done.returncode, done.stderr) == (
        1,
        "scripts/setup: python3 cannot make virtual environments; install them with: sudo apt install python3-venv\n",
    )
    assert not (clone.root / ".venv").exists()


def test_an_old_python_is_told_in_one_line(clone: Clone) -> None:
    clone.say("old")
    done = clone.setup(PYTHON="python3")
    assert done.returncode == 1
    assert done.stderr.startswith("scripts/setup: needs Python 3.11 or newer (python3 is Python 3.9);")
    assert done.stderr.count("\n") == 1


def test_a_failed_step_is_named_and_running_again_goes_on(clone: Clone) -> None:
    clone.say("offline")
    done = clone.setup()
    assert done.returncode == 1
    assert "this step failed: Python packages" in done.stderr
    assert "| no route to the package index" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("scripts/setup: check the network connection; then run it again")
    clone.unsay("offline")
    assert clone.setup().returncode == 0
    assert clone.setup().stderr == ""


def test_an_interrupted_set_up_is_repaired(clone: Clone) -> None:
    clone.say("slow", "30")
    process = subprocess.Popen(
        [clone.root / "scripts" / "setup"],
        env=clone.environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not clone.calls:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    clone.unsay("slow")
    done = clone.setup()
    assert done.returncode == 0, done.stderr
    assert ".venv is not whole" in done.stderr
    assert clone.setup().stderr == ""


def test_two_at_once_install_once(clone: Clone) -> None:
    clone.say("slow", "0.5")
    both = [
        subprocess.Popen([clone.root / "scripts" / "setup"], env=clone.environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(clone.calls) == 3
    assert sum("waiting for another set-up" in text for text in told) == 1


def test_a_given_anvil_is_used_and_a_wrong_one_told(clone: Clone) -> None:
    clone.program("my-anvil", "#!/bin/sh\n")
    assert clone.setup("--for", "testbed", ANVIL=str(clone.standin / "bin" / "my-anvil")).returncode == 0
    assert not [call for call in clone.calls if call.startswith("npm")]
    done = clone.setup(ANVIL="/nowhere/anvil")
    assert (done.returncode, done.stderr) == (
        1,
        "scripts/setup: ANVIL=/nowhere/anvil is not a program; unset ANVIL or give the path of anvil\n",
    )


@pytest.mark.parametrize(("version", "taken"), [("1.7.4", True), ("1.6.0", False), ("11.7.1", False)])
def test_an_anvil_on_the_path_is_used_where_its_version_fits(clone: Clone, version: str, taken: bool) -> None:
    clone.program("anvil", f"#!/bin/sh\necho 'anvil Version: {version}'\n")
    assert clone.setup("--for", "testbed").returncode == 0
    assert bool([call for call in clone.calls if call.startswith("npm")]) != taken


def test_unknown_arguments_and_help(clone: Clone) -> None:
    assert "unknown arguments: --frobnicate" in clone.setup("--frobnicate").stderr
    assert "scripts/setup --for testbed" in clone.setup("--help").stderr
    assert clone.calls == []


def test_the_environment_that_runs_this_is_intact() -> None:
    assert venv_intact.is_intact()


def test_a_package_cut_off_in_its_installation_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pip", "cut"):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (tmp_path / f"{name}.py").touch()
        (info / "RECORD").write_text(f"{name}.py,,0\n{name}.pyc,,0\n")
    monkeypatch.setattr(
        importlib.metadata,
        "distributions",
        lambda: iter(importlib.metadata.Distribution.discover(path=[str(tmp_path)])),
    )
    assert venv_intact.is_intact()
    (tmp_path / "cut.py").unlink()
    assert not venv_intact.is_intact()
    (tmp_path / "cut.py").touch()
    (tmp_path / "cut-1.dist-info" / "RECORD").unlink()
    assert not venv_intact.is_intact()
