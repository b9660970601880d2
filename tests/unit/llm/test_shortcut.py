"""Tokens that pass a waiting caller by: each arrives once, in its place, whoever takes it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import Internal
from services.inference.llm.answer import Task
from services.inference.llm.request import Delta, Event, Finished
from services.inference.llm.scheduler import Scheduler
from tests.unit.llm.scheduling import check, scheduling, task, tasks
from tests.unit.llm.toy_backend import ToyBackend


class Reader:
    """Takes what the pattern lets it by the shortcut, and rests between the rest."""

    def __init__(self, takes: list[bool], rests: int = 0) -> None:
        self.events: list[Event] = []
        self.short = 0
        self._takes = cycle(takes)
        self._rests = rests
        self._is_reading = False

    def send(self, delta: Delta) -> bool:
        assert not self._is_reading, "a token has overtaken another"
        if not next(self._takes):
            return False
        self.short += 1
        self.events.append(delta)
        return True

    async def read(self, scheduler: Scheduler, job: Task) -> None:
        async with contextlib.aclosing(scheduler.generate(job, self.send)) as events:
            async for event in events:
                self._is_reading = True
                for _ in range(self._rests):
                    await asyncio.sleep(0)
                self.events.append(event)
                self._is_reading = False


readers = st.tuples(
    tasks, st.lists(st.booleans(), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 9)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(readers, min_size=1, max_size=8), st.integers(1, 4))
def test_an_answer_is_whole_whatever_takes_the_shortcut(
    plans: list[tuple[Task, list[bool], int, int]], slots: int
) -> None:
    async def main() -> None:
        async with scheduling(ToyBackend(slots)) as scheduler:
            reading: list[tuple[Task, Reader, asyncio.Task[None]]] = []
            for job, takes, rests, pause in plans:
                for _ in range(pause):
                    await asyncio.sleep(0)
                reader = Reader(takes, rests)
                reading.append((job, reader, asyncio.create_task(reader.read(scheduler, job))))
            for job, reader, running in reading:
                await running
                if len(job.resumed) < job.limit:
                    check(job, reader.events)

    asyncio.run(main())


async def test_who_takes_every_token_is_woken_for_start_and_end_alone() -> None:
    job, reader = replace(task(limit=9), end_ids=frozenset()), Reader([True])
    async with (
        scheduling(ToyBackend()) as scheduler,
        contextlib.aclosing(scheduler.generate(job, reader.send)) as events,
    ):
        woken = [event async for event in events]
    deltas = [event for event in woken if isinstance(event, Delta)]
    assert isinstance(woken[-1], Finished)
    assert reader.short + sum(len(delta.token_ids) for delta in deltas) == 9
    assert reader.short > 0


async def test_a_shortcut_that_fails_fails_its_own_answer() -> None:
    def failing(delta: Delta) -> bool:
        raise ZeroDivisionError(delta.text)

    jobs = [replace(task((i, i + 1), limit=6), end_ids=frozenset()) for i in range(3)]
    good = [Reader([True]) for _ in jobs[1:]]
    backend = ToyBackend()
    async with scheduling(backend) as scheduler:
        backend.hold()
        reading = [
            asyncio.create_task(reader.read(scheduler, job))
            for reader, job in zip(good, jobs[1:], strict=True)
        ]
        bad = scheduler.generate(jobs[0], failing)
        first = asyncio.ensure_future(anext(bad))
        while scheduler.occupancy.waiting + scheduler.occupancy.running < 3:
            await asyncio.sleep(0)
        backend.go_on()
        await first
        with pytest.raises(Internal, match="the node's log has the details"):
            [event async for event in bad]
        await asyncio.gather(*reading)
    for reader, job in zip(good, jobs[1:], strict=True):
        check(job, reader.events)
