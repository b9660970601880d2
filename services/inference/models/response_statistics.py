"""What each response of a decoupled model took, by its place among its request's: Triton's counts.

A response is computed (`compute_infer`: since the one before it, or since the model began) and then
handed on (`compute_output`: until its reader has taken it). Together they are its `success`, or its
`empty_response` where it brings no output. A request that ends before its last response counts
there under `fail`, or under `cancel` where its caller left; so every request that got as far as a
place is counted at it exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mesh.pb import inference_pb2 as oip

PLACES = 256
"""Responses beyond are counted at the last place: an answer may have as many as a context has
tokens, and the counts are to stay small."""

ByPlace = Any  # protobuf's map from a place to its InferResponseStatistics


class ResponseTimer:
    """The responses to one request, as they come."""

    def __init__(self, counts: ByPlace, clock_ns: Callable[[], int]) -> None:
        self._counts = counts
        self._clock_ns = clock_ns
        self._place = 0
        self._since_ns = clock_ns()
        self._is_over = False

    def begin(self) -> None:
        """The model begins now; what was before, the request waited."""
        self._since_ns = self._clock_ns()

    @contextmanager
    def response(self, *, is_last: bool = False, is_empty: bool = False) -> Iterator[None]:
        """Counts one response, which the block hands on.

        A reader that has had enough leaves with the response in its hands: that one counts as any
        other, and what would have come next as left.
        """
        made_ns = self._clock_ns()
        self._is_over = is_last
        try:
            yield
        finally:
            self._count(made_ns, self._clock_ns(), is_empty=is_empty)

    def end(self, error: BaseException | None) -> None:
        """The request is over, by this error or none; what is still to come did not."""
        if self._is_over:
            return
        self._is_over = True
        has_left = isinstance(error, GeneratorExit | asyncio.CancelledError)
        counts = self._here()
        _add(counts.cancel if has_left else counts.fail, self._clock_ns() - self._since_ns)

    def _count(self, made_ns: int, taken_ns: int, *, is_empty: bool) -> None:
        counts = self._here()
        infer_ns, output_ns = max(0, made_ns - self._since_ns), max(0, taken_ns - made_ns)
        _add(counts.compute_infer, infer_ns)
        _add(counts.compute_output, output_ns)
        _add(counts.empty_response if is_empty else counts.success, infer_ns + output_ns)
        self._place += 1
        self._since_ns = taken_ns

    def _here(self) -> oip.InferResponseStatistics:
        place = str(min(self._place, PLACES - 1))
        is_new = place not in self._counts
        counts: oip.InferResponseStatistics = self._counts[place]
        if is_new:
            make_present(counts)
        return counts


def make_present(message: Any) -> None:
    """Sets every duration of a message of counts, so that zero is told as zero."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and not field.is_repeated:
            getattr(message, field.name).SetInParent()


def _add(duration: oip.StatisticDuration, ns: int) -> None:
    duration.count += 1
    duration.ns += max(0, ns)
