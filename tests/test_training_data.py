"""data.py and batch.py: readers' errors, splits that lose no row, batches that can be replayed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnilytics.daemon.training.batch import choose_batch, generator_from_entropy
from omnilytics.daemon.training.data import (
    Dataset,
    dirichlet_split,
    load_digits,
    read_csv,
    read_dataset,
    read_npz,
    split_holdout,
    write_npz,
)
from omnilytics.peers.errors import DataError, ParameterError


def dataset(labels: list[int], classes: tuple[str, ...] = ("a", "b", "c")) -> Dataset:
    features = np.arange(2.0 * len(labels)).reshape(-1, 2)
    return Dataset(features, np.array(labels, dtype=np.int64), classes)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------ Dataset


def test_a_value_that_is_not_finite_is_named_by_row_and_column() -> None:
    features = np.zeros((20, 4))
    features[16, 2] = np.nan
    with pytest.raises(DataError, match=r"^row 17 column 3 is not finite$"):
        Dataset(features, np.zeros(20, dtype=np.int64), ("a",))


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "dataset has 0 rows"),
        (np.zeros((2, 0)), np.zeros(2, dtype=np.int64), "0 feature columns"),
        (np.zeros(3), np.zeros(3, dtype=np.int64), "must be a table"),
        (np.zeros((3, 1)), np.zeros(2, dtype=np.int64), "3 rows but labels"),
        (np.zeros((1, 1)), np.ones(1, dtype=np.int64), "outside the 1 classes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(features: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Dataset(features, labels, ("a",))


def test_owner_maps_its_labels_through_the_tasks_classes() -> None:
    own = dataset([0, 1, 1], ("cat", "dog"))
    mapped = own.with_classes(["bird", "dog", "cat"])
    assert mapped.labels.tolist() == [2, 1, 1]
    assert mapped.classes == ("bird", "dog", "cat")
    with pytest.raises(DataError, match=r"row 2 has label 'dog', .*\(cat, dogs\); did you mean 'dogs'\?"):
        own.with_classes(["cat", "dogs"])


def test_a_class_nobody_has_does_not_matter() -> None:
    assert dataset([0, 0], ("cat", "unused")).with_classes(["cat"]).labels.tolist() == [0, 0]


def test_one_class_is_not_trainable() -> None:
    dataset([0, 1]).check_trainable()
    with pytest.raises(DataError, match="all rows have label 'b'"):
        dataset([1, 1]).check_trainable()


# --------------------------------------------------------------------- .npz


@pytest.mark.parametrize("classes", [("0", "1", "10"), ("a", "b", "c d"), ("-1", "1", "2.5")])
def test_npz_round_trip(tmp_path: Path, classes: tuple[str, ...]) -> None:
    given_rows = dataset([2, 0, 1, 1], classes)
    write_npz(tmp_path / "d.npz", given_rows)
    read = read_dataset(tmp_path / "d.npz")
    assert read.classes == classes
    assert np.array_equal(read.features, given_rows.features)
    assert read.labels.tolist() == [2, 0, 1, 1]


def test_npz_labels_of_any_plain_type_are_the_same_classes(tmp_path: Path) -> None:
    for number, labels in enumerate([np.array([3, 10, 3]), np.array([3.0, 10.0, 3.0]), np.array(["3", "10", "3"])]):
        np.savez(tmp_path / f"{number}.npz", X=np.ones((3, 1), dtype=np.uint8), y=labels)
        read = read_npz(tmp_path / f"{number}.npz")
        assert read.classes == ("3", "10")
        assert read.labels.tolist() == [0, 1, 0]
        assert read.features.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"X": np.ones((2, 2))}, r"no array y; .*in it: X"),
        ({"x": np.ones((2, 2)), "y": np.ones(2)}, r"no array X; .*in it: x, y"),
        ({"X": np.ones(2), "y": np.ones(2)}, "X must have shape"),
        ({"X": np.array([["a"]]), "y": np.ones(1)}, "X must hold numbers"),
        ({"X": np.array([[1j]]), "y": np.ones(1)}, "X must hold numbers"),
        ({"X": np.ones((2, 2)), "y": np.ones(3)}, "X has 2 rows but y has shape"),
        ({"X": np.ones((2, 2)), "y": np.ones((2, 1))}, "X has 2 rows but y has shape"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, "dataset has 0 rows"),
        ({"X": np.ones((2, 2)), "y": np.array([1.0, np.nan])}, "label of row 2 is not finite"),
        ({"X": np.array([[1.0, np.inf]]), "y": np.ones(1)}, "row 1 column 2 is not finite"),
        ({"X": np.ones((1, 1)), "y": np.array([b"a"])}, "y must hold numbers or texts"),
        ({"X": np.ones((1, 1)), "y": np.array([{}], dtype=object)}, "not a readable .npz"),
    ],
)
def test_bad_npz_is_refused_in_words(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(DataError, match=words) as caught:
        read_npz(path)
    assert str(caught.value).startswith(str(path))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read: No such file"):
        read_npz(tmp_path / "missing.npz")
    with pytest.raises(DataError, match="cannot read"):
        read_npz(tmp_path)
    for number, content in enumerate([b"", b"PK\x03\x04 cut off", b"X,y\n1,2\n", b"\x93NUMPY\x01\x00"]):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not a readable \.npz"):
            read_npz(path)
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        read_npz(tmp_path / "array.npz")


# --------------------------------------------------------------------- .csv


def test_csv(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", '\ufeffage, kind ,"height"\n1,cat,2.5\n\n-3e2," dog",4\n')
    read = read_dataset(path, "kind")
    assert read.features.tolist() == [[1.0, 2.5], [-300.0, 4.0]]
    assert read.classes == ("cat", "dog")
    assert read.labels.tolist() == [0, 1]


def test_csv_number_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    read = read_csv(written(tmp_path / "t.csv", "x,y\n1,10\n1,9\n1,+9.0\n1,09\n"), "y")
    assert read.classes == ("9", "10")
    assert read.labels.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no header"),
        ("age,kind\n", "dataset has 0 rows"),
        ("age,Kind\n1,a\n", r"no column 'kind'; did you mean 'Kind'\? \(columns: age, Kind\)"),
        ("age,kid\n1,a\n", r"no column 'kind'; did you mean 'kid'\?"),
        ("age,colour\n1,a\n", r"no column 'kind' \(columns: age, colour\)"),
        ("kind\na\n", "no column beside the label"),
        ("age,age,kind\n1,1,a\n", "column 'age' appears more than once"),
        ("age,kind\n1,a\n2\n", r"row 2 \(line 3\) has 1 cells, the header 2"),
        ("kind,age\na,1\na,old\n", r"row 2 \(line 3\) column 1 \('age'\) is 'old', not a number"),
        ("age,kind\n\n,a\n", r"row 1 \(line 3\) column 1 \('age'\) is empty"),
        ("age,kind\nnan,a\n", r"row 1 \(line 2\) column 1 \('age'\) is not finite"),
        ("age,kind\n1e999,a\n", "is not finite"),
        ("age,kind\n1, \n", r"row 1 \(line 2\) has no label"),
    ],
)
def test_bad_csv_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_csv(written(tmp_path / "t.csv", text), "kind")


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"age,kind\n1,\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_csv(tmp_path / "t.csv", "kind")
    with pytest.raises(DataError, match="cannot read"):
        read_csv(tmp_path / "missing.csv", "kind")
    with pytest.raises(DataError, match="--label"):
        read_dataset(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"must be a \.npz"):
        read_dataset(tmp_path / "t.xlsx")


# ------------------------------------------------------------------- splits


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=80, max_size=200),
    st.integers(1, 10),
    st.sampled_from([1e-3, 0.1, 0.5, 1.0, 10.0, 1e4]),
    st.integers(0, 2**32),
)
def test_every_row_has_one_owner_and_every_owner_rows(labels: list[int], owners: int, skew: float, seed: int) -> None:
    parts = dirichlet_split(np.array(labels), owners, skew, np.random.default_rng(seed))
    assert len(parts) == owners
    assert min(map(len, parts)) >= 8
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    again = dirichlet_split(np.array(labels), owners, skew, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_skew_skews() -> None:
    labels = np.repeat(np.arange(10), 100)

    def largest_share(skew: float) -> float:
        parts = dirichlet_split(labels, 10, skew, np.random.default_rng(3))
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert largest_share(0.1) > 0.4 > largest_share(10.0) > largest_share(1e4)


@pytest.mark.parametrize(("owners", "skew"), [(0, 1.0), (3, 0.0), (3, -1.0), (3, float("nan")), (11, 1.0)])
def test_impossible_splits_are_refused(owners: int, skew: float) -> None:
    with pytest.raises(ParameterError):
        dirichlet_split(np.zeros(80, dtype=np.int64), owners, skew, np.random.default_rng(0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=4, max_size=60), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_holdout_is_stratified_and_loses_nothing(labels: list[int], fraction: float, seed: int) -> None:
    rest, held = split_holdout(dataset(labels), fraction, np.random.default_rng(seed))
    assert sorted([*rest.features[:, 0], *held.features[:, 0]]) == list(range(0, 2 * len(labels), 2))
    for label in range(3):
        count = labels.count(label)
        wanted = min(max(round(fraction * count), 1), count - 1) if count > 1 else 0
        assert int((held.labels == label).sum()) == wanted


def test_impossible_holdouts_are_refused() -> None:
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ParameterError, match="between 0 and 1"):
            split_holdout(dataset([0, 1]), fraction, np.random.default_rng(0))
    with pytest.raises(DataError, match="too few"):
        split_holdout(dataset([0, 1]), 0.5, np.random.default_rng(0))


def test_digits() -> None:
    digits = load_digits()
    assert (digits.row_count, digits.column_count) == (1797, 64)
    rest, held = split_holdout(digits, 0.2, np.random.default_rng(0))
    assert (rest.row_count, held.row_count) == (1438, 359)


def test_an_owner_does_not_pay_for_scikit_learn() -> None:
    code = (
        "import sys, pkgutil, importlib, omnilytics.daemon.training as t\n"
        "[importlib.import_module(t.__name__ + '.' + m.name) for m in pkgutil.iter_modules(t.__path__)\n"
        " if m.name != 'torch_modules']\n"
        "assert not {'sklearn', 'scipy', 'pyarrow', 'torch', 'onnx', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------ batches


@given(st.integers(1, 200), st.integers(1, 200), st.binary(max_size=40))
def test_batch_is_a_sorted_set_of_rows_that_entropy_decides(rows: int, size: int, entropy: bytes) -> None:
    batch = choose_batch(rows, size, entropy)
    assert len(batch) == min(rows, size)
    assert (np.diff(batch) > 0).all()
    assert batch.min() >= 0
    assert batch.max() < rows
    assert np.array_equal(batch, choose_batch(rows, size, entropy))


def test_batch_is_the_same_in_every_version() -> None:
    assert choose_batch(80, 6, b"a round's entropy").tolist() == [3, 11, 20, 21, 47, 70]


def test_batches_are_fair() -> None:
    counts = np.zeros(20)
    for number in range(2000):
        counts[choose_batch(20, 5, number.to_bytes(4, "big"))] += 1
    assert counts.min() > 400
    assert counts.max() < 600


def test_domains_are_separate() -> None:
    draws = {generator_from_entropy(b"e", domain).random() for domain in ("batch", "gradient")}
    assert len(draws) == 2


@pytest.mark.parametrize(("rows", "size"), [(0, 1), (1, 0)])
def test_empty_batches_are_refused(rows: int, size: int) -> None:
    with pytest.raises(ParameterError):
        choose_batch(rows, size, b"")
