"""Tables in .parquet files: read as .csv are, and refused in words as .csv are."""

from __future__ import annotations

import decimal
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnilytics.daemon.training import parquet
from omnilytics.daemon.training.data import read_csv, read_dataset, read_parquet, read_rows
from omnilytics.peers.errors import DataError

COLUMNS: dict[str, Any] = {"age": [1, 2, 3], "height": [0.5, 1.5, 2.5], "kind": ["cat", "dog", "cat"]}


def written(path: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, **options)
    return path


def with_column(name: str, values: Any) -> dict[str, Any]:
    return COLUMNS | {name: values}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.parquet"


def test_a_table_is_read_as_the_same_csv_is(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "t.csv"
    text.write_text("age,height,kind\n1,0.5,cat\n2,1.5,dog\n3,2.5,cat\n", encoding="utf-8")
    # One row a group: what is read in parts is put together in order.
    read, same = read_dataset(written(path, COLUMNS, row_group_size=1), "kind"), read_csv(text, "kind")
    assert (read.classes, read.digest) == (same.classes, same.digest)
    assert read.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (pa.array([1, 0, 1], pa.int8()), [1.0, 0.0, 1.0]),
        (pa.array([True, False, True]), [1.0, 0.0, 1.0]),
        (pa.array([2**63, 0, 1], pa.uint64()), [2.0**63, 0.0, 1.0]),
        (pa.array(np.array([0.5, 1, 2], dtype=np.float16)), [0.5, 1.0, 2.0]),
        (pa.array([0.5, 1, 2], pa.float32()), [0.5, 1.0, 2.0]),
        (pa.array([decimal.Decimal("1.25"), decimal.Decimal(-2), decimal.Decimal(0)]), [1.25, -2.0, 0.0]),
        (pa.array([7, 8, 7]).dictionary_encode(), [7.0, 8.0, 7.0]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_numbers_of_every_type(path: Path, values: pa.Array, numbers: list[float]) -> None:
    read = read_parquet(written(path, with_column("age", values)), "kind")
    assert read.features[:, 0].tolist() == numbers


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b"], ("a", "b")),
        (pa.array(["b", "a", "b"], pa.large_string()), ("a", "b")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b")),
        ([10, 9, 10], ("9", "10")),
        ([1.0, 0.0, 1.0], ("0", "1")),
        ([True, False, True], ("0", "1")),
    ],
    ids=str,
)
def test_labels_of_every_type(path: Path, labels: Any, classes: tuple[str, ...]) -> None:
    read = read_parquet(written(path, with_column("kind", labels), row_group_size=2), "kind")
    assert read.classes == classes and read.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (with_column("age", [1, None, 3]), "row 2 column 1 ('age') is empty"),
        (with_column("height", [0.5, 1.5, float("nan")]), "row 3 column 2 is not finite"),
        (with_column("age", ["1", "2", "3"]), "column 'age' holds string, not numbers"),
        (with_column("age", pa.array([0, 1, 2], pa.timestamp("ms"))), "column 'age' holds timestamp[ms], not numbers"),
        (with_column("age", [[1], [2], [3]]), "column 'age' holds list<"),
        (with_column("age", [{"a.b": 1}] * 3), "column 'age' holds struct<"),
        (with_column("age", pa.nulls(3)), "column 'age' holds null, not numbers"),
        (with_column("kind", ["a", None, "b"]), "row 2 has no label"),
        (with_column("kind", ["a", "b", " "]), "row 3 has no label"),
        (with_column("kind", [0.5, float("nan"), 0.5]), "row 2 has no label"),
        (with_column("kind", [[1], [2], [3]]), "the label column 'kind' holds list<"),
        (with_column("kind", ["a", "b", "c" * 1001]), "a label has more than 1000 letters"),
        ({"age": [1.0], "Kind": ["a"]}, "no column 'kind'; did you mean 'Kind'? (columns: age, Kind)"),
        ({"kind": ["a", "b"]}, "the table has no column beside the label 'kind'"),
        ({name: pa.array(values)[:0] for name, values in COLUMNS.items()}, "dataset has 0 rows"),
        (pa.table([[1.0], [2.0], ["a"]], ["age", "age", "kind"]), "column 'age' appears more than once"),
        (pa.table({}), "no columns"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_tables_are_refused_in_words(path: Path, columns: Any, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"{path}: {words}")):
        read_parquet(written(path, columns), "kind")


def test_the_row_numbers_of_pandas_are_no_feature(path: Path) -> None:
    read = read_parquet(written(path, COLUMNS | {"__index_level_0__": [7, 8, 9]}), "kind")
    assert read.column_count == 2


def test_names_with_dots_are_names(path: Path) -> None:
    columns = {"a": [1.0, 2.0], "a.b": [3.0, 4.0], "a.b.c": ["x", "y"]}
    read = read_parquet(written(path, columns), "a.b.c")
    assert read.features.tolist() == [[1.0, 3.0], [2.0, 4.0]] and read.classes == ("x", "y")


def test_a_table_that_would_take_too_much_is_refused_before_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of equal values takes no room in the file."""
    rows = 100_000
    written(path, {"age": np.zeros(rows), "kind": np.zeros(rows, dtype=np.int64)})
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(parquet, "MAX_TABLE_BYTES", 8 * rows - 1)
    with pytest.raises(DataError, match="100000 rows of 1 columns take 800000 bytes; at most 799999") as caught:
        read_parquet(path, "kind")
    assert "fewer rows" in caught.value.help
    monkeypatch.setattr(parquet, "MAX_TABLE_BYTES", 8 * rows)
    assert read_parquet(path, "kind").row_count == rows


def test_files_that_are_none(path: Path, tmp_path: Path) -> None:
    whole = written(path, COLUMNS).read_bytes()
    for damaged in (b"", b"PAR1", b"x" * 100, whole[:-20], whole[:50] + bytes(60) + whole[110:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=re.escape(f"{path}: not a readable .parquet file")):
            read_parquet(path, "kind")
    with pytest.raises(DataError, match="cannot read: No such file"):
        read_parquet(tmp_path / "missing.parquet", "kind")
    with pytest.raises(DataError, match=r"(cannot read|not a readable)"):
        read_parquet(tmp_path, "kind")
    with pytest.raises(DataError, match="say which column of the table is the label"):
        read_dataset(path)


def test_without_the_extra_the_error_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, COLUMNS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs the package pyarrow, which is not installed here") as caught:
        read_parquet(path, "kind")
    assert "pip install 'omnilytics[parquet]'" in caught.value.help


def test_rows_to_predict_need_no_labels(path: Path, tmp_path: Path) -> None:
    numbers = {name: values for name, values in COLUMNS.items() if name != "kind"}
    read = read_rows(written(path, numbers))
    assert read.labels is None and read.features.tolist() == [[1.0, 0.5], [2.0, 1.5], [3.0, 2.5]]
    assert read_rows(written(path, COLUMNS), "kind").labels == ("cat", "dog", "cat")
    text = tmp_path / "t.csv"
    text.write_text("age,height\n1,0.5\n2,1.5\n3,2.5\n", encoding="utf-8")
    assert np.array_equal(read_rows(text).features, read.features) and read_rows(text).labels is None
    text.write_text("age,height\n1,0.5\n2,high\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2 \(line 3\) column 2 \('height'\) is 'high', not a number"):
        read_rows(text)
    arrays = tmp_path / "t.npz"
    np.savez(arrays, X=read.features)
    assert np.array_equal(read_rows(arrays).features, read.features) and read_rows(arrays).labels is None
    np.savez(arrays, X=read.features, y=np.array(["a", "b", "a"]))
    assert read_rows(arrays).labels == ("a", "b", "a")
    np.savez(arrays, X=np.array([[1.0, np.inf]]))
    with pytest.raises(DataError, match="row 1 column 2 is not finite"):
        read_rows(arrays)


def test_damaged_files_are_refused_or_read_but_never_raise_anything_else(path: Path) -> None:
    """Among them files that announce fewer rows than none."""
    whole = written(path, {name: values * 5 for name, values in COLUMNS.items()}, compression="none").read_bytes()
    rng = np.random.default_rng(3)
    refusals = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(damaged), rng.integers(1, 6)):
            damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            read_parquet(path, "kind")
        except DataError:
            refusals += 1
    assert refusals > 50
