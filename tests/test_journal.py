"""The journal: one vector a round whatever happens, durable, private, and clear about what is wrong with it."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from omnilytics.daemon import journal as journal_module
from omnilytics.daemon.journal import Journal, StoredVector
from omnilytics.daemon.ledger import Exposure, Mechanism
from omnilytics.peers.errors import JournalError
from tests.round_network import secret

ROOT = Path(__file__).resolve().parent.parent
HEAD = """
import sys
from tests.test_journal import *
"""
CTX, OTHER_CTX = secret("ctx"), secret("other ctx")


def vector(name: str = "vector") -> StoredVector:
    return StoredVector(CTX, secret(f"{name} root"), secret(name) * 20, np.array([-3, 0, 2**40, -(2**62)], np.int64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(path)) as opened:
        yield opened


def in_another_process(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


# ------------------------------------------------------------------------ vectors


def test_a_vector_comes_back_as_it_was(journal: Journal, path: Path) -> None:
    assert journal.vector(1, 1) is None
    journal.store_vector(1, 1, vector())
    journal.close()
    with contextlib.closing(Journal(path)) as again:
        stored = again.vector(1, 1)
        assert stored is not None
        assert (stored.ctx, stored.root, stored.vector) == (CTX, vector().root, vector().vector)
        assert np.array_equal(stored.quantised, vector().quantised)
        assert again.vector(1, 2) is None
        assert again.vector(2, 1) is None


def test_there_is_never_a_second_vector_in_a_round(journal: Journal) -> None:
    journal.store_vector(1, 1, vector())
    for second in (vector("another"), vector(), StoredVector(OTHER_CTX, *_rest(vector("forked")))):
        with pytest.raises(JournalError, match="round 1: there is a vector already; never two"):
            journal.store_vector(1, 1, second)
    stored = journal.vector(1, 1)
    assert stored is not None
    assert stored.vector == vector().vector
    journal.store_vector(1, 2, vector("next"))
    journal.store_vector(2, 1, vector("other task"))


def _rest(stored: StoredVector) -> tuple[bytes, bytes, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return stored.root, stored.vector, stored.quantised


def test_another_process_cannot_store_a_second_one_either(journal: Journal, path: Path) -> None:
    """A copied command, a second daemon that got past the lock: the table itself refuses."""
    journal.store_vector(1, 1, vector())
    told = in_another_process("Journal(Path(sys.argv[1])).store_vector(1, 1, vector('another'))", path)
    assert told.returncode != 0
    assert "there is a vector already" in told.stderr
    stored = journal.vector(1, 1)
    assert stored is not None
    assert stored.vector == vector().vector


# ------------------------------------------------------------------------- rounds


def test_a_round_is_claimed_once_by_any_life(journal: Journal, path: Path) -> None:
    assert journal.claim_round(1, 1, CTX)
    assert not journal.claim_round(1, 1, CTX)
    assert not journal.claim_round(1, 1, OTHER_CTX), "the same round on another fork is the same round"
    with contextlib.closing(Journal(path)) as again:
        assert not again.claim_round(1, 1, CTX)
        assert again.claim_round(1, 2, CTX)
        assert again.claim_round(2, 1, CTX)


def test_weights_are_recognised_when_they_come_back_in_a_later_round(journal: Journal) -> None:
    weights, others = secret("weights"), secret("others")
    assert journal.see_model(1, 1, weights) is None
    assert journal.see_model(1, 1, weights) is None, "the same round is no repetition: a retry"
    assert journal.see_model(1, 2, others) is None
    assert journal.see_model(1, 3, weights) == 1
    assert journal.see_model(1, 4, weights) == 3, "the latest earlier round"
    assert journal.see_model(1, 4, weights) == 3
    assert journal.see_model(2, 9, weights) is None, "another task is another matter"


def test_a_nonce_is_made_once(journal: Journal) -> None:
    assert journal.nonce(1, secret("a")) == secret("a")
    assert journal.nonce(1, secret("b")) == secret("a")
    assert journal.nonce(2, secret("b")) == secret("b")


def test_what_is_bound_stays(journal: Journal, path: Path) -> None:
    assert journal.get("chain") is None
    assert journal.bind("chain", b"one") == b"one"
    assert journal.bind("chain", b"two") == b"one"
    with contextlib.closing(Journal(path)) as again:
        assert again.get("chain") == b"one"


# ------------------------------------------------------------------------- ledger


def exposure(task: int = 1, number: int = 1, noise: float = 1.5, **changes: object) -> Exposure:
    mechanism = Mechanism(noise, 16, 80, secret_batch=False)
    whom, kind = secret("model owner")[:20], secret("kind")
    entry = Exposure(task, number, bytes(20), whom, "mlp:8", kind, 4, "envelope", mechanism, 2.0, 1e-6, 3.25)
    return replace(entry, **changes)  # type: ignore[arg-type]


def test_a_round_is_in_the_ledger_once_it_is_about_to_be_posted(journal: Journal, path: Path) -> None:
    noted = [exposure(), exposure(2, 7, noise=0.0, epsilon=None, clip_norm=0.0, delta=0.0)]
    for each in noted:
        journal.plan_exposure(each)
    assert journal.exposures() == []
    assert journal.enter_exposure(1, 1)
    assert journal.exposures() == noted[:1]
    assert journal.enter_exposure(2, 7)
    with contextlib.closing(Journal(path)) as again:
        assert again.exposures() == noted


def test_entering_twice_is_entering_once_and_the_first_note_stays(journal: Journal) -> None:
    journal.plan_exposure(exposure())
    assert journal.enter_exposure(1, 1)
    journal.plan_exposure(exposure(noise=0.0))
    assert journal.enter_exposure(1, 1)
    assert journal.exposures() == [exposure()]


def test_a_round_without_a_note_is_told(journal: Journal) -> None:
    assert not journal.enter_exposure(1, 1)
    assert journal.exposures() == []


def test_a_nonce_shows_that_a_join_is_on_its_way(journal: Journal) -> None:
    assert not journal.joins(1)
    journal.nonce(1, secret("nonce"))
    assert journal.joins(1)
    assert not journal.joins(2)


# -------------------------------------------------------------------- model owner


def test_round_secrets_come_back(journal: Journal) -> None:
    assert journal.round_secrets(1, 1) is None
    pads = tuple(secret(f"pad {number}") for number in range(5))
    journal.store_round_secrets(1, 1, secret("key"), pads)
    assert journal.round_secrets(1, 1) == (secret("key"), pads)


def test_the_newest_model_is_that_of_the_last_round(journal: Journal) -> None:
    assert journal.newest_model(1) is None
    for number in (0, 2, 10, 9):
        journal.store_model(1, number, np.array([number / 3, -0.0]), b"state %d" % number)
    newest = journal.newest_model(1)
    assert newest is not None
    assert newest[0] == 10
    assert newest[1].tolist() == [10 / 3, -0.0]
    assert newest[2] == b"state 10"
    assert journal.newest_model(2) is None


def test_models_of_rounds_that_are_undone_are_dropped(journal: Journal) -> None:
    for number in range(4):
        journal.store_model(1, number, np.array([float(number)]), b"", b"ending %d" % number if number else b"")
    journal.store_model(2, 3, np.array([3.0]), b"")
    journal.rewind_models(1, 1)
    newest, other = journal.newest_model(1), journal.newest_model(2)
    assert newest is not None and newest[0] == 1 and other is not None and other[0] == 3
    assert [journal.model_ending(1, number) for number in range(3)] == [b"", b"ending 1", b""]


def test_group_sums_are_found_by_round_and_group(journal: Journal) -> None:
    journal.store_group_sum(1, 2, 5, np.array([-(2**40), 7]))
    journal.store_group_sum(2, 2, 5, np.array([1, 1]))
    sums = journal.group_sums(1)
    assert list(sums) == [(2, 5)]
    assert sums[2, 5].tolist() == [-(2**40), 7]


# ------------------------------------------------------------------- transactions


def test_transactions_are_unmined_until_they_are_mined_or_forgotten(journal: Journal) -> None:
    for nonce in (3, 1, 2):
        journal.store_transaction(nonce, f"duty {nonce}", secret(f"hash {nonce}"), b"raw %d" % nonce)
    assert [entry[0] for entry in journal.unmined_transactions()] == [1, 2, 3]
    journal.transaction_mined(1, 77)
    journal.forget_transaction(3)
    assert journal.unmined_transactions() == [(2, "duty 2", secret("hash 2"), b"raw 2")]


def test_a_replacement_takes_its_predecessors_place(journal: Journal) -> None:
    journal.store_transaction(1, "duty", secret("cheap"), b"cheap")
    journal.store_transaction(1, "duty", secret("dear"), b"dear")
    assert journal.unmined_transactions() == [(1, "duty", secret("dear"), b"dear")]


# ---------------------------------------------------------------- durable, private


def test_an_acknowledged_write_survives_a_power_cut(journal: Journal) -> None:
    assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert journal._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    journal.store_vector(1, 1, vector())
    assert not journal._db.in_transaction, "written when the call returns"


def test_nobody_else_reads_it(journal: Journal, path: Path) -> None:
    journal.store_vector(1, 1, vector())
    files = list(path.parent.glob("journal.sqlite*"))
    assert len(files) >= 2, "the write-ahead log holds secrets too"
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600, file.name


def test_killed_while_writing_it_is_whole_and_holds_what_was_acknowledged(path: Path) -> None:
    program = """
journal = Journal(Path(sys.argv[1]))
for number in range(1, 10**6):
    journal.claim_round(1, number, CTX)
    journal.store_vector(1, number, vector(str(number)))
    print(number, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + program, str(path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        acknowledged = 0
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= 25:
                break
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
    with contextlib.closing(Journal(path)) as journal:
        for number in range(1, acknowledged + 1):
            stored = journal.vector(1, number)
            assert stored is not None
            assert stored.vector == vector(str(number)).vector
            assert not journal.claim_round(1, number, CTX)
        # At most one more was under way: there with its claim, or not there at all.
        assert journal.vector(1, acknowledged + 2) is None
        assert journal.claim_round(1, acknowledged + 2, CTX)


# ---------------------------------------------------------------------- decisions


def test_the_owners_word_on_a_task_outlives_the_process_and_can_change(path: Path) -> None:
    with contextlib.closing(Journal(path)) as journal:
        assert journal.decision(7) is None
        journal.decide(7, True)
        journal.decide(8, False)
    with contextlib.closing(Journal(path)) as journal:
        assert (journal.decision(7), journal.decision(8), journal.decision(9)) == (True, False, None)
        journal.decide(7, False)
        assert journal.decision(7) is False


def test_what_was_joined_and_is_not_over_is_known_after_a_restart(path: Path) -> None:
    with contextlib.closing(Journal(path)) as journal:
        for task in (9, 7, 8):
            journal.nonce(task, secret(str(task)))
        journal.finish_task(7)
        journal.finish_task(7)
    with contextlib.closing(Journal(path)) as journal:
        assert journal.unfinished_tasks() == [8, 9]
        assert journal.joins(7)


def test_tasks_have_nonces_of_their_own(journal: Journal) -> None:
    """One that is revealed in one task would open the draw of the other."""
    nonces = [journal.nonce(task, secret(f"nonce {task}")) for task in (1, 2, 1, 2)]
    assert nonces == [secret("nonce 1"), secret("nonce 2")] * 2


def test_threads_never_take_each_others_count_of_changed_rows(journal: Journal) -> None:
    """A statement that another one comes in between of would see that one's count: a round claimed twice, or never."""

    class Interrupted:
        """A connection in whose statements another thread tries to make one of its own."""

        def __init__(self) -> None:
            self.real = journal._db
            self.inside = 0
            self.most_inside = 0

        def execute(self, *arguments: object) -> object:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            if threading.current_thread() is threading.main_thread():
                other.start()
                # It comes in at once, or not before we are out.
                came_in.wait(0.2)
            else:
                came_in.set()
            found = self.real.execute(*arguments)  # type: ignore[arg-type]
            self.inside -= 1
            return found

    came_in = threading.Event()
    other = threading.Thread(target=lambda: journal.see_model(2, 1, CTX))
    journal._db = interrupted = Interrupted()  # type: ignore[assignment]
    claimed = journal.claim_round(1, 1, CTX)
    other.join(10)
    journal._db = interrupted.real
    assert claimed and interrupted.most_inside == 1


# --------------------------------------------------------------------- migrations

# A journal of version 1 as that version made it: never to be changed.
VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE nonces (task INTEGER PRIMARY KEY, nonce BLOB NOT NULL);
CREATE TABLE rounds (task INTEGER, round INTEGER, ctx BLOB NOT NULL, PRIMARY KEY (task, round));
CREATE TABLE models_seen (task INTEGER, digest BLOB, round INTEGER, PRIMARY KEY (task, digest, round));
CREATE TABLE vectors (
    task INTEGER, round INTEGER, ctx BLOB NOT NULL, root BLOB NOT NULL,
    vector BLOB NOT NULL, quantised BLOB NOT NULL, PRIMARY KEY (task, round)
);
CREATE TABLE round_secrets (
    task INTEGER, round INTEGER, model_key BLOB NOT NULL, pad_seeds BLOB NOT NULL, PRIMARY KEY (task, round)
);
CREATE TABLE models (
    task INTEGER, round INTEGER, weights BLOB NOT NULL, optimiser BLOB NOT NULL, PRIMARY KEY (task, round)
);
CREATE TABLE group_sums (
    task INTEGER, round INTEGER, grp INTEGER, sums BLOB NOT NULL, PRIMARY KEY (task, round, grp)
);
CREATE TABLE transactions (
    nonce INTEGER PRIMARY KEY, duty TEXT NOT NULL, hash BLOB NOT NULL, raw BLOB NOT NULL, block INTEGER
);
"""


def old_journal(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript(VERSION_1 + "PRAGMA journal_mode=WAL; PRAGMA user_version=1;")
        values = 1, 1, CTX, vector().root, vector().vector, vector().quantised.astype("<i8").tobytes()
        raw.execute("INSERT INTO vectors VALUES (?, ?, ?, ?, ?, ?)", values)
        raw.execute("INSERT INTO rounds VALUES (1, 1, ?)", (CTX,))
        raw.commit()


def schema(path: Path) -> tuple[int, list[tuple[str, ...]]]:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        tables = [
            (name, *(" ".join(map(str, column)) for column in raw.execute(f"PRAGMA table_info({name})")))
            for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        ]
        return raw.execute("PRAGMA user_version").fetchone()[0], tables


def test_an_old_journal_opens_keeps_what_it_has_and_gets_a_ledger(path: Path, tmp_path: Path) -> None:
    old_journal(path)
    with contextlib.closing(Journal(path)) as journal:
        stored = journal.vector(1, 1)
        assert stored is not None and stored.vector == vector().vector
        assert not journal.claim_round(1, 1, CTX)
        assert journal.exposures() == []
        assert journal.decision(1) is None
        journal.plan_exposure(exposure())
        assert journal.enter_exposure(1, 1)
    Journal(tmp_path / "new.sqlite").close()
    assert schema(path) == schema(tmp_path / "new.sqlite")
    assert schema(path)[0] == len(journal_module._MIGRATIONS)
    with contextlib.closing(Journal(path)) as again:
        assert again.exposures() == [exposure()]


def test_a_migration_that_fails_leaves_the_journal_as_it_was(path: Path) -> None:
    old_journal(path)
    before = schema(path)
    broken = (*journal_module._MIGRATIONS[:1], "CREATE TABLE exposures (task INTEGER); CREATE TABLE meta (name TEXT);")
    with (
        mock.patch.object(journal_module, "_MIGRATIONS", broken),
        pytest.raises(JournalError, match="cannot be opened: table meta already exists"),
    ):
        Journal(path)
    assert schema(path) == before
    with contextlib.closing(Journal(path)) as journal:
        assert journal.exposures() == []


# ----------------------------------------------------------------------- refusals


def test_a_journal_of_a_newer_version_is_refused(path: Path) -> None:
    Journal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version=99")
    with pytest.raises(JournalError, match=r"is of version 99; this program knows \d+$") as caught:
        Journal(path)
    assert "upgrade" in caught.value.help


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database at all, but quite long enough to be taken for one" * 100)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="cannot be opened") as caught:
        Journal(path)
    assert "backup" in caught.value.help
    assert path.read_bytes() == before


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path / "journal.sqlite")


def test_a_damaged_page_is_noticed_before_anything_is_done(path: Path) -> None:
    """Not in the middle of a round, when the vector is read to be posted."""
    with contextlib.closing(Journal(path)) as journal:
        for number in range(1, 31):
            stored = StoredVector(CTX, CTX, secret(str(number)) * 200, np.zeros(3, np.int64))
            journal.store_vector(1, number, stored)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    assert len(data) > 20 * 4096
    data[12 * 4096 : 18 * 4096] = b"\xa5" * (6 * 4096)
    path.write_bytes(data)
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(path)


def test_a_disk_that_takes_nothing_more_is_said(path: Path) -> None:
    with contextlib.closing(Journal(path)) as journal:
        journal._db.execute("PRAGMA max_page_count=1")
        with pytest.raises(JournalError, match="cannot be written") as caught:
            journal.store_vector(1, 1, StoredVector(CTX, CTX, bytes(10**6), np.zeros(3, np.int64)))
        assert "disk" in caught.value.help
        assert journal.vector(1, 1) is None


def test_a_vector_does_not_show_itself() -> None:
    text = repr(vector())
    assert repr(vector().vector)[2:30] not in text
    assert "array" not in text


def test_received_vectors_are_of_one_context_and_the_newest_of_a_seat(path: Path) -> None:
    journal = Journal(path)
    journal.store_received(1, 2, 5, b"c" * 32, b"r" * 32, b"first")
    journal.store_received(1, 2, 5, b"c" * 32, b"s" * 32, b"second")
    journal.store_received(1, 3, 5, b"d" * 32, b"t" * 32, b"third")
    journal.close()
    journal = Journal(path)
    assert journal.received_vectors(1, 2, b"c" * 32) == {5: (b"s" * 32, b"second")}
    assert journal.received_roots(1, 2, b"c" * 32) == {5: b"s" * 32}
    assert journal.received_vectors(1, 2, b"d" * 32) == {} == journal.received_vectors(2, 2, b"c" * 32)
    journal.forget_received(1, 3)
    assert journal.received_vectors(1, 2, b"c" * 32) == {}
    assert journal.received_roots(1, 3, b"d" * 32) == {5: b"t" * 32}
