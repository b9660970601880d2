"""Keeps the directory up to date from Consul.

Two blocking queries, one immutable view: each change replaces it. The loss of Consul changes
nothing here; a deployment that cannot be read is reported, and its last good form kept.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from mesh.catalog import Catalog, Instance, KvEntry
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment
from mesh.logs import get_logger
from services.gateway.directory import Directory

_log = get_logger(__name__)


class DirectoryWatch:
    """Holds the current directory; `now` is replaced as a whole, never changed."""

    def __init__(self) -> None:
        self.now = Directory()

    def __repr__(self) -> str:
        ready = ", ".join(sorted(self.now.ready)) or "nothing"
        return f"<DirectoryWatch {len(self.now.deployments)} models, ready: {ready}>"

    def take_deployments(self, entries: Mapping[str, KvEntry]) -> None:
        """Takes over what the KV prefix holds now."""
        read = (self._read(key, entry) for key, entry in entries.items())
        models = {deployment.model: deployment for deployment in read if deployment is not None}
        self.now = replace(self.now, deployments=models)

    def take_instances(self, instances: tuple[Instance, ...]) -> None:
        """Takes over the passing inference instances."""
        holders = defaultdict[str, list[str]](list)
        for instance in instances:
            for version in instance.tags:
                holders[version].append(_address(instance))
        if holders.keys() != self.now.holders.keys():
            _log.info("ready versions changed", ready=sorted(holders), nodes=len(instances))
        addresses = {version: tuple(nodes) for version, nodes in holders.items()}
        nodes = {each.meta.get("node", each.id): _address(each) for each in instances}
        self.now = replace(self.now, holders=addresses, nodes=nodes)

    def _read(self, key: str, entry: KvEntry) -> Deployment | None:
        try:
            return Deployment.from_json(entry.value)
        except ValueError as error:
            _log.error("deployment cannot be read", key=key, error=str(error))
            return self.now.deployments.get(key.removeprefix(DEPLOYMENTS_PREFIX))


def _address(instance: Instance) -> str:
    return f"{instance.address}:{instance.port}"


@asynccontextmanager
async def watch_directory(catalog: Catalog) -> AsyncIterator[DirectoryWatch]:
    """Yields once both halves have been seen; watches until the block is left."""
    watch = DirectoryWatch()
    deployments, instances = asyncio.Event(), asyncio.Event()

    async def follow_deployments() -> None:
        async for entries in catalog.watch_prefix(DEPLOYMENTS_PREFIX):
            watch.take_deployments(entries)
            deployments.set()

    async def follow_instances() -> None:
        async for found in catalog.watch_instances("inference"):
            watch.take_instances(found)
            instances.set()

    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow_deployments()), tasks.create_task(follow_instances())]
        await deployments.wait()
        await instances.wait()
        try:
            yield watch
        finally:
            for follower in followers:
                follower.cancel()
