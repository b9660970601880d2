"""Slot decoding on ONNX Runtime: the KV buffers are bound in place, so a step copies nothing.

Each (first slot, rows, tokens) shape has a binding of its own, made once: the buffers stay where
they are and only their contents change. Slots lie in anonymous memory that costs nothing until a
position is written.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.inference.backends.backend import BackendFailed, BackendSettings
from services.inference.graph import session
from services.inference.graph.session import GraphSession
from services.inference.graph.writer import WEIGHTS_FILE
from services.inference.llm.architecture import LlamaConfig

# Prompts end in runs of any length; this many shapes keep their binding.
_KEPT_BINDINGS = 64


@dataclass(frozen=True, slots=True)
class _Binding:
    run: Callable[[], None]
    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    logits: NDArray[np.float32]


class OnnxRuntimeSlots:
    """A compiled decoder with its slots."""

    name = session.BACKEND

    def __init__(
        self,
        graph: Path,
        config: LlamaConfig,
        *,
        slots: int,
        context_tokens: int,
        settings: BackendSettings,
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self._vocabulary = config.vocabulary
        self._session = GraphSession(graph, settings)
        shape = (slots, config.kv_heads, context_tokens, config.head_dim)
        names = [f"{c}{layer}" for layer in range(config.layers) for c in "kv"]
        self._cache = {name: _lazy_zeros(shape) for name in names}
        self._bindings: OrderedDict[tuple[int, int, int], _Binding] = OrderedDict()
        weights_bytes = (graph.parent / WEIGHTS_FILE).stat().st_size
        self.memory_bytes = weights_bytes + slots * context_tokens * config.kv_bytes_per_token

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """One run over one slot."""
        self._check(start, len(tokens))
        binding = self._binding(slot, 1, len(tokens))
        binding.ids[0] = tokens
        binding.starts[0] = start
        binding.run()
        logits: NDArray[np.float32] = binding.logits[0]
        return logits

    def decode(self, tokens: Sequence[int], starts: Sequence[int]) -> NDArray[np.float32]:
        """One run over the first slots."""
        self._check(max(starts), 1)
        binding = self._binding(0, len(tokens), 1)
        binding.ids[:, 0] = tokens
        binding.starts[:] = starts
        binding.run()
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
        del self._session

    def _check(self, start: int, tokens: int) -> None:
        # The graph trusts these indices with raw memory.
        if start + tokens > self.context_tokens:
            raise BackendFailed("a run would pass the end of its slot")

    def _binding(self, slot: int, rows: int, tokens: int) -> _Binding:
        key = (slot, rows, tokens)
        if key not in self._bindings:
            self._bindings[key] = self._bind(slot, rows, tokens)
            if len(self._bindings) > _KEPT_BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        return self._bindings[key]

    def _bind(self, slot: int, rows: int, tokens: int) -> _Binding:
        ids = np.zeros((rows, tokens), np.int64)
        starts = np.zeros(rows, np.int64)
        logits = np.empty((rows, self._vocabulary), np.float32)
        parts = {name: values[slot : slot + rows] for name, values in self._cache.items()}
        past = {f"past_{name}": part for name, part in parts.items()}
        present = {f"present_{name}": part for name, part in parts.items()}
        run = self._session.bind(
            {"input_ids": ids, "write_index": starts, **past}, {"logits": logits, **present}
        )
        return _Binding(run, ids, starts, logits)


def _lazy_zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    # numpy would ask for huge pages, which makes a nearly empty cache resident as a whole.
    size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    return np.frombuffer(mmap.mmap(-1, size), np.float32).reshape(shape)
