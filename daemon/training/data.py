"""A participant's rows: reading, writing and splitting them.

Rows and columns in error texts count from 1; in a CSV file the header is not a row.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import math
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.parquet import ParquetTable
from omnilytics.peers.errors import DataError, ParameterError

if TYPE_CHECKING:
    import _csv

#: Fewest rows that `dirichlet_split` leaves an owner.
MINIMUM_ROWS = 8

#: An array may always unpack to so many bytes, and beyond that to so many times its packed size.
MAX_UNPACKED_BYTES = 1 << 26
MAX_PACKING = 100


@dataclass(frozen=True)
class Dataset:
    """features: float64[rows, columns], finite; labels: int64[rows], indices into `classes`.

    `classes` are the labels' texts: whole numbers in numeric order ("0", "1", ... "10"), anything else
    alphabetically. Raises DataError when the parts do not fit, a value is not finite or there is no row.
    """

    features: NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise DataError(f"features must be a table of rows and columns, not of shape {self.features.shape}")
        rows, columns = self.features.shape
        if rows == 0:
            raise DataError("dataset has 0 rows")
        if columns == 0:
            raise DataError("dataset has 0 feature columns")
        if self.labels.shape != (rows,):
            raise DataError(f"dataset has {rows} rows but labels of shape {self.labels.shape}")
        wrong = np.argwhere(~np.isfinite(self.features))
        if len(wrong):
            raise DataError(f"row {wrong[0][0] + 1} column {wrong[0][1] + 1} is not finite")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(f"a label is outside the {len(self.classes)} classes")

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return len(self.features)

    @property
    def column_count(self) -> int:
        """Number of feature columns."""
        return int(self.features.shape[1])

    @property
    def digest(self) -> bytes:
        """SHA-256 of all rows, in order, with their labels' texts. 32 bytes."""
        hashed = hashlib.sha256(repr((self.features.shape, self.classes)).encode())
        hashed.update(np.ascontiguousarray(self.features, dtype="<f8").data)
        hashed.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return hashed.digest()

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The rows of these indices, with the same classes. Raises DataError for none."""
        return Dataset(self.features[indices], self.labels[indices], self.classes)

    def with_classes(self, classes: Sequence[str]) -> Dataset:
        """The same rows, labelled by the task's class list: what an owner does with its own file.

        Raises DataError, naming row and label, when a label is not among `classes`.
        """
        positions = {name: index for index, name in enumerate(classes)}
        translation = np.array([positions.get(name, -1) for name in self.classes], dtype=np.int64)
        labels = translation[self.labels]
        unknown = np.flatnonzero(labels < 0)
        if len(unknown):
            name = self.classes[self.labels[unknown[0]]]
            raise DataError(
                f"row {unknown[0] + 1} has label {name!r}, which is not among the task's classes "
                f"({_listing(classes)}){_suggestion(name, classes)}"
            )
        return Dataset(self.features, labels, tuple(classes))

    def check_trainable(self) -> None:
        """Raise DataError when the rows are of one class only: nothing to learn to tell apart."""
        present = np.unique(self.labels)
        if len(present) < 2:
            raise DataError(f"all rows have label {self.classes[present[0]]!r}; training needs two classes")


def read_dataset(path: Path, label_column: str | None = None) -> Dataset:
    """Read a file by its ending: .npz (X and y), or .csv or .parquet (`label_column` names the label).

    Raises DataError for any other ending, for a table without `label_column`, and as the readers below.
    """
    ending = _ending(path)
    if ending == ".npz":
        return read_npz(path)
    if label_column is None:
        raise DataError(f"{path}: say which column of the table is the label (--label COLUMN)")
    return read_csv(path, label_column) if ending == ".csv" else read_parquet(path, label_column)


@dataclass(frozen=True)
class Rows:
    """Rows to predict: features float64[rows, columns], finite; labels' texts where the file has them."""

    features: NDArray[np.float64]
    labels: tuple[str, ...] | None


def read_rows(path: Path, label_column: str | None = None) -> Rows:
    """Read a file that need not have labels: .npz without y, a table without `label_column`, or as `read_dataset`.

    Raises DataError as `read_dataset` does.
    """
    ending = _ending(path)
    if ending == ".npz":
        features, labels = _npz_arrays(path)
        texts = None if labels is None else [_label_text(value) for value in labels.tolist()]
    else:
        features, texts = _csv_table(path, label_column) if ending == ".csv" else _parquet_table(path, label_column)
    # The checks of a dataset are those of rows without labels too.
    checked = _located(path, features, np.zeros(len(features), dtype=np.int64), ("",))
    return Rows(checked.features, None if texts is None else tuple(texts))


def _ending(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in (".npz", ".csv", ".parquet"):
        raise DataError(
            f"{path}: data must be a .npz file (arrays X and y), or a .csv or .parquet file with named columns"
        )
    return ending


def read_npz(path: Path) -> Dataset:
    """Read arrays X (rows, columns) and y (rows,) of numbers or texts. Nothing is unpickled.

    Raises DataError, with the path, for a file that is missing, is no .npz, lacks an array, or whose arrays
    have the wrong shape, type or values.
    """
    features, labels = _npz_arrays(path, needed=("X", "y"))
    assert labels is not None
    indices, classes = _classify([_label_text(value) for value in labels.tolist()])
    return _located(path, features, indices, classes)


def _npz_arrays(path: Path, needed: tuple[str, ...] = ("X",)) -> tuple[NDArray[np.float64], NDArray[np.generic] | None]:
    """X and, where it is there, y."""
    try:
        _refuse_bombs(path)
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in needed if name not in archive.files]
            if missing:
                held = ", ".join(archive.files) or "none"
                raise DataError(f"{path}: no array {missing[0]}; a dataset needs X and y (arrays in it: {held})")
            features, labels = archive["X"], archive["y"] if "y" in archive.files else None
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    except (
        *(ValueError, KeyError, AttributeError, TypeError, SyntaxError, EOFError, OverflowError),
        # RuntimeError also for encrypted members, unknown compression (NotImplementedError) and deep headers.
        *(RuntimeError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile),
    ):
        raise DataError(f"{path}: not a readable .npz file of plain numbers and texts") from None
    if not isinstance(features, np.ndarray) or not isinstance(labels, np.ndarray | None):
        raise DataError(f"{path}: X or y is no array")
    if features.ndim != 2:
        raise DataError(f"{path}: X must have shape (rows, columns), not {features.shape}")
    if features.dtype.kind not in "buif":
        raise DataError(f"{path}: X must hold numbers, not {features.dtype}")
    if labels is not None and labels.shape != features.shape[:1]:
        raise DataError(f"{path}: X has {features.shape[0]} rows but y has shape {labels.shape}")
    if features.shape[0] == 0:
        raise DataError(f"{path}: dataset has 0 rows")
    if features.shape[1] == 0:
        raise DataError(f"{path}: dataset has 0 feature columns")
    if labels is not None and labels.dtype.kind not in "buifU":
        raise DataError(f"{path}: y must hold numbers or texts, not {labels.dtype}")
    if labels is not None and labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"{path}: label of row {np.flatnonzero(~np.isfinite(labels))[0] + 1} is not finite")
    return features.astype(np.float64), labels


def _refuse_bombs(path: Path) -> None:
    """Raises DataError where unpacking would take far more memory than the file's size lets anybody expect."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename not in ("X.npy", "y.npy"):
                continue
            if info.file_size > max(MAX_UNPACKED_BYTES, MAX_PACKING * info.compress_size):
                raise DataError(
                    f"{path}: {info.filename} unpacks from {info.compress_size} to {info.file_size} bytes",
                    help="save it without compression: numpy.savez",
                )
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
                if dtype.hasobject:
                    raise ValueError  # would have to be unpickled
                # numpy makes room for what the header says before it looks at what there is.
                if math.prod(shape) * dtype.itemsize != info.file_size - member.tell() or dtype.itemsize == 0:
                    raise DataError(f"{path}: {info.filename} does not hold the values that its header announces")


def read_csv(path: Path, label_column: str) -> Dataset:
    """Read a UTF-8 table with a header; every column but `label_column` is a number; labels are any text.

    Raises DataError, with path, row and column, for a missing or doubled column, a cell that is empty, no
    number or not finite, a row of another length, or no rows.
    """
    features, texts = _csv_table(path, label_column)
    assert texts is not None
    indices, classes = _classify(texts)
    return _located(path, features, indices, classes)


def read_parquet(path: Path, label_column: str) -> Dataset:
    """Read a .parquet table; every column but `label_column` holds numbers; labels are texts, numbers or bools.

    Raises DataError, with path, row and column, for a missing extra, a missing or doubled column, a column of another
    type, an empty or not finite value, a table that is too large, or no rows.
    """
    features, texts = _parquet_table(path, label_column)
    assert texts is not None
    indices, classes = _classify(texts)
    return _located(path, features, indices, classes)


def _parquet_table(path: Path, label_column: str | None) -> tuple[NDArray[np.float64], list[str] | None]:
    table = ParquetTable(path)
    label_at = _check_header(path, table.names, label_column)
    columns = table.read(label_at)
    if not len(columns.values):
        raise DataError(f"{path}: dataset has 0 rows")
    if columns.labels is None:
        return columns.values, None
    for row, value in enumerate(columns.labels, start=1):
        if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{path}: row {row} has no label")
    return columns.values, [_label_text(value) for value in columns.labels]


def _csv_table(path: Path, label_column: str | None) -> tuple[NDArray[np.float64], list[str] | None]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse_csv(path, csv.reader(file), label_column)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV table: {error}") from None


def write_npz(path: Path, dataset: Dataset) -> None:
    """Write X and y so that `read_npz` gives the rows back; y holds numbers where all classes are numbers."""
    names = np.array(dataset.classes)
    if all(_is_whole(name) and abs(int(name)) < 2**63 for name in dataset.classes):
        names = names.astype(np.int64)
    np.savez_compressed(path, X=dataset.features, y=names[dataset.labels])


def load_digits() -> Dataset:
    """scikit-learn's 8 by 8 handwritten digits: 1,797 rows, 64 columns of 0 to 16, ten classes."""
    from sklearn.datasets import load_digits as load  # slow to import; only the testbed needs it

    bunch = load()
    return Dataset(
        np.asarray(bunch.data, dtype=np.float64),
        np.asarray(bunch.target, dtype=np.int64),
        tuple(str(digit) for digit in range(10)),
    )


def split_holdout(dataset: Dataset, fraction: float, rng: np.random.Generator) -> tuple[Dataset, Dataset]:
    """(rest, held out): about `fraction` of every class is held out, drawn at random.

    A class of two or more rows keeps a row on both sides; a class of one row stays in the rest. Raises
    ParameterError unless 0 < fraction < 1, DataError when nothing can be held out.
    """
    if not 0.0 < fraction < 1.0:
        raise ParameterError(f"held-out fraction {fraction} is not between 0 and 1")
    held: list[NDArray[np.int64]] = []
    rest: list[NDArray[np.int64]] = []
    for label in range(len(dataset.classes)):
        rows = rng.permutation(np.flatnonzero(dataset.labels == label)).astype(np.int64)
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1) if len(rows) > 1 else 0
        held.append(rows[:count])
        rest.append(rows[count:])
    held_rows, rest_rows = np.sort(np.concatenate(held)), np.sort(np.concatenate(rest))
    if len(held_rows) == 0:
        raise DataError(f"{dataset.row_count} rows are too few to hold some out of each class")
    return dataset.take(rest_rows), dataset.take(held_rows)


def dirichlet_split(
    labels: NDArray[np.int64],
    owner_count: int,
    skew: float,
    rng: np.random.Generator,
    minimum_rows: int = MINIMUM_ROWS,
) -> list[NDArray[np.int64]]:
    """Share rows out to owners: ascending int64 indices for each, every row with exactly one owner.

    Each class is divided by shares drawn from a symmetric Dirichlet distribution of parameter `skew`: 0.1 is
    nearly one class an owner, 10 is mild, 1000 even. Then rows picked at random move from the richest owner
    to any that has fewer than `minimum_rows`. Raises ParameterError for too few rows or bad numbers.
    """
    if owner_count < 1 or minimum_rows < 1:
        raise ParameterError(f"cannot split among {owner_count} owners with at least {minimum_rows} rows each")
    if not (math.isfinite(skew) and skew > 0.0):
        raise ParameterError(f"skew {skew} is not above 0")
    if len(labels) < owner_count * minimum_rows:
        raise ParameterError(
            f"{len(labels)} rows are too few for {owner_count} owners with at least {minimum_rows} rows each"
        )
    owner_of = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(owner_count, skew))
        if not math.isfinite(shares.sum()):  # every gamma draw underflowed, at a skew near 0
            shares = np.eye(owner_count)[rng.integers(owner_count)]
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
        for owner, part in enumerate(np.split(rows, cuts)):
            owner_of[part] = owner
    counts = np.bincount(owner_of, minlength=owner_count)
    while counts.min() < minimum_rows:
        poorest, richest = int(counts.argmin()), int(counts.argmax())
        owner_of[rng.choice(np.flatnonzero(owner_of == richest))] = poorest
        counts[poorest] += 1
        counts[richest] -= 1
    return [np.flatnonzero(owner_of == owner).astype(np.int64) for owner in range(owner_count)]


def _check_header(path: Path, header: Sequence[str], label_column: str | None) -> int | None:
    """The label's index among the columns."""
    if not header:
        raise DataError(f"{path}: no columns")
    most, times = Counter(header).most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: column {most!r} appears more than once")
    if label_column is None:
        return None
    if label_column not in header:
        raise DataError(
            f"{path}: no column {label_column!r}{_suggestion(label_column, header)} (columns: {_listing(header)})"
        )
    if len(header) == 1:
        raise DataError(f"{path}: the table has no column beside the label {label_column!r}")
    return header.index(label_column)


def _parse_csv(
    path: Path, reader: _csv.Reader, label_column: str | None
) -> tuple[NDArray[np.float64], list[str] | None]:
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise DataError(f"{path}: no header; the first line must name the columns")
    label_at = _check_header(path, header, label_column)
    names = header if label_at is None else header[:label_at] + header[label_at + 1 :]
    table: list[list[float]] = []
    texts: list[str] = []
    for cells in reader:
        if not cells:
            continue  # a blank line
        row = len(table) + 1
        if len(cells) != len(header):
            raise DataError(
                f"{path}: row {row} (line {reader.line_num}) has {len(cells)} cells, the header {len(header)}"
            )
        if label_at is not None:
            label = cells.pop(label_at).strip()
            if not label:
                raise DataError(f"{path}: row {row} (line {reader.line_num}) has no label")
            texts.append(_label_text(label))
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            values = []
        if not values or not all(map(math.isfinite, values)):
            raise DataError(f"{path}: {_describe_bad_cell(row, reader.line_num, names, cells)}")
        table.append(values)
    if not table:
        raise DataError(f"{path}: dataset has 0 rows")
    return np.array(table, dtype=np.float64), texts if label_at is not None else None


def _describe_bad_cell(row: int, line: int, names: Sequence[str], cells: Sequence[str]) -> str:
    """What is wrong with the first bad cell of a row that did not parse."""
    for column, (name, cell) in enumerate(zip(names, cells, strict=True), start=1):
        place = f"row {row} (line {line}) column {column} ({name!r})"
        if not cell.strip():
            return f"{place} is empty"
        try:
            value = float(cell)
        except ValueError:
            return f"{place} is {cell.strip()[:40]!r}, not a number; encode it as numbers or drop the column"
        if not math.isfinite(value):
            return f"{place} is not finite"
    raise AssertionError("every cell of the row is a finite number")


def _located(path: Path, features: NDArray[np.float64], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Dataset:
    try:
        return Dataset(features, labels, classes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _classify(texts: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as indices into their sorted, distinct texts."""
    names = set(texts)
    classes = sorted(names, key=int) if all(map(_is_whole, names)) else sorted(names)
    positions = {name: index for index, name in enumerate(classes)}
    return np.array([positions[text] for text in texts], dtype=np.int64), tuple(classes)


def _label_text(value: object) -> str:
    """One text for one class: 3, 3.0, True as 1 and " 3.0 " as "3"; other texts stay as they are."""
    if isinstance(value, str):
        text = value.strip()
        whole = re.fullmatch(r"[+]?(-?[0-9]{1,18})(\.0*)?", text)
        return str(int(whole[1])) if whole else text
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    return str(int(value))  # type: ignore[call-overload]


def _is_whole(text: str) -> bool:
    """Whether the text is exactly how Python writes a whole number."""
    # int() takes no more than 4,300 digits; the largest float64 has 309.
    return re.fullmatch(r"0|-?[1-9][0-9]{0,399}", text) is not None


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _suggestion(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1) or [other for other in names if other.lower() == name.lower()]
    return f"; did you mean {near[0]!r}?" if near else ""
