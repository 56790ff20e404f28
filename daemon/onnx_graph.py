"""A trained model as an ONNX graph, from raw rows to classes. The only module that imports onnx, an extra.

    features  float64[rows, columns], raw    ->    scores  float64[rows, classes]
                                                   class   int64[rows], an index into the metadata's "classes"

The graph computes in float64, as the model owner does: another program predicts the same classes. Its operators are
of opset 13, which runtimes have had since 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.feature_map import RANDOM_CUT, RandomFeatures, Trunk
from omnilytics.daemon.trained_model import TrainedModel
from omnilytics.daemon.training.models import Model
from omnilytics.daemon.training.scaling import FEATURE_LIMIT
from omnilytics.peers.errors import ConfigurationError

OPSET = 13
#: The file format's version of opset 13's time: old runtimes refuse newer ones.
IR_VERSION = 8

Floats = NDArray[np.float64]


class _Graph:
    """Nodes in order, each with one output, and the constants that they take."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: NDArray[Any] | float) -> str:
        self.constants.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def layer(self, inputs: str, kernel: Floats, bias: Floats, name: str) -> str:
        product = self.node("MatMul", [inputs, self.constant(f"{name}.kernel", kernel)], f"{name}.product")
        return self.node("Add", [product, self.constant(f"{name}.bias", bias)], f"{name}.sum")

    def network(self, inputs: str, model: Model, flat: Floats, prefix: str) -> str:
        layers = model.unflatten(flat)
        for number, (kernel, bias) in enumerate(layers):
            inputs = self.layer(inputs, kernel, bias, f"{prefix}layers.{number}")
            if number < len(layers) - 1:
                inputs = self.node("Relu", [inputs], f"{prefix}layers.{number}.relu")
        return inputs

    def clip(self, inputs: str, low: float, high: float, name: str) -> str:
        bounds = [self.constant(f"{name}.low", low), self.constant(f"{name}.high", high)]
        return self.node("Clip", [inputs, *bounds], name)


def encode_onnx(model: TrainedModel, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes. Raises ConfigurationError without the extra, and for a trainer whose module is not known."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ConfigurationError(
            "writing .onnx needs the package onnx, which is not installed here",
            help="pip install 'omnilytics[onnx]', or fetch the model as .safetensors or .npz",
        ) from error
    graph = _Graph(onnx)
    mean = graph.constant("scaling.mean", model.scaling.mean)
    scale = graph.constant("scaling.scale", model.scaling.scale)
    scaled = graph.node("Div", [graph.node("Sub", ["features", mean], "centred"), scale], "divided")
    scaled = graph.clip(scaled, -FEATURE_LIMIT, FEATURE_LIMIT, "scaled")
    scores = _map_scores(graph, model, scaled) if model.feature_map is not None else _scores(graph, model, scaled)
    graph.node("Identity", [scores], "scores")
    graph.node("ArgMax", ["scores"], "class", axis=1, keepdims=0)
    helper, double, whole = onnx.helper, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "omnilytics",
            [helper.make_tensor_value_info("features", double, ["rows", model.feature_count])],
            [
                helper.make_tensor_value_info("scores", double, ["rows", len(model.classes)]),
                helper.make_tensor_value_info("class", whole, ["rows"]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="omnilytics",
    )
    helper.set_model_props(made, dict(metadata))
    onnx.checker.check_model(made, full_check=True)
    encoded: bytes = made.SerializeToString(deterministic=True)
    return encoded


def _scores(graph: _Graph, model: TrainedModel, scaled: str) -> str:
    trainer = model.trainer
    if not isinstance(trainer, Model):
        raise ConfigurationError(
            f"the graph of {model.architecture!r} is its trainer's own, which cannot be written as .onnx here",
            help="fetch it as .safetensors, load that into the module, and export it with the module's own library",
        )
    return graph.network(scaled, trainer, model.weights, "")


def _map_scores(graph: _Graph, model: TrainedModel, scaled: str) -> str:
    feature_map = model.feature_map
    if isinstance(feature_map, RandomFeatures):
        units = graph.layer(scaled, *feature_map.layer, "map")
        units = graph.node("Div", [units, graph.constant("map.cut", RANDOM_CUT)], "map.units")
    else:
        assert isinstance(feature_map, Trunk)
        units = graph.network(scaled, feature_map.model, feature_map.weights, "map.")
    units = graph.clip(units, 0.0, 1.0, "map.clipped")
    # The map's last value is a constant 1: the head's last row is a bias.
    head = model.weights.reshape(-1, len(model.classes))
    return graph.layer(units, head[:-1], head[-1], "head")
