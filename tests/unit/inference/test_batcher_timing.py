"""Delays, deadlines and timeouts of the batcher, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import DeadlineExceeded, DeadlineTooShort, InvalidArgument
from services.inference.batching.batch import make_limits
from services.inference.batching.batcher import Batcher
from services.inference.batching.door import Door
from services.inference.batching.metrics import BatchingMetrics
from services.inference.batching.run import Item, Ran
from services.inference.batching.runner import Instance
from services.inference.batching.terms import OWN, Terms
from tests.unit.inference.virtual_time import HeldExecutor, run_virtually, settle


@dataclass
class Engine:
    """Doubles numbers but 13 when it is told to; a run takes as long as the test lets pass."""

    batcher: Batcher[int, int]
    executor: HeldExecutor
    batches: list[list[int]]
    registry: CollectorRegistry
    callers: list[asyncio.Task[Any]] = field(default_factory=list)

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def start(self, *numbers: int, key: str = "k", **terms: Any) -> asyncio.Task[Any]:
        items = [Item(number, key) for number in numbers]
        task = asyncio.create_task(self.batcher.submit(items, Terms(**terms)))
        self.callers.append(task)
        await settle()
        return task

    async def finish(self) -> None:
        """The runs under way end."""
        for _ in list(self.executor.jobs):
            self.executor.finish()
        await settle()

    async def work_off(self) -> None:
        """Until nothing is left."""
        while self.executor.jobs or self.batcher.waiting(0):
            await self.finish()
            await asyncio.sleep(0.001)

    def refused(self, reason: str) -> float | None:
        labels = {"model_name": "m", "model_version": "1", "reason": reason}
        return self.registry.get_sample_value("ringmesh_queue_refused_total", labels)


@asynccontextmanager
async def engine_with(**options: Any) -> AsyncIterator[Engine]:
    batches: list[list[int]] = []
    registry, executor = CollectorRegistry(), HeldExecutor()

    def double(items: Sequence[int], _key: str) -> Ran[int]:
        batches.append(list(items))
        if 13 in items:
            raise InvalidArgument("13", field="inputs")
        return Ran([item * 2 for item in items])

    asked = BatchingOptions(**{"max_batch_size": 4, "max_queue_delay_ms": 10.0, **options})
    meter = BatchingMetrics(registry).meter("m", 1)
    batcher: Batcher[int, int] = Batcher(
        "m", [Instance(double, executor)], make_limits(asked), Door(asked, 100, 1), meter
    )
    work = asyncio.create_task(batcher.run_batches())
    engine = Engine(batcher, executor, batches, registry)
    try:
        yield engine
    finally:
        work.cancel()
        await asyncio.gather(work, *engine.callers, return_exceptions=True)


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        run_virtually(test())

    return run


@virtually
async def test_the_first_row_waits_for_company_and_no_longer() -> None:
    async with engine_with() as engine:
        first = await engine.start(1)
        await asyncio.sleep(0.009)
        await engine.start(2)
        assert engine.executor.jobs == []
        await asyncio.sleep(0.001)
        await settle()
        await engine.finish()
        assert (await first).results == [2]
    assert engine.batches == [[1, 2]]


@virtually
async def test_unless_told_to_wait_a_row_runs_at_once_and_what_comes_meanwhile_together() -> None:
    async with engine_with(max_queue_delay_ms=BatchingOptions().max_queue_delay_ms) as engine:
        began_s = engine.now_s()
        first = await engine.start(1)
        assert len(engine.executor.jobs) == 1
        later = [await engine.start(number) for number in (2, 3, 4)]
        await engine.finish()
        await engine.finish()
        assert [(await task).results for task in (first, *later)] == [[2], [4], [6], [8]]
        assert engine.now_s() == began_s
    assert engine.batches == [[1], [2, 3, 4]]


@virtually
async def test_a_preferred_size_does_not_wait_for_more() -> None:
    async with engine_with(preferred_batch_sizes=(2,)) as engine:
        began_s = engine.now_s()
        tasks = [await engine.start(1), await engine.start(2)]
        await engine.finish()
        assert [(await task).results for task in tasks] == [[2], [4]]
        assert engine.now_s() == began_s


@virtually
async def test_a_row_with_little_time_does_not_spend_it_all_on_company() -> None:
    async with engine_with(max_queue_delay_ms=1000) as engine:
        began_s = engine.now_s()
        task = await engine.start(1, deadline_s=began_s + 0.5)
        await engine.start(2)
        await asyncio.sleep(0.25)
        await settle()
        await engine.finish()
        assert (await task).results == [2]
        assert engine.now_s() == began_s + 0.25
    assert engine.batches == [[1, 2]]


@virtually
async def test_a_deadline_in_the_queue_is_the_callers_own() -> None:
    async with engine_with() as engine:
        await engine.start(1, 2, 3, 4)
        late = await engine.start(5, 6, deadline_s=engine.now_s() + 1)
        patient = await engine.start(7, deadline_s=engine.now_s() + 60)
        await asyncio.sleep(1)
        await settle()
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await late
        assert engine.batcher.waiting(0) == 1
        await engine.work_off()
        assert (await patient).results == [14]
    assert engine.batches == [[1, 2, 3, 4], [7]]
    assert engine.refused("DEADLINE_EXCEEDED") == 1


@virtually
async def test_a_deadline_is_kept_while_the_engine_is_busy() -> None:
    async with engine_with() as engine:
        running = await engine.start(1, 2, 3, 4, deadline_s=engine.now_s() + 1)
        ended_s = engine.now_s() + 1
        with pytest.raises(DeadlineExceeded, match="during the run"):
            await running
        assert engine.now_s() == ended_s
        await engine.finish()


@virtually
async def test_a_deadline_that_the_measured_pace_cannot_meet_is_refused_at_once() -> None:
    async with engine_with() as engine:
        await engine.start(1, 2, 3, 4)
        await asyncio.sleep(2)  # half a second a row
        await engine.finish()
        with pytest.raises(DeadlineTooShort, match=r"takes 1000\.0 ms"):
            await (await engine.start(5, 6, deadline_s=engine.now_s() + 1))
        in_time = await engine.start(7, 8, deadline_s=engine.now_s() + 1.1)
        await engine.work_off()
        assert (await in_time).results == [14, 16]
    assert engine.batches == [[1, 2, 3, 4], [7, 8]]


@virtually
async def test_those_who_wait_for_company_are_nobodys_backlog() -> None:
    async with engine_with(max_batch_size=32, max_queue_delay_ms=200) as engine:
        asked, ran_ms = [], 0
        for tick_ms in range(400):
            if tick_ms % 10 == 0:  # the first are patient, so that many wait
                hurry = {} if tick_ms < 340 else {"deadline_s": engine.now_s() + 0.1}
                asked.append(await engine.start(tick_ms, **hurry))
            ran_ms = ran_ms + 1 if engine.executor.jobs else 0
            if ran_ms == 30:  # how long a run takes
                await engine.finish()
            await asyncio.sleep(0.001)
        await engine.work_off()
        assert [(await task).results for task in asked] == [[20 * n] for n in range(40)]


@virtually
async def test_a_timeout_fails_a_request_where_the_policy_says_reject() -> None:
    async with engine_with(default_queue_policy=QueuePolicy(default_timeout_ms=200)) as engine:
        await engine.start(1, 2, 3, 4)
        default, own = await engine.start(5), await engine.start(6, timeout_s=0.1)
        await asyncio.sleep(0.15)
        await settle()
        assert own.done()
        assert not default.done()
        await asyncio.sleep(0.05)
        await settle()
        for task in (own, default):
            with pytest.raises(DeadlineExceeded):
                await task
        await engine.finish()


@virtually
async def test_no_timeout_of_callers_ends_what_the_node_asks_itself() -> None:
    policy = QueuePolicy(max_queue_rows=1, default_timeout_ms=100)
    async with engine_with(default_queue_policy=policy) as engine:
        asked = asyncio.create_task(engine.batcher.submit([Item(5, "k"), Item(6, "k")], OWN))
        await settle()
        await asyncio.sleep(1)
        await engine.work_off()
        assert (await asked).results == [10, 12]


@virtually
async def test_a_timeout_of_ones_own_is_nothing_where_the_policy_forbids_it() -> None:
    policy = QueuePolicy(allow_timeout_override=False)
    async with engine_with(default_queue_policy=policy) as engine:
        await engine.start(1, 2, 3, 4)
        stays = await engine.start(5, timeout_s=0.1)
        await asyncio.sleep(5)
        await engine.work_off()
        assert (await stays).results == [10]


@virtually
async def test_a_delayed_request_runs_behind_all_others_and_runs() -> None:
    policy = QueuePolicy(timeout_action="DELAY")
    async with engine_with(max_batch_size=1, default_queue_policy=policy) as engine:
        await engine.start(1)
        impatient = await engine.start(2, timeout_s=0.1)
        await asyncio.sleep(0.2)
        await engine.start(3)
        await engine.start(4)
        await engine.work_off()
        assert (await impatient).results == [4]
    assert engine.batches == [[1], [3], [4], [2]]


@virtually
async def test_a_delayed_request_still_has_its_deadline() -> None:
    policy = QueuePolicy(timeout_action="DELAY", default_timeout_ms=100)
    async with engine_with(default_queue_policy=policy) as engine:
        await engine.start(1, 2, 3, 4)
        impatient = await engine.start(5, deadline_s=engine.now_s() + 0.5)
        await asyncio.sleep(0.6)
        await settle()
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await impatient
        await engine.finish()


@virtually
async def test_nothing_is_run_again_for_those_who_have_left() -> None:
    async with engine_with() as engine:
        leaves, bad = await engine.start(1), await engine.start(13)
        stays = await engine.start(2, 3)
        leaves.cancel()
        await settle()
        await engine.work_off()
        assert (await stays).results == [4, 6]
        with pytest.raises(InvalidArgument):
            await bad
    assert engine.batches == [[1, 13, 2, 3], [13], [2, 3]]
