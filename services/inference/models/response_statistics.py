"""What each response of a decoupled model took, by its place among its request's: Triton's counts.

A response is computed (`compute_infer`: since the one before it, or since the model began) and then
handed on (`compute_output`: until its reader has taken it). Together they are its `success`, or its
`empty_response` where it brings no output. A request that ends before its last response counts
there under `fail`, or under `cancel` where its caller left; so every request that got as far as a
place is counted at it exactly once.

Counting happens once per token, so it is done in plain numbers; the protocol's message is made when
somebody asks. Tokens may be counted from the thread that computes them, so the numbers have a lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any

from mesh.pb import inference_pb2 as oip

PLACES = 256
"""Responses beyond are counted at the last place: an answer may have as many as a context has
tokens, and the counts are to stay small."""

Clock = Callable[[], int]


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Once more; the clock may have been set back meanwhile."""
        self.count += 1
        self.ns += max(0, ns)


@dataclass(slots=True)
class PlaceCounts:
    """The counts of one place, under the protocol's names."""

    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    empty_response: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)

    def message(self) -> oip.InferResponseStatistics:
        """The same in the protocol's form; zero is told as zero."""
        durations = {each.name: getattr(self, each.name) for each in fields(self)}
        return oip.InferResponseStatistics(
            **{
                name: oip.StatisticDuration(count=each.count, ns=each.ns)
                for name, each in durations.items()
            }
        )


class ResponseStatistics:
    """The counts of all places."""

    def __init__(self, clock_ns: Clock) -> None:
        self.clock_ns = clock_ns
        self.lock = threading.Lock()
        self._places: list[PlaceCounts] = []

    def __repr__(self) -> str:
        return f"<ResponseStatistics {len(self._places)} places>"

    def at(self, place: int) -> PlaceCounts:
        """The counts of a place; no response comes before those of the places before it.

        With the lock in one's hands.
        """
        if place >= len(self._places) and len(self._places) < PLACES:
            self._places.append(PlaceCounts())
        return self._places[min(place, PLACES - 1)]

    def write(self, into: Any) -> None:
        """Fills the protocol's map from place to counts."""
        with self.lock:
            for place, counts in enumerate(self._places):
                into[str(place)].CopyFrom(counts.message())


class ResponseTimer:
    """The responses to one request, as they come."""

    def __init__(self, statistics: ResponseStatistics) -> None:
        self._statistics = statistics
        self.clock_ns = statistics.clock_ns
        self._place = 0
        self._since_ns = self.clock_ns()
        self._is_over = False
        """Whether the last response is under way, or none will come."""
        self._has_ended = False

    def begin(self) -> None:
        """The model begins now; what was before, the request waited."""
        self._since_ns = self.clock_ns()

    def response(self, *, is_last: bool = False, is_empty: bool = False) -> HandingOn:
        """Counts one response, which the block hands on.

        A reader that has had enough leaves with the response in its hands: that one counts as any
        other, and what would have come next as left.
        """
        self._is_over = is_last
        return HandingOn(self, self.clock_ns(), is_empty=is_empty)

    def end(self, error: BaseException | None) -> None:
        """The request is over, by this error or none; what is still to come did not."""
        with self._statistics.lock:
            is_over, self._is_over, self._has_ended = self._is_over, True, True
            if is_over:
                return
            counts = self._statistics.at(self._place)
            has_left = isinstance(error, GeneratorExit | asyncio.CancelledError)
            ended = counts.cancel if has_left else counts.fail
            ended.add(self.clock_ns() - self._since_ns)

    def count(self, made_ns: int, taken_ns: int | None = None, *, is_empty: bool = False) -> None:
        """Notes that a response was made then, and taken then or now; not behind the end."""
        taken_ns = self.clock_ns() if taken_ns is None else taken_ns
        with self._statistics.lock:
            if self._has_ended:
                return
            infer_ns, output_ns = max(0, made_ns - self._since_ns), max(0, taken_ns - made_ns)
            counts = self._statistics.at(self._place)
            counts.compute_infer.add(infer_ns)
            counts.compute_output.add(output_ns)
            (counts.empty_response if is_empty else counts.success).add(infer_ns + output_ns)
            self._place += 1
            self._since_ns = taken_ns


class HandingOn:
    """A response on its way to its reader."""

    __slots__ = ("_is_empty", "_made_ns", "_timer")

    def __init__(self, timer: ResponseTimer, made_ns: int, *, is_empty: bool) -> None:
        self._timer = timer
        self._made_ns = made_ns
        self._is_empty = is_empty

    def __enter__(self) -> None:
        """Nothing: it was made before."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Its reader has taken it."""
        self._timer.count(self._made_ns, is_empty=self._is_empty)
