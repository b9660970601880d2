"""Follows the node's placement: starts and ends the stay of each model version.

What to start and what to end is a pure comparison of two documents. A placement that cannot be read
or that has vanished changes nothing: the node goes on with what it holds, for Consul may have been
wiped, or somebody may have given up this node while it was out of sight.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mesh.catalog import KvEntry
from mesh.deployment import Assignment, Placement
from mesh.logs import get_logger
from services.inference.models.loaded_model import Key
from services.inference.models.residence import Residence
from services.inference.models.version_lifetime import NOT_PLACED, VersionLifetime

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Difference:
    """What must change for the node to hold what it should."""

    remove: tuple[Key, ...]
    add: tuple[Assignment, ...]


def compare(held: Mapping[Key, Assignment], wanted: Mapping[Key, Assignment]) -> Difference:
    """A version whose number stayed and whose content changed is removed and added anew."""
    kept = {
        key
        for key, assignment in held.items()
        if key in wanted and wanted[key].spec.digest == assignment.spec.digest
    }
    return Difference(
        remove=tuple(key for key in held if key not in kept),
        add=tuple(each for key, each in wanted.items() if key not in kept),
    )


def read_placement(entry: KvEntry | None, node: str) -> Placement | None:
    """The node's placement, or None where there is none that can be followed."""
    if entry is None:
        return None
    try:
        placement = Placement.from_json(entry.value)
    except ValueError as error:
        _log.error("placement cannot be read", error=str(error))
        return None
    if placement.node != node:
        _log.error("placement is another node's", node=placement.node)
        return None
    return placement


class PlacementWatch:
    """The stays that the placement calls for, and whoever unloads by hand lets be."""

    def __init__(
        self,
        node: str,
        residence: Residence,
        make_lifetime: Callable[[Assignment], VersionLifetime],
    ) -> None:
        self._node = node
        self._residence = residence
        self._make_lifetime = make_lifetime
        self._wanted: dict[Key, VersionLifetime] = {}
        self._last_task: dict[Key, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        ending = sorted(self._last_task.keys() - self._wanted.keys())
        return f"<PlacementWatch {self._node} wanted={sorted(self._wanted)} ending={ending}>"

    async def run(self, entries: AsyncIterator[KvEntry | None]) -> None:
        """Follows the entries until cancelled; what is loaded then stays loaded."""
        async with asyncio.TaskGroup() as tasks:
            self._residence.follow(lambda: self._follow(tasks), self._try_now)
            async for entry in entries:
                placement = read_placement(entry, self._node)
                if placement is not None:
                    self._residence.place(placement)

    def _try_now(self, key: Key) -> None:
        lifetime = self._wanted.get(key)
        if lifetime is not None:
            lifetime.try_now()

    def _follow(self, tasks: asyncio.TaskGroup) -> None:
        held = {key: lifetime.assignment for key, lifetime in self._wanted.items()}
        difference = compare(held, self._residence.wanted)
        for key in difference.remove:
            by_hand = self._residence.is_withheld(key)
            self._wanted.pop(key).remove("unloaded by hand" if by_hand else NOT_PLACED)
        for key, lifetime in self._wanted.items():
            lifetime.reassign(self._residence.wanted[key])  # it may be paged now, or no more
        for assignment in difference.add:
            lifetime = self._make_lifetime(assignment)
            before = self._last_task.get(lifetime.key)
            self._wanted[lifetime.key] = lifetime
            self._last_task[lifetime.key] = task = tasks.create_task(_run_after(before, lifetime))
            task.add_done_callback(partial(self._forget, lifetime.key))

    def _forget(self, key: Key, ended: asyncio.Task[None]) -> None:
        if self._last_task.get(key) is ended:
            del self._last_task[key]


async def _run_after(before: asyncio.Task[None] | None, lifetime: VersionLifetime) -> None:
    """A version that comes back waits until its earlier stay has ended."""
    if before is not None:
        await asyncio.wait({before})
    await lifetime.run()
