"""The same graph in half precision: constants and everything computed from them.

For graphs of standard operators whose float inputs and outputs stay float32: a cast stands behind
each such input and before each such output, and all between is float16. It knows no model; whether
one bears half precision is for its caller to know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.inference.graph.writer import GRAPH_FILE, WEIGHTS_FILE

_TENSOR_ATTRIBUTES = ("value",)


def write_half(source: Path, folder: Path) -> Path:
    """Writes the half-precision form of a graph into `folder`; returns its path."""
    model = onnx.load(str(source))
    graph = model.graph
    for tensor in graph.initializer:
        _halve(tensor)
    for node in graph.node:
        _halve_node(node)
    for value in graph.input:
        _cast_input(graph, value)
    for value in graph.output:
        _cast_output(graph, value)
    del graph.value_info[:]  # said of the types that were
    path = folder / GRAPH_FILE
    onnx.save(model, str(path), save_as_external_data=True, location=WEIGHTS_FILE)
    return path


def _halve(tensor: Any) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _halve_node(node: Any) -> None:
    for attribute in node.attribute:
        if attribute.name in _TENSOR_ATTRIBUTES:
            _halve(attribute.t)
        elif node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _cast_input(graph: Any, value: Any) -> None:
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        return
    half = f"{value.name}.half"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == value.name:
                node.input[place] = half
    graph.node.insert(0, helper.make_node("Cast", [value.name], [half], to=TensorProto.FLOAT16))


def _cast_output(graph: Any, value: Any) -> None:
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        return
    half = f"{value.name}.half"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == value.name:
                    names[place] = half
    graph.node.append(helper.make_node("Cast", [half], [value.name], to=TensorProto.FLOAT))
