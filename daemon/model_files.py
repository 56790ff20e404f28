"""A trained model in a file that others load: .safetensors, .npz or .onnx. The only module that imports safetensors.

Tensors, by name; a kernel K is [inputs, outputs], and its layer x K + bias:

    scaling.mean, scaling.scale       float32[columns]      x = clip((row - mean) / scale, -limit, limit)
    layers.N.kernel, layers.N.bias    float32               softmax and mlp: a ReLU after every layer but the last
    any other names                   float32               those of the trainer's own module (torch: its state_dict)
    map.kernel, map.bias, map.cut     float64               secret-head, random: phi = clip((x K + b) / cut, 0, 1), 1
    map.layers.N.kernel, .bias        float32               secret-head, trunk: phi = clip(last ReLU layer, 0, 1), 1
    head                              float64[width + 1, classes]      secret-head: scores = phi head

The class is the largest score's; computed in float64, as here, it is exactly what the model owner measured. What else
has to be known is in the metadata: text by name, in .npz one array `metadata` of JSON.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.feature_map import RANDOM_CUT, FeatureMap, MapShape, RandomFeatures, Trunk
from omnilytics.daemon.trained_model import TrainedModel
from omnilytics.daemon.training.scaling import FEATURE_LIMIT, FeatureScaling
from omnilytics.daemon.training.trainers import Tensors, trainer_for
from omnilytics.peers.errors import ConfigurationError, DataError, ParameterError

Array = NDArray[Any]

FORMATS = (".safetensors", ".npz", ".onnx")
FORMAT_NAME = "omnilytics model"
FORMAT_VERSION = "1"
#: No model of this market comes near; what is larger is not read.
MAX_FILE_BYTES = 1 << 31


def tensors_of(model: TrainedModel) -> dict[str, Array]:
    """The model's tensors by name, as in the module's docstring."""
    found: dict[str, Array] = {
        "scaling.mean": model.scaling.mean.astype(np.float32),
        "scaling.scale": model.scaling.scale.astype(np.float32),
    }
    feature_map = model.feature_map
    if feature_map is None:
        return found | _divided(model.weights, model.trainer.tensors(), "")
    if isinstance(feature_map, RandomFeatures):
        kernel, bias = feature_map.layer
        found |= {"map.kernel": kernel, "map.bias": bias, "map.cut": np.array([RANDOM_CUT])}
    elif isinstance(feature_map, Trunk):
        found |= _divided(feature_map.weights, feature_map.model.tensors(), "map.")
    return found | {"head": model.weights.reshape(-1, len(model.classes))}


def metadata_of(model: TrainedModel) -> dict[str, str]:
    """What a reader has to know besides the tensors; numbers as text, classes as a list in JSON."""
    said: dict[str, Any] = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "architecture": model.architecture,
        "protection": model.protection,
        "classes": json.dumps(list(model.classes)),
        "feature_count": model.feature_count,
        "feature_limit": FEATURE_LIMIT,
        "task": model.task,
        "round": model.round,
        "rounds": model.rounds,
        "accuracy": model.accuracy,
    }
    if isinstance(model.feature_map, RandomFeatures):
        said["map_seed"] = model.feature_map.seed.hex()
    return {name: str(value) for name, value in said.items() if value is not None}


def write_model(path: Path, model: TrainedModel, replace: bool = False) -> None:
    """Writes the file by its ending, readable by its owner alone (0600), whole or not at all.

    Raises ConfigurationError for another ending, a file that is there and may not be replaced, a missing extra, and a
    model that its format cannot hold.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ConfigurationError(
            f"{path}: a model is written as {', '.join(FORMATS)}", help="give --out such an ending"
        )
    if path.exists() and not replace:
        raise ConfigurationError(f"{path} is there already", help="give another --out, or --force to replace it")
    data: bytes | None = None
    if ending == ".onnx":
        from omnilytics.daemon.onnx_graph import encode_onnx

        data = encode_onnx(model, metadata_of(model))
    elif ending == ".safetensors":
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(array) for name, array in tensors_of(model).items()}
        data = save(tensors, metadata_of(model))
    # Made with mode 0600 from the first byte on.
    handle, made = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if data is not None:
                file.write(data)
            else:
                np.savez(file, allow_pickle=False, metadata=json.dumps(metadata_of(model)), **tensors_of(model))
            file.flush()
            os.fsync(file.fileno())
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise


def read_model(path: Path) -> TrainedModel:
    """Reads a .safetensors or .npz file that `write_model` wrote. Nothing in it is run.

    Raises DataError, with the path, for a file that is missing or no such model, ParameterError for a trainer that is
    not installed or not allowed here.
    """
    ending = path.suffix.lower()
    if ending == ".onnx":
        raise DataError(
            f"{path}: an .onnx file is for other programs, such as onnxruntime",
            help="fetch the model as .safetensors or .npz too",
        )
    if ending not in FORMATS:
        raise DataError(f"{path}: not a model", help="a model is a .safetensors or .npz file of omnilytics model fetch")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes are too many for a model")
        metadata, tensors = _read_npz(path) if ending == ".npz" else _read_safetensors(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    help = "fetch it again: omnilytics model fetch"
    if metadata.get("format") != FORMAT_NAME:
        raise DataError(f"{path}: not a model of omnilytics", help=help)
    if metadata.get("version") != FORMAT_VERSION:
        raise DataError(f"{path}: written by another version of the format", help="upgrade the program")
    try:
        return _model_of(metadata, tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a whole model: {error}", help=help) from None
    except ParameterError as error:
        raise ParameterError(f"{path}: {error.message}", help=error.help) from None


def _read_safetensors(path: Path) -> tuple[Mapping[str, str], dict[str, Array]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a readable .safetensors file: {error}") from None


def _read_npz(path: Path) -> tuple[Mapping[str, str], dict[str, Array]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # Written without compression, so what would unpack to more is none of ours.
            if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                raise DataError(f"{path}: not a model: its arrays are compressed")
        with np.load(path, allow_pickle=False) as arrays:
            tensors = {name: arrays[name] for name in arrays.files}
        metadata = json.loads(str(tensors.pop("metadata")))
        if not isinstance(metadata, dict):
            raise ValueError("metadata")
        return metadata, tensors
    except (ValueError, KeyError, EOFError, SyntaxError, MemoryError, RuntimeError, zipfile.BadZipFile):
        raise DataError(f"{path}: not a readable .npz file of a model") from None


def _model_of(metadata: Mapping[str, str], tensors: dict[str, Array]) -> TrainedModel:
    classes = json.loads(metadata["classes"])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes are no list of texts")
    columns = int(metadata["feature_count"])
    scaling = FeatureScaling(*(_taken(tensors, f"scaling.{name}", (columns,)) for name in ("mean", "scale")))
    architecture, protection = metadata["architecture"], metadata["protection"]
    feature_map: FeatureMap | None = None
    if protection == "secret-head":
        shape = MapShape.parse(architecture)
        if shape.kind == "random":
            feature_map = RandomFeatures(columns, shape.width, bytes.fromhex(metadata["map_seed"]))
        else:
            layers = Trunk.layers(shape, columns).tensors()
            feature_map = Trunk(columns, shape, _joined(tensors, layers, "map."))
        weights = _taken(tensors, "head", (shape.width + 1, len(classes))).ravel()
    else:
        weights = _joined(tensors, trainer_for(architecture, columns, len(classes)).tensors(), "")
    return TrainedModel(
        architecture,
        protection,
        tuple(classes),
        scaling,
        weights,
        feature_map,
        int(metadata.get("task", "0")),
        int(metadata.get("round", "0")),
        int(metadata["rounds"]) if "rounds" in metadata else None,
        float(metadata["accuracy"]) if "accuracy" in metadata else None,
    )


def _divided(flat: Array, tensors: Tensors, prefix: str) -> dict[str, Array]:
    """The parts of a flat vector of values that float32 holds."""
    found, start = {}, 0
    for name, shape in tensors:
        size = int(np.prod(shape))
        found[prefix + name] = flat[start : start + size].reshape(shape).astype(np.float32)
        start += size
    return found


def _joined(tensors: Mapping[str, Array], wanted: Tensors, prefix: str) -> NDArray[np.float64]:
    return np.concatenate([_taken(tensors, prefix + name, shape).ravel() for name, shape in wanted])


def _taken(tensors: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if name not in tensors:
        raise ValueError(f"no tensor {name}")
    found = tensors[name]
    if found.shape != shape or found.dtype.kind != "f":
        raise ValueError(f"{name} is {found.dtype} of shape {found.shape}, not numbers of shape {shape}")
    return found.astype(np.float64)
