"""Tells the mesh what should serve: SQL is the truth, Consul KV what everybody else reads.

A change is committed first and published after. What lies between, a crash or an absent Consul, is
healed because the two are compared: at the start, after each change in Consul, when Consul is back,
and every few seconds. Consul is read before SQL, and a key is replaced only at the index that was
read, so of two registries the one with the older view can never overwrite the newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from mesh.catalog import Catalog, KvDelete, KvEntry, KvPut
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment
from mesh.errors import Conflict, Unavailable
from mesh.logs import get_logger
from mesh.retry import attempts
from services.registry.changes import wanted_documents
from services.registry.storage.database import Database

COMPARE_S = 15.0
"""How long a difference that nothing announced may last."""
ANSWER_S = 3.0
"""How long a change waits for Consul before it answers without having been published."""

_log = get_logger(__name__)
Wanted = Mapping[str, Deployment | None]


class Publication:
    """Keeps Consul's deployments as the database has them."""

    def __init__(self, catalog: Catalog, database: Database) -> None:
        self._catalog = catalog
        self._database = database
        self._due = asyncio.Event()
        self._told: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Publication({self._told})"

    def is_told(self, model: str, revision: int) -> bool:
        """Whether this revision, or a later one, has reached the mesh."""
        return self._told.get(model, 0) >= revision

    async def publish(self, model: str) -> None:
        """Publishes the model's deployment now; where Consul is away, as soon as it is back."""
        try:
            async with asyncio.timeout(ANSWER_S):
                async for attempt in attempts(within_s=ANSWER_S, first_wait_s=0.01, on=Conflict):
                    with attempt:
                        await self._settle(model)
        except (Unavailable, Conflict, TimeoutError) as error:
            _log.warning("not published yet", model=model, error=str(error))
            self._due.set()

    @asynccontextmanager
    async def healing(self) -> AsyncIterator[None]:
        """Heals every difference while the block lasts."""
        work = [asyncio.create_task(self._watch()), asyncio.create_task(self._heal())]
        try:
            yield
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _watch(self) -> None:
        async for _ in self._catalog.watch_prefix(DEPLOYMENTS_PREFIX):
            self._due.set()

    async def _heal(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(COMPARE_S):
                    await self._due.wait()
            self._due.clear()
            try:
                async for attempt in attempts(within_s=None, on=(Unavailable, Conflict)):
                    with attempt:
                        await self._settle()
            except Exception:  # noqa: BLE001  # the edge: one bad record must not end the healing
                _log.exception("cannot publish")

    async def _settle(self, model: str | None = None) -> None:
        """Makes Consul agree with SQL, about one model or all; raises `Conflict` if outrun."""
        published = await self._catalog.list_prefix(DEPLOYMENTS_PREFIX + (model or ""))
        wanted = await self._database.read(lambda ledger: wanted_documents(ledger, model))
        for name, change in differences(published, wanted).items():
            if not await self._catalog.transact(change):
                raise Conflict(f"the deployment of '{name}' was published by another registry")
            document = wanted[name]
            revision = None if document is None else document.revision
            _log.info("deployment published", model=name, revision=revision)
        self._told |= {name: doc.revision for name, doc in wanted.items() if doc is not None}


def differences(published: Mapping[str, KvEntry], wanted: Wanted) -> dict[str, KvPut | KvDelete]:
    """What to change in Consul, by model. Keys of models that SQL never deployed are let be."""
    changes = {
        model: _difference(DEPLOYMENTS_PREFIX + model, published, document)
        for model, document in wanted.items()
    }
    return {model: change for model, change in changes.items() if change is not None}


def _difference(
    key: str, published: Mapping[str, KvEntry], document: Deployment | None
) -> KvPut | KvDelete | None:
    entry = published.get(key)
    value = None if document is None else document.to_json()
    if value == (None if entry is None else entry.value):
        return None
    index = 0 if entry is None else entry.modify_index
    return KvDelete(key, index) if value is None else KvPut(key, value, index)
