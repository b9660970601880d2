"""Tells the mesh which versions answer here: Consul by tags, gRPC clients by health services."""

from __future__ import annotations

import asyncio

from mesh.catalog import Registration
from mesh.health import HealthServicer
from services.inference.models.table import ModelTable


class Announcement:
    """What has been said about this node's versions."""

    def __init__(
        self, table: ModelTable, registration: Registration, health: HealthServicer
    ) -> None:
        self._table = table
        self._registration = registration
        self._health = health
        self._said: frozenset[str] = frozenset()
        # Two updates under way at once could arrive in the wrong order.
        self._turn = asyncio.Lock()

    async def renew(self) -> None:
        """Says what is true now; returns when Consul has it (or cannot be reached)."""
        async with self._turn:
            ready = self._table.ready_references()
            for gone in self._said - ready:
                await self._health.set(gone, serving=False)
            await self._registration.update_tags(ready)
            for new in ready - self._said:
                await self._health.set(new, serving=True)
            self._said = ready
