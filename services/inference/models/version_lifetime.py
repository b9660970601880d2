"""A model version's stay on the node, from placement to removal, as one coroutine.

Load (again and again, with backoff, for as long as it is wanted), announce, serve; when it is no
longer wanted: withdraw the announcement, let the calls under way finish, unload. It knows neither
Consul nor any backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mesh.deployment import Assignment
from mesh.errors import RingmeshError, Unavailable
from mesh.logs import get_logger
from mesh.retry import attempts
from services.inference.models.state import Change
from services.inference.models.table import Key, LoadedModel, ModelTable

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
NOT_PLACED = "no longer placed on this node"

_log = get_logger(__name__)

Open = Callable[[Assignment], Awaitable[LoadedModel]]
Announce = Callable[[], Awaitable[None]]


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
    ) -> None:
        self.assignment = assignment
        self.key: Key = (assignment.model, assignment.spec.version)
        self._table = table
        self._open_model = open_model
        self._announce = announce
        self._loads = loads
        self._unload_timeout_s = unload_timeout_s
        self._removed = asyncio.Event()
        self._reason = NOT_PLACED

    def __repr__(self) -> str:
        model, version = self.key
        return f"<VersionLifetime {model}@{version} removed={self._removed.is_set()}>"

    def remove(self, reason: str = NOT_PLACED) -> None:
        """The version is not wanted here any more; `run` comes to its end."""
        self._reason = reason
        self._removed.set()

    async def run(self) -> None:
        """Lives through all of it."""
        self._table.place(self.key)
        if not await self._is_loaded():
            self._table.change(self.key, Change.REMOVED, self._reason)
            return
        await self._announce()
        await self._removed.wait()
        self._table.change(self.key, Change.REMOVED, "finishing what is under way")
        await self._announce()
        await self._drain()
        self._table.change(self.key, Change.DRAINED, self._reason)

    async def _is_loaded(self) -> bool:
        """Loads, unless the version is removed first."""
        loading = asyncio.create_task(self._load())
        removed = asyncio.create_task(self._removed.wait())
        try:
            await asyncio.wait({loading, removed}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            return loading.done()
        finally:
            loading.cancel()
            removed.cancel()
            await asyncio.wait({loading, removed})

    async def _load(self) -> None:
        async for attempt in attempts(
            within_s=None, first_wait_s=FIRST_RETRY_S, max_wait_s=LONGEST_RETRY_S, on=LoadFailed
        ):
            with attempt:
                async with self._loads:
                    await self._try_to_load()

    async def _try_to_load(self) -> None:
        self._table.change(self.key, Change.LOAD_BEGAN)
        try:
            loaded = await self._open_warm()
        except RingmeshError as error:
            self._fail(error.message)
            raise LoadFailed(error.message) from error
        except Exception as error:  # whatever an artefact or an engine does, the node lives on
            _log.exception("load failed unexpectedly", lifetime=repr(self))
            self._fail(f"{type(error).__name__}: {error}")
            raise LoadFailed(str(error)) from error
        self._table.change(self.key, Change.LOADED, loaded=loaded)

    async def _open_warm(self) -> LoadedModel:
        loaded = await self._open_model(self.assignment)
        try:
            await loaded.warm_up()
        except BaseException:
            await loaded.close()
            raise
        return loaded

    def _fail(self, reason: str) -> None:
        self._table.change(self.key, Change.LOAD_FAILED, reason)

    async def _drain(self) -> None:
        if not await self._table.wait_until_idle(self.key, self._unload_timeout_s):
            _log.warning("unloading under calls that do not end", lifetime=repr(self))
        await self._table.unload(self.key)
