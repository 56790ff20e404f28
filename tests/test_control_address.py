"""Where the control socket is: in the folder, or, for a folder with a long path, where a short name can be had."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnilytics.daemon.control import address
from omnilytics.peers.errors import ControlError


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="o") as folder:
        yield Path(folder)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    home = tmp_path / ("a" * 60) / ("b" * 60)
    home.mkdir(parents=True)
    return home


def test_a_short_path_is_in_the_folder_and_needs_no_note(short: Path) -> None:
    path = address.preferred_path(short, {"XDG_RUNTIME_DIR": "/run/user/1"})
    assert path == short / "control.sock"
    (short / "control.path").write_text("/elsewhere\n")
    address.record(short, path)
    assert not (short / "control.path").exists(), "the note of another life"
    assert address.recorded_path(short) == path


def test_a_long_path_is_in_the_runtime_folder_and_noted(deep: Path, short: Path) -> None:
    path = address.preferred_path(deep, {"XDG_RUNTIME_DIR": str(short)})
    assert path.parent == short / "omnilytics" and len(str(path)) <= address.MAX_PATH_BYTES
    assert path != address.preferred_path(deep.parent / "another", {"XDG_RUNTIME_DIR": str(short)})
    address.make_folder(path, deep)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    address.make_folder(path, deep)
    address.record(deep, path)
    assert stat.S_IMODE((deep / "control.path").stat().st_mode) == 0o600
    assert address.recorded_path(deep) == path


@pytest.mark.parametrize("runtime", ["", "relative/run", "/" + "x" * 100])
def test_without_a_runtime_folder_that_can_be_used_a_temporary_one_is_taken(
    deep: Path, short: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short))
    path = address.preferred_path(deep, {"XDG_RUNTIME_DIR": runtime})
    assert path.parent.parent == short and path.parent.name.startswith("omnilytics-")


def test_no_place_at_all_is_said_with_what_to_do(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(deep))
    with pytest.raises(ControlError, match="too long") as caught:
        address.preferred_path(deep, {})
    assert "XDG_RUNTIME_DIR" in caught.value.help


def test_a_folder_that_others_may_enter_or_that_is_a_link_is_not_used(deep: Path, tmp_path: Path) -> None:
    path = tmp_path / "omnilytics" / "x.sock"
    path.parent.mkdir()
    path.parent.chmod(0o755)
    with pytest.raises(ControlError, match="not ours alone"):
        address.make_folder(path, deep)
    path.parent.rmdir()
    (tmp_path / "real").mkdir(mode=0o700)
    path.parent.symlink_to(tmp_path / "real")
    with pytest.raises(ControlError, match="not ours alone"):
        address.make_folder(path, deep)
    with pytest.raises(ControlError, match="cannot be had"):
        address.make_folder(tmp_path / "none" / "below" / "x.sock", deep)


@pytest.mark.parametrize("text", [b"relative.sock\n", b"/a\0b\n", b"/" + b"x" * 300 + b"\n", b""])
def test_a_note_of_no_sense_is_an_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "control.path").write_bytes(text)
    with pytest.raises(ControlError, match="names no socket"):
        address.recorded_path(tmp_path)
