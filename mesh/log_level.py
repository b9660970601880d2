"""The log level of a running process: what its environment says, until a live setting says else.

The config service keeps the setting in Consul; every process of the mesh follows it there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.catalog import Catalog, KvEntry
from mesh.live_setting import LOG_LEVEL
from mesh.logs import LEVELS, get_logger, set_log_level

_log = get_logger(__name__)


@asynccontextmanager
async def following_log_level(catalog: Catalog, level: str) -> AsyncIterator[None]:
    """Follows the setting until the block is left; without one, `level` counts."""

    async def follow() -> None:
        async for entry in catalog.watch_key(LOG_LEVEL.path):
            set_log_level(read_level(entry) or level)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})


def read_level(entry: KvEntry | None) -> str | None:
    """The level that the setting names; None where there is none, or none that can be followed."""
    if entry is None:
        return None
    try:
        level = json.loads(entry.value)["value"]
    except (ValueError, KeyError, TypeError) as error:
        _log.error("the log level cannot be read", error=str(error))
        return None
    return level if level in LEVELS else None
