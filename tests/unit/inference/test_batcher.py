"""Many callers in one queue: each gets its own, and nobody suffers for another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import (
    DeadlineExceeded,
    DeadlineTooShort,
    Internal,
    InvalidArgument,
    QueueFull,
    Unavailable,
)
from services.inference.batching.batch import BatchLimits
from services.inference.batching.batcher import Batcher, open_batcher
from services.inference.batching.terms import ANY_TIME, Terms

LIMITS = BatchLimits(max_batch_size=4, max_queue_delay_s=0.001, max_batch_width=1024)


class Model:
    """Doubles numbers; holds its thread until `go` is set, and chokes on the number 13."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, tuple[int, ...]]] = []
        self.go = threading.Event()
        self.go.set()

    def compute(self, items: Sequence[int], width: int) -> list[int]:
        self.batches.append((width, tuple(items)))
        self.go.wait()
        if 13 in items:
            raise ZeroDivisionError
        return [item * 2 for item in items]


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def blocked(model: Model, batcher: Batcher[int, int]) -> asyncio.Task:
    """Puts a row into the engine that stays there."""
    model.go.clear()
    seen = len(model.batches)
    task = asyncio.create_task(batcher.submit([(1, 8)], ANY_TIME))
    await wait_for(lambda: len(model.batches) > seen)
    return task


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(100, 999), st.sampled_from([8, 16])), min_size=1)))
def test_each_caller_gets_its_own_rows_in_order(callers: list[list[tuple[int, int]]]) -> None:
    async def scenario() -> None:
        model = Model()
        async with open_batcher("m", model.compute, LIMITS, 10_000) as batcher:
            answers = await asyncio.gather(*(batcher.submit(rows, ANY_TIME) for rows in callers))
        for rows, answer in zip(callers, answers, strict=True):
            assert list(answer.results) == [item * 2 for item, _ in rows]
        widths = {
            item: {w for c in callers for i, w in c if i == item} for c in callers for item, _ in c
        }
        for width, items in model.batches:
            assert len(items) <= 4
            assert all(width in widths[item] for item in items)

    asyncio.run(scenario())


async def test_rows_of_several_callers_share_a_batch() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, 100) as batcher:
        first = await blocked(model, batcher)
        others = [asyncio.create_task(batcher.submit([(n, 8)], ANY_TIME)) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        model.go.set()
        answers = await asyncio.gather(*others)
        await first
    assert model.batches == [(8, (1,)), (8, (2, 3, 4))]
    timing = answers[0].timing
    assert timing.batch_size == 3
    assert timing.queued_ns is not None
    assert timing.queued_ns <= timing.began_ns <= timing.ended_ns


async def test_a_request_larger_than_a_batch_is_answered_whole() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, 100) as batcher:
        answer = await batcher.submit([(n, 8) for n in range(100, 110)], ANY_TIME)
    assert list(answer.results) == [2 * n for n in range(100, 110)]
    assert answer.timing.batch_size == 4
    assert [len(items) for _, items in model.batches] == [4, 4, 2]


async def test_a_caller_that_leaves_takes_its_waiting_rows_along() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, 100) as batcher:
        first = await blocked(model, batcher)
        leaving = asyncio.create_task(batcher.submit([(2, 8), (3, 8)], ANY_TIME))
        staying = asyncio.create_task(batcher.submit([(4, 8)], ANY_TIME))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        model.go.set()
        assert (await staying).results == [8]
        await first
    assert model.batches[1:] == [(8, (4,))]


async def test_a_caller_that_leaves_during_its_run_disturbs_nobody() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, 100) as batcher:
        leaving = await blocked(model, batcher)
        leaving.cancel()
        await asyncio.wait({leaving})
        model.go.set()
        assert (await batcher.submit([(5, 8)], ANY_TIME)).results == [10]


async def test_a_deadline_in_the_queue_is_the_callers_own() -> None:
    model = Model()
    patient = BatchLimits(max_batch_size=4, max_queue_delay_s=30, max_batch_width=1024)
    async with open_batcher("m", model.compute, patient, 100) as batcher:
        in_time = [asyncio.create_task(batcher.submit([(n, 8)], ANY_TIME)) for n in (4, 5, 6)]
        late = asyncio.create_task(
            batcher.submit([(2, 16), (3, 24)], Terms(time.monotonic() + 0.02))
        )
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await late
        assert (await batcher.submit([(7, 8)], Terms(time.monotonic() + 60))).results == [14]
        await asyncio.gather(*in_time)
    assert model.batches == [(8, (4, 5, 6, 7))]


async def test_a_deadline_that_has_passed_is_refused_at_the_door() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, 100) as batcher:
        with pytest.raises(DeadlineTooShort):
            await batcher.submit([(2, 8)], Terms(time.monotonic()))
    assert model.batches == []


async def test_a_failed_run_fails_its_callers_only() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, 100) as batcher:
        first = await blocked(model, batcher)
        bad = asyncio.create_task(batcher.submit([(13, 16)], ANY_TIME))
        good = asyncio.create_task(batcher.submit([(4, 8)], ANY_TIME))
        await asyncio.sleep(0)
        model.go.set()
        with pytest.raises(Internal, match="the model failed"):
            await bad
        assert (await good).results == [8]
        await first
        assert (await batcher.submit([(5, 16)], ANY_TIME)).results == [10]


async def test_a_full_queue_says_when_to_come_back() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, max_rows=3) as batcher:
        first = await blocked(model, batcher)
        waiting = asyncio.create_task(batcher.submit([(2, 8), (3, 8)], ANY_TIME))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as full:
            await batcher.submit([(4, 8), (5, 8)], ANY_TIME)
        assert full.value.retry_after_s is not None
        assert full.value.retry_after_s > 0
        last = asyncio.create_task(batcher.submit([(4, 8)], ANY_TIME))
        model.go.set()
        await asyncio.gather(first, waiting, last)


async def test_more_rows_than_the_queue_ever_takes_are_refused() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, max_rows=3) as batcher:
        with pytest.raises(InvalidArgument, match="4 rows are more than the 3 that may wait"):
            await batcher.submit([(n, 8) for n in range(4)], ANY_TIME)


async def test_closing_tells_those_who_still_wait() -> None:
    model = Model()
    async with open_batcher("m", model.compute, LIMITS, 100) as batcher:
        computing = await blocked(model, batcher)
        waiting = asyncio.create_task(batcher.submit([(2, 8)], ANY_TIME))
        await asyncio.sleep(0)
        threading.Timer(0.01, model.go.set).start()
    for task in (computing, waiting):
        with pytest.raises(Unavailable, match="being unloaded"):
            await task
