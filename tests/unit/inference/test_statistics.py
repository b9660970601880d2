"""Counts and durations of a version: what they mean, and that they add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from services.inference.models.statistics import VersionStatistics, phases
from services.inference.models.timing import Execution, Timing
from tests.unit.inference.virtual_time import HandClock

moments = st.integers(0, 2**62)


@given(moments, st.none() | moments, moments, moments, moments)
def test_phases_are_never_negative_and_end_with_the_request(
    began: int, queued: int | None, computed: int, answered: int, ended: int
) -> None:
    timing = Timing(computed, answered, queued_ns=queued)
    durations = phases(began, timing, ended)
    assert all(each >= 0 for each in durations)
    known = [each for each in (began, queued, computed, answered, ended) if each is not None]
    assert sum(durations) == max(known) - began


def test_a_success_is_split_into_its_phases(
    statistics: VersionStatistics, clock: HandClock
) -> None:
    began = clock.now_ns
    with statistics.measure() as measured:
        clock.now_ns += 100
        run = Execution(4, began + 30, began + 80, input_ns=5, output_ns=3)
        timing = Timing(began + 30, began + 80, executions=(run,), rows=3, queued_ns=began + 10)
        measured.succeed(timing)
        clock.now_ns += 1000  # what comes after the answer is nobody's
    counts = statistics.snapshot()
    inference = counts.inference_stats
    assert (counts.name, counts.version) == ("m", "3")
    assert (counts.inference_count, counts.execution_count) == (3, 1)
    assert counts.last_inference == 5000
    assert [inference.compute_input.ns, inference.queue.ns] == [10, 20]
    assert [inference.compute_infer.ns, inference.compute_output.ns] == [50, 20]
    assert (inference.success.count, inference.success.ns) == (1, 100)
    assert inference.fail.count == 0
    (batch,) = counts.batch_stats
    parts = (batch.compute_input, batch.compute_infer, batch.compute_output)
    assert (batch.batch_size, [part.ns for part in parts]) == (4, [5, 42, 3])


@pytest.mark.parametrize("error", [InvalidArgument("no", field="x"), GeneratorExit()])
def test_a_failure_counts_as_one_and_as_nothing_else(
    statistics: VersionStatistics, clock: HandClock, error: BaseException
) -> None:
    def fail() -> None:
        with statistics.measure():
            clock.now_ns += 7
            raise error

    with pytest.raises(type(error)):
        fail()
    counts = statistics.snapshot()
    assert (counts.inference_stats.fail.count, counts.inference_stats.fail.ns) == (1, 7)
    assert counts.inference_stats.success.count == 0
    assert (counts.inference_count, counts.execution_count, len(counts.batch_stats)) == (0, 0, 0)


def test_an_answer_that_the_caller_did_not_wait_for_to_the_end_is_a_success_still(
    statistics: VersionStatistics,
) -> None:
    def leave() -> None:
        with statistics.measure() as measured:
            measured.succeed(Timing(0, 0))
            raise GeneratorExit

    with pytest.raises(GeneratorExit):
        leave()
    assert statistics.snapshot().inference_stats.fail.count == 0


BATCHES = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 5), st.integers(0, 4)))


@given(BATCHES)
def test_an_execution_counts_once_for_all_who_were_in_it(
    batches: list[tuple[int, int, int]],
) -> None:
    statistics = VersionStatistics("m", 1)
    for callers, rows, aside_ns in batches:
        run = Execution(callers * rows, 0, 9, input_ns=aside_ns, output_ns=aside_ns)
        for _ in range(callers):
            with statistics.measure() as measured:
                measured.succeed(Timing(0, 9, executions=(run,), rows=rows))
    counts = statistics.snapshot()
    assert counts.execution_count == len(batches)
    assert counts.inference_count == sum(callers * rows for callers, rows, _ in batches)
    by_size = {b.batch_size: b.compute_infer.count for b in counts.batch_stats}
    assert sum(by_size.values()) == counts.execution_count
    assert sum(size * count for size, count in by_size.items()) == counts.inference_count
    stats = counts.inference_stats
    parts = (stats.compute_input, stats.queue, stats.compute_infer, stats.compute_output)
    assert sum(part.ns for part in parts) == stats.success.ns
    made = [(b.compute_input, b.compute_infer, b.compute_output) for b in counts.batch_stats]
    assert sum(part.ns for each in made for part in each) == 9 * len(batches)
    assert sum(part.count for each in made for part in each) == 3 * len(batches)
    assert [counts.inference_stats.cache_hit.count, counts.inference_stats.cache_miss.ns] == [0, 0]


def test_a_snapshot_does_not_change(statistics: VersionStatistics) -> None:
    before = statistics.snapshot()
    with statistics.measure():
        pass
    assert before.inference_stats.fail.count == 0
