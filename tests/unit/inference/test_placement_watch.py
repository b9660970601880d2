"""From placements to stays: what is compared, what is kept, what comes back after it left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.catalog import KvEntry
from mesh.deployment import Assignment, Placement, VersionSpec
from mesh.manifest import Manifest
from services.inference.models.loaded_model import Key
from services.inference.models.placement_watch import PlacementWatch, compare, read_placement
from services.inference.models.residence import Residence
from services.inference.models.version_lifetime import NOT_PLACED

NODE = "node-a"


def assignment(model: str, version: int, digest: int = 0) -> Assignment:
    manifest = Manifest(name=model, task="tensor", format="identity")
    spec = VersionSpec(version=version, digest=f"{digest:064x}", manifest=manifest, files=())
    return Assignment(model=model, spec=spec)


def placement(*assignments: Assignment, node: str = NODE) -> Placement:
    return Placement(node=node, assignments=assignments)


def by_key(*assignments: Assignment) -> dict[Key, Assignment]:
    return {(each.model, each.spec.version): each for each in assignments}


assignments = st.builds(
    assignment, st.sampled_from(["a", "b"]), st.integers(1, 3), st.integers(0, 1)
)
holdings = st.lists(assignments, max_size=6).map(lambda found: by_key(*found))


@given(holdings, holdings)
def test_following_the_difference_leads_to_what_is_wanted(
    held: dict[Key, Assignment], wanted: dict[Key, Assignment]
) -> None:
    difference = compare(held, wanted)
    after = {key: each for key, each in held.items() if key not in difference.remove}
    assert not after.keys() & by_key(*difference.add).keys()
    after |= by_key(*difference.add)
    assert after == wanted


def test_new_content_under_an_old_number_is_loaded_anew() -> None:
    difference = compare(by_key(assignment("a", 1, 0)), by_key(assignment("a", 1, 1)))
    assert difference.remove == (("a", 1),)
    assert difference.add == (assignment("a", 1, 1),)


@pytest.mark.parametrize("value", [None, b"{", b'{"node": 1}', placement(node="node-b").to_json()])
def test_what_cannot_be_followed_is_left_alone(value: bytes | None) -> None:
    assert read_placement(None if value is None else KvEntry(value, 1), NODE) is None


class Lifetime:
    """A stay that ends when it is told to leave and allowed to go."""

    def __init__(self, given: Assignment, log: list[str]) -> None:
        self.assignment = given
        self.key = (given.model, given.spec.version)
        self.may_go = asyncio.Event()
        self._removed = asyncio.Event()
        self._log = log

    def reassign(self, given: Assignment) -> None:
        self.assignment = given

    def remove(self, reason: str) -> None:
        self._log.append(f"{self.key[0]} {reason}")
        self._removed.set()

    async def run(self) -> None:
        self._log.append(f"{self.key[0]} in")
        await self._removed.wait()
        await self.may_go.wait()
        self._log.append(f"{self.key[0]} out")


class Rig:
    def __init__(self) -> None:
        self.entries: asyncio.Queue[KvEntry | None] = asyncio.Queue()
        self.log: list[str] = []
        self.stays: list[Lifetime] = []
        self.residence = Residence()
        self.watch = PlacementWatch(NODE, self.residence, self.make)  # type: ignore[arg-type]

    def make(self, given: Assignment) -> Lifetime:
        self.stays.append(Lifetime(given, self.log))
        return self.stays[-1]

    async def follow(self) -> AsyncIterator[KvEntry | None]:
        while True:
            yield await self.entries.get()

    async def until(self, *log: str) -> None:
        async with asyncio.timeout(5):
            while self.log != list(log):
                await asyncio.sleep(0)

    def place(self, *given: Assignment) -> None:
        self.entries.put_nowait(KvEntry(placement(*given).to_json(), 1))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.watch.run(rig.follow()))
    yield rig
    task.cancel()
    await asyncio.wait({task})


async def test_a_placement_that_vanishes_changes_nothing(rig: Rig) -> None:
    rig.place(assignment("a", 1))
    await rig.until("a in")
    rig.entries.put_nowait(None)
    rig.place(assignment("a", 1), assignment("b", 1))
    await rig.until("a in", "b in")
    assert len(rig.stays) == 2


async def test_a_version_that_comes_back_waits_until_it_has_left(rig: Rig) -> None:
    rig.place(assignment("a", 1))
    await rig.until("a in")
    rig.place()
    rig.place(assignment("a", 1))
    rig.place(assignment("a", 1), assignment("b", 1))
    await rig.until("a in", "a " + NOT_PLACED, "b in")
    rig.stays[0].may_go.set()
    await rig.until("a in", "a " + NOT_PLACED, "b in", "a out", "a in")


async def test_what_is_unloaded_by_hand_stays_out_until_it_is_loaded_by_hand(rig: Rig) -> None:
    rig.place(assignment("a", 1))
    await rig.until("a in")
    rig.stays[0].may_go.set()
    rig.residence.withhold([("a", 1)])
    rig.place(assignment("a", 1), assignment("b", 1))
    gone = ["a in", "a unloaded by hand", "a out", "b in"]
    await rig.until(*gone)
    rig.residence.release([("a", 1)])
    await rig.until(*gone, "a in")


async def test_a_model_that_was_given_up_is_withheld_no_longer(rig: Rig) -> None:
    rig.place(assignment("a", 1))
    await rig.until("a in")
    rig.residence.withhold([("a", 1)])
    rig.place()
    rig.stays[0].may_go.set()
    rig.place(assignment("a", 1))
    await rig.until("a in", "a unloaded by hand", "a out", "a in")


async def test_nothing_is_kept_of_stays_that_have_ended(rig: Rig) -> None:
    rig.place(assignment("a", 1))
    await rig.until("a in")
    rig.place(assignment("b", 1))
    await rig.until("a in", "a " + NOT_PLACED, "b in")
    assert "wanted=[('b', 1)] ending=[('a', 1)]" in repr(rig.watch)
    rig.stays[0].may_go.set()
    await rig.until("a in", "a " + NOT_PLACED, "b in", "a out")
    await asyncio.sleep(0)  # the end is told
    assert "wanted=[('b', 1)] ending=[]" in repr(rig.watch)
