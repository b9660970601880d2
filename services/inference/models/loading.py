"""Opens a version within the node's memory, and sees every opening to its end.

What an opening takes is held from before its first byte until the version is closed; or, if nobody
wants it any more, until its thread has ended and what it made is thrown away. Whoever gives an
opening up need not wait for that, and may ask when it has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from mesh.deployment import Assignment
from services.inference.models.memory import Memory
from services.inference.models.table import Key, LoadedModel

Open = Callable[[Assignment], Awaitable[LoadedModel]]
Measure = Callable[[Assignment], Awaitable[int]]
"""How much memory a version is going to take, told before it is loaded."""


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
        """
        return await self._see_through(self._open(assignment, page_out, waits=waits))

    async def ended(self) -> None:
        """Returns when nothing is left of what was given up."""
        while self._given_up:
            await asyncio.wait(self._given_up)

    async def _open(
        self,
        assignment: Callable[[], Assignment],
        page_out: Callable[[str], None],
        *,
        waits: bool,
    ) -> LoadedModel:
        if self._needs_bytes is None:  # its content stays what it is for as long as it stays
            self._needs_bytes = await self._measure(assignment())
        await self._memory.reserve(
            self._key,
            self._needs_bytes,
            may_page=lambda: assignment().may_page,
            page_out=page_out,
            waits=waits,
        )
        try:
            return await warmed(await self._open_model(assignment()))
        except BaseException:
            self._memory.release(self._key)
            raise

    async def _see_through(self, opening: Coroutine[Any, Any, LoadedModel]) -> LoadedModel:
        task = asyncio.create_task(opening)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            ending = asyncio.create_task(self._throw_away(task))
            self._given_up.add(ending)
            ending.add_done_callback(self._given_up.discard)
            raise

    async def _throw_away(self, opening: asyncio.Task[LoadedModel]) -> None:
        opening.cancel()
        await asyncio.wait({opening})
        if not opening.cancelled() and opening.exception() is None:
            await opening.result().close()
            self._memory.release(self._key)


async def warmed(loaded: LoadedModel) -> LoadedModel:
    """The same, after its first answer."""
    try:
        await loaded.warm_up()
    except BaseException:
        await loaded.close()
        raise
    return loaded
