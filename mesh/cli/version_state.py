"""How each deployed version does on each node, as the mesh's repository index tells it.

The index is the one place where the nodes' own reasons meet, so every command that says how a
version does asks there. This module reads and shows it; what to make of it is for the commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from rich.markup import escape
from rich.table import Table

from mesh.cli.http_call import open_edge, require_success
from mesh.cli.output import make_table
from mesh.local.unrecorded import make_unrecorded

TIMEOUT_S = 15.0
"""The gateway itself gives up on a silent node sooner."""
_COLOURS = {"READY": "green", "LOADING": "yellow"}


@dataclass(frozen=True, slots=True)
class NodeState:
    """How one node does with a version."""

    node: str
    state: str
    reason: str
    backend: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class VersionState:
    """A deployed version and all nodes that have to do with it."""

    model: str
    version: int
    state: str
    reason: str
    nodes: tuple[NodeState, ...]

    def on(self, *states: str) -> tuple[NodeState, ...]:
        """The nodes on which it is in one of these states."""
        return tuple(node for node in self.nodes if node.state in states)


def read_states(edge: str) -> list[VersionState]:
    """Every deployed version.

    Raises:
        CallFailed: the mesh does not answer.
    """
    with open_edge(edge, timeout_s=TIMEOUT_S) as client:
        return ask_states(client)


def ask_states(client: httpx.Client) -> list[VersionState]:
    """Every deployed version, through an edge that is open."""
    answer = client.post("/v2/repository/index", headers=make_unrecorded())
    require_success(answer)
    return [_read_state(entry) for entry in answer.json()]


def ask_routed(client: httpx.Client, state: VersionState) -> bool:
    """Whether a call through the edge reaches the version."""
    path = f"/v2/models/{state.model}/versions/{state.version}/ready"
    return client.get(path, headers=make_unrecorded()).is_success


def make_state_table(states: Iterable[VersionState], *, with_model: bool) -> Table:
    """A row per node."""
    name = "model" if with_model else "version"
    table = make_table(name, "node", "state", "backend", "memory", "reason")
    table.columns[4].justify = "right"
    for state in states:
        shown = f"{state.model}@{state.version}" if with_model else str(state.version)
        for node in state.nodes or (NodeState("-", state.state, state.reason, "", 0),):
            table.add_row(f"[cyan]{escape(shown)}[/]", *_cells(node))
    return table


def explain(nodes: Iterable[NodeState]) -> str:
    """`node-1, node-2: why`: nodes with the same reason are named together."""
    by_reason: dict[str, list[str]] = {}
    for node in nodes:
        by_reason.setdefault((node.reason or node.state).rstrip("."), []).append(node.node)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def needing_words(states: Iterable[VersionState], replicas: dict[str, int]) -> list[VersionState]:
    """The versions with something to tell, each with those of its nodes that have."""
    return list(_needing_words(states, replicas))


def _needing_words(
    states: Iterable[VersionState], replicas: dict[str, int]
) -> Iterator[VersionState]:
    for state in states:
        is_short = len(state.on("READY")) < replicas.get(state.model, 1)
        telling = tuple(
            node
            for node in state.nodes
            if (node.state != "READY" or node.reason) and (is_short or node.state != "UNLOADED")
        )
        if telling or not state.nodes:
            yield VersionState(state.model, state.version, state.state, state.reason, telling)


def _cells(node: NodeState) -> tuple[str, str, str, str, str]:
    colour = _COLOURS.get(node.state, "red")
    size = f"{node.memory_bytes / 1e6:.1f} MB" if node.memory_bytes else ""
    state = f"[{colour}]{node.state}[/]"
    return escape(node.node), state, escape(node.backend), size, escape(node.reason)


def _read_state(entry: dict[str, Any]) -> VersionState:
    return VersionState(
        model=entry["name"],
        version=int(entry["version"]),
        state=entry["state"],
        reason=entry["reason"],
        nodes=tuple(
            NodeState(
                node=each["node"],
                state=each["state"],
                reason=each["reason"],
                backend=each["backend"],
                memory_bytes=each["memory_bytes"],
            )
            for each in entry.get("nodes", ())  # an older gateway names none
        ),
    )
