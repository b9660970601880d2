"""A version in memory, answering: until its engine breaks, and on a better one if that can be had.

The better one is opened beside the one that serves, with memory of its own; new calls go there from
one moment to the next, and the old engine ends with its last call, even if the new one breaks
meanwhile. This knows no backend, and does not decide when the version comes or goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from mesh.deployment import Assignment
from services.inference.models.engines import close_whole
from services.inference.models.loaded_model import Key, LoadedModel, remark_of
from services.inference.models.loading import Beside, Loading, reason_of
from services.inference.models.memory import Memory
from services.inference.models.recovery import CanBreak
from services.inference.models.table import ModelTable

Remark = Callable[[str], None]
Improve = Callable[[Assignment, LoadedModel, Remark], Awaitable[bool]]
"""Whether the version may be opened on a better engine than the one that serves; may take time."""


async def no_better(_assignment: Assignment, _serving: LoadedModel, _say: Remark) -> bool:
    """Leaves a version where it is."""
    return False


class Serving:
    """One version's engines while it is in memory."""

    def __init__(
        self, key: Key, table: ModelTable, *, loading: Loading, memory: Memory, improve: Improve
    ) -> None:
        self._key = key
        self._table = table
        self._loading = loading
        self._memory = memory
        self._improve = improve

    async def until_broken(self, assignment: Assignment, loaded: LoadedModel) -> str:
        """Returns once the version can answer no more, and says why."""
        moving = asyncio.create_task(self._move(assignment, loaded))
        breaking = asyncio.create_task(_broken(loaded))
        running = {moving, breaking}
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            better = moving.result() if moving.done() else None
            if better is not None:  # the engine that was left is nobody's concern
                breaking.cancel()
                breaking = asyncio.create_task(_broken(better))
                running.add(breaking)
            return await breaking
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def _move(self, assignment: Assignment, old: LoadedModel) -> LoadedModel | None:
        """The engine to which new calls go now, if it is another."""
        say = partial(self._table.remark, self._key)
        try:
            if not await self._improve(assignment, old, say):
                return None
            beside = await self._loading.open_beside(assignment)
        except Exception as error:  # noqa: BLE001 - the engine that serves is none the worse for it
            say(reason_of(error, self._key))
            return None
        if beside.loaded.backend == old.backend:
            # Built, and refused all the same: the GPU may have filled up meanwhile.
            say(remark_of(beside.loaded) or f"stays on {old.backend}")
            try:
                await close_whole([beside.loaded])
            finally:
                self._memory.release(beside.hold)
            return None
        self._hand_over(old, beside)
        return beside.loaded

    def _hand_over(self, old: LoadedModel, beside: Beside) -> None:
        better = beside.loaded
        self._memory.settle(self._key, better.memory_bytes)
        self._memory.settle(beside.hold, old.memory_bytes)
        reason = f"moved from {old.backend} to {better.backend}"
        self._table.move(self._key, better, reason, partial(self._memory.release, beside.hold))


async def _broken(loaded: LoadedModel) -> str:
    """Returns when that engine can answer no more."""
    if isinstance(loaded, CanBreak):
        return await loaded.broken()
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    return await never
