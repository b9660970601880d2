"""A ready version's time on the node: in memory, out of it, and back, until it breaks.

If another version needs the memory and this one may be paged, it leaves it, and comes back when it
is asked for, or may be paged no more. It stays announced meanwhile. Who has to leave is decided
elsewhere; here it is only asked to.
"""

from __future__ import annotations

import asyncio

from mesh.deployment import Assignment
from services.inference.models.loaded_model import Key, LoadedModel, remark_of
from services.inference.models.loading import LoadFailed, Loading
from services.inference.models.memory import Memory
from services.inference.models.serving import Serving
from services.inference.models.state import Change
from services.inference.models.table import ModelTable


class Presence:
    """One version's."""

    def __init__(
        self,
        assignment: Assignment,
        table: ModelTable,
        *,
        loading: Loading,
        memory: Memory,
        serving: Serving,
    ) -> None:
        self.assignment = assignment
        self._key: Key = (assignment.model, assignment.spec.version)
        self._table = table
        self._loading = loading
        self._memory = memory
        self._serving = serving
        self._leave = asyncio.Event()
        self._reason = ""

    def page_out(self, reason: str) -> None:
        """The version should leave memory until it is asked for again."""
        self._reason = reason
        self._leave.set()

    def reassign(self, assignment: Assignment) -> None:
        """The same version may be paged from now on, or no more: then it comes back."""
        self.assignment = assignment
        if not assignment.may_page:
            self._table.demand(self._key)

    async def enter(self, change: Change, *, waits: bool = False) -> LoadedModel:
        """Opens the version, and lets everybody know by that change.

        Raises:
            LoadFailed: it cannot be opened.
        """
        loaded = await self._loading.open(
            lambda: self.assignment, page_out=self.page_out, waits=waits
        )
        self._leave.clear()  # from here on it may be asked to leave
        self._table.change(self._key, change, remark_of(loaded), loaded=loaded)
        self._memory.settle(self._key, loaded.memory_bytes)
        return loaded

    async def until_broken(self, loaded: LoadedModel) -> str:
        """Returns once the version can answer no more, or not come back; and says why."""
        while (failure := await self._stay(loaded)) is None:
            await self._table.page_out(self._key, self._reason)
            self._memory.release(self._key)
            self.reassign(self.assignment)  # it may have come while the version left
            await self._table.wait_for_demand(self._key)
            self._table.remark(self._key, "being brought back into memory")
            try:
                loaded = await self.enter(Change.PAGED_IN, waits=True)
            except LoadFailed as failed:
                return failed.message
        return failure

    async def _stay(self, loaded: LoadedModel) -> str | None:
        """Why the version can answer no more; None if it is to leave memory."""
        leaving = asyncio.create_task(self._may_leave())
        answering = asyncio.create_task(self._serving.until_broken(self.assignment, loaded))
        running = {leaving, answering}
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else None
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def _may_leave(self) -> None:
        """Comes to its end when the version is to leave memory; if it is in use, it has to."""
        while await self._leave.wait():
            if self._table.usage(self._key).is_idle or not self._memory.stay(self._key):
                return
            # Somebody was quicker; nobody else should have to wait for that call's end.
            self._leave.clear()
