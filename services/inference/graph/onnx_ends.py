"""What an ONNX file says that it takes and gives, for engines that do not keep its words.

An engine that turns the graph into its own form may lose the names of axes, or know less or more
of a shape than the file; callers are told the same whatever their model runs on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from mesh.errors import FailedPrecondition
from services.inference.backends.backend import GraphTensor

_DATATYPES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "DOUBLE": "FP64",
    "BFLOAT16": "BF16",
    "STRING": "BYTES",
    "BOOL": "BOOL",
    **{f"{sign}INT{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class GraphEnds:
    """A graph's inputs and outputs."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


def read_ends(path: Path) -> GraphEnds:
    """Reads the file, not its weights.

    Raises:
        FailedPrecondition: it is not ONNX, or has ends that the protocol cannot carry.
    """
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, ValueError) as error:
        raise FailedPrecondition(f"{path.name} is not ONNX: {error}") from error
    # Files of old repeat their constants among the inputs.
    constants = {tensor.name for tensor in graph.initializer}
    inputs = (value for value in graph.input if value.name not in constants)
    return GraphEnds(_tensors(inputs), _tensors(graph.output))


def _tensors(values: Iterable[Any]) -> tuple[GraphTensor, ...]:
    return tuple(map(_tensor, values))


def _tensor(value: Any) -> GraphTensor:
    described = value.type.tensor_type
    element = onnx.TensorProto.DataType.Name(described.elem_type)
    if element not in _DATATYPES:
        kind = value.type.WhichOneof("value") if element == "UNDEFINED" else element
        raise FailedPrecondition(f"{value.name} is a {kind}, which the protocol cannot carry")
    axes = described.shape.dim
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes)
    return GraphTensor(value.name, _DATATYPES[element], shape, tuple(a.dim_param for a in axes))
