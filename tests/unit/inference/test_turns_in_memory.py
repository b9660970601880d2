"""Versions that never rest share memory in turns: bounded waits, whole calls, nobody forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import DeadlineExceeded
from services.inference.models.engines import Usage
from services.inference.models.memory import Memory
from services.inference.models.room import TURN_S, Share, make_room, turn_ends_s
from tests.unit.inference.test_paging import BUDGET, Rig
from tests.unit.inference.virtual_time import run_virtually, settle

CALL_S = 0.3
T = TypeVar("T")


class AtOnce(ThreadPoolExecutor):
    """Threads of no duration, for a clock that does not wait for any."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class VirtualRig(Rig):
    """On the loop's clock, with callers that never rest."""

    def __init__(self) -> None:
        super().__init__()
        asyncio.get_running_loop().set_default_executor(AtOnce())
        clock = asyncio.get_running_loop().time
        self.memory = Memory(BUDGET, self.table.usage, clock)
        self.table.follow_idle(self.memory.notify)
        self.done: dict[str, list[float]] = {}
        self.callers: list[asyncio.Task[None]] = []

    async def answer(self, name: str) -> None:
        model = await self.table.resolve(name, "1", None)
        await asyncio.sleep(CALL_S)
        assert not model.is_closed  # its call was whole
        self.done.setdefault(name, []).append(asyncio.get_running_loop().time())

    async def call_without_rest(self, name: str) -> None:
        """Two callers, each begins while the other is at it: there is no gap between calls."""

        async def calls() -> None:
            while True:
                await asyncio.create_task(self.answer(name))

        self.callers.append(asyncio.create_task(calls()))
        await asyncio.sleep(CALL_S / 2)
        self.callers.append(asyncio.create_task(calls()))
        await settle()

    async def end(self) -> None:
        for caller in self.callers:
            caller.cancel()
        await asyncio.wait(self.callers)
        await asyncio.sleep(CALL_S)
        for lifetime in self.lifetimes.values():
            lifetime.remove()
        await asyncio.gather(*self.tasks)


def test_a_caller_waits_for_a_turn_and_no_longer() -> None:
    async def program() -> None:
        rig = VirtualRig()
        await rig.placed("a-60")
        await rig.placed("b-60")
        await rig.call_without_rest("b-60")
        began_s = asyncio.get_running_loop().time()
        await asyncio.create_task(rig.answer("a-60"))
        waited_s = rig.done["a-60"][0] - began_s - CALL_S
        assert TURN_S - CALL_S <= waited_s <= TURN_S + 2 * CALL_S
        before = len(rig.done["b-60"])
        await asyncio.sleep(3 * CALL_S)
        assert len(rig.done["b-60"]) > before  # and the other is back when it is idle
        await rig.end()

    run_virtually(program())


def test_versions_that_never_rest_have_the_same_part_of_the_time() -> None:
    async def program() -> None:
        rig = VirtualRig()
        names = ("a-60", "b-60", "c-60")
        for name in names:
            await rig.placed(name)
        for name in names:
            await rig.call_without_rest(name)
        await asyncio.sleep(20 * len(names) * TURN_S)
        counts = [len(rig.done[name]) for name in names]
        assert min(counts) > 0.8 * max(counts)
        for name in names:
            gaps = [after - before for before, after in pairwise(rig.done[name])]
            assert max(gaps) <= (len(names) - 1) * (TURN_S + 2 * CALL_S) + 2 * CALL_S
        await rig.end()

    run_virtually(program())


def test_nobody_is_interrupted_for_a_caller_who_has_gone() -> None:
    async def program() -> None:
        rig = VirtualRig()
        await rig.placed("a-60")
        await rig.placed("b-60")
        await rig.call_without_rest("b-60")
        with pytest.raises(DeadlineExceeded):
            await rig.call("a-60", timeout_s=TURN_S / 2)
        await asyncio.sleep(5 * TURN_S)
        assert rig.opened == {"a-60": 1, "b-60": 1}
        await rig.end()

    run_virtually(program())


def test_who_came_first_is_served_first() -> None:
    async def program() -> None:
        clock = asyncio.get_running_loop().time
        busy = Usage(is_idle=False, waiting=1)
        memory = Memory(100, lambda _key: busy, clock)

        def leave(_reason: str) -> None:
            asyncio.get_running_loop().call_later(CALL_S, memory.release, ("holder", 1))

        async def come(name: str, needs: int) -> str:
            key = (name, 1)
            await memory.reserve(
                key, needs, may_page=lambda: True, page_out=leave, waits=name != "holder"
            )
            return name

        await come("holder", 80)
        memory.settle(("holder", 1), 80)
        first = asyncio.create_task(come("first", 90))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(come("second", 20))  # there is room for it, but not for both
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        assert (first.done(), second.done()) == (True, False)
        second.cancel()
        await asyncio.wait({second})

    run_virtually(program())


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_turn_is_as_long_as_the_coming_took(waits_since: int, came: int, took: int) -> None:
    ends = turn_ends_s(waits_since, came, took)
    assert ends - came >= max(TURN_S, took)
    assert ends - waits_since >= TURN_S
    assert ends <= max(waits_since, came) + max(TURN_S, took)


def test_the_idle_go_before_the_busy_whose_turn_is_over() -> None:
    shares = [
        Share(("busy", 1), 50, may_page=True, usage=Usage(is_idle=False), is_due=True),
        Share(("idle", 1), 50, may_page=True, usage=Usage(is_idle=True, last_used_s=9.0)),
    ]
    assert make_room(50, 100, shares) == (("idle", 1),)
    assert make_room(60, 100, shares) == (("idle", 1), ("busy", 1))
