"""The durable memory of one participant: the only SQLite. What stands here survives kill -9.

Journal first, act second: a vector is on disk before its root is committed, and there is room
for exactly one vector a round, enforced by the table itself (two vectors under one set of masks
would give away their difference).
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.ledger import Exposure, Mechanism
from omnilytics.peers.errors import JournalError
from omnilytics.peers.quantise import Signed

# What brings a journal from version N to N + 1; the first makes a new one. Journals live for years: never change one.
_MIGRATIONS = (
    """
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
""",
    """
CREATE TABLE exposures (
    task INTEGER, round INTEGER, posted INTEGER NOT NULL, market BLOB NOT NULL, model_owner BLOB NOT NULL,
    architecture TEXT NOT NULL, kind BLOB NOT NULL, group_size INTEGER NOT NULL, protection TEXT NOT NULL,
    noise_multiplier REAL NOT NULL, batch_rows INTEGER NOT NULL, rows INTEGER NOT NULL, secret_batch INTEGER NOT NULL,
    clip_norm REAL NOT NULL, delta REAL NOT NULL, epsilon REAL, PRIMARY KEY (task, round)
);
""",
    """
ALTER TABLE models ADD COLUMN ending BLOB NOT NULL DEFAULT x'';
""",
    """
CREATE TABLE decisions (task INTEGER PRIMARY KEY, accepted INTEGER NOT NULL);
""",
    """
CREATE TABLE finished_tasks (task INTEGER PRIMARY KEY);
""",
    """
CREATE TABLE received_vectors (
    task INTEGER, round INTEGER, seat INTEGER, ctx BLOB NOT NULL, root BLOB NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (task, round, seat)
);
""",
)
_SCHEMA_VERSION = len(_MIGRATIONS)


@dataclass(frozen=True)
class StoredVector:
    """One round's vector as it was committed."""

    ctx: bytes
    root: bytes
    vector: bytes = field(repr=False)
    quantised: Signed = field(repr=False)


class Journal:
    """An owner's or model owner's journal. All writes are durable when the call returns."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the journal. Raises JournalError when it is damaged or from a newer version."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # Tasks train in threads, and ask here. Two statements at once would take each other's count of changed rows,
        # which says whether a round may be begun.
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            # FULL: an acknowledged commit survives a power cut; WAL keeps readers (verification) out of the way.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            # Damage shows now, not when a vector that is committed to is read to be posted.
            problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(f"it is damaged: {problem.strip()}")
            version = self._migrate()
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"journal {path} cannot be opened: {error}",
                help="restore it from a backup, or move the data folder away and join with a new one",
            ) from error
        if version > _SCHEMA_VERSION:
            raise JournalError(
                f"journal {path} is of version {version}; this program knows {_SCHEMA_VERSION}",
                help="upgrade the program",
            )

    def _migrate(self) -> int:
        """Brings the schema up to date, all steps or none; the version that the journal has then."""
        if self._version() < _SCHEMA_VERSION:
            # Immediately: a second process that opens the same journal waits here, and finds the work done.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for number in range(self._version(), _SCHEMA_VERSION):
                    for statement in filter(str.strip, _MIGRATIONS[number].split(";")):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version={number + 1}")
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._db.rollback()
                raise
        return self._version()

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _write(self, statement: str, *values: object) -> int:
        try:
            with self._lock:
                return self._db.execute(statement, values).rowcount
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise JournalError(
                f"journal {self._path} cannot be written: {error}",
                help="free disk space or mend the disk; nothing was sent, and nothing is lost",
            ) from error

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(
                f"journal {self._path} cannot be read: {error}",
                help="mend the disk, or restore the journal from a backup",
            ) from error

    def _row(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._rows(statement, *values)
        return rows[0] if rows else None

    # --- identity -----------------------------------------------------------

    def bind(self, name: str, value: bytes) -> bytes:
        """Remembers a value for ever on first use; returns what is remembered."""
        self._write("INSERT OR IGNORE INTO meta VALUES (?, ?)", name, value)
        row = self._row("SELECT value FROM meta WHERE name = ?", name)
        assert row is not None
        return bytes(row[0])

    def replace(self, name: str, value: bytes) -> bytes | None:
        """Remembers a value that may change; what was remembered before, if anything."""
        before = self.get(name)
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", name, value)
        return before

    def get(self, name: str) -> bytes | None:
        """What `bind` remembers under a name, if anything."""
        row = self._row("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else bytes(row[0])

    def nonce(self, task: int, fresh: bytes) -> bytes:
        """The nonce for a task's draw: the fresh one on first use, the same one ever after."""
        self._write("INSERT OR IGNORE INTO nonces VALUES (?, ?)", task, fresh)
        row = self._row("SELECT nonce FROM nonces WHERE task = ?", task)
        assert row is not None
        return bytes(row[0])

    def joins(self, task: int) -> bool:
        """Whether a nonce was made for a task: a join is on the chain, or on its way."""
        return self._row("SELECT 1 FROM nonces WHERE task = ?", task) is not None

    def joined_tasks(self) -> list[int]:
        """The tasks that a nonce was made for, in their order."""
        return [int(row[0]) for row in self._rows("SELECT task FROM nonces ORDER BY task")]

    def finish_task(self, task: int) -> None:
        """Remembers that a task that was joined is over and collected."""
        self._write("INSERT OR IGNORE INTO finished_tasks VALUES (?)", task)

    def unfinished_tasks(self) -> list[int]:
        """The tasks that are joined, or about to be, and not known to be over: those to go on with after a restart."""
        statement = "SELECT task FROM nonces WHERE task NOT IN (SELECT task FROM finished_tasks) ORDER BY task"
        return [int(row[0]) for row in self._rows(statement)]

    # --- the owner's word on tasks --------------------------------------------

    def decide(self, task: int, accepted: bool) -> None:
        """Remembers the owner's own decision on a task; a later one takes its place. A task joined already plays on."""
        self._write("INSERT OR REPLACE INTO decisions VALUES (?, ?)", task, int(accepted))

    def decision(self, task: int) -> bool | None:
        """Whether the owner has accepted (True) or refused (False) a task; None while it has not said."""
        row = self._row("SELECT accepted FROM decisions WHERE task = ?", task)
        return None if row is None else bool(row[0])

    # --- a data owner's rounds ----------------------------------------------

    def claim_round(self, task: int, round_number: int, ctx: bytes) -> bool:
        """True once for each round: seeds are exchanged in one context and by one life of the daemon only."""
        statement = "INSERT OR IGNORE INTO rounds VALUES (?, ?, ?)"
        return self._write(statement, task, round_number, ctx) == 1

    def see_model(self, task: int, round_number: int, digest: bytes) -> int | None:
        """Remembers weights by their digest; the last earlier round of the task that had the same, if any."""
        query = "SELECT round FROM models_seen WHERE task = ? AND digest = ? AND round < ? ORDER BY round DESC"
        row = self._row(query, task, digest, round_number)
        self._write("INSERT OR IGNORE INTO models_seen VALUES (?, ?, ?)", task, digest, round_number)
        return None if row is None else int(row[0])

    def store_vector(self, task: int, round_number: int, stored: StoredVector) -> None:
        """Stores the round's only vector. Raises JournalError when there is one already."""
        try:
            self._write(
                "INSERT INTO vectors VALUES (?, ?, ?, ?, ?, ?)",
                task,
                round_number,
                stored.ctx,
                stored.root,
                stored.vector,
                stored.quantised.astype("<i8").tobytes(),
            )
        except sqlite3.IntegrityError as error:
            raise JournalError(f"round {round_number}: there is a vector already; never two") from error

    def vector(self, task: int, round_number: int) -> StoredVector | None:
        """The round's vector, if one was made."""
        statement = "SELECT ctx, root, vector, quantised FROM vectors WHERE task = ? AND round = ?"
        row = self._row(statement, task, round_number)
        return StoredVector(row[0], row[1], row[2], np.frombuffer(row[3], "<i8")) if row else None

    # --- the privacy ledger ---------------------------------------------------

    def plan_exposure(self, exposure: Exposure) -> None:
        """Notes what posting a round's vector will give away. The first note of a round stays, as its vector does."""
        how = exposure.mechanism
        self._write(
            "INSERT OR IGNORE INTO exposures VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            exposure.task,
            exposure.round,
            exposure.market,
            exposure.model_owner,
            exposure.architecture,
            exposure.kind,
            exposure.group_size,
            exposure.protection,
            how.noise_multiplier,
            how.batch_rows,
            how.rows,
            how.secret_batch,
            exposure.clip_norm,
            exposure.delta,
            exposure.epsilon,
        )

    def enter_exposure(self, task: int, round_number: int) -> bool:
        """Enters a noted round into the ledger, for ever: its vector is about to be posted. False without a note."""
        self._write("UPDATE exposures SET posted = 1 WHERE task = ? AND round = ? AND NOT posted", task, round_number)
        return self._row("SELECT 1 FROM exposures WHERE task = ? AND round = ?", task, round_number) is not None

    def exposures(self) -> list[Exposure]:
        """The ledger: every round whose vector was posted, or was about to be when the daemon died."""
        rows = self._rows(
            "SELECT task, round, market, model_owner, architecture, kind, group_size, protection, "
            "noise_multiplier, batch_rows, rows, secret_batch, clip_norm, delta, epsilon "
            "FROM exposures WHERE posted ORDER BY rowid"
        )
        return [_exposure(row) for row in rows]

    # --- the model owner's rounds ---------------------------------------------

    def store_round_secrets(self, task: int, round_number: int, model_key: bytes, pad_seeds: tuple[bytes, ...]) -> None:
        """Stores what decrypting the round's update needs, before the round is opened."""
        statement = "INSERT OR REPLACE INTO round_secrets VALUES (?, ?, ?, ?)"
        self._write(statement, task, round_number, model_key, b"".join(pad_seeds))

    def round_secrets(self, task: int, round_number: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """The model key and the pad seeds of a round."""
        statement = "SELECT model_key, pad_seeds FROM round_secrets WHERE task = ? AND round = ?"
        row = self._row(statement, task, round_number)
        if row is None:
            return None
        return row[0], tuple(row[1][start : start + 32] for start in range(0, len(row[1]), 32))

    def store_received(self, task: int, round_number: int, seat: int, ctx: bytes, root: bytes, vector: bytes) -> None:
        """Stores an owner's masked vector before it is acknowledged; root: its commitment's. A new one replaces it."""
        statement = "INSERT OR REPLACE INTO received_vectors VALUES (?, ?, ?, ?, ?, ?)"
        self._write(statement, task, round_number, seat, ctx, root, vector)

    def received_vectors(self, task: int, round_number: int, ctx: bytes) -> dict[int, tuple[bytes, bytes]]:
        """(root, vector) of a round's vectors that owners handed over, by seat."""
        statement = "SELECT seat, root, vector FROM received_vectors WHERE task = ? AND round = ? AND ctx = ?"
        return {row[0]: (row[1], row[2]) for row in self._rows(statement, task, round_number, ctx)}

    def received_roots(self, task: int, round_number: int, ctx: bytes) -> dict[int, bytes]:
        """The roots of the same."""
        statement = "SELECT seat, root FROM received_vectors WHERE task = ? AND round = ? AND ctx = ?"
        return dict(self._rows(statement, task, round_number, ctx))

    def forget_received(self, task: int, before: int) -> None:
        """Drops the vectors of rounds before this one: they are learned from, and no reorg goes back so far."""
        self._write("DELETE FROM received_vectors WHERE task = ? AND round < ?", task, before)

    def store_model(
        self, task: int, round_number: int, weights: NDArray[np.float64], optimiser: bytes, ending: bytes = b""
    ) -> None:
        """Stores the model after a round (0: the initial one), with the optimiser's state.

        ending: how the chain said that the round ended, where that is known: see model_ending.
        """
        statement = "INSERT OR REPLACE INTO models (task, round, weights, optimiser, ending) VALUES (?, ?, ?, ?, ?)"
        self._write(statement, task, round_number, weights.astype("<f8").tobytes(), optimiser, ending)

    def model_ending(self, task: int, round_number: int) -> bytes:
        """From which ending of a round its model was made; empty where nobody knows."""
        row = self._row("SELECT ending FROM models WHERE task = ? AND round = ?", task, round_number)
        return bytes(row[0]) if row is not None else b""

    def rewind_models(self, task: int, round_number: int) -> None:
        """Drops the models after later rounds than this: a reorg has undone those rounds."""
        self._write("DELETE FROM models WHERE task = ? AND round > ?", task, round_number)

    def newest_model(self, task: int) -> tuple[int, NDArray[np.float64], bytes] | None:
        """The newest model: round, weights, the optimiser's state."""
        statement = "SELECT round, weights, optimiser FROM models WHERE task = ? ORDER BY round DESC LIMIT 1"
        row = self._row(statement, task)
        return row and (row[0], np.frombuffer(row[1], "<f8"), row[2])

    def model_after(self, task: int, round_number: int) -> NDArray[np.float64] | None:
        """The weights after a round (0: the first ones), float64."""
        row = self._row("SELECT weights FROM models WHERE task = ? AND round = ?", task, round_number)
        return None if row is None else np.frombuffer(row[0], "<f8")

    def store_group_sum(self, task: int, round_number: int, group: int, sums: NDArray[np.int64]) -> None:
        """Stores the decrypted sum of a group."""
        statement = "INSERT OR REPLACE INTO group_sums VALUES (?, ?, ?, ?)"
        self._write(statement, task, round_number, group, sums.astype("<i8").tobytes())

    def group_sums(self, task: int) -> dict[tuple[int, int], NDArray[np.int64]]:
        """All decrypted sums of a task by (round, group)."""
        rows = self._rows("SELECT round, grp, sums FROM group_sums WHERE task = ?", task)
        return {(row[0], row[1]): np.frombuffer(row[2], "<i8") for row in rows}

    # --- transactions ---------------------------------------------------------

    def store_transaction(self, nonce: int, duty: str, tx_hash: bytes, raw: bytes) -> None:
        """Stores a signed transaction before it is sent (a replacement takes its predecessor's place)."""
        statement = "INSERT OR REPLACE INTO transactions VALUES (?, ?, ?, ?, NULL)"
        self._write(statement, nonce, duty, tx_hash, raw)

    def transaction_mined(self, nonce: int, block: int) -> None:
        """Remembers where a transaction was mined."""
        self._write("UPDATE transactions SET block = ? WHERE nonce = ?", block, nonce)

    def forget_transaction(self, nonce: int) -> None:
        """Drops a transaction that can never be mined."""
        self._write("DELETE FROM transactions WHERE nonce = ?", nonce)

    def transactions_between(self, first: int, end: int) -> list[tuple[int, str, bytes, bytes]]:
        """Transactions with these nonces (end not included), mined or not: (nonce, duty, hash, raw)."""
        statement = "SELECT nonce, duty, hash, raw FROM transactions WHERE nonce >= ? AND nonce < ? ORDER BY nonce"
        return self._rows(statement, first, end)

    def unmined_transactions(self) -> list[tuple[int, str, bytes, bytes]]:
        """Transactions sent but not seen mined, by nonce: (nonce, duty, hash, raw)."""
        statement = "SELECT nonce, duty, hash, raw FROM transactions WHERE block IS NULL ORDER BY nonce"
        return self._rows(statement)


def _exposure(row: tuple[Any, ...]) -> Exposure:
    noise_multiplier, batch_rows, rows, secret_batch = row[8:12]
    mechanism = Mechanism(noise_multiplier, batch_rows, rows, bool(secret_batch))
    values: tuple[Any, ...] = (*row[:8], mechanism, *row[12:])
    return Exposure(*values)
