"""Decode steps as CUDA graphs: one launch for a whole step instead of hundreds.

A graph is captured for a shape when it is first met, and replayed from then on over the same
memory: token ids and positions are copied into fixed buffers, the logits are read from where the
graph leaves them. All graphs of a model share one pool, for only one runs at a time.

The caller has made its stream the current one, and its steps are in order on it. While a step is
captured, other threads may use the device as they like (`thread_local`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from services.inference.backends.torch.placement import Place

Step = Callable[[Any, Any, int, int], Any]
"""Of token ids, positions, rows and span: the logits."""

_WARM_UPS = 2
"""Libraries choose kernels and take workspaces in their first runs; a capture must not see that."""


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Any
    ids: Any
    starts: Any
    logits: Any


class DecodeGraphs:
    """The captured steps of one decoder."""

    def __init__(self, step: Step, place: Place) -> None:
        self._step = step
        self._place = place
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[tuple[int, int], _Captured] = {}

    def __repr__(self) -> str:
        return f"<DecodeGraphs {sorted(self._captured)}>"

    def run(self, ids: Any, starts: Any, rows: int, span: int) -> Any:
        """Like the step itself; the logits stay until the next run of this shape."""
        shape = (rows, span)
        if shape not in self._captured:
            self._captured[shape] = self._capture(ids, starts, rows, span)
        captured = self._captured[shape]
        captured.ids.copy_(ids, non_blocking=True)
        captured.starts.copy_(starts, non_blocking=True)
        captured.graph.replay()
        return captured.logits

    def _capture(self, ids: Any, starts: Any, rows: int, span: int) -> _Captured:
        # The very step that is to be run: writing its keys and values once more changes nothing.
        ids, starts = ids.to(self._place.device), starts.to(self._place.device)
        for _ in range(_WARM_UPS):
            self._step(ids, starts, rows, span)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        stream.synchronize()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            logits = self._step(ids, starts, rows, span)
        return _Captured(graph, ids, starts, logits)
