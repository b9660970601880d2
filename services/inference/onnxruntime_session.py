"""ONNX Runtime for graphs that map tensors to tensors.

Knows sessions and arrays, no model. The interpreter's lock is free during a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from mesh.errors import FailedPrecondition
from mesh.tensor import Array

VERSION: str = onnxruntime.__version__
"""Part of the key of a cached graph."""

_LOG_ERRORS_ONLY = 3

# ONNX Runtime's own exceptions derive from Exception, each by itself.
_state = onnxruntime.capi.onnxruntime_pybind11_state
_ERRORS = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)


class OnnxRuntimeSession:
    """A loaded graph."""

    def __init__(self, graph: Path, *, threads: int, spin: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _LOG_ERRORS_ONLY
        # A thread that spins while it waits answers sooner, and takes the core from everybody else.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        providers = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        except (RuntimeError, MemoryError, *_ERRORS) as error:
            raise FailedPrecondition(f"onnxruntime cannot load {graph.name}: {error}") from error

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The named outputs for these inputs; an error of the engine passes as it is."""
        found: list[Any] = self._session.run(list(outputs), dict(inputs))
        return found
