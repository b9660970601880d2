"""What goes wrong fails as little as it can; an engine that is broken says so and ends."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import Internal, RingmeshError, Unavailable
from services.inference.backends.backend import BackendFailed, BackendLost
from services.inference.backends.health import FAILURES_IN_A_ROW, EngineBroken
from services.inference.llm.answer import Task
from services.inference.llm.request import Event, Started
from services.inference.llm.scheduler import Scheduler
from tests.unit.llm.scheduling import (
    Meter,
    alone,
    check,
    collect,
    scheduling,
    task,
    tasks,
    text_bytes,
)
from tests.unit.llm.toy_backend import ToyBackend


async def outcome(scheduler: Scheduler, job: Task) -> list[Event] | RingmeshError:
    try:
        return await collect(scheduler, job)
    except RingmeshError as error:
        return error


async def all_in(scheduler: Scheduler, backend: ToyBackend, *jobs: Task) -> list[asyncio.Task]:
    """Has all of them arrive before the first run."""
    backend.hold()
    running = [asyncio.create_task(outcome(scheduler, job)) for job in jobs]
    while scheduler.occupancy.waiting + scheduler.occupancy.running < len(jobs):
        await asyncio.sleep(0)
    backend.go_on()
    return running


@pytest.mark.parametrize("error", [BackendFailed("odd"), MemoryError()])
async def test_a_run_that_fails_once_fails_nobody(error: Exception) -> None:
    meter, backend = Meter(), ToyBackend(slots=2)
    backend.error, backend.failures = error, {1, 4, 7}
    async with scheduling(backend, meter=meter) as scheduler:
        check(task(), await collect(scheduler, task()))
    assert meter.failed_runs == 3


async def test_a_prompt_that_cannot_be_computed_fails_alone() -> None:
    meter, backend = Meter(), ToyBackend(slots=4)
    backend.poison = 90
    good = [task((i, i + 1)) for i in range(3)]
    async with scheduling(backend, meter=meter) as scheduler:
        running = await all_in(scheduler, backend, good[0], task((90, 3)), *good[1:])
        first, bad, *others = await asyncio.gather(*running)
        for job, events in zip(good, (first, *others), strict=True):
            check(job, events)
    assert isinstance(bad, BackendFailed)
    assert bad.message == "the toy is broken"
    assert meter.failed_runs == 2


async def test_a_row_that_cannot_be_computed_fails_alone() -> None:
    backend = ToyBackend(slots=4)
    bad = task((1, 2, 3), limit=12)
    good = [task((i, i + 1), limit=12) for i in range(20, 23)]
    made = alone(bad)[0]
    # A token that only this answer makes, and not as its last: it is then fed to the backend.
    others = {token for job in good for token in [*job.prompt, *alone(job)[0]]}
    backend.poison = next(token for token in made[1:-1] if token not in {*others, 1, 2, 3})
    async with scheduling(backend) as scheduler:
        running = await all_in(scheduler, backend, good[0], bad, *good[1:])
        first, failed, *rest = await asyncio.gather(*running)
        for job, events in zip(good, (first, *rest), strict=True):
            check(job, events)
        assert isinstance(failed, BackendFailed)
        again = await collect(scheduler, task((1, 2, 3), limit=2))
        assert isinstance(again[0], Started)
        assert again[0].cached_tokens == 0


async def test_an_engine_that_fails_again_and_again_is_given_up() -> None:
    backend = ToyBackend(slots=2)
    async with scheduling(backend) as scheduler:
        backend.break_down(after=3)  # two prompts and a token
        running = await all_in(scheduler, backend, *[task((i, 5), limit=50) for i in range(4)])
        for failed in await asyncio.gather(*running):
            assert isinstance(failed, Unavailable)  # so that they go on elsewhere
            assert "3 runs in a row failed: the toy is broken" in failed.message
        assert await scheduler.broken() == "3 runs in a row failed: the toy is broken"
        with pytest.raises(Unavailable, match="in a row"):
            await collect(scheduler, task())
        assert scheduler.occupancy.running == scheduler.occupancy.waiting == 0


@pytest.mark.parametrize("after", [0, 1, 4], ids=["prompt", "first decode", "later"])
async def test_a_caller_alone_is_told_that_the_engine_is_broken_and_not_that_it_asked_wrongly(
    after: int,
) -> None:
    backend = ToyBackend(slots=2)
    backend.break_down(after=after)
    async with scheduling(backend) as scheduler:
        with pytest.raises(EngineBroken, match="3 runs in a row failed: the toy is broken"):
            await collect(scheduler, replace(task(limit=50), end_ids=frozenset()))
        assert await scheduler.broken() == "3 runs in a row failed: the toy is broken"
    assert backend.runs == after + FAILURES_IN_A_ROW


async def test_an_engine_that_is_lost_is_given_up_at_once() -> None:
    backend, meter = ToyBackend(), Meter()
    backend.error, backend.failures = BackendLost("the device is gone"), {1}
    async with scheduling(backend, meter=meter) as scheduler:
        with pytest.raises(Unavailable, match="the engine is lost: the device is gone"):
            await collect(scheduler, task())
        assert "lost" in await scheduler.broken()
    assert (backend.runs, meter.failed_runs) == (1, 1)


async def test_an_answer_that_raises_fails_alone() -> None:
    bad, good = task((1, 2, 3), limit=12), task((20, 21), limit=12)
    first, *rest = alone(bad)[0]
    odd = next(token for token in rest if token not in {first, *alone(good)[0]})

    def raising(token: int) -> bytes:
        if token == odd:
            raise ZeroDivisionError
        return text_bytes(token)

    backend = ToyBackend(slots=2)
    async with scheduling(backend, text_bytes=raising) as scheduler:
        running = await all_in(scheduler, backend, bad, good)
        failed, events = await asyncio.gather(*running)
        assert isinstance(failed, Internal)
        check(good, events)
        again = await collect(scheduler, task((1, 2, 3), limit=1))
        assert isinstance(again[0], Started)
        assert again[0].cached_tokens == 0


async def test_a_bug_in_the_engine_fails_requests_and_leaves_it_usable() -> None:
    backend = ToyBackend(slots=2)
    async with scheduling(backend) as scheduler:
        backend.held = backend.held[:, :2]
        with pytest.raises(Internal, match="the engine failed"):
            await collect(scheduler, task())
        backend.held = ToyBackend(slots=2).held
        check(task(), await collect(scheduler, task()))


async def test_a_bug_that_comes_every_time_ends_the_engine() -> None:
    backend = ToyBackend(slots=2)
    async with scheduling(backend) as scheduler:
        backend.held = backend.held[:, :2]
        for _ in range(FAILURES_IN_A_ROW):
            with pytest.raises(Internal, match="the engine failed"):
                await collect(scheduler, task())
        assert "in a row" in await scheduler.broken()


async def test_a_copy_that_fails_costs_one_answer_and_sends_others_back_into_the_queue() -> None:
    backend = ToyBackend(slots=3)
    shared = tuple(range(1, 33))
    async with scheduling(backend, chunk_tokens=64) as scheduler:
        check(task(shared), await collect(scheduler, task(shared)))
        backend.failing_copies = {1}
        jobs = [task((*shared, 40 + i, 41 + i)) for i in range(3)]
        outcomes = await asyncio.gather(*await all_in(scheduler, backend, *jobs))
    lost = [each for each in outcomes if isinstance(each, RingmeshError)]
    assert [type(each) for each in lost] == [BackendFailed]
    for job, events in zip(jobs, outcomes, strict=True):
        if not isinstance(events, RingmeshError):
            check(job, events)


async def test_after_an_exchange_that_failed_neither_slot_is_relied_on() -> None:
    backend = ToyBackend(slots=2)
    first = replace(task(tuple(range(1, 31)), limit=2), end_ids=frozenset())
    second = replace(task((40, 41), limit=12), end_ids=frozenset())
    async with scheduling(backend, chunk_tokens=64) as scheduler:
        backend.failing_copies = {1}
        running = await all_in(scheduler, backend, first, second)
        check(first, await running[0])
        assert isinstance(await running[1], BackendFailed)
        again = await collect(scheduler, replace(first, limit=9))
        check(replace(first, limit=9), again)
        assert isinstance(again[0], Started)
        assert again[0].cached_tokens == 0
        assert backend.copies == 1


async def test_what_cannot_be_kept_is_lost_and_the_newcomer_is_served() -> None:
    backend = ToyBackend(slots=2)
    old, new = task(tuple(range(1, 31))), task((40, 41))
    async with scheduling(backend, chunk_tokens=64) as scheduler:
        check(old, await collect(scheduler, old))
        backend.failing_copies = {1}
        check(new, await collect(scheduler, new))
        again = await collect(scheduler, old)
    check(old, again)
    assert isinstance(again[0], Started)
    assert again[0].cached_tokens == 0
    assert backend.copies == 1


# A task, how many turns of the loop pass before it, and after how many events its caller leaves.
lives = st.lists(
    st.tuples(tasks, st.integers(0, 30), st.one_of(st.none(), st.integers(0, 6))),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(
    lives, st.integers(1, 4), st.sets(st.integers(1, 60)), st.sets(st.integers(1, 12), max_size=4)
)
def test_whatever_fails_an_answer_that_ends_is_the_answer_alone(
    plans: list[tuple[Task, int, int | None]], slots: int, failures: set[int], copies: set[int]
) -> None:
    async def live(scheduler: Scheduler, job: Task, leave_after: int | None) -> None:
        seen: list[Event] = []
        try:
            async with contextlib.aclosing(scheduler.generate(job)) as events:
                async for event in events:
                    if leave_after is not None and len(seen) >= leave_after:
                        return
                    seen.append(event)
        except (BackendFailed, Unavailable):
            return
        if len(job.resumed) < job.limit:
            check(job, seen)

    async def main() -> None:
        backend = ToyBackend(slots)
        backend.failures, backend.failing_copies = failures, copies
        async with scheduling(backend) as scheduler, asyncio.TaskGroup() as group:
            for job, pause, leave_after in plans:
                for _ in range(pause):
                    await asyncio.sleep(0)
                group.create_task(live(scheduler, replace(job), leave_after))

    asyncio.run(main())
