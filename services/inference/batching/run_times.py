"""How fast a model has been of late, at its best: what a deadline needs at the very least.

A lower bound on purpose. It rests on the quickest of the recent runs, and is forgotten soon, so
that a bad moment never keeps callers out for long who would then never be measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

REMEMBERED_S = 10.0
REMEMBERED_RUNS = 64


class RunTimes:
    """The recent runs of a model's batches."""

    def __init__(self) -> None:
        self._runs: deque[tuple[Hashable, float, float]] = deque(maxlen=REMEMBERED_RUNS)

    def count(self, key: Hashable, rows: int, took_s: float, ended_s: float) -> None:
        """A batch has run."""
        self._runs.append((key, took_s / rows, ended_s))

    def least_s(self, key: Hashable, now_s: float) -> float:
        """What a row of this key takes at the least; 0 if that is not known."""
        since_s = now_s - REMEMBERED_S
        recent = (each_s for ran, each_s, at_s in self._runs if ran == key and at_s >= since_s)
        return min(recent, default=0.0)
