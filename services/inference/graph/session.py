"""Runs a graph on ONNX Runtime: tensors in, tensors out, or on memory that the caller owns.

The only module that knows that library: its options, its errors, its version. It knows arrays and
no model. The interpreter's lock is free during a run.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mesh.errors import FailedPrecondition
from mesh.tensor import Array
from services.inference.backends.backend import (
    BackendFailed,
    BackendSettings,
    GraphTensor,
    InputsRefused,
)

# Since 1.29 its wheels report to their makers, and leave a number of the machine in the home
# folder, unless they are told not to before they are loaded. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

BACKEND = "onnxruntime"
PLATFORM = "onnxruntime_onnx"
"""What Triton calls a model that runs on it."""

VERSION: str = onnxruntime.__version__
"""Part of the key of a compiled graph."""

_PROCESSOR = Path("/proc/cpuinfo")
# Errors are raised; a line on stderr for each would be the callers' to write.
_FLOAT32_ACTIVATIONS = 1
_LOG_FATAL_ONLY = 4
_ONNX_BF16 = 16

_DATATYPES = {
    "float": "FP32",
    "float16": "FP16",
    "double": "FP64",
    "bfloat16": "BF16",
    "bool": "BOOL",
    "string": "BYTES",
    **{
        f"{sign}int{bits}": f"{sign}int{bits}".upper()
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
"""The protocol's datatypes of the element types."""

# ONNX Runtime's own exceptions derive from Exception, each by itself.
_state = onnxruntime.capi.onnxruntime_pybind11_state
_ERRORS = (
    RuntimeError,
    MemoryError,
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)


class GraphSession:
    """A loaded graph; may be run by several threads at once.

    A product with weights that the graph dequantises becomes one kernel, which rounds activations
    to int8 as well; not so `as_written`.
    """

    is_concurrent = True

    def __init__(self, graph: Path, settings: BackendSettings, *, as_written: bool = False) -> None:
        # Its other form of attention shares out one row's keys among idle threads, so that the last
        # bits of a row depend on how many rows there are beside it; and it is slower in float32.
        os.environ["ORT_GQA_DISABLE_FLASH_ATTENTION"] = "1"
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph),
                _options(settings, as_written=as_written),
                providers=["CPUExecutionProvider"],
            )
        except _ERRORS as error:
            # It names the file by its place on this machine, which is nobody else's business.
            reason = str(error).replace(f"{graph.parent}{os.sep}", "")
            raise FailedPrecondition(f"{BACKEND} cannot load {graph.name}: {reason}") from error
        self.inputs = tuple(map(_tensor, self._session.get_inputs()))
        self.outputs = tuple(map(_tensor, self._session.get_outputs()))
        self.memory_bytes = graph_bytes(graph)
        tensors = (*self.inputs, *self.outputs)
        self._bf16 = {tensor.name for tensor in tensors if tensor.datatype == "BF16"}

    def close(self) -> None:
        """Frees the engine's memory; the session answers no more."""
        del self._session

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The named outputs for these inputs."""
        try:
            if self._bf16:
                return self._run_values(outputs, inputs)
            found: list[Any] = self._session.run(list(outputs), dict(inputs))
        except _ERRORS as error:
            raise _failure(error) from error
        return found

    def _run_values(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The same for graphs with BF16, of which numpy knows nothing."""
        values = {name: self._value(name, array) for name, array in inputs.items()}
        found = self._session.run_with_ort_values(list(outputs), values)
        return [
            _bits(value) if name in self._bf16 else value.numpy()
            for name, value in zip(outputs, found, strict=True)
        ]

    def _value(self, name: str, array: Array) -> Any:
        if name not in self._bf16:
            return onnxruntime.OrtValue.ortvalue_from_numpy(array)
        bits = np.ascontiguousarray(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BF16)

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """A run over the memory of these arrays, which must stay where they are."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, *_place(array))
        for name, array in outputs.items():
            binding.bind_output(name, *_place(array))

        def run() -> None:
            try:
                self._session.run_with_iobinding(binding)
            except _ERRORS as error:
                raise _failure(error) from error

        return run


def graph_bytes(graph: Path) -> int:
    """The size of a graph's folder: what lies beside it holds its weights, under whatever name."""
    return sum(file.stat().st_size for file in graph.parent.rglob("*") if file.is_file())


def _tensor(described: Any) -> GraphTensor:
    """What ONNX Runtime says of an input or output, in the protocol's words."""
    element = described.type.removeprefix("tensor(").removesuffix(")")
    if element not in _DATATYPES:
        text = f"{described.name} is a {described.type}, which the protocol cannot carry"
        raise FailedPrecondition(text)
    # An axis that is free has a name, or none.
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in described.shape)
    axes = tuple(axis if isinstance(axis, str) else "" for axis in described.shape)
    return GraphTensor(described.name, _DATATYPES[element], shape, axes)


def _bits(value: Any) -> Array:
    """A copy of a BF16 tensor's elements."""
    shape = value.shape()
    held = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.ctypeslib.as_array(held).reshape(shape).copy()


def _options(settings: BackendSettings, *, as_written: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.thread_count
    options.log_severity_level = _LOG_FATAL_ONLY
    # A thread that spins while it waits answers sooner, and takes the core from everybody else.
    spin = str(int(settings.spin))
    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
    # Products of int8 overflow on x86 processors without VNNI, unless ONNX Runtime takes care; on
    # the others that care halves their speed.
    options.add_session_config_entry("session.x64quantprecision", str(int(not _has_vnni())))
    if as_written:
        entry = "session.qdq_matmulnbits_accuracy_level", str(_FLOAT32_ACTIVATIONS)
        options.add_session_config_entry(*entry)
    return options


def _has_vnni() -> bool:
    try:
        return "vnni" in _PROCESSOR.read_text()
    except OSError:
        return False  # another system than Linux


def _failure(error: Exception) -> BackendFailed:
    kind = InputsRefused if isinstance(error, _state.InvalidArgument) else BackendFailed
    return kind(f"{BACKEND}: {error}")


def _place(array: Array) -> tuple[Any, ...]:
    return "cpu", 0, array.dtype, array.shape, array.ctypes.data
