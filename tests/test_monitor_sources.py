"""Log files while they are written: order, rotation, half lines, pipes; and no memory of what was read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from omnilytics.daemon.log import Logger, Rotation
from omnilytics.daemon.monitor import sources as module
from omnilytics.daemon.monitor.records import MAX_LINE_BYTES
from omnilytics.daemon.monitor.sources import LogSources, find_files
from omnilytics.peers.errors import ConfigurationError
from tests.monitor_logs import Daemon


def lines(number: int, *seconds: float) -> list[str]:
    daemon = Daemon(f"owner-{number:02d}", number)
    return [daemon.line(second, "heartbeat", msg=f"{number} at {second}") + "\n" for second in seconds]


def told(sources: LogSources) -> list[str]:
    return [record.fields["msg"] for _, record in sources.new_records()]


# ------------------------------------------------------------------ finding


def test_a_run_a_folder_of_logs_and_a_folder_of_participants_are_found(tmp_path: Path) -> None:
    for path in ("run/logs/owner-01.jsonl", "run/logs/model.jsonl", "run/logs/model.out", "flat/a.jsonl",
                 "flat/a.jsonl.1", "people/alice/log.jsonl", "people/bob/log.jsonl"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert [name for name, _ in find_files([tmp_path / "run"])] == ["model", "owner-01"]
    assert [name for name, _ in find_files([tmp_path / "flat"])] == ["a", "a"]
    assert [name for name, _ in find_files([tmp_path / "people"])] == ["alice", "bob"]
    assert [name for name, _ in find_files([tmp_path / "people" / "bob" / "log.jsonl"])] == ["bob"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file or folder"):
        LogSources.named([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigurationError, match=r"no logs \(\*\.jsonl\)"):
        LogSources.named([str(tmp_path)])


def test_the_same_file_by_two_paths_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(lines(1, 1)))
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert len(told(LogSources([tmp_path, tmp_path / "a.jsonl"]))) == 1


# ------------------------------------------------------------------ order


def test_records_come_in_the_order_of_time_then_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text("".join(lines(1, 1, 4, 5)))
    (tmp_path / "a.jsonl").write_text("".join(lines(2, 2, 4, 6)))
    assert told(LogSources([tmp_path])) == ["1 at 1", "2 at 2", "2 at 4", "1 at 4", "1 at 5", "2 at 6"]


def test_a_clock_that_was_set_back_does_not_reorder_a_files_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(lines(1, 5, 1, 2, 9)))
    (tmp_path / "b.jsonl").write_text("".join(lines(2, 3, 7)))
    assert told(LogSources([tmp_path])) == ["2 at 3", "1 at 5", "1 at 1", "1 at 2", "2 at 7", "1 at 9"]


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of what is read at once, the records are the same."""
    (tmp_path / "a.jsonl").write_text("".join(lines(1, *range(40))) + "rubbish\n\n" + "".join(lines(1, 50)))
    expected = told(LogSources([tmp_path]))
    assert len(expected) == 41
    for size in (1, 7, 300, 301, 5000):
        monkeypatch.setattr(module, "BLOCK_BYTES", size)
        sources = LogSources([tmp_path])
        assert told(sources) == expected
        assert (sources.files[0].bad_lines, sources.files[0].behind) == (2, 0)


# ------------------------------------------------------------------ while it is written


def test_only_what_is_new_is_read_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first, second, third = lines(1, 1, 2, 3)
    path.write_text(first + second[:30])
    sources = LogSources([tmp_path])
    assert told(sources) == ["1 at 1"]
    assert sources.files[0].behind == 30
    assert told(sources) == []
    with path.open("a") as file:
        file.write(second[30:] + third)
    assert told(sources) == ["1 at 2", "1 at 3"]
    assert sources.files[0].behind == 0


def test_a_rotation_by_rename_loses_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written = lines(1, 1, 2, 3, 4)
    path.write_text(written[0])
    sources = LogSources([tmp_path])
    assert told(sources) == ["1 at 1"]
    with path.open("a") as file:
        file.write(written[1])
        path.rename(tmp_path / "log.jsonl.1")
        file.write(written[2])
    path.write_text(written[3])
    assert told(sources) == ["1 at 2", "1 at 3", "1 at 4"]
    assert sources.vanished == 0


def test_a_daemons_own_rotation_loses_and_repeats_nothing(tmp_path: Path) -> None:
    log = Logger(tmp_path / "log.jsonl", "owner", "0x" + "11" * 20)
    log.rotation = Rotation(bytes=2000, files=100)
    sources, seen = LogSources([tmp_path]), []
    for number in range(60):
        log("a", f"line {number}")
        if number % 7 == 0:
            seen += [record.seq for _, record in sources.new_records()]
    seen += [record.seq for _, record in sources.new_records()]
    log.close()
    assert len(list(tmp_path.glob("log.jsonl.*"))) > 3
    assert seen == list(range(1, 61))


def test_a_rotation_while_we_look_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked for before files are: between the two a file may have got another name."""
    path = tmp_path / "log.jsonl"
    written = lines(1, 1, 2, 3)
    path.write_text(written[0])
    sources = LogSources([tmp_path])
    assert told(sources) == ["1 at 1"]
    names = find_files([tmp_path])
    path.rename(tmp_path / "log.jsonl.1")
    path.write_text(written[1])
    with monkeypatch.context() as patch:
        patch.setattr("omnilytics.daemon.monitor.sources.find_files", lambda paths: names)
        assert told(sources) == ["1 at 2"]
    with path.open("a") as file:
        file.write(written[2])
    assert told(sources) == ["1 at 3"]
    assert sources.vanished == 0


def test_a_rotation_between_looking_and_reading_reads_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written = lines(1, 1, 2)
    path.write_text(written[0])
    sources = LogSources([tmp_path])
    sources.scan()
    path.rename(tmp_path / "log.jsonl.1")
    path.write_text(written[1])
    (file,) = sources.files
    assert list(file.records()) == []
    assert told(sources) == ["1 at 1", "1 at 2"]


def test_a_file_cut_short_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines(1, 1, 2, 3)))
    sources = LogSources([tmp_path])
    told(sources)
    path.write_text("".join(lines(2, 9)))
    assert told(sources) == ["2 at 9"]
    assert sources.files[0].truncations == 1


def test_new_files_are_found_and_vanished_ones_forgotten(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(lines(1, 1)))
    sources = LogSources([tmp_path])
    told(sources)
    (tmp_path / "b.jsonl").write_text("".join(lines(2, 2)))
    (tmp_path / "a.jsonl").unlink()
    assert told(sources) == ["2 at 2"]
    assert [file.name for file in sources.files] == ["b"]
    assert told(sources) == []
    assert sources.vanished == 1


def test_a_file_that_may_not_be_read_stays_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines(1, 1)))
    sources = LogSources([tmp_path])
    sources.scan()
    path.unlink()
    path.mkdir()
    assert told(sources) == []


# ------------------------------------------------------------------ hostile lines


def test_a_line_without_an_end_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    before, after = lines(1, 1, 2)
    with path.open("w") as file:
        file.write(before)
        for _ in range(5):
            file.write("x" * MAX_LINE_BYTES)
        file.write("\n" + after)
    sources = LogSources([tmp_path])
    assert told(sources) == ["1 at 1", "1 at 2"]
    assert (sources.files[0].bad_lines, sources.files[0].behind) == (1, 0)


def test_an_endless_line_that_is_still_written_is_skipped_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("x" * (MAX_LINE_BYTES + 70_000))
    sources = LogSources([tmp_path])
    assert told(sources) == []
    with path.open("a") as file:
        file.write("x" * 100 + "\n" + lines(1, 3)[0])
    assert told(sources) == ["1 at 3"]
    assert sources.files[0].bad_lines == 1


def test_a_pipe_is_read_to_its_end_in_its_own_order() -> None:
    text = (
        lines(1, 5)[0] + "rubbish\n" + "y" * (MAX_LINE_BYTES + 10) + "\n" + lines(2, 1)[0] + lines(3, 2)[0].rstrip("\n")
    )
    sources = LogSources([], io.BytesIO(text.encode()))
    assert [record.fields["msg"] for _, record in sources.piped()] == ["1 at 5", "2 at 1", "3 at 2"]
    (pipe,) = sources.files
    assert (pipe.name, pipe.bad_lines, pipe.behind) == ("-", 2, 0)
