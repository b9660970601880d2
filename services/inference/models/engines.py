"""The engines of one version: which one answers, who is using it, and those that were replaced.

A version is in use for as long as the task runs that has resolved it. Each call is one task, so a
servicer resolves and need not give back, and a call that is cancelled or dies lets go at once. A
call stays with the engine that it began on; one that is replaced is closed after its last call,
whatever becomes of its successor. This knows no states and no budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mesh.logs import get_logger
from services.inference.allocator import give_back
from services.inference.models.loaded_model import LoadedModel

_log = get_logger(__name__)
_Calls = frozenset[asyncio.Task[Any]]


@dataclass(frozen=True, slots=True)
class Usage:
    """Whether a version is answering, when it last was on the monotonic clock, and who waits."""

    is_idle: bool = True
    last_used_s: float = 0.0
    waiting: int = 0
    """How many callers wait until it is back in memory."""


class Engines:
    """One version's."""

    def __init__(self, clock: Callable[[], float], on_idle: Callable[[], None]) -> None:
        self.current: LoadedModel | None = None
        self._clock = clock
        self._on_idle = on_idle
        self._users: set[asyncio.Task[Any]] = set()
        self._last_used_s = 0.0
        self._retired: set[_Retired] = set()

    def __repr__(self) -> str:
        return f"<Engines {self.current} users={len(self._users)} retired={len(self._retired)}>"

    def usage(self, waiting: int) -> Usage:
        """Who uses it, when so many wait for it."""
        return Usage(not self._users, self._last_used_s, waiting)

    def use(self, task: asyncio.Task[Any] | None) -> None:
        """The version stays until this task has ended."""
        if task is not None and task not in self._users:
            self._users.add(task)
            task.add_done_callback(self._let_go)
        self.touch()

    def touch(self) -> None:
        """It is in use now, or just was."""
        self._last_used_s = self._clock()

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._users.discard(task)
        self.touch()
        if not self._users:
            self._on_idle()

    def replace(self, better: LoadedModel, on_closed: Callable[[], None]) -> None:
        """New calls go there; the other is closed when those that it has have ended."""
        old, self.current = self.current, better
        if old is not None:
            retired = _Retired(old, frozenset(self._users), on_closed)
            self._retired.add(retired)
            retired.closing.add_done_callback(lambda _: self._retired.discard(retired))

    async def wait_until_idle(self, timeout_s: float | None) -> bool:
        """Waits for the calls that use it; False if some still do after that time."""
        if self._users:
            await asyncio.wait(set(self._users), timeout=timeout_s)
        return not self._users

    async def close_current(self) -> None:
        """Closes the engine that answers; calls on those it replaced go on."""
        loaded, self.current = self.current, None
        if loaded is not None:
            await close_whole([loaded])
        await asyncio.to_thread(give_back)

    async def close(self) -> None:
        """Closes all of them, also under their calls."""
        retired = tuple(self._retired)
        for each in retired:
            each.end()
        await self.close_current()
        if retired:
            await asyncio.wait([each.closing for each in retired])


class _Retired:
    """An engine that has been replaced, and the calls that still run on it."""

    def __init__(self, loaded: LoadedModel, calls: _Calls, on_closed: Callable[[], None]) -> None:
        self._loaded = loaded
        self._calls = calls
        self._on_closed = on_closed
        self._has_to_end = asyncio.Event()
        self.closing = asyncio.create_task(self._run())

    def end(self) -> None:
        """Its calls have had their time."""
        self._has_to_end.set()

    async def _run(self) -> None:
        ending = asyncio.create_task(self._has_to_end.wait())
        try:
            running = set(self._calls)
            while running and not ending.done():
                done, _ = await asyncio.wait(
                    {*running, ending}, return_when=asyncio.FIRST_COMPLETED
                )
                running -= done
        finally:
            ending.cancel()
            await close_whole([self._loaded])
            self._on_closed()


async def close_whole(engines: Iterable[LoadedModel]) -> None:
    """Closes them all, to the end even if cancelled: one that is half closed is nobody's."""
    closing = asyncio.create_task(_close_each(engines))
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait({closing})
        raise


async def _close_each(engines: Iterable[LoadedModel]) -> None:
    for engine in engines:
        try:
            await engine.close()
        except Exception:  # noqa: BLE001 - an engine that has lost its device; the node lives on
            _log.exception("closing an engine failed", model=engine.name, version=engine.version)
