"""Writes an ONNX graph node by node, its weights straight into a file beside it.

Weights never pass through one big protobuf message: each goes to the data file as soon as it is
made, aligned so that a runtime can map it into memory, and the graph keeps only its place there.
It knows nothing of what the graph computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

GRAPH_FILE = "graph.onnx"
WEIGHTS_FILE = "graph.weights"

# Both what mmap needs and what onnx itself recommends for large tensors.
_ALIGNMENT = 65_536
# A shape or an axis is clearer inside the graph than behind an offset.
_LARGEST_INLINE_BYTES = 1024
_IR_VERSION = 11


class GraphWriter:
    """A graph in the making, in `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._data = (folder / WEIGHTS_FILE).open("wb")
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Declares an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Declares an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """A small tensor inside the graph, or a large one in the data file; once per name."""
        if name not in self._initializers:
            values = np.asarray(values, order="C")
            if values.nbytes <= _LARGEST_INLINE_BYTES:
                self._initializers[name] = onnx.numpy_helper.from_array(values, name)
            else:
                self._place(name, values)
        return name

    def int4(self, name: str, values: NDArray[np.int8]) -> str:
        """A tensor of values -8..7, two to a byte, in the data file; once per name."""
        if name not in self._initializers:
            pairs = values.reshape(-1, 2).view(np.uint8) & 0xF
            self._place(name, pairs[:, 0] | (pairs[:, 1] << 4))
            place = self._places[name]
            self._initializers[name] = _external(name, TensorProto.INT4, values.shape, *place)
        return name

    def view(self, name: str, other: str, shape: Sequence[int]) -> str:
        """The values of another constant in another shape; those of a large one are stored once."""
        if other not in self._places:
            return self.constant(
                name, onnx.numpy_helper.to_array(self._initializers[other]).reshape(shape)
            )
        kind = self._initializers[other].data_type
        self._initializers[name] = _external(name, kind, shape, *self._places[other])
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node; returns the name of its first output."""
        names = list(outputs or [f"{op}_{len(self._nodes)}"])
        self._nodes.append(
            helper.make_node(op, inputs, names, name=names[0], domain=domain, **attributes)
        )
        return names[0]

    def save(self, opsets: dict[str, int]) -> Path:
        """Finishes both files; returns the graph's path."""
        self._data.close()
        graph = helper.make_graph(
            self._nodes,
            self._name,
            self._inputs,
            self._outputs,
            list(self._initializers.values()),
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
        path = self._folder / GRAPH_FILE
        path.write_bytes(model.SerializeToString())
        return path

    def _place(self, name: str, values: NDArray[Any]) -> None:
        self._data.seek(-self._data.tell() % _ALIGNMENT, 1)
        self._places[name] = (self._data.tell(), values.nbytes)
        values.tofile(self._data)
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self._initializers[name] = _external(name, kind, values.shape, *self._places[name])


def _external(name: str, kind: int, shape: Sequence[int], offset: int, length: int) -> Any:
    tensor = TensorProto(name=name, data_type=kind, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": WEIGHTS_FILE, "offset": str(offset), "length": str(length)}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return tensor
