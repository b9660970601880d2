"""A version's stay: announced when ready, withdrawn before it goes, never taken from a caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mesh.deployment import Assignment
from mesh.errors import FailedPrecondition
from services.inference.models import version_lifetime
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

    async def warm_up(self) -> None:
        self._log.append("warm")

    async def close(self) -> None:
        self._log.append("closed")


class Rig:
    def __init__(self) -> None:
        self.table = ModelTable()
        self.log: list[str] = []
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
        )

    async def open(self, _assignment: Assignment) -> Model:
        self.log.append("open")
        await self.may_open.wait()
        if self.failures:
            raise self.failures.pop(0)
        return Model(self.log)

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
        rig.table.resolve("a", "", None)
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
