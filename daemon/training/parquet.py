"""Columns of a .parquet file as numpy arrays and texts. The only module that imports pyarrow, an extra.

Columns are checked by name and type before their values are read, so that a wrong file costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.peers.errors import DataError

#: Bytes that the features of a table may take as float64. A few kilobytes of .parquet can unpack to anything.
MAX_TABLE_BYTES = 1 << 30
#: Letters of a label.
MAX_LABEL_LETTERS = 1000


@dataclass(frozen=True)
class Columns:
    """A table: names and values float64[rows, columns] of all columns but the label's, and the label's values as they
    are (text, number or bool), one a row; none where no label was asked for.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    labels: list[object] | None


class ParquetTable:
    """An open file. Raises DataError, with the path, for a missing extra, and for a file that is none or damaged."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.compute
            import pyarrow.parquet
        except ImportError:
            raise DataError(
                f"{path}: reading .parquet needs the package pyarrow, which is not installed here",
                help="pip install 'omnilytics[parquet]', or save the table as .csv or .npz",
            ) from None
        self._arrow: Any = pyarrow
        self._path = path
        try:
            # pyarrow's own words for a file that is not there are a paragraph.
            with path.open("rb"):
                pass
            self._file: Any = pyarrow.parquet.ParquetFile(path)
            schema: Any = self._file.schema_arrow
        except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
            raise self._unreadable(error) from None
        # pandas writes the numbers of its rows beside the table: nobody means to train on them.
        kept = [field for field in schema if not re.fullmatch(r"__index_level_[0-9]+__", field.name)]
        self.names = tuple(str(field.name) for field in kept)
        self._types: list[Any] = [field.type for field in kept]

    def _unreadable(self, error: Exception) -> DataError:
        number = getattr(error, "errno", None)
        if isinstance(error, OSError) and number is not None:
            return DataError(f"{self._path}: cannot read: {error.strerror or error}")
        return DataError(f"{self._path}: not a readable .parquet file")

    def read(self, label_at: int | None) -> Columns:
        """All columns; `label_at` is the label's index among `names`.

        Raises DataError, with the path, for a table that is too large, a feature column of another type than numbers,
        with its name and type, an empty value, with its row, and a damaged file.
        """
        arrow, rows = self._arrow, self._file.metadata.num_rows
        features = [index for index in range(len(self.names)) if index != label_at]
        for index in features:
            self._check_numbers(index)
        if rows * max(1, len(features)) * 8 > MAX_TABLE_BYTES:
            raise DataError(
                f"{self._path}: {rows} rows of {len(features)} columns take {rows * len(features) * 8} bytes; at most "
                f"{MAX_TABLE_BYTES}",
                help="bring fewer rows, or fewer columns",
            )
        labels: list[object] | None = None
        try:
            # A damaged file may announce rows below 0, or others than it holds: numpy refuses both.
            values = np.empty((rows, len(features)))
            for place, index in enumerate(features):
                values[:, place] = self._numbers(index, place + 1)
            if label_at is not None:
                labels = self._labels(label_at)
                if len(labels) != rows:
                    raise ValueError("labels")
        except (arrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
            raise self._unreadable(error) from None
        return Columns(tuple(self.names[index] for index in features), values, labels)

    def _plain(self, kind: Any) -> Any:
        return kind.value_type if self._arrow.types.is_dictionary(kind) else kind

    def _check_numbers(self, index: int) -> None:
        types, kind = self._arrow.types, self._plain(self._types[index])
        if not any(
            is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
        ):
            raise DataError(
                f"{self._path}: column {self.names[index]!r} holds {kind}, not numbers",
                help="encode it as numbers or drop the column",
            )

    def _column(self, index: int) -> Any:
        # By name afterwards too: pyarrow also reads what it takes for the fields of a nested column.
        return self._file.read(columns=[self.names[index]], use_threads=False).column(self.names[index])

    def _numbers(self, index: int, column: int) -> NDArray[np.float64]:
        compute, found = self._arrow.compute, self._column(index)
        if found.null_count:
            row = int(compute.index(compute.is_null(found), True).as_py()) + 1
            raise _located(self._path, f"row {row} column {column} ({self.names[index]!r}) is empty")
        if self._arrow.types.is_dictionary(found.type):
            found = found.cast(found.type.value_type)
        numbers: NDArray[np.float64] = found.cast(self._arrow.float64(), safe=False).to_numpy()
        return numbers

    def _labels(self, index: int) -> list[object]:
        compute, types, kind = self._arrow.compute, self._arrow.types, self._plain(self._types[index])
        text = types.is_string(kind) or types.is_large_string(kind)
        if not text and not (types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind)):
            raise _located(self._path, f"the label column {self.names[index]!r} holds {kind}, not texts or numbers")
        if text:
            # Distinct texts once each, however many rows have them.
            open_file = self._arrow.parquet.ParquetFile
            self._file = open_file(self._path, read_dictionary=[self.names[index]])
        found = self._column(index)
        if found.null_count:
            row = int(compute.index(compute.is_null(found), True).as_py()) + 1
            raise _located(self._path, f"row {row} has no label")
        if not types.is_dictionary(found.type):
            found = found.dictionary_encode()
        found = found.unify_dictionaries()
        if not len(found):
            return []
        names = found.chunk(0).dictionary
        if text and any(length > MAX_LABEL_LETTERS for length in compute.utf8_length(names).to_pylist()):
            raise _located(self._path, f"a label has more than {MAX_LABEL_LETTERS} letters")
        known: Sequence[object] = names.to_pylist()
        return [known[place] for chunk in found.chunks for place in chunk.indices.to_pylist()]


def _located(path: Path, words: str) -> DataError:
    return DataError(f"{path}: {words}")
