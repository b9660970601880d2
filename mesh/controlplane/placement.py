"""Which node should hold which model version: pure functions, carried out by the leader.

Rendezvous hashing: every node has a score for every model, and the nodes with the best scores hold
it. A node that leaves moves only what it held, one that joins takes only what it now scores best
for. All versions of a model rank the nodes alike, so that a new version is loaded where the old one
is warm. Moving is make-before-break: see `keep_until_replaced`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.deployment import Assignment, Deployment, Placement, VersionSpec
from mesh.manifest import Format

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

    def can_hold(self, spec: VersionSpec) -> bool:
        """Whether this node could run that version."""
        return self.formats is None or spec.manifest.format in self.formats


def place(nodes: Iterable[Node], deployments: Iterable[Deployment]) -> dict[str, Placement]:
    """What each node should hold."""
    nodes = list(nodes)
    held: dict[str, list[Assignment]] = {node.id: [] for node in nodes}
    for deployment in sorted(deployments, key=lambda each: each.model):
        for version in sorted(deployment.versions):
            spec = deployment.versions[version]
            for node in choose(nodes, deployment.model, spec, deployment.replicas):
                held[node.id].append(Assignment(model=deployment.model, spec=spec))
    return {node: Placement(node=node, assignments=tuple(found)) for node, found in held.items()}


def choose(nodes: Iterable[Node], model: str, spec: VersionSpec, replicas: int) -> list[Node]:
    """The nodes that score best for a model, among those that can hold this version of it."""
    able = [node for node in nodes if node.can_hold(spec)]
    return sorted(able, key=lambda node: (-score(node.id, model), node.id))[:replicas]


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
        stay = [
            each
            for each in before.assignments
            if each not in placement.assignments
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
