"""Who counts as a node: those that live, and for a while those that just vanished.

A node that misses a few health checks, or restarts, must not make others load its models at once.
Pure: the clock is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mesh.controlplane.placement import Node


@dataclass(frozen=True, slots=True)
class Membership:
    """The nodes that live, and those that vanished, with the time since when."""

    live: Mapping[str, Node] = field(default_factory=dict)
    vanished: Mapping[str, tuple[Node, float]] = field(default_factory=dict)

    def remember(self, nodes: Iterable[str], now_s: float) -> Membership:
        """Counts nodes that somebody else placed on as vanished just now, unless they live."""
        known = {*self.live, *self.vanished}
        found = {node: (Node(node), now_s) for node in nodes if node not in known}
        return replace(self, vanished={**self.vanished, **found})

    def observe(self, nodes: Iterable[Node], now_s: float) -> Membership:
        """Takes over which nodes live now."""
        live = {node.id: node for node in nodes}
        gone = {id_: (replace(node, ready=frozenset()), now_s) for id_, node in self.live.items()}
        vanished = {**gone, **self.vanished}
        return Membership(live, {id_: each for id_, each in vanished.items() if id_ not in live})

    def members(self, now_s: float, grace_s: float) -> list[Node]:
        """The nodes that replicas may be placed on, or stay with."""
        waiting = [node for node, since in self.vanished.values() if now_s < since + grace_s]
        return sorted((*self.live.values(), *waiting), key=lambda node: node.id)

    def next_change_s(self, now_s: float, grace_s: float) -> float | None:
        """When the next vanished node is given up, if one is waited for."""
        ends = [since + grace_s for _, since in self.vanished.values()]
        return min((end for end in ends if end > now_s), default=None)
