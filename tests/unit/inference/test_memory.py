"""Who makes room for whom: the choice, and the budget that carries it out."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.models.engines import Usage
from services.inference.models.loaded_model import Key
from services.inference.models.memory import DoesNotFit, Memory
from services.inference.models.room import Share, could_fit, format_bytes, make_room, refusal

SHARES = st.lists(
    st.builds(
        lambda held, may_page, is_idle, used: (held, may_page, Usage(is_idle, used)),
        st.integers(0, 40),
        st.booleans(),
        st.booleans(),
        st.floats(0, 100),
    ),
    max_size=6,
).map(lambda rows: [Share((f"m{i}", 1), *row) for i, row in enumerate(rows)])


@given(st.integers(0, 60), st.integers(0, 100), SHARES)
def test_only_who_is_idle_and_may_leave_goes_and_then_there_is_room(needs, budget, shares) -> None:
    leaving = make_room(needs, budget, shares)
    if leaving is None:
        left = sum(share.held_bytes for share in shares if not share.can_leave)
        assert left + needs > budget
        return
    gone = [share for share in shares if share.key in leaving]
    assert all(share.can_leave for share in gone)
    assert sum(s.held_bytes for s in shares) - sum(s.held_bytes for s in gone) + needs <= budget


@given(st.integers(0, 60), st.integers(0, 100), SHARES)
def test_nobody_leaves_in_vain_and_the_longest_unused_go_first(needs, budget, shares) -> None:
    leaving = make_room(needs, budget, shares)
    if not leaving:
        return
    by_key = {share.key: share for share in shares}
    used = [by_key[key].usage.last_used_s for key in leaving]
    assert used == sorted(used)
    held = sum(share.held_bytes for share in shares)
    before_last = sum(by_key[key].held_bytes for key in leaving[:-1])
    assert held - before_last + needs > budget
    stay = [s for s in shares if s.can_leave and s.held_bytes and s.key not in leaving]
    assert all(s.usage.last_used_s >= used[-1] for s in stay)


@given(st.integers(0, 60), st.integers(0, 100), SHARES)
def test_what_room_can_be_made_for_could_fit(needs, budget, shares) -> None:
    if make_room(needs, budget, shares) is not None:
        assert could_fit(needs, budget, shares) or needs <= budget


def test_a_refusal_has_the_figures() -> None:
    shares = [Share(("small", 1), 91_000_000), Share(("large", 2), 905_000_000)]
    assert refusal(("new", 1), 200_000_000, 1_100_000_000, shares) == (
        "new@1 needs 200 MB of memory, and 104 MB of 1.1 GB are free: "
        "large@2 has 905 MB, small@1 has 91 MB"
    )
    assert (
        refusal(("new", 1), 5, 3, [])
        == "new@1 needs 5 bytes of memory, and 3 bytes of 3 bytes are free"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (5e15, "5e+03 TB"),
    ],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text


class Rig:
    """A budget of 100, whose versions leave when they are told to."""

    def __init__(self) -> None:
        self.usages: dict[Key, Usage] = {}
        self.asked: list[str] = []
        self.leaves_at_once = True
        self.memory = Memory(100, lambda key: self.usages.get(key, Usage()))

    async def load(
        self, name: str, needs: int, *, may_page: bool = True, waits: bool = False
    ) -> None:
        key = (name, 1)
        await self.memory.reserve(
            key,
            needs,
            may_page=lambda: may_page,
            page_out=lambda reason: self.page_out(key, reason),
            waits=waits,
        )
        self.memory.settle(key, needs)

    def page_out(self, key: Key, reason: str) -> None:
        self.asked.append(f"{key[0]}: {reason}")
        if self.leaves_at_once:
            asyncio.get_running_loop().call_soon(self.memory.release, key)


async def test_without_a_budget_everything_fits() -> None:
    memory = Memory()
    await memory.reserve(("a", 1), 10**15, may_page=bool, page_out=pytest.fail)


async def test_room_is_made_by_the_longest_unused() -> None:
    rig = Rig()
    await rig.load("old", 40)
    await rig.load("new", 40)
    rig.usages = {("old", 1): Usage(True, 1), ("new", 1): Usage(True, 2)}
    await rig.load("next", 50)
    assert rig.asked == ["old: paged out to make room for next@1"]
    assert repr(rig.memory) == "<Memory 90 of 100 [('new', 1), ('next', 1)]>"


async def test_what_may_not_be_paged_stays_and_the_newcomer_is_refused() -> None:
    rig = Rig()
    await rig.load("fixed", 60, may_page=False)
    with pytest.raises(DoesNotFit, match=r"new@1 needs 50 .* 40 bytes of 100 .* fixed@1 has 60"):
        await rig.load("new", 50, waits=True)
    assert rig.asked == []


async def test_a_busy_version_is_waited_for_only_if_somebody_waits() -> None:
    rig = Rig()
    await rig.load("busy", 80)
    rig.usages[("busy", 1)] = Usage(is_idle=False)
    with pytest.raises(DoesNotFit):
        await rig.load("new", 50)
    waiting = asyncio.create_task(rig.load("new", 50, waits=True))
    await asyncio.sleep(0)
    assert (rig.asked, waiting.done()) == ([], False)
    rig.usages[("busy", 1)] = Usage()
    rig.memory.notify()
    await waiting
    assert rig.asked == ["busy: paged out to make room for new@1"]


async def test_nobody_else_goes_for_room_that_somebody_is_about_to_leave() -> None:
    rig = Rig()
    rig.leaves_at_once = False
    await rig.load("leaving", 50)
    await rig.load("staying", 50)
    rig.usages = {("leaving", 1): Usage(True, 1), ("staying", 1): Usage(True, 2)}
    waiting = asyncio.create_task(rig.load("new", 50))
    await asyncio.sleep(0)
    rig.memory.notify()
    for _ in range(3):
        await asyncio.sleep(0)
    assert rig.asked == ["leaving: paged out to make room for new@1"]
    rig.memory.release(("leaving", 1))
    await waiting


async def test_one_that_was_asked_to_leave_and_stays_is_asked_again() -> None:
    rig = Rig()
    rig.leaves_at_once = False
    await rig.load("busy", 80)
    waiting = asyncio.create_task(rig.load("new", 50, waits=True))
    refused = asyncio.create_task(rig.load("other", 50))
    await asyncio.sleep(0)
    rig.usages[("busy", 1)] = Usage(is_idle=False)
    rig.memory.stay(("busy", 1))
    with pytest.raises(DoesNotFit, match="busy@1 has 80 bytes"):
        await refused
    rig.usages[("busy", 1)] = Usage()
    rig.leaves_at_once = True
    rig.memory.notify()
    await waiting
    assert rig.asked == ["busy: paged out to make room for new@1"] * 2


async def test_whoever_waits_also_waits_for_one_that_is_still_being_loaded() -> None:
    rig = Rig()
    loading = ("loading", 1)
    await rig.memory.reserve(
        loading,
        80,
        may_page=lambda: True,
        page_out=lambda reason: rig.page_out(loading, reason),
    )
    with pytest.raises(DoesNotFit):
        await rig.load("impatient", 50)
    waiting = asyncio.create_task(rig.load("new", 50, waits=True))
    await asyncio.sleep(0)
    assert (rig.asked, waiting.done()) == ([], False)
    rig.memory.settle(loading, 80)
    await waiting
    assert rig.asked == ["loading: paged out to make room for new@1"]
