"""Graphs of named tensors on a TensorRT engine: arrays in, arrays out.

Every tensor has rows on its first axis. Runs are padded to a few numbers of rows by repeating the
last one, which is cut off again; more rows than the engine was built for are run in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.tensor import Array
from services.inference.backends.backend import BackendFailed, GraphTensor
from services.inference.backends.tensorrt.engine import Engine, allocate
from services.inference.backends.tensorrt.gpu import Gpu
from services.inference.backends.tensorrt.shapes import (
    Profile,
    Shape,
    row_bucket,
    row_buckets,
)


class TensorRtGraph:
    """A graph's engine; one thread at a time."""

    is_concurrent = False

    def __init__(
        self,
        engine: Engine,
        gpu: Gpu,
        profile: Profile,
        tensors: tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]],
    ) -> None:
        self.inputs, self.outputs = tensors
        self._engine = engine
        self._gpu = gpu
        self._context = engine.open_context(0)
        largest = {each.name: each.most for each in profile}
        self._rows = next(iter(largest.values()))[0]
        self._stages = {t.name: _Stage(gpu, t, largest[t.name]) for t in self.inputs}
        self._bind(largest)
        for tensor in self.outputs:
            shape = self._context.output_shape(tensor.name)
            self._stages[tensor.name] = _Stage(gpu, tensor, shape)
        self._warm_up(profile)
        staged = sum(stage.size_bytes for stage in self._stages.values())
        self.memory_bytes = engine.memory_bytes + staged

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The named outputs; rows are independent of how they were cut and padded."""
        self._gpu.activate()
        count = len(next(iter(inputs.values())))
        pieces = [
            self._piece(outputs, {name: a[at : at + self._rows] for name, a in inputs.items()})
            for at in range(0, count, self._rows)
        ]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def close(self) -> None:
        """Frees everything on the GPU."""
        self._gpu.activate()
        self._engine.close()
        self._gpu.close()

    def _piece(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        count = len(next(iter(inputs.values())))
        rows = row_bucket(count, self._rows)
        shapes = {name: (rows, *array.shape[1:]) for name, array in inputs.items()}
        self._bind(shapes)
        for name, array in inputs.items():
            self._stages[name].send(array, rows)
        self._context.enqueue()
        views = [self._fetch(name) for name in outputs]
        self._gpu.synchronize()
        # The pinned memory is the next run's.
        return [view[:count].copy() for view in views]

    def _warm_up(self, profile: Profile) -> None:
        """The usual shape with every number of rows, so that kernels are ready, and are kept."""
        for rows in row_buckets(self._rows):
            self._bind({each.name: (rows, *each.usual[1:]) for each in profile})
            self._context.enqueue()
            self._gpu.synchronize()
        self._engine.save_kernels()

    def _fetch(self, name: str) -> NDArray[Any]:
        return self._stages[name].fetch(self._context.output_shape(name))

    def _bind(self, shapes: Mapping[str, Shape]) -> None:
        self._context.bind(shapes, {name: stage.address for name, stage in self._stages.items()})


class _Stage:
    """A tensor's memory, here and there, for its largest shape."""

    def __init__(self, gpu: Gpu, tensor: GraphTensor, largest: Shape) -> None:
        self._gpu = gpu
        self._name = tensor.name
        if tensor.datatype not in _NUMPY_TYPES or min(largest, default=1) < 0:
            raise BackendFailed(
                f"{tensor.name} is {tensor.datatype} {list(largest)}: cannot be kept"
            )
        self._type = _NUMPY_TYPES[tensor.datatype]
        self.size_bytes = int(np.prod(largest)) * self._type.itemsize
        self._host = gpu.pinned(self.size_bytes).view(self._type)
        self.address = allocate(gpu, self.size_bytes, tensor.name)

    def send(self, values: Array, rows: int) -> None:
        """Enqueues the copy of the values, the last row again and again up to so many."""
        view = self._view((rows, *values.shape[1:]))
        view[: len(values)] = values
        view[len(values) :] = values[-1]
        self._gpu.to_device(self.address, view)

    def fetch(self, shape: Shape) -> NDArray[Any]:
        """Enqueues the copy of the values; they are there when the stream has come so far."""
        view = self._view(shape)
        self._gpu.to_host(view, self.address)
        return view

    def _view(self, shape: Shape) -> NDArray[Any]:
        size = int(np.prod(shape))
        if size > self._host.size:
            raise BackendFailed(f"TensorRT: {self._name} is larger than the engine's largest")
        return self._host[:size].reshape(shape)


_NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "FP32": np.dtype(np.float32),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),  # its bits
    "INT64": np.dtype(np.int64),
    "INT32": np.dtype(np.int32),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
