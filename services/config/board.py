"""What those who watch settings see: one blocking query in Consul, however many watch.

Each watcher gets everything first and then what changed, compared with what it got last: one that
reads slowly misses values in between, never the last one. While Consul is away nothing changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from mesh.catalog import Catalog
from mesh.errors import Unavailable
from mesh.live_setting import SETTINGS_PREFIX
from services.config.definition import Definitions
from services.config.revision import Setting, read_settings


class Board:
    """The settings now in force; it knows nothing until Consul has answered once."""

    def __init__(self, catalog: Catalog, definitions: Definitions) -> None:
        self._catalog = catalog
        self._definitions = definitions
        self._settings: Mapping[str, Setting] = {}
        self._closed = False
        self._changed = asyncio.Condition()

    def __repr__(self) -> str:
        values = {key: each.value for key, each in self._settings.items()}
        return f"<Board closed={self._closed} {values}>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Follows Consul; on exit all watches end, so that the server need not wait for them."""
        follower = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
            async with self._changed:
                self._closed = True
                self._changed.notify_all()

    async def watch(self) -> AsyncIterator[tuple[Setting, ...]]:
        """All settings, then those that change; raises `Unavailable` when the service stops."""
        seen: Mapping[str, Setting] = {}
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._closed or self._settings != seen)  # noqa: B023 - called at once
            if self._closed:
                raise Unavailable("the config service is stopping; watch again")
            news = tuple(each for key, each in self._settings.items() if seen.get(key) != each)
            seen = self._settings
            yield news

    async def _follow(self) -> None:
        async for entries in self._catalog.watch_prefix(SETTINGS_PREFIX):
            stored = {key: entry.value for key, entry in entries.items()}
            async with self._changed:
                self._settings = read_settings(self._definitions, stored)
                self._changed.notify_all()
