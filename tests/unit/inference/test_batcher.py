"""Many callers in one queue: each gets its own, and nobody suffers for another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import (
    DeadlineTooShort,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    QueueFull,
    Unavailable,
)
from services.inference.batching.batcher import Batcher, open_batcher
from services.inference.batching.metrics import BatchingMetrics, BatchMeter
from services.inference.batching.run import Item, Ran
from services.inference.batching.terms import Terms

Doubles = Batcher[int, int]
OPTIONS = {"max_batch_size": 4, "max_queue_delay_ms": 1.0}
TWO_LEVELS = {**OPTIONS, "priority_levels": 2, "default_priority_level": 2}


class Model:
    """Doubles numbers; holds its threads until `go` is set; chokes on 13, and in a way on 0."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, tuple[int, ...]]] = []
        self.registry = CollectorRegistry()
        self.go = threading.Event()
        self.go.set()

    def compute(self, items: Sequence[int], width: int) -> Ran[int]:
        self.batches.append((width, tuple(items)))
        self.go.wait()
        if 13 in items:
            raise ZeroDivisionError
        if 14 in items:
            raise FailedPrecondition("14 cannot be doubled")
        return Ran([item * 2 for item in items if item], input_ns=2, output_ns=1)

    def metric(self, name: str, **labels: str) -> float | None:
        labels = {"model_name": "m", "model_version": "1", **labels}
        return self.registry.get_sample_value(f"ringmesh_{name}", labels)


@asynccontextmanager
async def opened(
    model: Model, *, max_rows: int = 100, instances: int = 1, **options: Any
) -> AsyncIterator[Doubles]:
    meter = BatchingMetrics(model.registry).meter("m", 1)
    runs = [model.compute] * instances
    asked = BatchingOptions(**{**OPTIONS, **options})
    async with open_batcher("m", runs, asked, meter, max_rows=max_rows) as batcher:
        yield batcher


@pytest.fixture
def model() -> Model:
    return Model()


def items(*numbers: int, width: int = 8) -> list[Item[int]]:
    return [Item(number, width, width) for number in numbers]


def start(batcher: Doubles, *numbers: int, width: int = 8, **terms: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(batcher.submit(items(*numbers, width=width), Terms(**terms)))


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def queued(batcher: Doubles, rows: int, level: int = 0) -> None:
    await wait_for(lambda: batcher.waiting(level) == rows)


async def blocked(model: Model, batcher: Doubles, **terms: Any) -> asyncio.Task[Any]:
    """Puts a row into the engine that stays there."""
    model.go.clear()
    seen = len(model.batches)
    task = start(batcher, 1, **terms)
    await wait_for(lambda: len(model.batches) > seen)
    return task


async def test_rows_of_several_callers_share_a_batch(model: Model) -> None:
    async with opened(model) as batcher:
        first = await blocked(model, batcher)
        others = [start(batcher, n) for n in (2, 3, 4)]
        await queued(batcher, 3)
        model.go.set()
        answers = await asyncio.gather(*others)
        await first
    assert model.batches == [(8, (1,)), (8, (2, 3, 4))]
    assert [answer.results for answer in answers] == [[4], [6], [8]]
    timing = answers[0].timing
    assert timing.batch_size == 3
    assert timing.queued_ns is not None
    assert timing.queued_ns <= timing.began_ns <= timing.ended_ns
    (execution,) = timing.executions
    assert (execution.input_ns, execution.output_ns) == (2, 1)


async def test_rows_of_different_kinds_never_meet(model: Model) -> None:
    async with opened(model) as batcher:
        first = await blocked(model, batcher)
        keys: list[Item[int]] = [Item(2, 8, 8), Item(3, 16, 8), Item(4, 8, 16), Item(5, 8, 8)]
        mixed = asyncio.create_task(batcher.submit(keys))
        await queued(batcher, 4)
        model.go.set()
        assert (await mixed).results == [4, 6, 8, 10]
        await first
    assert model.batches[1:] == [(8, (2, 5)), (16, (3,)), (8, (4,))]


async def test_a_request_larger_than_a_batch_is_answered_whole(model: Model) -> None:
    async with opened(model) as batcher:
        answer = await batcher.submit(items(*range(100, 110)))
    assert list(answer.results) == [2 * n for n in range(100, 110)]
    assert answer.timing.batch_size == 4
    assert answer.timing.rows == 10
    assert [len(rows) for _, rows in model.batches] == [4, 4, 2]


async def test_a_request_without_rows_is_answered_at_once(model: Model) -> None:
    async with opened(model) as batcher:
        answer = await batcher.submit([])
    assert list(answer.results) == []
    assert answer.timing.rows == 0
    assert model.batches == []


async def test_a_caller_that_leaves_takes_its_waiting_rows_along(model: Model) -> None:
    async with opened(model) as batcher:
        first = await blocked(model, batcher)
        leaving, staying = start(batcher, 2, 3), start(batcher, 4)
        await queued(batcher, 3)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert batcher.waiting(0) == 1
        model.go.set()
        assert (await staying).results == [8]
        await first
    assert model.batches[1:] == [(8, (4,))]


async def test_a_caller_that_leaves_during_its_run_disturbs_nobody(model: Model) -> None:
    async with opened(model) as batcher:
        leaving = await blocked(model, batcher)
        leaving.cancel()
        await asyncio.wait({leaving})
        model.go.set()
        assert (await batcher.submit(items(5))).results == [10]


async def test_a_deadline_that_has_passed_is_refused_at_the_door(model: Model) -> None:
    async with opened(model) as batcher:
        with pytest.raises(DeadlineTooShort):
            await batcher.submit(items(2), Terms(deadline_s=time.monotonic()))
    assert model.batches == []
    assert model.metric("queue_refused_total", reason="DEADLINE_TOO_SHORT") == 1


async def test_higher_levels_run_first(model: Model) -> None:
    async with opened(model, **TWO_LEVELS) as batcher:
        first = await blocked(model, batcher)
        low = [start(batcher, n, priority=2) for n in (2, 3)] + [start(batcher, 4)]
        high = [start(batcher, n, priority=1) for n in (5, 6)]
        await queued(batcher, 3, level=2)
        await queued(batcher, 2, level=1)
        model.go.set()
        await asyncio.gather(first, *low, *high)
    assert [rows for _, rows in model.batches] == [(1,), (5, 6, 2, 3), (4,)]


@pytest.mark.parametrize(
    ("options", "priority", "said"),
    [(TWO_LEVELS, 3, "no level 3"), (OPTIONS, 1, "no priority levels")],
)
async def test_a_level_that_does_not_exist_is_refused(
    model: Model, options: dict[str, Any], priority: int, said: str
) -> None:
    async with opened(model, **options) as batcher:
        with pytest.raises(InvalidArgument, match=said) as refused:
            await batcher.submit(items(2), Terms(priority=priority))
    assert refused.value.field == "parameters.priority"
    assert model.metric("queue_refused_total", reason="INVALID_ARGUMENT") == 1


async def test_a_full_level_refuses_while_others_still_take(model: Model) -> None:
    policy = {2: QueuePolicy(max_queue_rows=2)}
    async with opened(model, **TWO_LEVELS, priority_queue_policy=policy) as batcher:
        first = await blocked(model, batcher)
        low = start(batcher, 2, 3)
        await queued(batcher, 2, level=2)
        with pytest.raises(QueueFull, match="2 rows of priority 2 are waiting") as full:
            await batcher.submit(items(4))
        assert full.value.retry_after_s is not None
        assert full.value.retry_after_s > 0
        high = start(batcher, *range(20, 25), priority=1)
        await queued(batcher, 5, level=1)
        assert model.metric("queue_rows", priority="1") == 5
        assert model.metric("queue_rows", priority="2") == 2
        model.go.set()
        await asyncio.gather(first, low, high)
    assert model.metric("queue_refused_total", reason="QUEUE_FULL") == 1
    assert model.metric("queue_rows", priority="1") is None


async def test_one_bad_row_fails_alone(model: Model) -> None:
    async with opened(model) as batcher:
        first = await blocked(model, batcher)
        good, bad, other = start(batcher, 2, 3), start(batcher, 13), start(batcher, 4)
        await queued(batcher, 4)
        model.go.set()
        with pytest.raises(Internal, match="the model failed"):
            await bad
        assert (await good).results == [4, 6]
        assert (await other).results == [8]
        await first
    assert model.batches[1:] == [(8, (2, 3, 13, 4)), (8, (2, 3)), (8, (13,)), (8, (4,))]


async def test_a_bad_caller_alone_is_not_run_again(model: Model) -> None:
    async with opened(model) as batcher:
        with pytest.raises(FailedPrecondition, match="14 cannot be doubled"):
            await batcher.submit(items(2, 14))
    assert model.batches == [(8, (2, 14))]


async def test_a_failed_row_takes_the_rest_of_its_request_along(model: Model) -> None:
    async with opened(model) as batcher:
        with pytest.raises(Internal):
            await batcher.submit(items(13, *range(100, 110)))
        assert batcher.waiting(0) == 0
        assert (await batcher.submit(items(5))).results == [10]
    assert [len(rows) for _, rows in model.batches] == [4, 1]


async def test_a_wrong_number_of_results_is_a_failure_and_nobody_hangs(model: Model) -> None:
    async with opened(model) as batcher:
        with pytest.raises(Internal, match="1 results for 2 rows"):
            await batcher.submit(items(0, 2))
        assert (await batcher.submit(items(5))).results == [10]


async def test_instances_run_at_once(model: Model) -> None:
    async with opened(model, instances=2) as batcher:
        first = await blocked(model, batcher)
        second = await blocked(model, batcher)
        third = start(batcher, 5)
        await queued(batcher, 1)
        model.go.set()
        answers = await asyncio.gather(first, second, third)
    assert [answer.results for answer in answers] == [[2], [2], [10]]


async def test_a_full_queue_says_when_to_come_back(model: Model) -> None:
    async with opened(model, max_rows=3) as batcher:
        first = await blocked(model, batcher)
        waiting = start(batcher, 2, 3)
        await queued(batcher, 2)
        with pytest.raises(QueueFull) as full:
            await batcher.submit(items(4, 5))
        assert full.value.retry_after_s is not None
        assert full.value.retry_after_s > 0
        last = start(batcher, 4)
        model.go.set()
        await asyncio.gather(first, waiting, last)


async def test_more_rows_than_the_queue_ever_takes_are_refused(model: Model) -> None:
    async with opened(model, max_rows=3) as batcher:
        with pytest.raises(InvalidArgument, match="4 rows are more than the 3 that may wait"):
            await batcher.submit(items(2, 3, 4, 5))
        batcher.check_size(3, Terms())
        with pytest.raises(InvalidArgument, match="4 rows are more than the 3 that may wait"):
            batcher.check_size(4, Terms())
        with pytest.raises(InvalidArgument, match="no priority levels"):
            batcher.check_size(1, Terms(priority=1))
    assert model.metric("queue_refused_total", reason="INVALID_ARGUMENT") == 3


async def test_what_was_run_is_counted(model: Model) -> None:
    async with opened(model) as batcher:
        await batcher.submit(items(*range(100, 106)))
        assert model.metric("queue_rows", priority="0") == 0
    assert model.metric("batch_rows_count") == 2
    assert model.metric("batch_rows_sum") == 6
    assert model.metric("queue_seconds_count") == 1


async def test_closing_tells_those_who_wait_and_those_who_are_computed(model: Model) -> None:
    async with opened(model) as batcher:
        computing = await blocked(model, batcher)
        waiting = start(batcher, 2, 3)
        await queued(batcher, 2)

        async def let_go_once_they_are_told() -> None:
            await asyncio.wait({computing, waiting})
            model.go.set()

        letting_go = asyncio.create_task(let_go_once_they_are_told())
    await letting_go
    for task in (computing, waiting):
        with pytest.raises(Unavailable, match="being unloaded"):
            await task
    with pytest.raises(Unavailable, match="being unloaded"):
        await batcher.submit(items(2))


async def test_a_queue_that_ends_by_a_fault_of_its_own_tells_everybody(model: Model) -> None:
    class Faulty(BatchMeter):
        def count_batch(self, rows: int, queued_s: Iterable[float]) -> None:
            raise ZeroDivisionError

    async def never_asked() -> None:
        raise AssertionError

    meter = Faulty(BatchingMetrics(model.registry), ("m", "1"))
    runs = [model.compute]
    async with open_batcher("m", runs, BatchingOptions(), meter, max_rows=9) as batcher:
        with pytest.raises(Unavailable):
            await batcher.submit(items(1))
        async with asyncio.timeout(10):
            assert "the queue has ended" in await batcher.broken(never_asked)
