"""A model version's stay on the node, from placement to removal, as one coroutine.

Load (again and again, with backoff, for as long as it is wanted), announce, serve. If it breaks
meanwhile: withdraw the announcement, so that calls go elsewhere, and open it anew. If it can be had
on a better engine, that is made ready beside it; new calls go there from one moment to the next,
and the old engine ends with its last call. If another version needs the memory and this one may be
paged, it leaves it, and comes back when it is asked for; it stays announced meanwhile. When the
version is no longer wanted: withdraw the announcement, let the calls under way finish, unload. It
knows neither Consul nor any backend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from mesh.deployment import Assignment
from mesh.errors import RingmeshError, Unavailable
from mesh.logs import get_logger
from mesh.retry import attempts
from services.inference.models.loading import Loading, Measure, Open, no_needs, warmed
from services.inference.models.memory import Memory
from services.inference.models.recovery import CanBreak, Relapses
from services.inference.models.state import Change
from services.inference.models.table import HasRemark, Key, LoadedModel, ModelTable

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
NOT_PLACED = "no longer placed on this node"
FINISHING = "finishing what is under way"

_log = get_logger(__name__)

Announce = Callable[[], Awaitable[None]]
Remark = Callable[[str], None]
Improve = Callable[[Assignment, LoadedModel, Remark], Awaitable[LoadedModel | None]]
"""Opens the version on a better engine than the one that serves, if there is to be one."""


async def no_better(_assignment: Assignment, _serving: LoadedModel, _say: Remark) -> None:
    """Leaves a version where it is."""


def no_work(_assignment: Assignment) -> None:
    """Has none to give up."""


class LoadFailed(Unavailable):
    """One attempt at loading failed; the reason stands in the version's status."""


class VersionLifetime:
    """One version on this node."""

    def __init__(
        self,
        assignment: Assignment,
        table: ModelTable,
        *,
        open_model: Open,
        announce: Announce,
        loads: asyncio.Semaphore,
        unload_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        improve: Improve = no_better,
        give_up: Callable[[Assignment], None] = no_work,
        memory: Memory | None = None,
        measure: Measure = no_needs,
    ) -> None:
        self.assignment = assignment
        self.key: Key = (assignment.model, assignment.spec.version)
        self._table = table
        self._announce = announce
        self._loads = loads
        self._unload_timeout_s = unload_timeout_s
        self._clock = clock
        self._open_better = improve
        self._give_up_better = give_up
        self._memory = memory or Memory()
        self._loading = Loading(self.key, open_model, memory=self._memory, measure=measure)
        self._leave_memory = asyncio.Event()
        self._leave_reason = ""
        self._removed = asyncio.Event()
        self._asked_for = asyncio.Event()
        self._reason = NOT_PLACED
        self._loaded: LoadedModel | None = None
        self._relapses = Relapses()
        self._failure = ""

    def __repr__(self) -> str:
        model, version = self.key
        return f"<VersionLifetime {model}@{version} removed={self._removed.is_set()}>"

    def remove(self, reason: str = NOT_PLACED) -> None:
        """The version is not wanted here any more; `run` comes to its end."""
        self._reason = reason
        self._removed.set()

    def page_out(self, reason: str) -> None:
        """The version should leave memory until it is asked for again."""
        self._leave_reason = reason
        self._leave_memory.set()

    def reassign(self, assignment: Assignment) -> None:
        """The same version may be paged from now on, or no more: then it comes back."""
        self.assignment = assignment
        if not assignment.may_page:
            self._table.demand(self.key)

    def try_now(self) -> None:
        """Somebody asks for the version by hand: it is not the time to wait before a new try."""
        self._asked_for.set()

    async def run(self) -> None:
        """Lives through all of it."""
        try:
            await self._live()
        finally:
            self._give_up_better(self.assignment)

    async def _live(self) -> None:
        self._table.place(self.key)
        while await self._comes_first(self._load()):
            await self._announce()
            ready_s = self._clock()
            if not await self._comes_first(self._serve()):
                await self._leave()
                return
            self._table.change(self.key, Change.BROKE, self._failure)
            self._relapses = self._relapses.after(self._clock() - ready_s)
            await self._announce()
            await self._close_broken()
        self._table.change(self.key, Change.REMOVED, FINISHING)
        await self._loading.ended()
        self._table.change(self.key, Change.DRAINED, self._reason)

    async def _leave(self) -> None:
        self._table.change(self.key, Change.REMOVED, FINISHING)
        await self._announce()
        await self._drain()
        self._table.change(self.key, Change.DRAINED, self._reason)

    async def _comes_first(self, event: Coroutine[Any, Any, None]) -> bool:
        """Whether this happens before the version is removed."""
        happening = asyncio.create_task(event)
        removed = asyncio.create_task(self._removed.wait())
        try:
            await asyncio.wait({happening, removed}, return_when=asyncio.FIRST_COMPLETED)
            if happening.done():
                happening.result()
            return happening.done()
        finally:
            happening.cancel()
            removed.cancel()
            await asyncio.wait({happening, removed})

    async def _serve(self) -> None:
        """Comes to its end when the version can answer no more; it may leave memory meanwhile."""
        while await self._stay():
            await self._table.page_out(self.key, self._leave_reason)
            self._memory.release(self.key)
            self._loaded = None
            self.reassign(self.assignment)  # it may have come while the version left
            await self._table.wait_for_demand(self.key)
            if not await self._came_back():
                return

    async def _stay(self) -> bool:
        """Whether the version is to leave memory; if not, it has broken."""
        leaving = asyncio.create_task(self._may_leave())
        answering = asyncio.create_task(self._answer())
        running = {leaving, answering}
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            return not answering.done()
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def _may_leave(self) -> None:
        """Comes to its end when the version is to leave memory; if it is in use, it has to."""
        while await self._leave_memory.wait():
            if self._table.usage(self.key).is_idle or not self._memory.stay(self.key):
                return
            # Somebody was quicker; nobody else should have to wait for that call's end.
            self._leave_memory.clear()

    async def _came_back(self) -> bool:
        """Whether the version is in memory again; if not, it has failed."""
        self._say("being brought back into memory")
        try:
            self._loaded = await self._open(waits=True)
        except RingmeshError as error:
            self._failure = error.message
            return False
        except Exception as error:  # noqa: BLE001 - as for a first load
            _log.exception("paging in failed unexpectedly", lifetime=repr(self))
            self._failure = f"{type(error).__name__}: {error}"
            return False
        self._table.change(self.key, Change.PAGED_IN, _remark_of(self._loaded), loaded=self._loaded)
        self._memory.settle(self.key, self._loaded.memory_bytes)
        return True

    async def _answer(self) -> None:
        """Comes to its end when the engine can answer no more; it may change engines before."""
        moving = asyncio.create_task(self._move())
        breaking = asyncio.create_task(self._break())
        running = {moving, breaking}
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if not breaking.done() and moving.result():
                breaking.cancel()  # it watches the engine that was left
                breaking = asyncio.create_task(self._break())
                running |= {breaking, asyncio.create_task(self._table.close_retired(self.key))}
            await breaking
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def _move(self) -> bool:
        """Whether new calls now go to a better engine."""
        old = self._loaded
        if old is None:
            return False
        try:
            better = await self._better_than(old)
        except RingmeshError as error:
            self._say(error.message)
            return False
        except Exception as error:  # noqa: BLE001 - the engine that serves is none the worse for it
            _log.exception("moving to a better engine failed", lifetime=repr(self))
            self._say(f"{type(error).__name__}: {error}")
            return False
        if better is None:
            return False
        self._loaded = better
        self._memory.settle(self.key, better.memory_bytes)
        self._table.move(self.key, better, f"moved from {old.backend} to {better.backend}")
        return True

    async def _better_than(self, serving: LoadedModel) -> LoadedModel | None:
        better = await self._open_better(self.assignment, serving, self._say)
        return None if better is None else await warmed(better)

    def _say(self, reason: str) -> None:
        self._table.remark(self.key, reason)

    async def _break(self) -> None:
        """Comes to its end when the engine can answer no more."""
        if not isinstance(self._loaded, CanBreak):
            await asyncio.Event().wait()
            return
        self._failure = await self._loaded.broken()

    async def _close_broken(self) -> None:
        self._loaded = None
        await self._table.unload(self.key)
        self._memory.release(self.key)

    async def _load(self) -> None:
        await self._pause(self._relapses.pause_s)
        async for attempt in attempts(
            within_s=None,
            first_wait_s=FIRST_RETRY_S,
            max_wait_s=LONGEST_RETRY_S,
            on=LoadFailed,
            pause=self._pause,
        ):
            with attempt:
                async with self._loads:
                    await self._try_to_load()

    async def _pause(self, pause_s: float) -> None:
        self._asked_for.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._asked_for.wait()

    async def _try_to_load(self) -> None:
        self._table.change(self.key, Change.LOAD_BEGAN, self._failure)
        try:
            loaded = await self._open()
        except RingmeshError as error:
            self._fail(error.message)
            raise LoadFailed(error.message) from error
        except Exception as error:  # whatever an artefact or an engine does, the node lives on
            _log.exception("load failed unexpectedly", lifetime=repr(self))
            self._fail(f"{type(error).__name__}: {error}")
            raise LoadFailed(str(error)) from error
        self._loaded = loaded
        change = Change.RECOVERED if self._failure else Change.LOADED
        self._table.change(self.key, change, _remark_of(loaded), loaded=loaded)
        self._memory.settle(self.key, loaded.memory_bytes)
        self._failure = ""

    async def _open(self, *, waits: bool = False) -> LoadedModel:
        loaded = await self._loading.open(
            lambda: self.assignment, page_out=self.page_out, waits=waits
        )
        self._leave_memory.clear()  # from here on it may be asked to leave
        return loaded

    def _fail(self, reason: str) -> None:
        self._table.change(self.key, Change.LOAD_FAILED, reason)

    async def _drain(self) -> None:
        if not await self._table.wait_until_idle(self.key, self._unload_timeout_s):
            _log.warning("unloading under calls that do not end", lifetime=repr(self))
        await self._table.unload(self.key)
        await self._loading.ended()
        self._memory.release(self.key)


def _remark_of(loaded: LoadedModel) -> str:
    return loaded.remark if isinstance(loaded, HasRemark) else ""
