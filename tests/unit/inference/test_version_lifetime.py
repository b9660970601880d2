"""A version's stay: announced when ready, withdrawn before it goes, never taken from a caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mesh.deployment import Assignment
from mesh.errors import FailedPrecondition
from services.inference.models import version_lifetime
from services.inference.models.metrics import ModelCollector
from services.inference.models.recovery import LONGEST_PAUSE_S, STEADY_S, Relapses
from services.inference.models.state import ModelState
from services.inference.models.table import ModelTable
from services.inference.models.version_lifetime import VersionLifetime
from tests.unit.inference.test_placement_watch import assignment

S = ModelState
KEY = ("a", 1)


class Model:
    """A model that notes what is done with it."""

    name, version, backend, memory_bytes = "a", 1, "test", 3

    def __init__(self, log: list[str]) -> None:
        self._log = log
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def broken(self) -> str:
        return await asyncio.shield(self.failure)

    async def warm_up(self) -> None:
        self._log.append("warm")

    async def close(self) -> None:
        self._log.append("closed")


class RemarkableModel(Model):
    """One that runs on something else than it should."""

    remark = "runs on that instead of this"


class Rig:
    model: type[Model] = Model

    def __init__(self) -> None:
        self.table = ModelTable()
        self.log: list[str] = []
        self.now_s = 0.0
        self.models: list[Model] = []
        self.failures: list[Exception] = []
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.lifetime = VersionLifetime(
            assignment(*KEY),
            self.table,
            open_model=self.open,
            announce=self.announce,
            loads=asyncio.Semaphore(1),
            unload_timeout_s=60,
            clock=lambda: self.now_s,
        )

    async def open(self, _assignment: Assignment) -> Model:
        self.log.append("open")
        await self.may_open.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.models.append(self.model(self.log))
        return self.models[-1]

    async def announce(self) -> None:
        self.log.append(f"say {sorted(self.table.ready_references())}")

    @property
    def status(self) -> Any:
        return next(iter(self.table.statuses()))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(version_lifetime, "FIRST_RETRY_S", 0.001)
    return Rig()


async def test_from_placement_to_removal(rig: Rig) -> None:
    task = asyncio.create_task(rig.lifetime.run())
    await rig.until(lambda: rig.log[-1:] == ["say ['a@1']"])
    assert (rig.status.state, rig.status.backend, rig.status.memory_bytes) == (S.READY, "test", 3)
    rig.lifetime.remove()
    await task
    assert rig.log == ["open", "warm", "say ['a@1']", "say []", "closed"]
    assert rig.status.state is S.UNLOADED


async def test_a_failed_load_keeps_its_reason_and_is_tried_again(rig: Rig) -> None:
    rig.failures = [FailedPrecondition("no weights"), ZeroDivisionError("odd")]
    seen = []
    task = asyncio.create_task(rig.lifetime.run())
    await asyncio.sleep(0)
    for reason in ("no weights", "ZeroDivisionError: odd"):
        await rig.until(lambda reason=reason: rig.status.reason == reason)
        seen.append(rig.status.state)
    await rig.until(lambda: rig.status.state is S.READY)
    assert seen == [S.UNAVAILABLE, S.UNAVAILABLE]
    assert rig.status.reason == ""
    task.cancel()


async def test_a_removal_ends_a_load_under_way(rig: Rig) -> None:
    rig.may_open.clear()
    task = asyncio.create_task(rig.lifetime.run())
    await rig.until(lambda: rig.log == ["open"])
    assert rig.status.state is S.LOADING
    rig.lifetime.remove()
    await task
    assert (rig.log, rig.status.state) == (["open"], S.UNLOADED)


async def test_calls_under_way_finish_before_the_model_is_closed(rig: Rig) -> None:
    task = asyncio.create_task(rig.lifetime.run())
    await rig.until(lambda: rig.log[-1:] == ["say ['a@1']"])
    leave = asyncio.Event()

    async def call() -> None:
        await rig.table.resolve("a", "", None)
        await leave.wait()

    caller = asyncio.create_task(call())
    await asyncio.sleep(0)
    rig.lifetime.remove()
    await rig.until(lambda: rig.log[-1] == "say []")
    assert rig.status.state is S.DRAINING
    assert not task.done()
    leave.set()
    await asyncio.gather(caller, task)
    assert rig.log[-1] == "closed"


async def test_a_stopping_node_leaves_what_is_loaded_to_the_table(rig: Rig) -> None:
    task = asyncio.create_task(rig.lifetime.run())
    await rig.until(lambda: rig.log[-1:] == ["say ['a@1']"])
    task.cancel()
    await asyncio.wait({task})
    assert "closed" not in rig.log
    await rig.table.aclose()
    assert rig.log[-1] == "closed"


async def test_a_version_that_breaks_is_withdrawn_and_opened_anew(rig: Rig) -> None:
    task = asyncio.create_task(rig.lifetime.run())
    await rig.until(lambda: rig.log[-1:] == ["say ['a@1']"])
    rig.may_open.clear()
    rig.models[0].failure.set_result("the device is lost")
    await rig.until(lambda: rig.log[-1] == "open")
    assert rig.log[-3:] == ["say []", "closed", "open"]
    assert (rig.status.state, rig.status.reason) == (S.LOADING, "the device is lost")
    rig.may_open.set()
    await rig.until(lambda: rig.log[-1] == "say ['a@1']")
    assert (rig.status.state, rig.status.reason) == (S.READY, "")
    assert scrape(rig.table)["ringmesh_model_changes_total", "broke"] == 1
    assert scrape(rig.table)["ringmesh_model_changes_total", "recovered"] == 1
    assert scrape(rig.table)["ringmesh_model_state", "ready"] == 1
    rig.lifetime.remove()
    await task
    assert rig.log[-2:] == ["say []", "closed"]


async def test_a_version_that_breaks_again_soon_is_given_time(rig: Rig) -> None:
    task = asyncio.create_task(rig.lifetime.run())
    for number in range(2):
        await rig.until(lambda number=number: len(rig.models) > number)
        await rig.until(lambda: rig.log[-1] == "say ['a@1']")
        rig.models[-1].failure.set_result(f"failure {number}")
        await rig.until(lambda number=number: rig.status.reason == f"failure {number}")
    assert rig.status.state is S.UNAVAILABLE
    rig.lifetime.remove()
    await task
    assert rig.status.state is S.UNLOADED
    assert len(rig.models) == 2


async def test_a_broken_version_that_cannot_even_be_closed_is_opened_anew(rig: Rig) -> None:
    task = asyncio.create_task(rig.lifetime.run())
    await rig.until(lambda: rig.log[-1:] == ["say ['a@1']"])

    async def close() -> None:
        raise ZeroDivisionError

    rig.models[0].close = close  # type: ignore[method-assign]
    rig.models[0].failure.set_result("the device is lost")
    await rig.until(lambda: len(rig.models) == 2)
    await rig.until(lambda: rig.status.state is S.READY)
    rig.lifetime.remove()
    await task


@given(st.lists(st.floats(0, 1000), max_size=40))
def test_pauses_grow_with_relapses_and_start_anew_after_steady_service(
    served_s: list[float],
) -> None:
    relapses = Relapses()
    for each in served_s:
        before, relapses = relapses, relapses.after(each)
        if each >= STEADY_S or not before.count:
            assert relapses.pause_s == 0
        else:
            assert before.pause_s < relapses.pause_s <= LONGEST_PAUSE_S or (
                before.pause_s == relapses.pause_s == LONGEST_PAUSE_S
            )


def scrape(table: ModelTable) -> dict[tuple[str, str], float]:
    """Samples by name and last label."""
    registry = CollectorRegistry()
    registry.register(ModelCollector(table))
    return {
        (sample.name, list(sample.labels.values())[-1]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


async def test_what_a_model_remarks_stands_in_its_status() -> None:
    rig = Rig()
    rig.model = RemarkableModel
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.lifetime.run())
        while not rig.table.ready_references():
            await rig.table.wait_for_change()
        assert rig.status.reason == RemarkableModel.remark
        rig.lifetime.remove("test")
