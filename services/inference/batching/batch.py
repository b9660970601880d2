"""Which of the waiting rows run together next, and when: pure.

Rows run together only with rows of their own kind: of one key (say datatypes and shapes after
padding) and one width (the size of what they are padded to). Both follow from the row alone: it is
the same whether the row runs by itself or in company, so that company cannot change an answer.

A batch is due when it has reached a preferred size, when it is full, when its oldest row has waited
long enough, or when a row in it cannot wait any longer for company. It has the rows of higher
levels first; what room is left goes to lower ones. Of several batches that are due, the one with
the highest level goes first, then the one with the oldest row, so that a rare kind is never starved
by a popular one.

A row that is late (its queue policy says DELAY) makes nothing due while a row in time waits at its
level or a higher one; it may fill up a batch of its kind that is due anyway.

What a row can rely on: once its delay has passed, each decision runs a row that stands before it
(of a higher level, or earlier at its own) or the row itself. So it waits for no more decisions than
there are rows before it; only arrivals at higher levels add to them. A lower level, and rows that
are late, may wait without end under such arrivals: a queue policy's timeout is what bounds that.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import inf

from mesh.batching_options import BatchingOptions


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch gets, in rows and in the sum of their widths, and how long a row waits."""

    max_batch_size: int
    max_queue_delay_s: float
    max_batch_width: int | None = None
    preferred_sizes: tuple[int, ...] = ()

    def rows_of(self, width: int) -> int:
        """How many rows of this width run together; a single one always may."""
        if self.max_batch_width is None:
            return self.max_batch_size
        return max(1, min(self.max_batch_size, self.max_batch_width // max(width, 1)))

    def ready_size(self, width: int, waiting: int) -> int:
        """The size that need not wait for more: the largest preferred, else a full one; or 0."""
        most = self.rows_of(width)
        there = min(waiting, most)
        preferred = [size for size in self.preferred_sizes if size <= there]
        if preferred:
            return preferred[-1]
        return most if waiting >= most else 0


@dataclass(frozen=True, slots=True)
class Row:
    """A waiting row; `number` counts arrivals, times are on the monotonic clock."""

    number: int
    key: Hashable
    width: int
    arrived_s: float
    level: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """The rows of one kind that wait at one level, late ones apart, in their order; never empty.

    It is urgent if one of them cannot wait any longer for company.
    """

    level: int
    is_late: bool
    rows: Mapping[int, Row]
    is_urgent: bool = False

    @property
    def head(self) -> Row:
        """The row that is next."""
        return next(iter(self.rows.values()))


@dataclass(frozen=True, slots=True)
class Decision:
    """The rows to run now; with none, how long to wait for that at most (None: for a row)."""

    batch: tuple[int, ...] = ()
    wait_s: float | None = None


@dataclass(slots=True)
class _Candidate:
    """A kind; those of its lanes that are `eager` may make a batch of it due."""

    lanes: Sequence[Lane]
    eager: Sequence[Lane]

    def rank(self) -> tuple[int, bool, int]:
        """Which of those that are due goes first."""
        first = self.eager[0]
        return first.level, first.is_late, first.head.number

    def due_s(self, limits: BatchLimits) -> float:
        """When it need not wait for company any more."""
        if self._ready(limits) or any(lane.is_late or lane.is_urgent for lane in self.eager):
            return -inf
        return min(lane.head.arrived_s for lane in self.eager) + limits.max_queue_delay_s

    def decide(self, limits: BatchLimits) -> Decision:
        """Its next batch."""
        size = self._ready(limits) or limits.rows_of(self.eager[0].head.width)
        rest = [lane for lane in self.lanes if lane not in self.eager]
        numbers = chain.from_iterable(lane.rows for lane in (*self.eager, *rest))
        return Decision(batch=tuple(islice(numbers, size)))

    def _ready(self, limits: BatchLimits) -> int:
        waiting = sum(len(lane.rows) for lane in self.lanes)
        return limits.ready_size(self.eager[0].head.width, waiting)


def make_limits(options: BatchingOptions, max_batch_width: int | None = None) -> BatchLimits:
    """The limits that a manifest sets."""
    return BatchLimits(
        options.max_batch_size,
        options.max_queue_delay_ms / 1000,
        max_batch_width,
        options.preferred_batch_sizes,
    )


def form_batch(kinds: Iterable[Sequence[Lane]], now_s: float, limits: BatchLimits) -> Decision:
    """Decides; each kind is its lanes, higher levels first and late rows last in their level."""
    kinds = tuple(kinds)
    in_time = (lane.level for lanes in kinds for lane in lanes if not lane.is_late)
    highest = min(in_time, default=inf)
    candidates = [each for lanes in kinds if (each := _candidate(lanes, highest))]
    soonest_s = inf
    for each in sorted(candidates, key=_Candidate.rank):  # of many, mostly the first is due
        due_s = each.due_s(limits)
        if due_s <= now_s:
            return each.decide(limits)
        soonest_s = min(soonest_s, due_s)
    return Decision(wait_s=soonest_s - now_s if candidates else None)


def _candidate(lanes: Sequence[Lane], highest: float) -> _Candidate | None:
    """The kind, if one of its rows may make it due; `highest` waits in time."""
    eager = [lane for lane in lanes if not lane.is_late or lane.level < highest]
    return _Candidate(lanes, eager) if eager else None
