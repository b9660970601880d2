"""Carries placements out, on the one control plane that holds the leader's lock.

Each node watches its own key; a key is written by check-and-set and only when it changes, so that a
leader that was deposed without noticing cannot overwrite its successor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

from mesh.catalog import Catalog, Instance, KvEntry, LockHeld
from mesh.controlplane.build import INFERENCE, World
from mesh.controlplane.membership import Membership
from mesh.controlplane.metrics import ControlplaneMetrics
from mesh.controlplane.placement import Holding, Node, keep_until_replaced, place
from mesh.deployment import COUNTS_PREFIX, PLACEMENTS_PREFIX, Assignment, Placement
from mesh.errors import InvalidArgument, Unavailable
from mesh.logs import get_logger
from mesh.manifest import TASKS_OF_FORMAT, Format
from mesh.reference import model_reference

LEADER_KEY = "ringmesh/leader/controlplane"
RETRY_S = 1.0
FORMATS = "formats"
"""The key of an instance's metadata that lists what it runs; all formats where it is absent."""
MEMORY = "memory_bytes"
"""The one that says how much its models may take together; any amount where it is absent."""

_log = get_logger(__name__)


class Leader:
    """Waits for its turn, then places replicas as the world changes."""

    def __init__(self, catalog: Catalog, owner: str, metrics: ControlplaneMetrics) -> None:
        self._catalog = catalog
        self._owner = owner
        self._metrics = metrics
        self._world: World | None = None
        self._changed = asyncio.Event()
        self._membership = Membership()

    def __repr__(self) -> str:
        return f"<Leader {self._owner}>"

    def take(self, world: World) -> None:
        """What is known now."""
        self._world = world
        self._changed.set()

    async def run(self) -> None:
        """Leads whenever the lock is this process's; until cancelled."""
        while True:
            async with self._catalog.lock(LEADER_KEY, self._owner) as held:
                _log.info("leading", owner=self._owner)
                self._metrics.leading.set(1)
                try:
                    await self._lead(held)
                finally:
                    self._metrics.leading.set(0)
            _log.warning("leading no longer", owner=self._owner)

    async def _lead(self, held: LockHeld) -> None:
        self._membership = Membership()
        while not held.lost.is_set():
            self._changed.clear()
            wait_s = await self._round()
            await _first_of(self._changed, held.lost, timeout_s=wait_s)

    async def _round(self) -> float | None:
        """Brings the placements up to date; returns when to look again, if nothing changes."""
        if self._world is None:
            return None
        try:
            return await self._place(self._world, asyncio.get_running_loop().time())
        except Unavailable as error:
            _log.warning("placements wait for Consul", error=str(error))
            return RETRY_S

    async def _place(self, world: World, now_s: float) -> float | None:
        grace_s = world.tuning.placement_grace_s
        entries = await self._catalog.list_prefix(PLACEMENTS_PREFIX)
        current = read_placements(entries)
        seen = self._membership.observe(read_nodes(world.of(INFERENCE)), now_s)
        self._membership = seen.remember(current, now_s)
        members = self._membership.members(now_s, grace_s)
        placed = place(members, world.deployments.values(), world.counts)
        wanted = keep_until_replaced(placed, current, members)
        await self._forget_counts(world)
        if not await self._write(wanted, entries):
            return RETRY_S
        next_s = self._membership.next_change_s(now_s, grace_s)
        return None if next_s is None else next_s - now_s

    async def _write(self, wanted: Mapping[str, Placement], entries: Mapping[str, KvEntry]) -> bool:
        done = True
        for node, placement in wanted.items():
            key, value = PLACEMENTS_PREFIX + node, placement.to_json()
            before = entries.get(key)
            if before is not None and before.value == value:
                continue
            done &= await self._catalog.put_if(key, value, before.modify_index if before else 0)
            _log.info("placed", node=node, holds=[_name(each) for each in placement.assignments])
        for key in entries.keys() - {PLACEMENTS_PREFIX + node for node in wanted}:
            await self._catalog.delete(key)
            _log.info("node given up", node=key.removeprefix(PLACEMENTS_PREFIX))
        return done

    async def _forget_counts(self, world: World) -> None:
        """Of versions that nobody deploys any more."""
        for model, version in world.counts:
            deployment = world.deployments.get(model)
            if deployment is None or version not in deployment.versions:
                await self._catalog.delete(f"{COUNTS_PREFIX}{model}/{version}")


def read_nodes(instances: Iterable[Instance]) -> list[Node]:
    """The nodes that these instances are."""
    return [
        Node(
            instance.meta.get("node", instance.id),
            _read_formats(instance.meta.get(FORMATS)),
            frozenset(_read_tags(instance.tags)),
            _read_bytes(instance.meta.get(MEMORY)),
        )
        for instance in instances
    ]


def read_placements(entries: Mapping[str, KvEntry]) -> dict[str, Placement]:
    """What nodes have been told so far; what cannot be read counts as nothing."""
    found: dict[str, Placement] = {}
    for key, entry in entries.items():
        node = key.removeprefix(PLACEMENTS_PREFIX)
        try:
            found[node] = Placement.from_json(entry.value)
        except ValueError:
            found[node] = Placement(node=node, assignments=())
    return found


def _read_tags(tags: Iterable[str]) -> Iterable[Holding]:
    for tag in tags:
        with suppress(InvalidArgument):
            reference = model_reference(tag)
            if reference.version is not None:
                yield reference.name, reference.version


def _read_formats(text: str | None) -> frozenset[Format] | None:
    if text is None:
        return None
    said = {each.strip() for each in text.split(",")}
    return frozenset(each for each in TASKS_OF_FORMAT if each in said)


def _read_bytes(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _name(assignment: Assignment) -> str:
    return f"{assignment.model}@{assignment.spec.version}"


async def _first_of(*events: asyncio.Event, timeout_s: float | None) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
