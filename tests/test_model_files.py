"""A trained model in files: others load it, and predict exactly what the model owner measured."""

from __future__ import annotations

import json
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from omnilytics.daemon.model_files import metadata_of, read_model, tensors_of, write_model
from omnilytics.daemon.protection.sides import Learned
from omnilytics.daemon.task_design import TaskDesign, Wishes, design_task
from omnilytics.daemon.trained_model import TrainedModel, design_record, recall, right_share, with_results
from omnilytics.daemon.training.data import Dataset, load_digits, split_holdout
from omnilytics.daemon.training.trainers import allow
from omnilytics.peers.errors import ConfigurationError, DataError, JournalError, ParameterError
from tests.test_trainers import hinge, site

__all__ = ["hinge", "site"]

REST, OWN = split_holdout(load_digits(), 0.2, np.random.default_rng(0))
KINDS = {
    "softmax": ("softmax", "envelope"),
    "network": ("mlp:24,16", "envelope"),
    "perturbed": ("mlp:16", "perturbed"),
    "random": ("random:40", "secret-head"),
    "trunk": ("trunk:20,12", "secret-head"),
}


def trained(kind: str) -> tuple[TrainedModel, TaskDesign, Learned]:
    """A model after two rounds, as a journal would give it back."""
    architecture, protection = KINDS[kind]
    design = design_task(Wishes(architecture, protection, 3, 32, None, None, None, 0), OWN)
    side, learned = design.side, design.side.begin()
    rows = design.scaling.apply(REST.features)
    for number in (1, 2):
        entropy = bytes([number]) * 32
        published = design.spec.side.read(side.publish(learned, number, entropy), number)
        average = design.spec.side.statistic(published, rows[:400], REST.labels[:400])
        learned = side.learn(learned, entropy, average)
    model = recall(design_record(design.spec, side), learned.weights, 7, 2)
    return with_results(model, 20, 0.875), design, learned


@pytest.fixture(scope="module", params=KINDS)
def each(request: pytest.FixtureRequest) -> tuple[TrainedModel, TaskDesign, Learned]:
    return trained(request.param)


@pytest.fixture(scope="module")
def network() -> TrainedModel:
    return trained("network")[0]


def test_it_predicts_what_the_model_owner_measured(each: tuple[TrainedModel, TaskDesign, Learned]) -> None:
    model, design, learned = each
    scaled = Dataset(design.scaling.apply(REST.features), REST.labels, REST.classes)
    found = model.predict(REST.features)
    assert (found == REST.labels).mean() == design.side.accuracy(learned, scaled) > 0.2
    names = [REST.classes[label] for label in REST.labels]
    assert right_share(model, found, names) == design.side.accuracy(learned, scaled)
    assert "array" not in repr(model), "weights are nobody's business"


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_what_is_written_is_read_back_to_the_bit(
    each: tuple[TrainedModel, TaskDesign, Learned], tmp_path: Path, ending: str
) -> None:
    model, path = each[0], tmp_path / f"model{ending}"
    write_model(path, model)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    read = read_model(path)
    assert np.array_equal(read.weights, model.weights)
    assert metadata_of(read) == metadata_of(model)
    assert np.array_equal(read.predict(REST.features), model.predict(REST.features))


def scaled_by_hand(rows: np.ndarray, tensors: dict[str, Any], limit: float) -> Any:
    mean, scale = (tensors[f"scaling.{name}"].astype(np.float64) for name in ("mean", "scale"))
    return np.clip((rows - mean) / scale, -limit, limit)


def layers_by_hand(inputs: Any, tensors: dict[str, Any], prefix: str) -> Any:
    count = sum(name.startswith(f"{prefix}layers.") and name.endswith("kernel") for name in tensors)
    for number in range(count):
        if number:
            inputs = np.maximum(inputs, 0.0)
        kernel, bias = (tensors[f"{prefix}layers.{number}.{part}"].astype(np.float64) for part in ("kernel", "bias"))
        inputs = inputs @ kernel + bias
    return inputs


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_others_predict_with_what_the_docstring_says(
    each: tuple[TrainedModel, TaskDesign, Learned], tmp_path: Path, ending: str
) -> None:
    """Neither reader nor arithmetic of ours: safetensors' and numpy's own, and the lines of the manual."""
    model, path = each[0], tmp_path / f"model{ending}"
    write_model(path, model)
    if ending == ".npz":
        with np.load(path) as arrays:
            tensors = dict(arrays)
        metadata = json.loads(str(tensors.pop("metadata")))
    else:
        with safe_open(path, framework="numpy") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    scores = scaled_by_hand(REST.features, tensors, float(metadata["feature_limit"]))
    if metadata["protection"] == "secret-head":
        if metadata["architecture"].startswith("random"):
            units = (scores @ tensors["map.kernel"] + tensors["map.bias"]) / tensors["map.cut"]
        else:
            units = layers_by_hand(scores, tensors, "map.")
        scores = np.hstack([np.clip(units, 0.0, 1.0), np.ones((len(units), 1))]) @ tensors["head"]
    else:
        scores = layers_by_hand(scores, tensors, "")
    assert np.array_equal(scores.argmax(axis=1), model.predict(REST.features))
    assert json.loads(metadata["classes"]) == list(OWN.classes)
    said = {name: metadata[name] for name in ("task", "round", "rounds", "accuracy", "feature_count")}
    assert said == {"task": "7", "round": "2", "rounds": "20", "accuracy": "0.875", "feature_count": "64"}


def test_an_onnx_runtime_predicts_the_same_classes(
    each: tuple[TrainedModel, TaskDesign, Learned], tmp_path: Path
) -> None:
    model, path = each[0], tmp_path / "model.onnx"
    write_model(path, model)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores, classes = session.run(["scores", "class"], {"features": REST.features})
    assert np.array_equal(classes, model.predict(REST.features))
    assert np.array_equal(scores.argmax(axis=1), classes) and scores.dtype == np.float64
    assert session.get_modelmeta().custom_metadata_map == metadata_of(model)
    with pytest.raises(DataError, match=r"an \.onnx file is for other programs"):
        read_model(path)


def test_an_installed_trainers_tensors_have_its_own_names(hinge: Path, tmp_path: Path) -> None:
    allow(("hinge",))
    design = design_task(Wishes("hinge:0.001", "envelope", 3, 16, None, None, None, 0), OWN)
    weights = np.random.default_rng(0).normal(size=650)
    model = recall(design_record(design.spec, design.side), weights, 1, 1)
    path = tmp_path / "model.safetensors"
    write_model(path, model)
    assert tensors_of(model)["hinge"].shape == (65, 10)
    assert np.array_equal(read_model(path).predict(REST.features), model.predict(REST.features))
    with pytest.raises(ConfigurationError, match=r"cannot be written as \.onnx here"):
        write_model(tmp_path / "model.onnx", model)
    allow(())
    with pytest.raises(ParameterError, match=f"{path}: trainer 'hinge' is not allowed here"):
        read_model(path)


def test_nothing_is_overwritten_unasked_and_no_half_file_is_left(
    network: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(b"mine")
    with pytest.raises(ConfigurationError, match="is there already"):
        write_model(path, network)
    assert path.read_bytes() == b"mine"

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            write_model(path, network, replace=True)
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]
    path.chmod(0o644)
    write_model(path, network, replace=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and read_model(path).round == 2


def test_other_endings_and_missing_extras_are_refused_in_words(
    network: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.pt", "model"):
        with pytest.raises(ConfigurationError, match=r"a model is written as \.safetensors, \.npz, \.onnx"):
            write_model(tmp_path / name, network)
        with pytest.raises(DataError, match="not a model"):
            read_model(tmp_path / name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigurationError, match="needs the package onnx") as caught:
        write_model(tmp_path / "model.onnx", network)
    assert "pip install 'omnilytics[onnx]'" in caught.value.help


def changed(model: TrainedModel, path: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A file of the model with other metadata and tensors; None leaves one out."""
    names = {name: value for name, value in (metadata_of(model) | metadata).items() if value is not None}
    arrays = {name: value for name, value in (tensors_of(model) | tensors).items() if value is not None}
    path.write_bytes(save(arrays, names))
    return path


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        ({"format": "gguf"}, {}, "not a model of omnilytics"),
        ({"format": None}, {}, "not a model of omnilytics"),
        ({"version": "2"}, {}, "written by another version of the format"),
        ({"classes": None}, {}, "not a whole model: 'classes'"),
        ({"classes": "[1, 2]"}, {}, "classes are no list of texts"),
        ({"classes": "]"}, {}, "not a whole model"),
        ({"feature_count": "many"}, {}, "not a whole model"),
        ({"feature_count": "63"}, {}, r"scaling\.mean is float32 of shape \(64,\), not numbers of shape \(63,\)"),
        ({"round": "x"}, {}, "not a whole model"),
        ({"protection": "secret-head"}, {}, "unknown feature map"),
        ({"architecture": "mlp:24"}, {}, r"layers\.1\.kernel is float32 of shape \(24, 16\)"),
        ({"architecture": "mlp:70000"}, {}, "layer width 70000"),
        ({}, {"layers.0.bias": None}, r"no tensor layers\.0\.bias"),
        ({}, {"scaling.scale": np.zeros(64, dtype=np.float32)}, "scale of column 1 is not positive"),
        ({}, {"layers.0.bias": np.full(24, np.nan)}, "weight 1536 is not finite"),
        ({}, {"layers.0.bias": np.zeros(24, dtype=np.int64)}, "is int64 of shape"),
    ],
)
def test_files_that_are_no_whole_model_are_refused_in_words(
    network: TrainedModel, tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any], words: str
) -> None:
    path = changed(network, tmp_path / "model.safetensors", metadata, tensors)
    with pytest.raises((DataError, ParameterError), match=words) as caught:
        read_model(path)
    assert str(path) in caught.value.message


def test_files_of_another_kind_are_refused_in_words(network: TrainedModel, tmp_path: Path) -> None:
    for name, data in (("a.safetensors", b""), ("a.safetensors", b"x" * 100), ("a.npz", b""), ("a.npz", b"PK" * 50)):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(DataError, match=re.escape(f"{path}: not a readable")):
            read_model(path)
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros(100_000))
    with pytest.raises(DataError, match="not a model: its arrays are compressed"):
        read_model(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", X=np.zeros(3))
    with pytest.raises(DataError, match="not a readable"):
        read_model(tmp_path / "a.npz")
    with pytest.raises(DataError, match="cannot read: No such file"):
        read_model(tmp_path / "missing.npz")
    with pytest.raises(DataError, match="dataset has 63 feature columns, the model needs 64"):
        network.predict(REST.features[:, :63])


def test_a_record_that_cannot_be_read_is_refused(network: TrainedModel) -> None:
    design = trained("softmax")[1]
    record = json.loads(design_record(design.spec, design.side))
    for damage in ({"v": 2}, {"mean": "?"}, {"classes": None}, {"map": "AA"}):
        with pytest.raises((JournalError, ParameterError)):
            recall(json.dumps(record | damage).encode(), np.zeros(650), 1, 1)
    for data in (b"", b"[]", b"{}", b"\xff"):
        with pytest.raises(JournalError, match="record of task 1 cannot be read"):
            recall(data, np.zeros(650), 1, 1)
    with pytest.raises(ParameterError, match="weights have 3 values"):
        replace(network, weights=np.zeros(3))


@pytest.fixture(autouse=True)
def nothing_stays_allowed() -> Iterator[None]:
    yield
    allow(())
