"""What a model version has done on this node: counts and durations, in the protocol's own message.

A request that succeeds took, one after the other: `compute_input` (checking it and turning it into
what the model reads), `queue`, `compute_infer` and `compute_output`. The four add up to `success`,
to the nanosecond. A request that fails or whose caller leaves counts under `fail` and nowhere else.

An execution runs the rows of several requests and counts once, as soon as one of them succeeds. The
making and taking apart of its batch stands apart in `batch_stats`; to a request it is computing.
Counts begin with the process and outlive an unloading, so that a sum over time never falls because
a version came back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from weakref import WeakSet

from mesh.pb import inference_pb2 as oip
from services.inference.models.response_statistics import ResponseStatistics, ResponseTimer
from services.inference.models.timing import Execution, Timing

NS_PER_MS = 1_000_000

Clock = Callable[[], int]
"""Nanoseconds since 1970."""


class VersionStatistics:
    """The counts of one version."""

    def __init__(self, model: str, version: int, clock_ns: Clock = time.time_ns) -> None:
        self._counts = oip.ModelStatistics(name=model, version=str(version))
        for duration in self._counts.inference_stats.DESCRIPTOR.fields:
            getattr(self._counts.inference_stats, duration.name).SetInParent()  # zero, not unset
        self._responses = ResponseStatistics(clock_ns)
        self._clock_ns = clock_ns
        # Remembered for as long as a caller has yet to be counted with them.
        self._counted: WeakSet[Execution] = WeakSet()

    def __repr__(self) -> str:
        counts = self._counts.inference_stats
        name = f"{self._counts.name}@{self._counts.version}"
        return f"<VersionStatistics {name} ok={counts.success.count} failed={counts.fail.count}>"

    def snapshot(self) -> oip.ModelStatistics:
        """The counts as they are now; a copy."""
        copy = oip.ModelStatistics()
        copy.CopyFrom(self._counts)
        self._responses.write(copy.response_stats)
        return copy

    @contextmanager
    def measure(self) -> Iterator[Measurement]:
        """Counts one request: a success if the block says so, else a failure."""
        measurement = Measurement(self, self._clock_ns())
        try:
            yield measurement
        finally:
            measurement.close()

    @contextmanager
    def measure_decoupled(self) -> Iterator[DecoupledMeasurement]:
        """The same for a model that answers in pieces, each of which is counted too."""
        responses = ResponseTimer(self._responses)
        measurement = DecoupledMeasurement(self, self._clock_ns(), responses)
        try:
            yield measurement
        except BaseException as error:
            responses.end(error)
            raise
        else:
            responses.end(None)
        finally:
            measurement.close()

    def count_success(self, began_ns: int, timing: Timing) -> None:
        """Adds a request that was answered just now."""
        input_ns, queue_ns, infer_ns, output_ns = phases(began_ns, timing, self._clock_ns())
        counts = self._counts.inference_stats
        _add(counts.compute_input, input_ns)
        _add(counts.queue, queue_ns)
        _add(counts.compute_infer, infer_ns)
        _add(counts.compute_output, output_ns)
        _add(counts.success, input_ns + queue_ns + infer_ns + output_ns)
        self._counts.inference_count += timing.rows
        self._counts.last_inference = max(self._counts.last_inference, began_ns // NS_PER_MS)
        for execution in timing.executions:
            self._count_execution(execution)

    def count_failure(self, began_ns: int) -> None:
        """Adds a request that failed just now."""
        _add(self._counts.inference_stats.fail, max(0, self._clock_ns() - began_ns))

    def _count_execution(self, execution: Execution) -> None:
        if execution in self._counted:
            return
        self._counted.add(execution)
        self._counts.execution_count += 1
        batches = self._counts.batch_stats
        batch = next((each for each in batches if each.batch_size == execution.rows), None)
        if batch is None:
            batch = batches.add(batch_size=execution.rows)
        _add(batch.compute_input, execution.input_ns)
        _add(batch.compute_infer, execution.infer_ns)
        _add(batch.compute_output, execution.output_ns)


class Measurement:
    """One request on its way through a version."""

    def __init__(self, statistics: VersionStatistics, began_ns: int) -> None:
        self._statistics = statistics
        self._began_ns = began_ns
        self._is_counted = False

    def succeed(self, timing: Timing) -> None:
        """The answer is made."""
        self._is_counted = True
        self._statistics.count_success(self._began_ns, timing)

    def close(self) -> None:
        """The request is over; one that has not succeeded has failed."""
        if not self._is_counted:
            self._is_counted = True
            self._statistics.count_failure(self._began_ns)


class DecoupledMeasurement(Measurement):
    """One request on its way through a decoupled model, and its responses."""

    def __init__(
        self, statistics: VersionStatistics, began_ns: int, responses: ResponseTimer
    ) -> None:
        super().__init__(statistics, began_ns)
        self.responses = responses


def phases(began_ns: int, timing: Timing, ended_ns: int) -> tuple[int, int, int, int]:
    """How long input, queue, computing and output took; never negative, whatever the clock did."""
    queued_ns = timing.began_ns if timing.queued_ns is None else timing.queued_ns
    cuts = accumulate((began_ns, queued_ns, timing.began_ns, timing.ended_ns, ended_ns), max)
    input_ns, queue_ns, infer_ns, output_ns = (after - before for before, after in pairwise(cuts))
    return input_ns, queue_ns, infer_ns, output_ns


def _add(duration: oip.StatisticDuration, ns: int) -> None:
    duration.count += 1
    duration.ns += ns
