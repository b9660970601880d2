"""Which of the waiting rows run together next, and when: pure.

Rows run together only with rows of their own width, and a row's width (what it is padded to)
follows from the row alone: it is the same whether the row runs by itself or in company, so that
company cannot change an answer.

A batch is due when it is full or when its oldest row has waited long enough. Of several that are
due the one with the oldest row goes first, so that a rare width is never starved by a popular one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch gets, in rows and in the sum of their widths, and how long a row waits."""

    max_batch_size: int
    max_queue_delay_s: float
    max_batch_width: int

    def rows_of(self, width: int) -> int:
        """How many rows of this width run together; a single one always may."""
        return max(1, min(self.max_batch_size, self.max_batch_width // max(width, 1)))


@dataclass(frozen=True, slots=True)
class Row:
    """A waiting row; `number` counts arrivals, times are on the monotonic clock."""

    number: int
    width: int
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The rows to run now; with none, how long to wait for that at most (None: for a row)."""

    batch: tuple[int, ...] = ()
    wait_s: float | None = None


def form_batch(rows: Iterable[Row], now_s: float, limits: BatchLimits) -> Decision:
    """Decides; rows come in the order of their arrival, and a batch keeps it."""
    widths: dict[int, list[Row]] = {}
    for row in rows:
        widths.setdefault(row.width, []).append(row)
    # A dict keeps insertion order: the widths stand in the order of their oldest rows.
    due_s = {width: _due_s(waiting, limits) for width, waiting in widths.items()}
    for width, waiting in widths.items():
        if due_s[width] <= now_s:
            chosen = waiting[: limits.rows_of(width)]
            return Decision(batch=tuple(row.number for row in chosen))
    return Decision(wait_s=min(due_s.values()) - now_s if due_s else None)


def _due_s(waiting: list[Row], limits: BatchLimits) -> float:
    oldest = waiting[0]
    is_full = len(waiting) >= limits.rows_of(oldest.width)
    return oldest.arrived_s if is_full else oldest.arrived_s + limits.max_queue_delay_s
