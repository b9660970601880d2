"""Opens a version within the node's memory, and sees every opening to its end.

What an opening takes is held from before its first byte until the version is closed; or, if nobody
wants it any more, until its thread has ended and what it made is thrown away. Whoever gives an
opening up need not wait for that, and may ask when it has come. A second engine of a version that
serves already is counted by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mesh.deployment import Assignment
from mesh.errors import RingmeshError, Unavailable
from mesh.logs import get_logger
from services.inference.models.engines import close_whole
from services.inference.models.loaded_model import Key, LoadedModel
from services.inference.models.memory import Memory
from services.inference.models.room import Hold

Open = Callable[[Assignment], Awaitable[LoadedModel]]
Measure = Callable[[Assignment], Awaitable[int]]
"""How much memory a version is going to take, told before it is loaded."""

_log = get_logger(__name__)


class LoadFailed(Unavailable):
    """One attempt at opening a version failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A second engine, and under what name its memory is held."""

    loaded: LoadedModel
    hold: Hold


async def no_needs(_assignment: Assignment) -> int:
    """Counts nothing."""
    return 0


class Loading:
    """The openings of one version."""

    def __init__(
        self, key: Key, open_model: Open, *, memory: Memory, measure: Measure = no_needs
    ) -> None:
        self._key = key
        self._open_model = open_model
        self._memory = memory
        self._measure = measure
        self._needs_bytes: int | None = None
        self._engines = 1
        self._given_up: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Loading {self._key} given_up={len(self._given_up)}>"

    async def open(
        self,
        assignment: Callable[[], Assignment],
        *,
        page_out: Callable[[str], None],
        waits: bool = False,
    ) -> LoadedModel:
        """The version, warm; with `waits`, in line for memory that others are using.

        Its memory is to be settled, when it is known to all, and to be released.

        Raises:
            LoadFailed: it cannot be opened now.
        """

        async def reserve(needs_bytes: int) -> None:
            await self._memory.reserve(
                self._key,
                needs_bytes,
                may_page=lambda: assignment().may_page,
                page_out=page_out,
                waits=waits,
            )

        opening = self._open(assignment(), self._key, reserve)
        return await self._see_through(opening, self._key)

    async def open_beside(self, assignment: Assignment) -> Beside:
        """The version once more, while it serves; raises as `open` does."""
        self._engines += 1
        hold: Hold = (*self._key, f"engine {self._engines}")

        async def reserve(needs_bytes: int) -> None:
            await self._memory.reserve(hold, needs_bytes, may_page=bool, page_out=_stay)

        loaded = await self._see_through(self._open(assignment, hold, reserve), hold)
        return Beside(loaded, hold)

    async def ended(self) -> None:
        """Returns when nothing is left of what was given up."""
        while self._given_up:
            await asyncio.wait(self._given_up)

    async def _open(
        self, assignment: Assignment, hold: Hold, reserve: Callable[[int], Awaitable[None]]
    ) -> LoadedModel:
        if self._needs_bytes is None:  # its content stays what it is for as long as it stays
            self._needs_bytes = await self._measure(assignment)
        await reserve(self._needs_bytes)
        try:
            loaded = await _warmed(await self._open_model(assignment))
            await self._keep_room(loaded, hold, self._needs_bytes)
        except BaseException:
            self._memory.release(hold)
            raise
        return loaded

    async def _keep_room(self, loaded: LoadedModel, hold: Hold, reserved_bytes: int) -> None:
        """Room for what it really takes; without it, it is closed, and counted right next time."""
        if loaded.memory_bytes <= reserved_bytes:
            return
        self._needs_bytes = loaded.memory_bytes
        try:
            await self._memory.grow(hold, loaded.memory_bytes)
        except BaseException:
            await close_whole([loaded])
            raise

    async def _see_through(
        self, opening: Coroutine[Any, Any, LoadedModel], hold: Hold
    ) -> LoadedModel:
        task = asyncio.create_task(opening)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            ending = asyncio.create_task(self._throw_away(task, hold))
            self._given_up.add(ending)
            ending.add_done_callback(self._given_up.discard)
            raise
        except Exception as error:  # whatever an artefact or an engine does, the node lives on
            raise LoadFailed(reason_of(error, self._key)) from error

    async def _throw_away(self, opening: asyncio.Task[LoadedModel], hold: Hold) -> None:
        opening.cancel()
        await asyncio.wait({opening})
        if not opening.cancelled() and opening.exception() is None:
            await close_whole([opening.result()])
            self._memory.release(hold)


def reason_of(error: Exception, key: Key) -> str:
    """What a status says of a failure; one that nobody has foreseen goes to the log as well."""
    if isinstance(error, RingmeshError):
        return error.message
    model, version = key
    _log.exception("opening failed unexpectedly", model=model, version=version)
    return f"{type(error).__name__}: {error}"


async def _warmed(loaded: LoadedModel) -> LoadedModel:
    """The same, after its first answer."""
    try:
        await loaded.warm_up()
    except BaseException:
        await close_whole([loaded])  # why it cannot answer is said, not what went wrong after
        raise
    return loaded


def _stay(_reason: str) -> None:
    """It is never asked to leave."""
