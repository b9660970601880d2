"""Slot decoding on ONNX Runtime: the KV buffers are bound in place, so a step copies nothing.

Each (first slot, rows, tokens) shape has a binding of its own, made once: the buffers stay where
they are and only their contents change. Slots lie in anonymous memory that costs nothing until a
position is written. The interpreter's lock is free during a run.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from services.inference.llm.graph_writer import WEIGHTS_FILE
from services.inference.llm.slot_backend import BackendFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from services.inference.llm.architecture import LlamaConfig

VERSION: str = onnxruntime.__version__
"""Part of the key of a cached graph."""

# Prompts end in runs of any length; this many shapes keep their binding.
_KEPT_BINDINGS = 64
_LOG_ERRORS_ONLY = 3


@dataclass(frozen=True, slots=True)
class _Binding:
    io: Any
    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    logits: NDArray[np.float32]


class OnnxRuntimeSlots:
    """A compiled decoder with its slots."""

    name = "onnxruntime"

    def __init__(
        self,
        graph: Path,
        config: LlamaConfig,
        *,
        slots: int,
        context_tokens: int,
        threads: int,
        spin: bool,
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self._config = config
        self._session = _open_session(graph, threads, spin=spin)
        self._shape = (slots, config.kv_heads, context_tokens, config.head_dim)
        names = [f"{c}{layer}" for layer in range(config.layers) for c in "kv"]
        self._cache = {name: _lazy_zeros(self._shape) for name in names}
        self._bindings: OrderedDict[tuple[int, int, int], _Binding] = OrderedDict()
        weights_bytes = (graph.parent / WEIGHTS_FILE).stat().st_size
        self.memory_bytes = weights_bytes + slots * context_tokens * config.kv_bytes_per_token

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """One run over one slot."""
        binding = self._binding(slot, 1, len(tokens))
        binding.ids[0] = tokens
        binding.starts[0] = start
        self._run(binding)
        logits: NDArray[np.float32] = binding.logits[0]
        return logits

    def decode(self, tokens: Sequence[int], starts: Sequence[int]) -> NDArray[np.float32]:
        """One run over the first slots."""
        binding = self._binding(0, len(tokens), 1)
        binding.ids[:, 0] = tokens
        binding.starts[:] = starts
        self._run(binding)
        return binding.logits

    def copy(self, source: int, target: int, tokens: int) -> None:
        """By plain memory copies."""
        for values in self._cache.values():
            values[target, :, :tokens] = values[source, :, :tokens]

    def exchange(self, first: int, second: int, tokens: int) -> None:
        """By plain memory copies."""
        for values in self._cache.values():
            kept = values[first, :, :tokens].copy()
            values[first, :, :tokens] = values[second, :, :tokens]
            values[second, :, :tokens] = kept

    def close(self) -> None:
        """Drops session and buffers; the memory goes back with the last reference."""
        self._bindings.clear()
        self._cache.clear()
        self._session = None

    def _run(self, binding: _Binding) -> None:
        # The graph trusts these indices with raw memory.
        if int(binding.starts.max()) + binding.ids.shape[1] > self.context_tokens:
            raise BackendFailed("a run would pass the end of its slot")
        try:
            self._session.run_with_iobinding(binding.io)
        except (RuntimeError, MemoryError, *_ORT_ERRORS) as error:
            raise BackendFailed(f"onnxruntime: {error}") from error

    def _binding(self, slot: int, rows: int, tokens: int) -> _Binding:
        key = (slot, rows, tokens)
        if key not in self._bindings:
            self._bindings[key] = self._bind(slot, rows, tokens)
            if len(self._bindings) > _KEPT_BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        return self._bindings[key]

    def _bind(self, slot: int, rows: int, tokens: int) -> _Binding:
        binding = _Binding(
            io=self._session.io_binding(),
            ids=np.zeros((rows, tokens), np.int64),
            starts=np.zeros(rows, np.int64),
            logits=np.empty((rows, self._config.vocabulary), np.float32),
        )
        _bind(binding.io.bind_input, "input_ids", binding.ids)
        _bind(binding.io.bind_input, "write_index", binding.starts)
        _bind(binding.io.bind_output, "logits", binding.logits)
        for name, values in self._cache.items():
            part = values[slot : slot + rows]
            _bind(binding.io.bind_input, f"past_{name}", part)
            _bind(binding.io.bind_output, f"present_{name}", part)
        return binding


# ONNX Runtime's own exceptions derive from Exception, each by itself.
_state = onnxruntime.capi.onnxruntime_pybind11_state
_ORT_ERRORS = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)


def _open_session(graph: Path, threads: int, *, spin: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _LOG_ERRORS_ONLY
    # A thread that spins while it waits answers sooner, and takes the core from everybody else.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except (RuntimeError, MemoryError, *_ORT_ERRORS) as error:
        raise BackendFailed(f"onnxruntime cannot load the decoder: {error}") from error


def _lazy_zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    # numpy would ask for huge pages, which makes a nearly empty cache resident as a whole.
    size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    return np.frombuffer(mmap.mmap(-1, size), np.float32).reshape(shape)


def _bind(call: Any, name: str, values: NDArray[Any]) -> None:
    call(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)
