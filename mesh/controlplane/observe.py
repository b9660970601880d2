"""Watches Consul and assembles what the control plane knows.

Nothing is known until every source has answered once: a control plane that has just started must
not take its own ignorance for an empty mesh. Afterwards the loss of Consul changes nothing, the
catalog keeps the last values.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from mesh.catalog import Catalog, Instance, KvEntry
from mesh.controlplane.build import SERVICES, World
from mesh.controlplane.tuning import read_tuning
from mesh.deployment import COUNTS_PREFIX, DEPLOYMENTS_PREFIX, Count, Deployment
from mesh.live_setting import SETTINGS_PREFIX
from mesh.logs import get_logger

_log = get_logger(__name__)


class Observation:
    """What has been seen so far; `world` is None while a source is still silent."""

    def __init__(self) -> None:
        self._world = World()
        self._silent = {*SERVICES, DEPLOYMENTS_PREFIX, SETTINGS_PREFIX, COUNTS_PREFIX}

    def __repr__(self) -> str:
        return f"<Observation silent={sorted(self._silent)} {self._world}>"

    @property
    def world(self) -> World | None:
        """What is known, once everything is."""
        return None if self._silent else self._world

    def take_instances(self, service: str, found: tuple[Instance, ...]) -> None:
        """The live instances of a service."""
        self._world = replace(self._world, instances={**self._world.instances, service: found})
        self._silent.discard(service)

    def take_deployments(self, entries: Mapping[str, KvEntry]) -> None:
        """What should be served; of a document that cannot be read, the last good one stays."""
        read = {key: self._read_deployment(key, entry) for key, entry in entries.items()}
        known = {each.model: each for each in read.values() if each is not None}
        self._world = replace(self._world, deployments=known)
        self._silent.discard(DEPLOYMENTS_PREFIX)

    def take_settings(self, entries: Mapping[str, KvEntry]) -> None:
        """The settings that have been changed from their defaults."""
        values = {key.removeprefix(SETTINGS_PREFIX): each.value for key, each in entries.items()}
        self._world = replace(self._world, tuning=read_tuning(values, _complain))
        self._silent.discard(SETTINGS_PREFIX)

    def take_counts(self, entries: Mapping[str, KvEntry]) -> None:
        """What versions need of a node's memory; what cannot be read is not known."""
        counts: dict[tuple[str, int], Count] = {}
        for key, entry in entries.items():
            model, _, version = key.removeprefix(COUNTS_PREFIX).rpartition("/")
            with suppress(ValueError):
                counts[model, int(version)] = Count.from_json(entry.value)
        self._world = replace(self._world, counts=counts)
        self._silent.discard(COUNTS_PREFIX)

    def _read_deployment(self, key: str, entry: KvEntry) -> Deployment | None:
        model = key.removeprefix(DEPLOYMENTS_PREFIX)
        try:
            deployment = Deployment.from_json(entry.value)
        except ValueError as error:
            _log.error("deployment cannot be read", key=key, error=str(error))
            return self._world.deployments.get(model)
        if deployment.model != model:
            _log.error("deployment lies under another's key", key=key, model=deployment.model)
            return self._world.deployments.get(model)
        return deployment


async def run_observation(catalog: Catalog, on_world: Callable[[World], None]) -> None:
    """Calls `on_world` with what is known, at first and after each change, until cancelled."""
    seen, changed = Observation(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for service in SERVICES:
            tasks.create_task(_follow_instances(catalog, service, seen, changed))
        deployments = catalog.watch_prefix(DEPLOYMENTS_PREFIX)
        settings = catalog.watch_prefix(SETTINGS_PREFIX)
        tasks.create_task(_follow(deployments, seen.take_deployments, changed))
        tasks.create_task(_follow(settings, seen.take_settings, changed))
        counts = catalog.watch_prefix(COUNTS_PREFIX)
        tasks.create_task(_follow(counts, seen.take_counts, changed))
        while True:
            await changed.wait()
            changed.clear()
            if seen.world is not None:
                on_world(seen.world)


async def _follow_instances(
    catalog: Catalog, service: str, seen: Observation, changed: asyncio.Event
) -> None:
    async for found in catalog.watch_instances(service):
        seen.take_instances(service, found)
        changed.set()


async def _follow(
    entries: AsyncIterator[Mapping[str, KvEntry]],
    take: Callable[[Mapping[str, KvEntry]], None],
    changed: asyncio.Event,
) -> None:
    async for found in entries:
        take(found)
        changed.set()


def _complain(key: str, problem: str) -> None:
    _log.error("setting cannot be used, its default stays", key=key, error=problem)
