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

    def __init__(self, backend: str, remark: str = "") -> None:
        self.backend, self.remark = backend, remark
        self.is_closed = False

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        self.is_closed = True


class Backend:
    """One that has work to do until `may_end`."""

    name = "engine"

    def __init__(self, failure: Exception | None = None, *, has_work: bool = True) -> None:
        self.may_end = threading.Event()
        self.is_cancelled = False
        self._failure, self._has_work = failure, has_work

    def pending(self, _digest: str) -> Pending | None:
        return Pending(self.name, self._prepare, self._cancel) if self._has_work else None

    def _prepare(self) -> None:
        self.may_end.wait()
        if self._failure is not None:
            raise self._failure

    def _cancel(self) -> None:
        self.is_cancelled = True


class Rig:
    def __init__(self, backend: Any, opened: Model) -> None:
        self.said: list[str] = []
        self.opened = opened
        self.improve = Improvement([object(), backend], self.open)  # type: ignore[list-item]

    async def open(self, _assignment: Any) -> Model:
        return self.opened

    async def run(self) -> Any:
        return await self.improve(assignment("a", 1), Model("cpu"), self.said.append)


async def test_once_the_work_is_done_the_model_is_opened_there() -> None:
    backend = Backend()
    rig = Rig(backend, Model("engine"))
    backend.may_end.set()
    assert await rig.run() is rig.opened
    assert rig.said == ["runs on cpu while its engine for engine is being built"]


async def test_without_work_nothing_is_said() -> None:
    rig = Rig(Backend(has_work=False), Model("engine"))
    assert await rig.run() is None
    assert rig.said == []


async def test_work_that_fails_says_why() -> None:
    backend = Backend(BackendUnavailable("engine", Obstacle.BUILD_FAILED, "no"))
    backend.may_end.set()
    with pytest.raises(BackendUnavailable, match="build_failed: no"):
        await Rig(backend, Model("engine")).run()


async def test_a_model_that_is_refused_all_the_same_stays_and_says_why() -> None:
    backend = Backend()
    backend.may_end.set()
    rig = Rig(backend, Model("cpu", "engine: out_of_memory: 3 bytes"))
    assert await rig.run() is None
    assert rig.opened.is_closed
    assert rig.said[-1] == "engine: out_of_memory: 3 bytes"


async def test_who_gives_up_does_not_wait_for_the_work() -> None:
    backend = Backend()
    rig = Rig(backend, Model("engine"))
    task = asyncio.create_task(rig.run())
    while not rig.said:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.is_cancelled
    assert not backend.may_end.is_set()
    backend.may_end.set()
