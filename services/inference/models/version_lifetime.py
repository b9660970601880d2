"""A model version's stay on the node, from placement to removal, as one coroutine.

Load (again and again, with backoff, for as long as it is wanted), announce, be present. If it
breaks meanwhile: withdraw the announcement, so that calls go elsewhere, and open it anew. When the
version is no longer wanted: withdraw the announcement, let the calls under way finish, unload. What
happens while it is ready, paging and better engines, is its `Presence`'s affair. It knows neither
Consul nor any backend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from mesh.deployment import Assignment
from mesh.logs import get_logger
from mesh.retry import attempts
from services.inference.models.loaded_model import Key, LoadedModel
from services.inference.models.loading import LoadFailed, Loading, Measure, Open, no_needs
from services.inference.models.memory import Memory
from services.inference.models.presence import Presence
from services.inference.models.recovery import Relapses
from services.inference.models.serving import Improve, Serving, no_better
from services.inference.models.state import Change
from services.inference.models.table import ModelTable

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
NOT_PLACED = "no longer placed on this node"
FINISHING = "finishing what is under way"

_log = get_logger(__name__)

Announce = Callable[[], Awaitable[None]]
T = TypeVar("T")


def no_work(_assignment: Assignment) -> None:
    """Has none to give up."""


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
        self.key: Key = (assignment.model, assignment.spec.version)
        self._table = table
        self._announce = announce
        self._loads = loads
        self._unload_timeout_s = unload_timeout_s
        self._clock = clock
        self._give_up_better = give_up
        self._memory = budget = memory or Memory()
        self._loading = loading = Loading(self.key, open_model, memory=budget, measure=measure)
        serving = Serving(self.key, table, loading=loading, memory=budget, improve=improve)
        self._presence = Presence(
            assignment, table, loading=loading, memory=budget, serving=serving
        )
        self.page_out = self._presence.page_out
        self.reassign = self._presence.reassign
        self._removed = asyncio.Event()
        self._asked_for = asyncio.Event()
        self._reason = NOT_PLACED
        self._relapses = Relapses()
        self._failure = ""

    def __repr__(self) -> str:
        model, version = self.key
        return f"<VersionLifetime {model}@{version} removed={self._removed.is_set()}>"

    @property
    def assignment(self) -> Assignment:
        """What is to be held, and whether it may be paged."""
        return self._presence.assignment

    def remove(self, reason: str = NOT_PLACED) -> None:
        """The version is not wanted here any more; `run` comes to its end."""
        self._reason = reason
        self._removed.set()

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
        while (loaded := await self._unless_removed(self._load())) is not None:
            await self._announce()
            ready_s = self._clock()
            failure = await self._unless_removed(self._presence.until_broken(loaded))
            if failure is None:
                break
            self._failure = failure
            self._relapses = self._relapses.after(self._clock() - ready_s)
            await self._withdraw()
        self._table.change(self.key, Change.REMOVED, FINISHING)
        if loaded is not None:
            await self._announce()
        await self._drain()
        self._table.change(self.key, Change.DRAINED, self._reason)

    async def _unless_removed(self, event: Coroutine[Any, Any, T]) -> T | None:
        """What comes of this, if that is before the version is removed."""
        happening = asyncio.create_task(event)
        removed = asyncio.create_task(self._removed.wait())
        try:
            await asyncio.wait({happening, removed}, return_when=asyncio.FIRST_COMPLETED)
            return happening.result() if happening.done() else None
        finally:
            happening.cancel()
            removed.cancel()
            await asyncio.wait({happening, removed})

    async def _load(self) -> LoadedModel:
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
                    return await self._try_to_load()
        raise AssertionError  # it is tried until it is there

    async def _pause(self, pause_s: float) -> None:
        self._asked_for.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._asked_for.wait()

    async def _try_to_load(self) -> LoadedModel:
        self._table.change(self.key, Change.LOAD_BEGAN, self._failure)
        try:
            loaded = await self._presence.enter(
                Change.RECOVERED if self._failure else Change.LOADED
            )
        except LoadFailed as failed:
            self._table.change(self.key, Change.LOAD_FAILED, failed.message)
            raise
        self._failure = ""
        return loaded

    async def _withdraw(self) -> None:
        """Calls go elsewhere, and the engine that failed is closed."""
        self._table.change(self.key, Change.BROKE, self._failure)
        await self._announce()
        await self._table.close_broken(self.key)
        self._memory.release(self.key)

    async def _drain(self) -> None:
        if not await self._table.wait_until_idle(self.key, self._unload_timeout_s):
            _log.warning("unloading under calls that do not end", lifetime=repr(self))
        await self._table.unload(self.key)
        await self._loading.ended()
        self._memory.release(self.key)
