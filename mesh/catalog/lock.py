"""A lock that one process of the mesh holds at a time.

A session with a time to live holds it, so a holder that dies loses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import consul.aio

from mesh.catalog.loss import FIRST_RETRY_S, LOST, RETRY_MAX_S
from mesh.logs import get_logger

SESSION_TTL_S = 10

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LockHeld:
    """A lock that this process holds until the block is left or `lost` is set."""

    lost: asyncio.Event


@asynccontextmanager
async def locked(client: consul.aio.Consul, key: str, owner: str) -> AsyncIterator[LockHeld]:
    """Waits until this process holds the lock, and gives it back."""
    session = await _open_session(client, owner)
    lost = asyncio.Event()
    renewer = asyncio.create_task(_renew(client, session, lost))
    try:
        await _acquire(client, key, owner, session)
        yield LockHeld(lost)
    finally:
        renewer.cancel()
        with suppress(asyncio.CancelledError):
            await renewer
        with suppress(*LOST):
            await client.session.destroy(session)


async def _open_session(client: consul.aio.Consul, owner: str) -> str:
    wait_s = FIRST_RETRY_S
    while True:
        try:
            session: str = await client.session.create(
                name=owner, ttl=SESSION_TTL_S, lock_delay=0, behavior="release"
            )
        except LOST:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)
        else:
            return session


async def _acquire(client: consul.aio.Consul, key: str, owner: str, session: str) -> None:
    index: str | None = None
    while True:
        with suppress(*LOST):
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
        except LOST:
            continue
    _log.warning("lock lost", session=session)
    lost.set()
