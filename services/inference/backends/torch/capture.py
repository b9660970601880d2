"""Decode steps as CUDA graphs: one launch for a whole step instead of hundreds.

A graph is of one shape, and works on memory that stays where it is: token ids and positions are
copied into fixed buffers, and the logits are read from one. All shapes are recorded when a model is
opened. Recording takes a tenth of a second each, in which running answers would stand still, and it
waits for the whole device, which ends any other recording under way: so models are opened one at a
time (`backend`), and nothing is recorded later. All graphs of a model share one pool of memory, for
only one runs at a time.

A step that cannot be recorded runs as it is: slower, and as right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from mesh.logs import get_logger
from services.inference.backends.torch.placement import Place

Step = Callable[[Any, Any, int, int], Any]
"""Of token ids, positions, rows and span: the logits."""
Run = Callable[[], None]
Record = Callable[[Run], Run]
Shape = tuple[int, int]
"""Rows and span."""

_WARM_UPS = 2
"""Libraries choose kernels and take workspaces in their first runs; a capture must not see that."""

_log = get_logger(__name__)


class DecodeGraphs:
    """The recorded steps of one decoder; `width` rows are the most, `idle` is a spare position."""

    def __init__(
        self, step: Step, place: Place, *, width: int, vocabulary: int, idle: int, record: Record
    ) -> None:
        self._step = step
        self._record = record
        self._ids = torch.zeros(width, dtype=torch.int64, device=place.device)
        self._starts = torch.full((width,), idle, dtype=torch.int64, device=place.device)
        self._logits = torch.zeros(width, vocabulary, dtype=torch.float32, device=place.device)
        self._runs: dict[Shape, Run] = {}
        self.memory_bytes = int(self._logits.nbytes)

    def __repr__(self) -> str:
        return f"<DecodeGraphs {sorted(self._runs)}>"

    def record(self, shapes: Iterable[tuple[Shape, int]]) -> None:
        """Makes the step ready in each shape, whose rows are padded to so many.

        Nothing may be in the slots yet: their spare positions are written.
        """
        for (rows, span), padded in shapes:
            self._runs[rows, span] = self._recorded(partial(self._run, rows, span, padded))

    def run(self, ids: Any, starts: Any, rows: int, span: int) -> Any:
        """Like the step itself; the logits stay until the next run."""
        self._ids[: len(ids)].copy_(ids, non_blocking=True)
        self._starts[: len(starts)].copy_(starts, non_blocking=True)
        self._runs[rows, span]()
        return self._logits[:rows]

    def _run(self, rows: int, span: int, padded: int) -> None:
        logits = self._step(self._ids[:padded], self._starts[:padded], rows, span)
        self._logits[:rows].copy_(logits[:rows])

    def _recorded(self, run: Run) -> Run:
        try:
            return self._record(run)
        except torch.OutOfMemoryError:
            raise  # the model does not fit
        except RuntimeError as error:
            _log.warning("steps are not recorded as CUDA graphs", reason=str(error))
            self._record = _as_it_is
            return run


def make_recorder() -> Record:
    """Records on the calling thread's current stream, which is the one to replay on."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Run) -> Run:
        for _ in range(_WARM_UPS):
            run()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        stream.synchronize()
        # Other threads may use the device as they like meanwhile, but for waiting for all of it.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            run()
        replay: Run = graph.replay
        return replay

    return record


def _as_it_is(run: Run) -> Run:
    return run
