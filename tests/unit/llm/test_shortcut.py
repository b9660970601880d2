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
from services.inference.llm.request import Delta, Event
from services.inference.llm.scheduler import Scheduler
from services.inference.llm.shortcut import COUNTED_TOGETHER, CountedShortcut
from tests.unit.llm.scheduling import check, scheduling, task, tasks
from tests.unit.llm.toy_backend import ToyBackend


class Reader:
    """Takes what the pattern lets it by the shortcut, and rests between the rest."""

    def __init__(self, takes: list[bool], rests: int = 0) -> None:
        self.events: list[Event] = []
        self.short = 0
        self.woken = 0
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
                self.woken += 1
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


async def first_token(events: list[Event]) -> None:
    """Returns when a caller has its first token and waits for more."""
    while not any(isinstance(event, Delta) for event in events):
        await asyncio.sleep(0)


async def test_who_takes_every_token_is_woken_for_start_and_end_alone() -> None:
    job, reader = replace(task(limit=9), end_ids=frozenset()), Reader([True])
    backend = ToyBackend()
    backend.hold(after=1)  # the prompt, and with it one token
    async with scheduling(backend) as scheduler:
        reading = asyncio.create_task(reader.read(scheduler, job))
        await first_token(reader.events)
        backend.go_on()
        await reading
    check(job, reader.events)
    assert (reader.short, reader.woken) == (8, 3)


async def test_a_shortcut_that_fails_fails_its_own_answer() -> None:
    def failing(delta: Delta) -> bool:
        raise ZeroDivisionError(delta.text)

    jobs = [replace(task((i, i + 1), limit=6), end_ids=frozenset()) for i in range(3)]
    good, bad = [Reader([True]) for _ in jobs[1:]], Reader([])
    bad.send = failing  # type: ignore[method-assign]
    backend = ToyBackend()
    backend.hold(after=1)  # the prompt, and with it one token
    async with scheduling(backend) as scheduler:
        failed = asyncio.create_task(bad.read(scheduler, jobs[0]))
        await first_token(bad.events)
        reading = [
            asyncio.create_task(reader.read(scheduler, job))
            for reader, job in zip(good, jobs[1:], strict=True)
        ]
        backend.go_on()
        with pytest.raises(Internal, match="the node's log has the details"):
            await failed
        await asyncio.gather(*reading)
    for reader, job in zip(good, jobs[1:], strict=True):
        check(job, reader.events)


def test_what_is_sent_is_counted_some_at_a_time_and_all_of_it_at_last() -> None:
    class Way:
        def __init__(self) -> None:
            self.sent: list[Delta] = []
            self.counted: list[Delta] = []

        def send(self, delta: Delta) -> bool:
            self.sent.append(delta)
            return bool(delta.text)

        def count(self, delta: Delta, sent_ns: int) -> None:
            assert sent_ns > delta.at_ns
            self.counted.append(delta)

    way, seen = Way(), list[Delta]()
    short = CountedShortcut(way, seen.append)
    deltas = [Delta(at, "a" if at % 3 else "", (at,)) for at in range(2 * COUNTED_TOGETHER)]
    behind = []
    for delta in deltas:
        assert short.send(delta) is bool(delta.text)
        behind.append(sum(bool(each.text) for each in way.sent) - len(way.counted))
    assert max(behind) == COUNTED_TOGETHER - 1
    assert behind[-1] > 0
    short.settle()
    assert way.sent == deltas
    assert way.counted == seen == [delta for delta in deltas if delta.text]
