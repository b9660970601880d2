"""What the queues of tensor models count, by model and version.

`queue_rows` is what an autoscaler wants: it grows as soon as a node has more to do than it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.inference.live_gauge import LiveGauge

_LABELS = ("model_name", "model_version")
# fmt: off
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_QUEUE_S = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)
# fmt: on


class BatchingMetrics:
    """The metrics of all queues of a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        queue_rows = Gauge(
            "ringmesh_queue_rows",
            "Rows that wait to be run.",
            (*_LABELS, "priority"),
            registry=registry,
        )
        self.queue_rows = LiveGauge(queue_rows)
        self.batch_rows = Histogram(
            "ringmesh_batch_rows",
            "Rows that were run together.",
            _LABELS,
            registry=registry,
            buckets=_ROWS,
        )
        self.queue_s = Histogram(
            "ringmesh_queue_seconds",
            "From a request's arrival to the run of its first row.",
            _LABELS,
            registry=registry,
            buckets=_QUEUE_S,
        )
        self.refused = Counter(
            "ringmesh_queue_refused",
            "Requests that were turned away, or ended by their deadline, by the error's reason.",
            (*_LABELS, "reason"),
            registry=registry,
        )

    def meter(self, model: str, version: int) -> BatchMeter:
        """What counts one version's queue."""
        return BatchMeter(self, (model, str(version)))


class BatchMeter:
    """Counts for one version; counts outlive its unloading."""

    def __init__(self, metrics: BatchingMetrics, labels: tuple[str, str]) -> None:
        self._metrics = metrics
        self._labels = labels

    @contextmanager
    def showing(self, levels: Sequence[int], waiting: Callable[[int], int]) -> Iterator[None]:
        """Shows how many rows wait at each level for as long as the queue is open."""
        with ExitStack() as shown:
            for level in levels:
                labels = (*self._labels, str(level))
                show = self._metrics.queue_rows.showing(labels, partial(waiting, level))
                shown.enter_context(show)
            yield

    def count_batch(self, rows: int, queued_s: Iterable[float]) -> None:
        """So many rows are about to be run together, the first ones of requests that waited."""
        self._metrics.batch_rows.labels(*self._labels).observe(rows)
        for wait_s in queued_s:
            self._metrics.queue_s.labels(*self._labels).observe(max(0.0, wait_s))

    def count_refused(self, reason: str) -> None:
        """A request has been told so, for this reason."""
        self._metrics.refused.labels(*self._labels, reason).inc()
