"""An engine that runs its graph on ONNX Runtime, in the very memory that it is given addresses of.

The standard graph with float32 is thereby held to account as TensorRT would run it: in place,
padded, slot by slot.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference.backends.backend import BackendSettings, GraphTensor
from services.inference.backends.tensorrt.shapes import Profile, Shape
from services.inference.graph.session import GraphSession

_TYPES = {"FP32": (np.float32, ctypes.c_float), "INT64": (np.int64, ctypes.c_int64)}


class OracleEngine:
    """A graph as an engine; a `tilt` makes it likelier to choose even tokens than it should be."""

    memory_bytes = 0

    def __init__(
        self,
        graph: Path,
        profiles: tuple[Profile, ...],
        *,
        records_graphs: bool = False,
        tilt: float = 0,
    ) -> None:
        self.session = GraphSession(graph, BackendSettings(threads=1), as_written=True)
        self.records_graphs = records_graphs
        self.saved = 0
        self.is_closed = False
        self._profiles = profiles
        self._tilt = tilt

    @property
    def tensors(self) -> tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]]:
        return self.session.inputs, self.session.outputs

    def open_context(self, profile: int) -> OracleContext:
        return OracleContext(self.session, self._profiles[profile], self._tilt)

    def save_kernels(self) -> None:
        self.saved += 1

    def close(self) -> None:
        self.is_closed = True


class OracleContext:
    """Holds every run against the profile that it was opened for, as TensorRT does."""

    def __init__(self, session: GraphSession, profile: Profile, tilt: float) -> None:
        self._session = session
        self._profile = {each.name: each for each in profile}
        self._shapes: Mapping[str, Shape] = {}
        self._run: Any = None
        self._outputs: Mapping[str, NDArray[Any]] = {}
        self._tilt = tilt

    def bind(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        for name, shape in shapes.items():
            limits = self._profile[name]
            fits = [a <= n <= b for a, n, b in zip(limits.least, shape, limits.most, strict=True)]
            assert all(fits), (name, shape, limits)
        self._shapes = shapes
        self._run = None
        if all(each.name in addresses for each in self._session.outputs):
            inputs, self._outputs = self._arrays(shapes, addresses)
            self._run = self._session.bind(inputs, self._outputs)

    def output_shape(self, name: str) -> Shape:
        rows = next(iter(self._shapes.values()))[0]
        (tensor,) = (each for each in self._session.outputs if each.name == name)
        return (rows, *tensor.shape[1:])

    def enqueue(self) -> None:
        self._run()
        if self._tilt:
            self._outputs["logits"][:, ::2] += self._tilt

    def _arrays(
        self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        inputs = {
            each.name: _at(addresses[each.name], each, shapes[each.name])
            for each in self._session.inputs
        }
        outputs = {
            each.name: _at(addresses[each.name], each, self.output_shape(each.name))
            for each in self._session.outputs
        }
        return inputs, outputs


def _at(address: int, tensor: GraphTensor, shape: Shape) -> NDArray[Any]:
    """The array that lies there."""
    numpy_type, c_type = _TYPES[tensor.datatype]
    memory = (c_type * math.prod(shape)).from_address(address)
    return np.frombuffer(memory, numpy_type).reshape(shape)
