"""A service process as a member of the mesh: found in Consul, and at the log level of all.

It joins last, once it answers calls, and so leaves first: nobody is sent to it while it drains. It
does not know what the process serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.catalog import Catalog, Instance, Registration
from mesh.log_level import following_log_level


def make_instance(
    service: str, instance_id: str, listen: str, port: int, metrics_port: int, **meta: str
) -> Instance:
    """The process as Consul shows it: at the host that it listens on, with its metrics' port."""
    host = listen.rpartition(":")[0]
    meta = {**meta, "metrics_port": str(metrics_port)}
    return Instance(instance_id, service, host, port, meta=meta)


@asynccontextmanager
async def joined(
    catalog: Catalog, instance: Instance, log_level: str
) -> AsyncIterator[Registration]:
    """Keeps the process registered and following the log level; `log_level` is its own."""
    async with (
        catalog.registered(instance) as registration,
        following_log_level(catalog, log_level),
    ):
        yield registration
