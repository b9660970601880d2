"""The connection to Consul, as the mesh uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import consul.aio
from consul import ConsulException

from mesh.catalog.entry import KvDelete, KvEntry, KvPut, entry_of, operation_of
from mesh.catalog.instance import Instance, instance_of
from mesh.catalog.lock import LockHeld, locked
from mesh.catalog.loss import mapped
from mesh.catalog.registration import Registration
from mesh.catalog.watch import WAIT_S, changes
from mesh.errors import Unavailable


class Catalog:
    """An open connection to the Consul agent."""

    def __init__(self, client: consul.aio.Consul) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str) -> AsyncIterator[Catalog]:
        """Connects to the agent at `host:port` (nothing is sent yet)."""
        host, _, port = address.removeprefix("http://").rpartition(":")
        client = consul.aio.Consul(host=host, port=int(port))
        try:
            yield cls(client)
        finally:
            await client.close()

    @asynccontextmanager
    async def registered(self, instance: Instance) -> AsyncIterator[Registration]:
        """Keeps `instance` registered, and takes it out first thing on exit.

        Enter this after the server accepts calls: the instance counts as passing at once.
        """
        registration = Registration(self._client, instance)
        await mapped(registration.assert_now())
        keeper = asyncio.create_task(registration.run_keeper())
        try:
            yield registration
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            with suppress(Unavailable):  # a lost Consul must not keep anybody from stopping
                await mapped(self._client.agent.service.deregister(instance.id))

    async def watch_instances(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        """The passing instances of a service: now, then after each change. Never ends."""

        async def ask(index: str | None) -> tuple[str, tuple[Instance, ...]]:
            found, rows = await self._client.health.service(
                service, index=index, wait=f"{WAIT_S}s", passing=True
            )
            return found, tuple(sorted((instance_of(row) for row in rows), key=lambda i: i.id))

        async for instances in changes(f"service {service}", ask):
            yield instances

    async def watch_prefix(self, prefix: str) -> AsyncIterator[Mapping[str, KvEntry]]:
        """All entries below `prefix`, by full key: now, then after each change. Never ends."""

        async def ask(index: str | None) -> tuple[str, Mapping[str, KvEntry]]:
            found, rows = await self._client.kv.get(
                prefix, index=index, wait=f"{WAIT_S}s", recurse=True
            )
            return found, {row["Key"]: entry_of(row) for row in rows or ()}

        async for entries in changes(f"prefix {prefix}", ask):
            yield entries

    async def watch_key(self, key: str) -> AsyncIterator[KvEntry | None]:
        """The entry at `key` (None if there is none): now, then after each change. Never ends."""

        async def ask(index: str | None) -> tuple[str, KvEntry | None]:
            found, row = await self._client.kv.get(key, index=index, wait=f"{WAIT_S}s")
            return found, None if row is None else entry_of(row)

        async for entry in changes(f"key {key}", ask):
            yield entry

    async def get(self, key: str) -> KvEntry | None:
        """The entry at `key`, or None."""
        _, row = await mapped(self._client.kv.get(key))
        return None if row is None else entry_of(row)

    async def list_prefix(self, prefix: str) -> Mapping[str, KvEntry]:
        """All entries below `prefix`, by full key."""
        _, rows = await mapped(self._client.kv.get(prefix, recurse=True))
        return {row["Key"]: entry_of(row) for row in rows or ()}

    async def put(self, key: str, value: bytes) -> None:
        """Writes `key`, whatever is there."""
        await mapped(self._client.kv.put(key, value))

    async def put_if(self, key: str, value: bytes, modify_index: int) -> bool:
        """Writes `key` if it is still at `modify_index` (0: if it does not exist)."""
        return bool(await mapped(self._client.kv.put(key, value, cas=modify_index)))

    async def delete(self, key: str) -> None:
        """Deletes `key` if it is there."""
        await mapped(self._client.kv.delete(key))

    async def transact(self, *changes: KvPut | KvDelete) -> bool:
        """Makes all changes; or none, where a key is no longer at the index that it should be."""
        operations = json.dumps([{"KV": operation_of(change)} for change in changes])
        call = self._client.http.put(_committed, "/v1/txn", data=operations)
        return bool(await mapped(call))

    def lock(self, key: str, owner: str) -> AbstractAsyncContextManager[LockHeld]:
        """Waits until this process holds the lock at `key`; others see `owner` as its value.

        A session with a time to live of 10 s holds it: a holder that dies loses it within 20 s.
        """
        return locked(self._client, key, owner)


def _committed(response: Any) -> bool:
    if response.code == HTTPStatus.CONFLICT:
        return False
    if response.code != HTTPStatus.OK:
        raise ConsulException(f"{response.code} {response.body}")
    return True
