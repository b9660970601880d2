"""Slot decoding on a TensorRT engine.

Keys and values of all slots lie in one block of the GPU's memory; the engine reads and writes them
in place, past and present at the same address. Decoding is recorded once for each number of rows
(`shapes.row_buckets`): what goes to the GPU, the run, and the logits that come back are then one
CUDA graph. Tokens and logits pass through pinned memory, whose layout never changes.

It knows neither TensorRT nor CUDA: it gives addresses to an `Engine` on a `Gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.inference.backends.backend import BackendFailed, check_token_ids
from services.inference.backends.tensorrt.engine import Engine, allocate, captured
from services.inference.backends.tensorrt.gpu import Gpu, Rows
from services.inference.backends.tensorrt.library import BACKEND
from services.inference.backends.tensorrt.shapes import (
    DECODE,
    PREFILL,
    SlotShapes,
    cut,
    prefill_width,
    row_bucket,
    row_buckets,
)

_LOGIT_BYTES = 4
_ALIGNED_VALUES = 32  # of 8 bytes each: where the parts of the staging memory may begin


class TensorRtSlots:
    """A decoder's engine with its slots."""

    name = BACKEND

    def __init__(self, engine: Engine, gpu: Gpu, shapes: SlotShapes) -> None:
        self.slots = shapes.slots
        self.context_tokens = shapes.context_tokens
        self._engine = engine
        self._gpu = gpu
        self._shapes = shapes
        self._cache = allocate(gpu, shapes.cache_bytes, "the slots")
        self._spare = allocate(gpu, shapes.slot_bytes, "a slot to spare")
        self._tokens = _TokenStage(gpu, shapes)
        self._logits = _LogitStage(gpu, shapes)
        self.memory_bytes = engine.memory_bytes + shapes.cache_bytes + self._logits.size_bytes
        self._prefill = engine.open_context(PREFILL)
        self._decoding = {rows: self._record(rows) for rows in row_buckets(shapes.slots)}
        self._warm_up()

    def __repr__(self) -> str:
        return f"<TensorRtSlots {self.slots} of {self.context_tokens} on {self._gpu!r}>"

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """One run over one slot, or several where the tokens are many."""
        self._check(tokens, start + len(tokens))
        self._gpu.activate()
        for begin, run in cut(tokens, start, self._shapes.prefill_tokens):
            self._prefill_run(slot, run, begin)
        logits: NDArray[np.float32] = self._logits.read(1)[0]
        return logits

    def decode(self, tokens: Sequence[int], starts: Sequence[int]) -> NDArray[np.float32]:
        """One run over the first slots; rows that are padding write where nobody looks."""
        self._check(tokens, max(starts) + 1)
        self._gpu.activate()
        rows, count = row_bucket(len(tokens), self.slots), len(tokens)
        stage = self._tokens
        stage.ids[:rows], stage.ids[:count] = 0, tokens
        stage.starts[:rows], stage.starts[:count] = self._shapes.scratch, starts
        stage.lasts[:rows] = 0
        self._decoding[rows]()
        self._gpu.synchronize()
        return self._logits.read(count)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Within the GPU's memory."""
        self._gpu.activate()
        for cache in self._caches():
            self._move(cache + self._offset(target), cache + self._offset(source), tokens)
        self._gpu.synchronize()

    def exchange(self, first: int, second: int, tokens: int) -> None:
        """Within the GPU's memory, by way of a spare slot of one layer."""
        self._gpu.activate()
        for cache in self._caches():
            one, other = cache + self._offset(first), cache + self._offset(second)
            self._move(self._spare, one, tokens)
            self._move(one, other, tokens)
            self._move(other, self._spare, tokens)
        self._gpu.synchronize()

    def close(self) -> None:
        """Frees everything on the GPU."""
        self._gpu.activate()
        self._decoding.clear()
        self._engine.close()
        self._gpu.close()

    def _prefill_run(self, slot: int, tokens: Sequence[int], start: int) -> None:
        shapes, stage = self._shapes, self._tokens
        room = shapes.positions - start
        width = prefill_width(len(tokens), room, shapes.prefill_tokens)
        stage.ids[:width], stage.ids[: len(tokens)] = 0, tokens
        stage.starts[0], stage.lasts[0] = start, len(tokens) - 1
        self._prefill.bind(shapes.inputs(1, width), self._addresses(slot))
        stage.send()
        self._prefill.enqueue()
        self._logits.fetch(1)
        self._gpu.synchronize()

    def _record(self, rows: int) -> Callable[[], None]:
        """Decoding of so many rows, as one thing to enqueue."""
        context = self._engine.open_context(DECODE)
        context.bind(self._shapes.inputs(rows, 1), self._addresses(0))

        def enqueue() -> None:
            self._tokens.send()
            context.enqueue()
            self._logits.fetch(rows)

        # The first run settles what depends on the shape; it could not be recorded.
        self._tokens.starts[:rows] = self._shapes.scratch
        enqueue()
        self._gpu.synchronize()
        return enqueue if self._engine.records_graphs else captured(self._gpu, enqueue)

    def _warm_up(self) -> None:
        """Every way of running once, so that kernels are ready before anybody waits for them."""
        longest = self._shapes.prefill_tokens
        for tokens in {1, longest // 4, longest // 2, longest} - {0}:
            logits = self.prefill(0, [0] * tokens, 0)
            if not np.isfinite(logits).all():
                raise BackendFailed("its logits are no numbers: another precision may do")
        for rows in self._decoding:
            self.decode([0] * rows, [0] * rows)
        self._engine.save_kernels()

    def _check(self, tokens: Sequence[int], end: int) -> None:
        check_token_ids(tokens, self._shapes.vocabulary)
        # The engine trusts positions with raw memory.
        if end > self.context_tokens:
            raise BackendFailed("a run would pass the end of its slot")

    def _addresses(self, slot: int) -> dict[str, int]:
        addresses = dict(self._tokens.addresses) | {"logits": self._logits.address}
        for name, cache in zip(self._shapes.cache_names, self._caches(), strict=True):
            addresses[f"past_{name}"] = addresses[f"present_{name}"] = cache + self._offset(slot)
        return addresses

    def _caches(self) -> range:
        """Where the keys or values of each layer begin."""
        shapes = self._shapes
        return range(self._cache, self._cache + shapes.cache_bytes, shapes.layer_bytes)

    def _offset(self, slot: int) -> int:
        return slot * self._shapes.slot_bytes

    def _move(self, target: int, source: int, tokens: int) -> None:
        shapes = self._shapes
        width = tokens * shapes.head_dim * shapes.element_bytes
        if width:
            self._gpu.copy_rows(target, source, Rows(shapes.kv_heads, shapes.row_bytes, width))


class _TokenStage:
    """What goes to the GPU before each run, in one piece: tokens, positions, last tokens."""

    def __init__(self, gpu: Gpu, shapes: SlotShapes) -> None:
        self._gpu = gpu
        longest = max(shapes.slots, shapes.prefill_tokens)
        sizes = [-(-n // _ALIGNED_VALUES) * _ALIGNED_VALUES for n in (longest, *[shapes.slots] * 2)]
        begins = [0, sizes[0], sizes[0] + sizes[1]]
        size_bytes = sum(sizes) * np.dtype(np.int64).itemsize
        self._host = gpu.pinned(size_bytes).view(np.int64)
        self._host[:] = 0
        self.address = allocate(gpu, size_bytes, "tokens")
        parts = [self._host[a : a + n] for a, n in zip(begins, sizes, strict=True)]
        self.ids, self.starts, self.lasts = parts
        names = ("input_ids", "write_index", "last_index")
        self.addresses = {
            name: self.address + begin * self._host.itemsize
            for name, begin in zip(names, begins, strict=True)
        }

    def send(self) -> None:
        """Enqueues the copy."""
        self._gpu.to_device(self.address, self._host)


class _LogitStage:
    """What comes back: a row of logits for each slot."""

    def __init__(self, gpu: Gpu, shapes: SlotShapes) -> None:
        self._gpu = gpu
        self.size_bytes = shapes.slots * shapes.vocabulary * _LOGIT_BYTES
        memory = gpu.pinned(self.size_bytes).view(np.float32)
        self._host = memory.reshape(shapes.slots, shapes.vocabulary)
        self.address = allocate(gpu, self.size_bytes, "logits")

    def fetch(self, rows: int) -> None:
        """Enqueues the copy of the first rows."""
        self._gpu.to_host(self._host[:rows], self.address)

    def read(self, rows: int) -> NDArray[np.float32]:
        """The first rows, valid until the next run."""
        return self._host[:rows]
