"""Which node should hold which model version: pure functions, carried out by the leader.

Rendezvous hashing: every node has a score for every model, and the nodes with the best scores hold
it. A node that leaves moves only what it held, one that joins takes only what it now scores best
for. All versions of a model rank the nodes alike, so that a new version is loaded where the old one
is warm. Moving is make-before-break: see `keep_until_replaced`.

Nodes have only so much memory. A version goes to the best nodes that have room for it: by estimate
until some node has counted, so that a node that had to refuse it is not asked again. What answers
already where it belongs takes its room first, so that a newcomer displaces nobody. Versions that
may be paged share what the others leave: it is enough that each fits by itself. One that fits
nowhere still goes to the node that has most room, which says in its status what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mesh.deployment import Assignment, Count, Deployment, Placement, VersionSpec
from mesh.manifest import Format
from mesh.memory_estimate import estimate_bytes

Holding = tuple[str, int]
"""A model and a version."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as placement sees it."""

    id: str
    formats: frozenset[Format] | None = None
    """The artefact formats that it runs; None for all."""
    ready: frozenset[Holding] = frozenset()
    """What it serves now."""
    memory_bytes: int | None = None
    """What its models may take together; None for any amount."""

    def can_hold(self, spec: VersionSpec) -> bool:
        """Whether this node could run that version."""
        return self.formats is None or spec.manifest.format in self.formats


@dataclass(slots=True, eq=False)
class _Room:
    """What is spoken for on a node: by those that stay in memory, and the largest of the others."""

    node: Node
    fixed_bytes: int = 0
    largest_paged_bytes: int = 0

    def free_bytes(self, *, may_page: bool) -> float:
        """What a further version could take."""
        if self.node.memory_bytes is None:
            return float("inf")
        paged = 0 if may_page else self.largest_paged_bytes
        return self.node.memory_bytes - self.fixed_bytes - paged

    def take(self, needs_bytes: int, *, may_page: bool) -> None:
        """Speaks for so much of it."""
        if may_page:
            self.largest_paged_bytes = max(self.largest_paged_bytes, needs_bytes)
        else:
            self.fixed_bytes += needs_bytes


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A version, and what it asks of a node."""

    deployment: Deployment
    spec: VersionSpec
    needs_bytes: int

    @property
    def holding(self) -> Holding:
        return self.deployment.model, self.spec.version

    @property
    def may_page(self) -> bool:
        return self.deployment.may_page

    def assignment(self) -> Assignment:
        model, may_page = self.deployment.model, self.deployment.may_page
        return Assignment(model=model, spec=self.spec, may_page=may_page)

    def rank(self, rooms: Iterable[_Room]) -> list[_Room]:
        """The nodes that run it, those that score best for its model first."""
        able = [room for room in rooms if room.node.can_hold(self.spec)]
        model = self.deployment.model
        return sorted(able, key=lambda room: (-score(room.node.id, model), room.node.id))

    def fits(self, room: _Room) -> bool:
        return room.free_bytes(may_page=self.may_page) >= self.needs_bytes


def place(
    nodes: Iterable[Node],
    deployments: Iterable[Deployment],
    counts: Mapping[Holding, Count] = MappingProxyType({}),
) -> dict[str, Placement]:
    """What each node should hold, given what is known of the versions' memory."""
    rooms = [_Room(node) for node in nodes]
    wanted = [
        _Wanted(each, spec, needs_bytes(spec, counts.get((each.model, spec.version))))
        for each in deployments
        for spec in each.versions.values()
    ]
    wanted.sort(key=lambda each: each.holding)
    chosen: dict[Holding, list[_Room]] = {each.holding: [] for each in wanted}
    # What answers already where it belongs keeps its room; only then come the others.
    for each in wanted:
        best = each.rank(rooms)[: each.deployment.replicas]
        _take(each, [room for room in best if each.holding in room.node.ready], chosen)
    for each in wanted:
        _take(each, each.rank(rooms), chosen)
        if not chosen[each.holding]:
            _take_unfit(each, each.rank(rooms), chosen)
    return {room.node.id: _placement(room, wanted, chosen) for room in rooms}


def needs_bytes(spec: VersionSpec, count: Count | None) -> int:
    """What a version takes: as counted, if that was of the same content, or else by estimate."""
    if count is not None and count.digest == spec.digest:
        return count.needs_bytes
    return estimate_bytes(spec)


def _take(wanted: _Wanted, rooms: Iterable[_Room], chosen: Mapping[Holding, list[_Room]]) -> None:
    """Gives a version room on the first of these nodes that have it, as many as it should have."""
    found = chosen[wanted.holding]
    for room in rooms:
        if len(found) == wanted.deployment.replicas:
            return
        if room not in found and wanted.fits(room):
            room.take(wanted.needs_bytes, may_page=wanted.may_page)
            found.append(room)


def _take_unfit(
    wanted: _Wanted, rooms: Iterable[_Room], chosen: Mapping[Holding, list[_Room]]
) -> None:
    """A version that fits nowhere: to the node with most room, which takes nothing from others."""
    roomiest = sorted(rooms, key=lambda room: -room.free_bytes(may_page=wanted.may_page))
    chosen[wanted.holding].extend(roomiest[:1])


def _placement(
    room: _Room, wanted: Iterable[_Wanted], chosen: Mapping[Holding, list[_Room]]
) -> Placement:
    here = (each.assignment() for each in wanted if room in chosen[each.holding])
    return Placement(node=room.node.id, assignments=tuple(here))


def score(node: str, model: str) -> int:
    """How much a node is wanted for a model: the same number everywhere and always."""
    digest = hashlib.blake2b(f"{node}\0{model}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def keep_until_replaced(
    wanted: Mapping[str, Placement], current: Mapping[str, Placement], nodes: Iterable[Node]
) -> dict[str, Placement]:
    """`wanted`, with what nodes still serve in place of replicas that are not ready yet.

    A replica that moves stays where it is until all its wanted nodes have it ready, so that moving
    costs no request. What no deployment wants any more is not kept.
    """
    ready = {node.id: node.ready for node in nodes}
    waiting = _not_ready_yet(wanted, ready)
    kept = dict(wanted)
    for node, placement in wanted.items():
        before = current.get(node)
        if before is None:
            continue
        wanted_here = {(_holding(each), each.spec.digest) for each in placement.assignments}
        stay = [
            each
            for each in before.assignments
            if (_holding(each), each.spec.digest) not in wanted_here
            and waiting.get(_holding(each)) == each.spec.digest
            and _holding(each) in ready.get(node, ())
        ]
        merged = sorted((*placement.assignments, *stay), key=_holding)
        kept[node] = Placement(node=node, assignments=tuple(merged))
    return kept


def _not_ready_yet(
    wanted: Mapping[str, Placement], ready: Mapping[str, frozenset[Holding]]
) -> dict[Holding, str]:
    return {
        _holding(each): each.spec.digest
        for node, placement in wanted.items()
        for each in placement.assignments
        if _holding(each) not in ready.get(node, ())
    }


def _holding(assignment: Assignment) -> Holding:
    return assignment.model, assignment.spec.version
