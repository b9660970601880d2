"""Small ONNX graphs, made from seeds, and a node's model of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mesh.manifest import Manifest
from services.inference.tensor_graph.model import GraphModel
from services.inference.tensor_graph.onnx_model import open_onnx_model
from tests.integration.failing_backend import FailingBackend, Trouble
from tests.integration.node_rig import spec_of
from tests.integration.tensor_place import make_place

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Axis = int | str | None


def tensor(name: str, shape: Sequence[Axis], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weights(name: str, *shape: int) -> Any:
    seed = sum(name.encode())
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[-1])
    return numpy_helper.from_array(values.astype("<f4"), name)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, **attributes)


def save(
    folder: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Sequence[Any] = (),
    *,
    external: bool = False,
) -> Path:
    """Writes `model.onnx`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0}
    onnx.save_model(model, folder / "model.onnx", **(options if external else {}))
    return folder


def save_mlp(folder: Path, batch: Axis = "n", **options: Any) -> Path:
    """13 numbers in, 5 out."""
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "w2", "b2"], ["y"], transB=1),
    ]
    constants = [weights("w1", 40, 13), weights("b1", 40), weights("w2", 5, 40), weights("b2", 5)]
    return save(
        folder, nodes, [tensor("x", [batch, 13])], [tensor("y", [batch, 5])], constants, **options
    )


def save_conv(folder: Path) -> Path:
    """An image of any size in, its class out: two convolutions, pooling, a softmax."""
    nodes = [
        node("Conv", ["image", "k1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["c", "k2"], ["d"], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "w"], ["g"], transB=1),
        node("Softmax", ["g"], ["probabilities"]),
    ]
    constants = [weights("k1", 8, 3, 3, 3), weights("k2", 16, 8, 3, 3), weights("w", 3, 16)]
    inputs = [tensor("image", ["n", 3, "height", "width"])]
    return save(folder, nodes, inputs, [tensor("probabilities", ["n", 3])], constants)


def save_whole_batch_scale(folder: Path) -> Path:
    """Dynamic quantisation: its scale is that of all rows together."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["i"]),
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Mul", ["f", "scale"], ["y"]),
    ]
    values = np.random.default_rng(1).integers(-100, 100, (16, 4)).astype("i1")
    constants = [numpy_helper.from_array(values, "w")]
    return save(folder, nodes, [tensor("x", ["n", 16])], [tensor("y", ["n", 4])], constants)


def save_lookup(folder: Path) -> Path:
    """A table of three rows: an index beyond it fails in the engine."""
    nodes = [node("Gather", ["table", "id"], ["row"])]
    inputs, outputs = [tensor("id", ["n"], INT64)], [tensor("row", ["n", 4])]
    return save(folder, nodes, inputs, outputs, [weights("table", 3, 4)])


def save_masked_mean(folder: Path) -> Path:
    """The mean of those vectors whose mask says so, and each vector doubled."""
    nodes = [
        node("Cast", ["mask"], ["kept"], to=FLOAT),
        node("Unsqueeze", ["kept", "last"], ["column"]),
        node("Mul", ["vectors", "column"], ["masked"]),
        node("ReduceSum", ["masked", "second"], ["total"], keepdims=0),
        node("ReduceSum", ["kept", "second"], ["count"], keepdims=1),
        node("Div", ["total", "count"], ["mean"]),
        node("Add", ["vectors", "vectors"], ["doubled"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([value]), name)
        for name, value in (("last", -1), ("second", 1))
    ]
    inputs = [tensor("vectors", ["n", "length", 4]), tensor("mask", ["n", "length"], INT64)]
    outputs = [tensor("mean", ["n", 4]), tensor("doubled", ["n", "length", 4])]
    return save(folder, nodes, inputs, outputs, constants)


def save_sum(folder: Path, shapes: Sequence[Sequence[Axis]] = (["n", "k"], ["n", "k"])) -> Path:
    """`a` + `b`."""
    inputs = [tensor(name, shape) for name, shape in zip("ab", shapes, strict=True)]
    return save(folder, [node("Add", ["a", "b"], ["sum"])], inputs, [tensor("sum", shapes[0])])


async def open_graph(folder: Path, *, trouble: Trouble | None = None, **options: Any) -> GraphModel:
    """The graph in `folder` as a node's model called `graph`; `trouble` makes its engine fail."""
    document = {"name": "graph", "task": "tensor", "format": "onnx", **options}
    manifest = Manifest.model_validate(document)
    place = make_place(folder / "cache", threads=1)
    if trouble is not None:
        failing = tuple(FailingBackend(backend, trouble) for backend in place.backends)
        place = replace(place, backends=failing)
    model = await open_onnx_model(folder, spec_of(manifest), place)
    await model.warm_up()
    return model
