"""Gauges that are read when they are scraped, off whatever stands behind them at that moment.

While a version moves from one engine to another both stand behind the same labels: what they show
is combined, and the one that goes takes nothing of the other's away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

Read = Callable[[], float]


class LiveGauge:
    """One gauge with labels; `combine` is `sum` or `max`."""

    def __init__(self, gauge: Gauge, combine: Callable[[Iterable[float]], float] = sum) -> None:
        self._gauge = gauge
        self._combine = combine
        self._sources: dict[tuple[str, ...], tuple[Read, ...]] = {}

    @contextmanager
    def showing(self, labels: tuple[str, ...], read: Read) -> Iterator[None]:
        """Shows what `read` gives for as long as the block lasts."""
        self._sources[labels] = (*self._sources.get(labels, ()), read)
        self._gauge.labels(*labels).set_function(lambda: self._read(labels))
        try:
            yield
        finally:
            left = tuple(each for each in self._sources[labels] if each is not read)
            if left:
                self._sources[labels] = left
            else:
                self._gauge.remove(*labels)
                del self._sources[labels]

    def _read(self, labels: tuple[str, ...]) -> float:
        # Scrapes come from a thread of their own: the last source may just have gone.
        sources = self._sources.get(labels, ())
        return self._combine([each() for each in sources]) if sources else 0.0
