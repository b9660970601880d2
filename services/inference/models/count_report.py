"""Tells the mesh what a version needs of memory, once this node has counted it.

Whoever places versions has not seen their files, and can only estimate: a version that a node has
to refuse would be given to it again and again. The load itself waits for none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mesh.catalog import Catalog
from mesh.deployment import COUNTS_PREFIX, Assignment, Count
from mesh.errors import Unavailable

Measure = Callable[[Assignment], Awaitable[int]]

TELL_S = 1.0
"""A Consul that does not answer holds no load up for longer."""


class CountReport:
    """Counts as it was told to, and passes the result on."""

    def __init__(self, measure: Measure, catalog: Catalog) -> None:
        self._measure = measure
        self._catalog = catalog

    async def measure(self, assignment: Assignment) -> int:
        """What the version needs, in bytes."""
        needs_bytes = await self._measure(assignment)
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(TELL_S):
                await self._tell(assignment, needs_bytes)
        return needs_bytes

    async def _tell(self, assignment: Assignment, needs_bytes: int) -> None:
        spec = assignment.spec
        key = f"{COUNTS_PREFIX}{assignment.model}/{spec.version}"
        value = Count(digest=spec.digest, needs_bytes=needs_bytes).to_json()
        known = await self._catalog.get(key)
        if known is None or known.value != value:
            await self._catalog.put(key, value)
