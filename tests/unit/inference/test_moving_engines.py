"""A version that moves to a better engine: no call is lost, none changes engines half way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mesh.deployment import Assignment
from mesh.errors import FailedPrecondition
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.memory import Memory
from services.inference.models.serving import Remark
from services.inference.models.state import ModelState
from services.inference.models.table import ModelTable
from services.inference.models.version_lifetime import VersionLifetime
from tests.unit.inference.test_placement_watch import assignment

KEY = ("a", 1)


class Engine:
    """Answers with its own name, once it is let."""

    name, version = KEY

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.memory_bytes = len(backend)
        self.may_answer = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.is_warm = self.is_closed = False
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def answer(self) -> str:
        first = self.backend
        await self.may_answer.wait()
        assert self.is_warm
        assert not self.is_closed
        return first + self.backend

    async def broken(self) -> str:
        return await asyncio.shield(self.failure)

    async def warm_up(self) -> None:
        self.is_warm = True

    async def close(self) -> None:
        self.is_closed = True
        await self.may_close.wait()


class Rig:
    def __init__(self, memory: Memory | None = None) -> None:
        self.table = ModelTable()
        self.memory = memory or Memory()
        self.cpu, self.gpu = Engine("cpu"), Engine("gpu")
        self.is_built = asyncio.Event()
        self.refusal: Exception | None = None
        self.opened = self.builds = 0
        self.lifetime = VersionLifetime(
            assignment(*KEY),
            self.table,
            open_model=self.open,
            announce=self.announce,
            loads=asyncio.Semaphore(1),
            unload_timeout_s=60,
            improve=self.improve,
            memory=self.memory,
            measure=self.measure,
        )

    async def open(self, _assignment: Assignment) -> Engine:
        self.opened += 1
        if self.is_built.is_set() and not self.gpu.is_warm:
            return self.gpu
        return self.cpu

    async def improve(self, _assignment: Assignment, serving: LoadedModel, say: Remark) -> bool:
        if self.is_built.is_set():
            return False
        self.builds += 1
        say(f"runs on {serving.backend}, the gpu's engine is being built")
        await self.is_built.wait()
        if self.refusal is not None:
            raise self.refusal
        return True

    async def measure(self, _assignment: Assignment) -> int:
        return 3

    async def announce(self) -> None:
        pass

    @property
    def status(self) -> Any:
        return next(iter(self.table.statuses()))

    async def call(self) -> str:
        model: Engine = await self.table.resolve("a", "1", None)
        return await model.answer()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)

    async def serving(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.lifetime.run())
        await self.until(
            lambda: bool(list(self.table.statuses())) and "built" in self.status.reason
        )
        return task

    async def started(self) -> asyncio.Task[str]:
        """A call that has its engine."""
        call = asyncio.create_task(self.call())
        await asyncio.sleep(0)
        return call


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_calls_under_way_end_where_they_began_and_new_ones_go_to_the_new_engine(
    rig: Rig,
) -> None:
    task = await rig.serving()
    assert rig.status.backend == "cpu"
    assert rig.status.state is ModelState.READY
    before = [await rig.started() for _ in range(3)]
    rig.is_built.set()
    await rig.until(lambda: rig.status.backend == "gpu")
    assert rig.status.state is ModelState.READY
    assert rig.status.reason == "moved from cpu to gpu"
    after = [await rig.started() for _ in range(3)]
    rig.gpu.may_answer.set()
    assert await asyncio.gather(*after) == ["gpugpu"] * 3
    assert not rig.cpu.is_closed
    rig.cpu.may_answer.set()
    assert await asyncio.gather(*before) == ["cpucpu"] * 3
    await rig.until(lambda: rig.cpu.is_closed)
    assert not rig.gpu.is_closed
    rig.lifetime.remove()
    await task
    assert rig.gpu.is_closed
    assert rig.status.state is ModelState.UNLOADED


async def test_an_engine_that_cannot_be_had_leaves_the_old_one_and_its_reason(rig: Rig) -> None:
    task = await rig.serving()
    rig.refusal = FailedPrecondition("gpu: out_of_memory: 3 bytes")
    rig.is_built.set()
    await rig.until(lambda: "out_of_memory" in rig.status.reason)
    assert (rig.status.state, rig.status.backend) == (ModelState.READY, "cpu")
    rig.cpu.may_answer.set()
    assert await (await rig.started()) == "cpucpu"
    rig.lifetime.remove()
    await task


async def test_an_unexpected_failure_does_not_end_the_service(rig: Rig) -> None:
    task = await rig.serving()
    rig.refusal = ZeroDivisionError("what")
    rig.is_built.set()
    await rig.until(lambda: "ZeroDivisionError" in rig.status.reason)
    assert rig.status.state is ModelState.READY
    rig.lifetime.remove()
    await task


async def test_removal_ends_the_building_and_closes_both(rig: Rig) -> None:
    task = await rig.serving()
    rig.lifetime.remove()
    await task
    assert rig.cpu.is_closed
    assert not rig.gpu.is_warm


async def test_removal_waits_for_calls_on_either_engine(rig: Rig) -> None:
    task = await rig.serving()
    before = await rig.started()
    rig.is_built.set()
    await rig.until(lambda: rig.status.backend == "gpu")
    after = await rig.started()
    rig.lifetime.remove()
    await rig.until(lambda: rig.status.state is ModelState.DRAINING)
    rig.gpu.may_answer.set()
    assert await after == "gpugpu"
    assert not rig.gpu.is_closed
    rig.cpu.may_answer.set()
    assert await before == "cpucpu"
    await task
    assert rig.cpu.is_closed
    assert rig.gpu.is_closed


async def test_after_a_move_it_is_the_new_engine_whose_failure_counts(rig: Rig) -> None:
    task = await rig.serving()
    rig.is_built.set()
    await rig.until(lambda: rig.status.backend == "gpu")
    rig.cpu.failure.set_result("nobody minds")
    await rig.until(lambda: rig.cpu.is_closed)
    assert rig.status.state is ModelState.READY
    rig.cpu = Engine("cpu")
    rig.gpu.failure.set_result("the device is lost")
    await rig.until(lambda: rig.opened == 3)
    await rig.until(lambda: rig.status.state is ModelState.READY)
    assert rig.gpu.is_closed
    assert rig.status.backend == "cpu"
    rig.lifetime.remove()
    await task


async def test_an_engine_that_breaks_before_the_better_one_is_there_is_opened_anew(
    rig: Rig,
) -> None:
    task = await rig.serving()
    broken, rig.cpu = rig.cpu, Engine("cpu")
    broken.failure.set_result("lost")
    await rig.until(lambda: rig.opened == 2)
    await rig.until(lambda: rig.status.state is ModelState.READY)
    assert broken.is_closed
    rig.lifetime.remove()
    await task


async def test_a_build_goes_on_where_a_version_was_asked_to_leave_and_stays(rig: Rig) -> None:
    task = await rig.serving()
    call = await rig.started()
    rig.lifetime.page_out("to make room for another")
    for _ in range(20):
        await asyncio.sleep(0)
    rig.is_built.set()
    await rig.until(lambda: rig.status.backend == "gpu")
    rig.cpu.may_answer.set()
    assert (await call, rig.builds, rig.opened) == ("cpucpu", 1, 2)
    rig.lifetime.remove()
    await task


async def test_calls_on_the_old_engine_are_whole_though_the_new_one_breaks(rig: Rig) -> None:
    task = await rig.serving()
    before = await rig.started()
    rig.is_built.set()
    await rig.until(lambda: rig.status.backend == "gpu")
    old, rig.cpu = rig.cpu, Engine("cpu")
    rig.gpu.failure.set_result("the device is lost")
    await rig.until(lambda: rig.opened == 3)
    await rig.until(lambda: rig.status.state is ModelState.READY)
    assert rig.gpu.is_closed
    assert not old.is_closed
    old.may_answer.set()
    assert await before == "cpucpu"
    await rig.until(lambda: old.is_closed)
    rig.lifetime.remove()
    await task


async def test_an_engine_that_is_refused_when_it_is_built_leaves_the_old_one(rig: Rig) -> None:
    task = await rig.serving()
    rig.gpu = Engine("cpu")
    rig.is_built.set()
    await rig.until(lambda: rig.gpu.is_closed)
    assert (rig.status.reason, rig.status.state) == ("stays on cpu", ModelState.READY)
    assert not rig.cpu.is_closed
    rig.lifetime.remove()
    await task


async def test_both_engines_are_counted_while_there_are_both() -> None:
    rig = Rig(Memory(6))
    task = await rig.serving()
    call = await rig.started()
    rig.is_built.set()
    await rig.until(lambda: rig.status.backend == "gpu")
    assert "<Memory 6 of 6" in repr(rig.memory)
    rig.cpu.may_answer.set()
    await call
    await rig.until(lambda: rig.cpu.is_closed)
    await rig.until(lambda: "<Memory 3 of 6" in repr(rig.memory))
    rig.lifetime.remove()
    await task
    assert "<Memory 0 of 6" in repr(rig.memory)


async def test_a_second_engine_for_which_there_is_no_room_is_refused_with_figures() -> None:
    rig = Rig(Memory(5))
    task = await rig.serving()
    rig.is_built.set()
    await rig.until(lambda: "needs" in rig.status.reason)
    assert rig.status.reason == (
        "a@1 engine 2 needs 3 bytes of memory, and 2 bytes of 5 bytes are free: a@1 has 3 bytes"
    )
    assert (rig.status.state, rig.status.backend) == (ModelState.READY, "cpu")
    rig.lifetime.remove()
    await task


async def test_a_second_engine_is_not_counted_any_more_though_its_closing_is_interrupted() -> None:
    rig = Rig(Memory(6))
    task = await rig.serving()
    rig.gpu = Engine("cpu")
    rig.gpu.may_close.clear()
    rig.is_built.set()
    await rig.until(lambda: rig.gpu.is_closed)
    rig.lifetime.remove()
    for _ in range(20):
        await asyncio.sleep(0)
    assert "<Memory 6 of 6" in repr(rig.memory)  # it is still there
    rig.gpu.may_close.set()
    await task
    assert "<Memory 0 of 6" in repr(rig.memory)
