from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from services.inference.backends.backend import BackendUnavailable, Obstacle
from services.inference.backends.pending import Pending
from services.inference.models.improvement import Improvement
from tests.unit.inference.test_placement_watch import assignment


class Model:
    name, version, memory_bytes = "a", 1, 0

    def __init__(self, backend: str, pending: Pending | None = None) -> None:
        self.backend, self.pending = backend, pending

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Work:
    """What is to be done before a model can be opened on its engine; goes on until `may_end`."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.may_end = threading.Event()
        self.begun = 0
        self.is_cancelled = False
        self._failure = failure
        self.pending = Pending("engine", self._prepare, self._cancel)

    def _prepare(self) -> None:
        self.begun += 1
        self.may_end.wait()
        if self._failure is not None:
            raise self._failure

    def _cancel(self) -> None:
        self.is_cancelled = True
        self.may_end.set()


class Rig:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.improve = Improvement()

    async def run(self, work: Work | None, model: str = "a") -> bool:
        serving = Model("cpu", pending=None if work is None else work.pending)
        return await self.improve(assignment(model, 1), serving, self.said.append)

    async def begun(self, work: Work, model: str = "a") -> asyncio.Task[Any]:
        """Somebody who waits for work that is going on."""
        already, task = work.begun, asyncio.create_task(self.run(work, model))
        while not work.begun > already and not task.done():
            await asyncio.sleep(0)
        return task


async def test_once_the_work_is_done_the_model_may_be_opened_there() -> None:
    rig, work = Rig(), Work()
    work.may_end.set()
    assert await rig.run(work) is True
    assert rig.said == ["runs on cpu while its engine for engine is being built"]


async def test_without_work_nothing_is_said() -> None:
    rig = Rig()
    assert await rig.run(None) is False
    assert rig.said == []


async def test_work_that_fails_says_why() -> None:
    work = Work(BackendUnavailable("engine", Obstacle.BUILD_FAILED, "no"))
    work.may_end.set()
    with pytest.raises(BackendUnavailable, match="build_failed: no"):
        await Rig().run(work)


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_leaves_memory_finds_the_work_going_when_it_is_back() -> None:
    rig, first, second = Rig(), Work(), Work()
    await leave(await rig.begun(first))
    again = asyncio.create_task(rig.run(second))
    while len(rig.said) < 2:
        await asyncio.sleep(0)
    first.may_end.set()
    assert await again is True
    assert (first.begun, second.begun, first.is_cancelled) == (1, 0, False)


async def test_work_that_failed_while_nobody_waited_is_tried_again() -> None:
    rig = Rig()
    failing = Work(BackendUnavailable("engine", Obstacle.BUILD_FAILED, "no"))
    await leave(await rig.begun(failing))
    failing.may_end.set()
    while repr(rig.improve) != "<Improvement of []>":
        await asyncio.sleep(0)
    work = Work()
    work.may_end.set()
    assert await rig.run(work) is True


async def test_who_leaves_the_node_takes_the_work_along_and_nobody_elses() -> None:
    rig, work, others = Rig(), Work(), Work()
    await leave(await rig.begun(work))
    waiting = asyncio.create_task(rig.run(others, "b"))
    rig.improve.give_up(assignment("a", 1))
    rig.improve.give_up(assignment("c", 1))  # has none
    others.may_end.set()
    assert await waiting is True
    assert (work.is_cancelled, others.is_cancelled, others.begun) == (True, False, 1)


async def test_a_version_that_comes_back_to_the_node_begins_anew() -> None:
    rig, work, again = Rig(), Work(), Work()
    await leave(await rig.begun(work))
    rig.improve.give_up(assignment("a", 1))
    again.may_end.set()
    assert await rig.run(again) is True
    assert again.begun == 1
