"""Engines are closed to the end, whatever happens meanwhile, and whatever comes of it."""

from __future__ import annotations

import asyncio

import pytest

from services.inference.models import version_lifetime
from services.inference.models.state import ModelState
from tests.unit.inference.test_version_lifetime import KEY, Model, Rig


class SlowModel(Model):
    """A model that is closed in two steps."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.may_close = asyncio.Event()

    async def close(self) -> None:
        self._log.append("closing")
        await self.may_close.wait()
        await super().close()


class LostModel(Model):
    """A model whose device is gone."""

    async def close(self) -> None:
        self._log.append("closing")
        raise RuntimeError("the device is lost")


class SlowRig(Rig):
    model = SlowModel


class LostRig(Rig):
    model = LostModel


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_lifetime, "FIRST_RETRY_S", 0.001)


async def ready(rig: Rig) -> asyncio.Task[None]:
    task = asyncio.create_task(rig.lifetime.run())
    await rig.until(lambda: rig.log[-1:] == ["say ['a@1']"])
    return task


def release(rig: Rig) -> None:
    (model,) = rig.models
    assert isinstance(model, SlowModel)
    model.may_close.set()


async def test_a_version_that_is_removed_while_it_is_paged_out_is_closed_first() -> None:
    rig = SlowRig()
    task = await ready(rig)
    rig.lifetime.page_out("for another")
    await rig.until(lambda: rig.log[-1] == "closing")
    rig.lifetime.remove()
    for _ in range(20):
        await asyncio.sleep(0)
    release(rig)
    await task
    assert rig.log[-3:] == ["closing", "closed", "say []"]
    assert rig.status.state is ModelState.UNLOADED


async def test_a_node_that_stops_closes_what_was_being_closed() -> None:
    rig = SlowRig()
    task = await ready(rig)
    rig.lifetime.remove()
    await rig.until(lambda: rig.log[-1] == "closing")
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    release(rig)
    await asyncio.wait({task})
    assert rig.log[-1] == "closed"


async def test_a_moved_version_closes_its_old_engine_though_it_is_removed_meanwhile() -> None:
    rig = SlowRig()
    task = await ready(rig)
    closed: list[str] = []
    rig.table.move(KEY, Model(rig.log), "moved", lambda: closed.append("told"))
    await rig.until(lambda: rig.log[-1] == "closing")
    rig.lifetime.remove()
    await rig.until(lambda: rig.log[-1] == "closed")
    assert not task.done()
    release(rig)
    await task
    assert (rig.log.count("closed"), closed) == (2, ["told"])


async def test_an_engine_that_cannot_be_closed_ends_nobody_elses_stay() -> None:
    rig = LostRig()
    task = await ready(rig)
    rig.lifetime.remove()
    await task
    assert rig.log[-1] == "closing"
    assert rig.status.state is ModelState.UNLOADED


async def test_an_engine_that_cannot_be_closed_may_be_paged_out() -> None:
    rig = LostRig()
    task = await ready(rig)
    rig.lifetime.page_out("for another")
    await rig.until(lambda: rig.log[-1] == "closing")
    assert (await asyncio.create_task(rig.table.resolve(*KEY[:1], "1", None))).name == "a"
    rig.lifetime.remove()
    await task
    assert rig.log.count("open") == 2
