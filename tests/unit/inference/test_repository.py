"""Loading and unloading by hand, while placements, removals and other hands do the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from mesh.catalog import KvEntry
from mesh.deployment import Assignment
from mesh.errors import FailedPrecondition, ModelNotFound, Unavailable
from services.inference.models import version_lifetime
from services.inference.models.placement_watch import PlacementWatch
from services.inference.models.repository import Repository
from services.inference.models.residence import Residence
from services.inference.models.state import ModelState
from services.inference.models.table import ModelTable
from services.inference.models.version_lifetime import VersionLifetime
from tests.unit.inference.test_placement_watch import NODE, assignment, placement
from tests.unit.inference.test_version_lifetime import Model

S = ModelState


class Rig:
    """A node that follows placements; its loads may be held up."""

    def __init__(self) -> None:
        self.table = ModelTable()
        self.residence = Residence()
        self.repository = Repository(self.table, self.residence)
        self.entries: asyncio.Queue[KvEntry | None] = asyncio.Queue()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.failure: Exception | None = None
        self.opened: list[str] = []
        self.watch = PlacementWatch(NODE, self.residence, self.make)

    def make(self, given: Assignment) -> VersionLifetime:
        return VersionLifetime(
            given,
            self.table,
            open_model=self.open,
            announce=self.announce,
            loads=asyncio.Semaphore(2),
            unload_timeout_s=60,
        )

    async def open(self, given: Assignment) -> Model:
        self.opened.append(given.model)
        await self.may_open.wait()
        if self.failure is not None:
            raise self.failure
        return Model([])

    async def announce(self) -> None:
        await asyncio.sleep(0)

    async def follow(self) -> AsyncIterator[KvEntry | None]:
        while True:
            yield await self.entries.get()

    def place(self, *models: str) -> None:
        given = placement(*(assignment(model, 1) for model in models))
        self.entries.put_nowait(KvEntry(given.to_json(), 1))

    async def placed(self, *models: str) -> None:
        self.place(*models)
        await self.until(lambda: self.states == dict.fromkeys(models, S.READY))

    @property
    def states(self) -> dict[str, ModelState]:
        return {each.model: each.state for each in self.table.statuses()}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(version_lifetime, "FIRST_RETRY_S", 0.001)
    made = Rig()
    task = asyncio.create_task(made.watch.run(made.follow()))
    yield made
    task.cancel()
    await asyncio.wait({task})


async def test_unloaded_and_loaded(rig: Rig) -> None:
    await rig.placed("a", "b")
    await rig.repository.unload("a", None)
    assert rig.states["a"] in (S.DRAINING, S.UNLOADED)
    await rig.repository.load("a", None)
    assert rig.states == {"a": S.READY, "b": S.READY}
    assert rig.opened == ["a", "b", "a"]


async def test_loaded_before_the_unloading_was_noticed(rig: Rig) -> None:
    await rig.placed("a")
    unloading = asyncio.create_task(rig.repository.unload("a", None))
    loading = asyncio.create_task(rig.repository.load("a", None))
    await loading
    # Not the stay that was about to end: the call that comes next has to find it there.
    assert (rig.states["a"], rig.opened) == (S.READY, ["a", "a"])
    await unloading


async def test_loaded_while_a_load_is_being_given_up(rig: Rig) -> None:
    rig.may_open.clear()
    rig.place("a")
    await rig.until(lambda: rig.opened == ["a"])
    unloading = asyncio.create_task(rig.repository.unload("a", None))
    loading = asyncio.create_task(rig.repository.load("a", None))
    await unloading
    rig.may_open.set()
    await loading
    assert (rig.states["a"], rig.opened) == (S.READY, ["a", "a"])


async def test_unloaded_while_somebody_waits_for_the_load(rig: Rig) -> None:
    await rig.placed("a")
    await rig.repository.unload("a", None)
    rig.may_open.clear()
    loading = asyncio.create_task(rig.repository.load("a", None))
    await rig.until(lambda: rig.opened == ["a", "a"])
    await rig.repository.unload("a", None)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="a@1 is not to be loaded any more"):
            await loading


async def test_taken_from_the_node_while_somebody_waits_for_the_load(rig: Rig) -> None:
    await rig.placed("a")
    await rig.repository.unload("a", None)
    rig.may_open.clear()
    loading = asyncio.create_task(rig.repository.load("a", None))
    await rig.until(lambda: rig.opened == ["a", "a"])
    rig.place()
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="a@1 is not to be loaded any more"):
            await loading


async def test_asked_for_in_the_moment_of_its_placement(rig: Rig) -> None:
    await rig.placed("b")
    rig.residence.place(placement(assignment("a", 1)))
    await rig.repository.load("a", None)  # the table does not know it yet
    assert rig.states["a"] is S.READY


async def test_a_load_that_fails_says_why(rig: Rig) -> None:
    await rig.placed("a")
    await rig.repository.unload("a", None)
    rig.failure = FailedPrecondition("no weights")
    with pytest.raises(Unavailable, match="a@1 cannot be loaded: no weights"):
        await rig.repository.load("a", None)
    rig.failure = None
    await rig.until(lambda: rig.states["a"] is S.READY)


async def test_what_is_not_placed_here(rig: Rig) -> None:
    await rig.placed("a")
    rig.place()
    await rig.until(lambda: rig.states == {"a": S.UNLOADED})
    with pytest.raises(FailedPrecondition, match="a is not placed on this node"):
        await rig.repository.load("a", None)
    with pytest.raises(ModelNotFound):
        await rig.repository.unload("b", None)


async def test_a_load_by_hand_does_not_wait_for_the_next_try(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_lifetime, "FIRST_RETRY_S", 3600.0)
    monkeypatch.setattr(version_lifetime, "LONGEST_RETRY_S", 3600.0)
    rig.failure = FailedPrecondition("no weights")
    rig.place("a")
    await rig.until(lambda: rig.states.get("a") is S.UNAVAILABLE and rig.opened == ["a"])
    for _ in range(10):  # until it waits for its next try
        await asyncio.sleep(0)
    rig.failure = FailedPrecondition("no tokenizer")
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="a@1 cannot be loaded: no tokenizer"):
            await rig.repository.load("a", None)
        rig.failure = None
        await rig.repository.load("a", None)
    assert (rig.states["a"], rig.opened) == (S.READY, ["a"] * 3)
