"""A node whose language model runs on the toy backend: everything above its slots is real.

Its version lives its whole life, announced in Consul; once the engine has broken, it stays away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from mesh.catalog import Catalog, Instance
from mesh.deployment import Assignment, VersionSpec
from mesh.health import HealthServicer
from services.inference.llm.architecture import SamplingDefaults, TextRules
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.scheduler import open_scheduler
from services.inference.models.announcement import Announcement
from services.inference.models.version_lifetime import VersionLifetime
from tests.integration.node_rig import open_node
from tests.unit.llm.toy_backend import ToyBackend
from tests.unit.llm.toy_vocabulary import END, make_vocabulary

RULES = TextRules(
    bos_token="",
    eos_token="<end>",
    bos_id=None,
    add_bos=False,
    end_ids=frozenset({END}),
    chat_template=None,
    sampling=SamplingDefaults(),
)


async def open_toy(name: str, backend: ToyBackend) -> LoadedLanguageModel:
    """Version 1 of a language model that computes on this backend."""
    lifetime = AsyncExitStack()
    vocabulary = make_vocabulary()
    scheduler = await lifetime.enter_async_context(
        open_scheduler(backend, vocabulary.text_bytes, chunk_tokens=16, max_queue=16)
    )
    metrics = LanguageModelMetrics(CollectorRegistry())
    meter = lifetime.enter_context(metrics.watching(name, 1, lambda: scheduler.occupancy))
    return LoadedLanguageModel(
        name,
        1,
        rules=RULES,
        vocabulary=vocabulary,
        backend=backend,
        scheduler=scheduler,
        meter=meter,
        lifetime=lifetime,
    )


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
