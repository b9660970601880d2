"""Scheduler and engine thread on a toy backend: every answer is what it would be alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import DeadlineExceeded, DeadlineTooShort, QueueFull, Unavailable
from services.inference.llm.answer import Task
from services.inference.llm.request import Delta, Event, Finished, FinishReason, Started
from services.inference.llm.scheduler import Scheduler
from services.inference.llm.text_stream import TextStream
from tests.unit.llm.scheduling import (
    Meter,
    alone,
    check,
    collect,
    scheduling,
    task,
    tasks,
    text_bytes,
    tokens_of,
)
from tests.unit.llm.toy_backend import ToyBackend

# A task, how many turns of the loop pass before it, and after how many events its caller leaves.
lives = st.lists(
    st.tuples(tasks, st.integers(0, 30), st.one_of(st.none(), st.integers(0, 6))),
    min_size=1,
    max_size=16,
)


@settings(deadline=None, max_examples=60)
@given(lives, st.integers(1, 5), st.integers(1, 50))
def test_batching_never_changes_an_answer(
    plans: list[tuple[Task, int, int | None]], slots: int, chunk_tokens: int
) -> None:
    async def live(scheduler: Scheduler, job: Task, leave_after: int | None) -> None:
        seen: list[Event] = []
        async with contextlib.aclosing(scheduler.generate(job)) as events:
            async for event in events:
                if leave_after is not None and len(seen) >= leave_after:
                    return
                seen.append(event)
        if len(job.resumed) < job.limit:
            check(job, seen)

    async def main() -> None:
        async with (
            scheduling(ToyBackend(slots), chunk_tokens=chunk_tokens) as scheduler,
            asyncio.TaskGroup() as group,
        ):
            for job, pause, leave_after in plans:
                for _ in range(pause):
                    await asyncio.sleep(0)
                group.create_task(live(scheduler, job, leave_after))

    asyncio.run(main())


async def test_sequences_decode_together() -> None:
    backend = ToyBackend(slots=4)
    async with scheduling(backend) as scheduler:
        backend.hold()
        jobs = [task((i, i + 1), limit=6) for i in range(4)]
        running = [asyncio.create_task(collect(scheduler, job)) for job in jobs]
        while scheduler.occupancy.waiting + scheduler.occupancy.running < 4:
            await asyncio.sleep(0)
        backend.go_on()
        for job, events in zip(jobs, await asyncio.gather(*running), strict=True):
            check(job, events)
    assert backend.runs < 4 * 6


async def test_a_sequence_moves_into_an_empty_slot_below_it() -> None:
    backend = ToyBackend(slots=2)
    short, long = task((7,), limit=2), task((8, 9), limit=12)
    async with scheduling(backend) as scheduler:
        backend.hold()
        running = [asyncio.create_task(collect(scheduler, job)) for job in (short, long)]
        while scheduler.occupancy.waiting + scheduler.occupancy.running < 2:
            await asyncio.sleep(0)
        backend.go_on()
        for job, events in zip((short, long), await asyncio.gather(*running), strict=True):
            check(job, events)
    assert backend.held[0, :2].tolist() == [8, 9]


async def test_the_same_prompt_again_is_cached() -> None:
    async with scheduling(ToyBackend(slots=2)) as scheduler:
        prompt = tuple(range(30))
        await collect(scheduler, task(prompt))
        started = (await collect(scheduler, task(prompt)))[0]
        assert isinstance(started, Started)
        assert started.cached_tokens == 28


async def test_a_stop_string_ends_the_answer_before_it() -> None:
    tokens, _ = alone(task(limit=6))
    text = b"".join(map(text_bytes, tokens)).decode()
    async with scheduling(ToyBackend()) as scheduler:
        events = await collect(scheduler, replace(task(limit=20), stop=(text[3:5],)))
    emitted = "".join(event.text for event in events if isinstance(event, Delta))
    assert emitted == text[: text.index(text[3:5])]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.STOP


@pytest.mark.parametrize("limit", [5, 6], ids=["with the last token", "before"])
async def test_an_answer_that_a_stop_string_ends_goes_on_elsewhere(limit: int) -> None:
    tokens, _ = alone(task(limit=5))
    text = b"".join(map(text_bytes, tokens)).decode()
    job = replace(task(limit=limit), stop=(text[3:],))
    async with scheduling(ToyBackend()) as scheduler:
        for cut in range(len(tokens) + 1):
            told = TextStream(job.stop).feed(text[:cut].encode())
            events = await collect(scheduler, replace(job, resumed=tuple(tokens[:cut])))
            assert [*tokens[:cut], *tokens_of(events)] == tokens
            assert told + text_of(events) == text[:3]
            finished = events[-1]
            assert isinstance(finished, Finished)
            assert (finished.reason, finished.completion_tokens) == (FinishReason.STOP, 5)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_text_held_back_for_a_stop_string_comes_at_the_end() -> None:
    tokens, _ = alone(task(limit=4))
    text = b"".join(map(text_bytes, tokens)).decode()
    async with scheduling(ToyBackend()) as scheduler:
        events = await collect(scheduler, replace(task(limit=4), stop=(text[-1] + "?",)))
        told = replace(task(limit=4), stop=(text[-1] + "?",), resumed=tuple(tokens))
        again = await collect(scheduler, told)
    assert text_of(events) == text
    assert text_of(again) == ""


async def test_a_full_queue_refuses_and_a_place_is_free_again_later() -> None:
    backend = ToyBackend(slots=1)
    async with scheduling(backend, max_queue=2) as scheduler:
        backend.hold()
        first = asyncio.create_task(collect(scheduler, task()))
        while not scheduler.occupancy.running:
            await asyncio.sleep(0)
        queued = [asyncio.create_task(collect(scheduler, task())) for _ in range(2)]
        while scheduler.occupancy.waiting < 2:
            await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 requests are waiting") as refused:
            await collect(scheduler, task())
        assert refused.value.retry_after_s == 1.0
        backend.go_on()
        await asyncio.gather(first, *queued)
        check(task(), await collect(scheduler, task()))


async def test_a_crowd_of_one_session_delays_another_by_one_request() -> None:
    backend = ToyBackend(slots=1)
    async with scheduling(backend) as scheduler:
        backend.hold()
        order: list[str] = []

        async def ask(session: str) -> None:
            job = replace(task(), session=session)
            async with contextlib.aclosing(scheduler.generate(job)) as events:
                started = await anext(events)
                order.append(session)
                check(job, [started, *[event async for event in events]])

        asked = [asyncio.create_task(ask(name)) for name in ["crowd"] * 20 + ["single"]]
        while scheduler.occupancy.waiting + scheduler.occupancy.running < len(asked):
            await asyncio.sleep(0)
        backend.go_on()
        await asyncio.gather(*asked)
    assert order.index("single") <= 2


async def test_a_crowd_makes_room_in_a_full_queue() -> None:
    backend = ToyBackend(slots=1)
    async with scheduling(backend, max_queue=3) as scheduler:
        backend.hold()
        running = asyncio.create_task(collect(scheduler, task()))
        while not scheduler.occupancy.running:
            await asyncio.sleep(0)
        crowd = [
            asyncio.create_task(collect(scheduler, replace(task(), session="crowd")))
            for _ in range(3)
        ]
        while scheduler.occupancy.waiting < 3:
            await asyncio.sleep(0)
        single = asyncio.create_task(collect(scheduler, replace(task(), session="single")))
        with pytest.raises(QueueFull):
            await crowd[-1]
        backend.go_on()
        for events in await asyncio.gather(running, *crowd[:-1], single):
            check(task(), events)


async def test_who_is_late_in_the_queue_never_reaches_the_backend() -> None:
    backend = ToyBackend(slots=1)
    async with scheduling(backend) as scheduler:
        backend.hold()
        first = asyncio.create_task(collect(scheduler, task(limit=2)))
        while not scheduler.occupancy.running:
            await asyncio.sleep(0)
        late = replace(task(tuple(range(90, 120))), deadline_s=time.monotonic() + 0.5)
        queued = asyncio.create_task(collect(scheduler, late))
        while time.monotonic() < (late.deadline_s or 0):
            await asyncio.sleep(0.005)
        backend.go_on()
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await queued
        await first
    assert 90 not in backend.held


async def test_a_deadline_that_has_passed_is_refused_at_the_door() -> None:
    async with scheduling(ToyBackend()) as scheduler:
        with pytest.raises(DeadlineTooShort):
            await collect(scheduler, replace(task(), deadline_s=time.monotonic() - 1))


async def test_leaving_cancels_within_a_step() -> None:
    backend = ToyBackend(slots=1)
    async with scheduling(backend) as scheduler:
        async with contextlib.aclosing(scheduler.generate(task(limit=100))) as events:
            await anext(events)
        runs = backend.runs
        while scheduler.occupancy.running:
            await asyncio.sleep(0)
        # The step that was under way, and at most the one already planned.
        assert backend.runs <= runs + 2


async def test_leaving_the_queue_frees_the_place() -> None:
    backend = ToyBackend(slots=1)
    async with scheduling(backend) as scheduler:
        backend.hold()
        first = asyncio.create_task(collect(scheduler, task()))
        while not scheduler.occupancy.running:
            await asyncio.sleep(0)
        queued = asyncio.create_task(collect(scheduler, task((90, 91))))
        while not scheduler.occupancy.waiting:
            await asyncio.sleep(0)
        queued.cancel()
        await asyncio.wait([queued])
        backend.go_on()
        await first
    assert 90 not in backend.held


async def test_closing_fails_what_is_left() -> None:
    backend = ToyBackend(slots=1)
    async with scheduling(backend) as scheduler:
        backend.hold(after=2)
        events = scheduler.generate(replace(task(limit=100), end_ids=frozenset()))
        await anext(events)
        scheduler.close()
        backend.go_on()
        with pytest.raises(Unavailable):
            async for _ in events:
                pass
        with pytest.raises(Unavailable):
            await collect(scheduler, task())


async def test_an_urgent_request_need_not_wait_and_costs_the_other_nothing() -> None:
    backend, meter = ToyBackend(slots=2), Meter()
    lesser = replace(task((7, 8), limit=40), end_ids=frozenset(), priority=2)
    long = replace(task((1, 2, 3), limit=60), end_ids=frozenset())
    urgent = task((4, 5))
    async with scheduling(backend, meter=meter) as scheduler:
        backend.hold(after=9)
        running = [asyncio.create_task(collect(scheduler, job)) for job in (lesser, long)]
        while backend.runs < 9:
            await asyncio.sleep(0)
        asked = asyncio.create_task(collect(scheduler, urgent))
        while not scheduler.occupancy.waiting:
            await asyncio.sleep(0)
        backend.hold(after=12)
        check(urgent, await asked)
        assert not any(each.done() for each in running)
        backend.go_on()
        for job, events in zip((lesser, long), await asyncio.gather(*running), strict=True):
            check(job, events)
            started = [event for event in events if isinstance(event, Started)]
            assert len(started) == 1
    assert meter.preemptions == 1


async def test_who_leaves_while_set_aside_is_forgotten() -> None:
    backend, meter = ToyBackend(slots=1), Meter()
    lesser = replace(task((7, 8), limit=100), end_ids=frozenset(), priority=2)
    async with scheduling(backend, meter=meter) as scheduler:
        backend.hold(after=4)
        running = asyncio.create_task(collect(scheduler, lesser))
        while backend.runs < 4:
            await asyncio.sleep(0)
        asked = asyncio.create_task(collect(scheduler, task((4, 5))))
        while not scheduler.occupancy.waiting:
            await asyncio.sleep(0)
        backend.hold(after=2)
        while not meter.preemptions:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        backend.go_on()
        check(task((4, 5)), await asked)
    assert scheduler.occupancy.waiting == 0
