"""Consul: who is alive, what the mesh knows, and who leads.

The only module that knows Consul. A process registers itself with a gRPC health check and is put
back if Consul forgets it; watches are blocking queries that survive the loss of Consul by keeping
the last value, so that nothing downstream changes while Consul is away.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
import consul.aio
from consul import Check, ConsulException

from mesh.errors import Unavailable
from mesh.logs import get_logger

WAIT_S = 60
"""Length of a blocking query."""
REASSERT_S = 5.0
"""How often a registration is compared with what Consul has."""
RETRY_MAX_S = 3.0
CHECK_FAILURES = 3
"""Failed checks in a row that make an instance critical. One is too few: a machine that is busy for
a second would lose healthy instances. Envoy, which sees broken connections, is the fast line."""
SESSION_TTL_S = 10

_log = get_logger(__name__)
_LOST = (aiohttp.ClientError, ConsulException, OSError, TimeoutError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Instance:
    """One registered service process; `address` and `port` are where its gRPC server listens."""

    id: str
    service: str
    address: str
    port: int
    tags: frozenset[str] = frozenset()
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KvEntry:
    """A value of the key-value store, with the index that a check-and-set compares."""

    value: bytes
    modify_index: int


@dataclass(frozen=True, slots=True)
class KvPut:
    """One change of a transaction: writes `key` if it is still at `modify_index` (0: is not)."""

    key: str
    value: bytes
    modify_index: int


@dataclass(frozen=True, slots=True)
class KvDelete:
    """One change of a transaction: deletes `key` if it is still at `modify_index`."""

    key: str
    modify_index: int


@dataclass(frozen=True, slots=True)
class LockHeld:
    """A lock that this process holds until the block is left or `lost` is set."""

    lost: asyncio.Event


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
        await _mapped(registration.assert_now())
        keeper = asyncio.create_task(registration.run_keeper())
        try:
            yield registration
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            with suppress(Unavailable):  # a lost Consul must not keep anybody from stopping
                await _mapped(self._client.agent.service.deregister(instance.id))

    async def watch_instances(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        """The passing instances of a service: now, then after each change. Never ends."""

        async def ask(index: str | None) -> tuple[str, tuple[Instance, ...]]:
            found, rows = await self._client.health.service(
                service, index=index, wait=f"{WAIT_S}s", passing=True
            )
            return found, tuple(sorted((_instance(row) for row in rows), key=lambda i: i.id))

        async for instances in _watch(f"service {service}", ask):
            yield instances

    async def watch_prefix(self, prefix: str) -> AsyncIterator[Mapping[str, KvEntry]]:
        """All entries below `prefix`, by full key: now, then after each change. Never ends."""

        async def ask(index: str | None) -> tuple[str, Mapping[str, KvEntry]]:
            found, rows = await self._client.kv.get(
                prefix, index=index, wait=f"{WAIT_S}s", recurse=True
            )
            return found, {row["Key"]: _entry(row) for row in rows or ()}

        async for entries in _watch(f"prefix {prefix}", ask):
            yield entries

    async def watch_key(self, key: str) -> AsyncIterator[KvEntry | None]:
        """The entry at `key` (None if there is none): now, then after each change. Never ends."""

        async def ask(index: str | None) -> tuple[str, KvEntry | None]:
            found, row = await self._client.kv.get(key, index=index, wait=f"{WAIT_S}s")
            return found, None if row is None else _entry(row)

        async for entry in _watch(f"key {key}", ask):
            yield entry

    async def get(self, key: str) -> KvEntry | None:
        """The entry at `key`, or None."""
        _, row = await _mapped(self._client.kv.get(key))
        return None if row is None else _entry(row)

    async def list_prefix(self, prefix: str) -> Mapping[str, KvEntry]:
        """All entries below `prefix`, by full key."""
        _, rows = await _mapped(self._client.kv.get(prefix, recurse=True))
        return {row["Key"]: _entry(row) for row in rows or ()}

    async def put(self, key: str, value: bytes) -> None:
        """Writes `key`, whatever is there."""
        await _mapped(self._client.kv.put(key, value))

    async def put_if(self, key: str, value: bytes, modify_index: int) -> bool:
        """Writes `key` if it is still at `modify_index` (0: if it does not exist)."""
        return bool(await _mapped(self._client.kv.put(key, value, cas=modify_index)))

    async def delete(self, key: str) -> None:
        """Deletes `key` if it is there."""
        await _mapped(self._client.kv.delete(key))

    async def transact(self, *changes: KvPut | KvDelete) -> bool:
        """Makes all changes; or none, where a key is no longer at the index that it should be."""
        operations = json.dumps([{"KV": _operation(change)} for change in changes])
        call = self._client.http.put(_committed, "/v1/txn", data=operations)
        return bool(await _mapped(call))

    @asynccontextmanager
    async def lock(self, key: str, owner: str) -> AsyncIterator[LockHeld]:
        """Waits until this process holds the lock at `key`; others see `owner` as its value.

        A session with a time to live of 10 s holds it: a holder that dies loses it within 20 s.
        """
        session = await _open_session(self._client, owner)
        lost = asyncio.Event()
        renewer = asyncio.create_task(_renew(self._client, session, lost))
        try:
            await _acquire(self._client, key, owner, session)
            yield LockHeld(lost)
        finally:
            renewer.cancel()
            with suppress(asyncio.CancelledError):
                await renewer
            with suppress(*_LOST):
                await self._client.session.destroy(session)


class Registration:
    """A registered instance whose tags may change."""

    def __init__(self, client: consul.aio.Consul, instance: Instance) -> None:
        self._client = client
        self._instance = instance

    @property
    def instance(self) -> Instance:
        """What is registered now."""
        return self._instance

    async def update_tags(self, tags: frozenset[str]) -> None:
        """Replaces the tags; the health check goes on undisturbed.

        Consul being away is no error: the tags are asserted again when it is back.
        """
        if tags == self._instance.tags:
            return
        self._instance = replace(self._instance, tags=tags)
        with suppress(Unavailable):
            await _mapped(self.assert_now())

    async def assert_now(self) -> None:
        """Tells Consul what should be registered."""
        instance = self._instance
        check = Check.grpc(
            f"{instance.address}:{instance.port}", "1s", timeout="1s", deregister="1m"
        )
        await self._client.agent.service.register(
            instance.service,
            service_id=instance.id,
            address=instance.address,
            port=instance.port,
            tags=sorted(instance.tags),
            meta=dict(instance.meta),
            check={**check, "Status": "passing", "FailuresBeforeCritical": CHECK_FAILURES},
        )

    async def run_keeper(self) -> None:
        """Puts the instance back whenever Consul has lost it or has an older one."""
        while True:
            await asyncio.sleep(REASSERT_S)
            with suppress(*_LOST):
                known = (await self._client.agent.services()).get(self._instance.id)
                if known is None or set(known["Tags"] or ()) != self._instance.tags:
                    await self.assert_now()
                    _log.info("registered again", instance=self._instance.id)


def _instance(row: Mapping[str, Any]) -> Instance:
    service = row["Service"]
    return Instance(
        id=service["ID"],
        service=service["Service"],
        address=service["Address"] or row["Node"]["Address"],
        port=service["Port"],
        tags=frozenset(service["Tags"] or ()),
        meta=dict(service["Meta"] or {}),
    )


def _entry(row: Mapping[str, Any]) -> KvEntry:
    return KvEntry(value=row["Value"] or b"", modify_index=row["ModifyIndex"])


def _operation(change: KvPut | KvDelete) -> Mapping[str, Any]:
    if isinstance(change, KvDelete):
        return {"Verb": "delete-cas", "Key": change.key, "Index": change.modify_index}
    value = base64.b64encode(change.value).decode()
    return {"Verb": "cas", "Key": change.key, "Value": value, "Index": change.modify_index}


def _committed(response: Any) -> bool:
    if response.code == HTTPStatus.CONFLICT:
        return False
    if response.code != HTTPStatus.OK:
        raise ConsulException(f"{response.code} {response.body}")
    return True


async def _mapped(call: Awaitable[T]) -> T:
    try:
        return await call
    except _LOST as error:
        raise Unavailable(f"Consul does not answer: {error}") from error


async def _watch(
    what: str, ask: Callable[[str | None], Awaitable[tuple[str, T]]]
) -> AsyncIterator[T]:
    """Turns blocking queries into changes; an error keeps the last value and asks again."""
    index: str | None = None
    last: T | None = None
    started = False
    wait_s = 0.1
    while True:
        try:
            found, value = await ask(index)
        except _LOST as error:
            if wait_s == 0.1:  # noqa: PLR2004 - the first failure in a row
                _log.warning(
                    "watch interrupted, keeping the last value", what=what, error=str(error)
                )
            index = None
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)
            continue
        if wait_s > 0.1:  # noqa: PLR2004 - as above
            _log.info("watch resumed", what=what)
        wait_s = 0.1
        # An index that went backwards belongs to another history: ask without one.
        index = None if index is not None and int(found) < int(index) else found
        if not started or value != last:
            started, last = True, value
            yield value


async def _open_session(client: consul.aio.Consul, owner: str) -> str:
    wait_s = 0.1
    while True:
        try:
            session: str = await client.session.create(
                name=owner, ttl=SESSION_TTL_S, lock_delay=0, behavior="release"
            )
        except _LOST:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)
        else:
            return session


async def _acquire(client: consul.aio.Consul, key: str, owner: str, session: str) -> None:
    index: str | None = None
    while True:
        with suppress(*_LOST):
            if await client.kv.put(key, owner, acquire=session):
                return
            index, _ = await client.kv.get(key, index=index, wait=f"{SESSION_TTL_S}s")
            continue
        index = None
        await asyncio.sleep(1.0)


async def _renew(client: consul.aio.Consul, session: str, lost: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    good_until = loop.time() + SESSION_TTL_S
    while loop.time() < good_until:
        await asyncio.sleep(SESSION_TTL_S / 4)
        try:
            asked = loop.time()
            await client.session.renew(session)
            good_until = asked + SESSION_TTL_S
        except consul.NotFound:
            break
        except _LOST:
            continue
    _log.warning("lock lost", session=session)
    lost.set()
