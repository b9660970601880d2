"""A load that is given up: its memory is taken until its thread has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest

from mesh.deployment import Assignment
from mesh.errors import FailedPrecondition
from services.inference.loading_thread import load_in_thread
from services.inference.models.loading import Loading
from services.inference.models.state import ModelState
from tests.unit.inference.test_paging import Model, Rig
from tests.unit.inference.test_placement_watch import assignment


class Work:
    """Blocks until it may end."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.discarded: list[int] = []
        self.failure: Exception | None = None

    def __call__(self) -> int:
        self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return 7


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.may_end.set()


async def begun(work: Work) -> asyncio.Task[int]:
    task = asyncio.create_task(load_in_thread(work, work.discarded.append))
    await asyncio.sleep(0)
    return task


async def cancelled(task: asyncio.Task[int]) -> None:
    """Cancels it, and lets it do what it can do at once."""
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_made_is_returned_and_kept(work: Work) -> None:
    task = await begun(work)
    work.may_end.set()
    assert (await task, work.discarded) == (7, [])


async def test_a_failure_is_raised(work: Work) -> None:
    work.failure = FailedPrecondition("no weights")
    work.may_end.set()
    with pytest.raises(FailedPrecondition, match="no weights"):
        await (await begun(work))


async def test_who_gives_up_waits_and_what_was_made_is_discarded(work: Work) -> None:
    task = await begun(work)
    await cancelled(task)
    assert not task.done()
    work.may_end.set()
    await asyncio.wait({task})
    assert (task.cancelled(), work.discarded) == (True, [7])


async def test_a_failure_of_what_was_given_up_is_nobodys(work: Work) -> None:
    work.failure = FailedPrecondition("no weights")
    task = await begun(work)
    await cancelled(task)
    work.may_end.set()
    await asyncio.wait({task})
    assert (task.cancelled(), work.discarded) == (True, [])


async def test_who_gives_up_twice_waits_for_nothing(work: Work) -> None:
    task = await begun(work)
    await cancelled(task)
    await cancelled(task)
    assert (task.cancelled(), work.discarded) == (True, [])


class SlowRig(Rig):
    """Its models named `slow` are loaded in a thread that ends when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.made: list[Model] = []

    async def open(self, placed: Assignment) -> Model:
        opened = await super().open(placed)
        if not placed.model.startswith("slow"):
            return opened

        def work() -> Model:
            self.may_end.wait()
            return opened

        def discard(model: Model) -> None:
            model.is_closed = True

        self.made.append(opened)
        return await load_in_thread(work, discard)


@pytest.fixture
async def rig() -> AsyncIterator[SlowRig]:
    made = SlowRig()
    yield made
    made.may_end.set()
    for lifetime in made.lifetimes.values():
        lifetime.remove()
    await asyncio.wait(made.tasks)


async def test_memory_is_not_free_before_the_thread_has_ended(rig: SlowRig) -> None:
    rig.place("slow-60")
    await rig.until(lambda: bool(rig.made))
    rig.lifetimes["slow-60"].remove()
    await rig.until(lambda: rig.status("slow-60").state is ModelState.DRAINING)
    rig.place("b-60", may_page=False)
    await rig.until(lambda: "needs" in rig.status("b-60").reason)
    assert rig.status("b-60").reason.endswith("free: slow-60@1 has 60 bytes")
    assert not rig.tasks[0].done()
    rig.may_end.set()
    await rig.tasks[0]
    assert rig.status("slow-60").state is ModelState.UNLOADED
    assert rig.made[0].is_closed
    await rig.until(lambda: rig.status("b-60").state is ModelState.READY)


async def test_a_page_in_that_is_given_up_holds_its_memory_too(rig: SlowRig) -> None:
    rig.may_end.set()
    await rig.placed("slow-60")
    await rig.placed("b-60")
    rig.may_end.clear()
    caller = asyncio.create_task(rig.call("slow-60"))
    await rig.until(lambda: len(rig.made) == 2)
    rig.lifetimes["slow-60"].remove()
    await rig.until(lambda: rig.status("slow-60").state is ModelState.DRAINING)
    assert "slow-60" in repr(rig.memory)
    rig.may_end.set()
    await rig.tasks[0]
    assert rig.made[1].is_closed
    assert "slow-60" not in repr(rig.memory)
    caller.cancel()
    await asyncio.wait({caller})


async def test_a_node_that_stops_waits_for_no_load(rig: SlowRig) -> None:
    rig.place("slow-60")
    await rig.until(lambda: bool(rig.made))
    rig.tasks[0].cancel()
    await asyncio.wait(rig.tasks[:1])  # though the thread is at work
    assert rig.tasks[0].cancelled()


class UnclosableModel(Model):
    """Comes to be though it is given up while it warms up, and fails to close."""

    warms_up = False

    async def warm_up(self) -> None:
        self.warms_up = True
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def close(self) -> None:
        await super().close()
        raise OSError("the device is gone")


async def test_what_fails_to_close_gives_its_memory_back_and_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    made = UnclosableModel("a-60", 60, rig.opened)

    async def open_model(_: Assignment) -> Model:
        return made

    loading = Loading(("a-60", 1), open_model, memory=rig.memory, measure=rig.measure)
    opening = asyncio.create_task(loading.open_beside(assignment("a-60", 1)))
    await rig.until(lambda: made.warms_up)
    assert "engine 2" in repr(rig.memory)
    opening.cancel()
    await asyncio.wait({opening})
    await loading.ended()
    assert opening.cancelled()
    assert made.is_closed
    assert "engine 2" not in repr(rig.memory)  # nobody else would ever give it back
    assert [record.message for record in caplog.records] == ["closing an engine failed"]
    assert "the device is gone" in caplog.text
