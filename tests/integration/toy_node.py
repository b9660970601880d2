"""A node whose language model runs on the toy backend: everything above its slots is real.

Its version lives its whole life, announced in Consul; once the engine has broken, it stays away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mesh.catalog import Catalog, Instance
from mesh.deployment import Assignment, VersionSpec
from mesh.health import HealthServicer
from services.inference.llm.model import LoadedLanguageModel
from services.inference.models.announcement import Announcement
from services.inference.models.version_lifetime import VersionLifetime
from tests.integration.node_rig import open_node
from tests.unit.llm.toy_backend import ToyBackend
from tests.unit.llm.toy_model import open_toy


@asynccontextmanager
async def open_toy_node(
    name: str, catalog: Catalog, spec: VersionSpec
) -> AsyncIterator[ToyBackend]:
    """A node of that name with that version, and the backend to make trouble in."""
    backend = ToyBackend(slots=2)
    openings = iter((backend,))

    async def open_model(assignment: Assignment) -> LoadedLanguageModel:
        for first in openings:
            return await open_toy(assignment.model, first)
        await asyncio.Event().wait()
        raise AssertionError

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node([], name=name))
        port = int(node.address.rpartition(":")[2])
        instance = Instance(
            f"inference-{name}", "inference", "127.0.0.1", port, meta={"node": name}
        )
        registration = await stack.enter_async_context(catalog.registered(instance))
        lifetime = VersionLifetime(
            Assignment(model=spec.manifest.name, spec=spec),
            node.table,
            open_model=open_model,
            announce=Announcement(node.table, registration, HealthServicer()).renew,
            loads=asyncio.Semaphore(1),
            unload_timeout_s=10,
        )
        running = asyncio.create_task(lifetime.run())
        try:
            yield backend
        finally:
            backend.go_on()
            lifetime.remove()
            await running
