"""How versions do on nodes, as commands show it."""

from __future__ import annotations

import httpx
from rich.console import Console

from mesh.cli.version_state import (
    NodeState,
    VersionState,
    ask_states,
    explain,
    make_state_table,
    needing_words,
)

READY = NodeState("node-1", "READY", "", "onnxruntime", 90_900_000)
PAGED = NodeState("node-1", "READY", "paged out to make room for b@1", "", 0)
FAILED = NodeState("node-2", "UNAVAILABLE", "no [graph].", "", 0)
GONE = NodeState("node-3", "UNLOADED", "no longer placed on this node", "", 0)


def version(*nodes: NodeState) -> VersionState:
    return VersionState("m", 3, "READY", "", nodes)


def test_the_index_is_read_with_what_each_node_says() -> None:
    node = {"node": "node-2", "state": "UNAVAILABLE", "reason": "no [graph]."}
    entry = {"name": "m", "version": "3", "state": "READY", "reason": ""}
    body = [entry | {"nodes": [node | {"backend": "", "memory_bytes": 0}]}, entry]
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=body)

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://edge") as client:
        assert ask_states(client) == [version(FAILED), version()]
    assert asked[0].headers["traceparent"].endswith("-00")  # which is not recorded


def test_reasons_are_shown_whole_and_as_they_are() -> None:
    console = Console(width=160, highlight=False)
    with console.capture() as shown:
        console.print(make_state_table([version(READY, FAILED)], with_model=True))
    first, second = shown.get().splitlines()[1:]
    assert first.split() == ["m@3", "node-1", "READY", "onnxruntime", "90.9", "MB"]
    assert second.rstrip().endswith("no [graph].")


def test_nodes_with_the_same_reason_are_named_together() -> None:
    other = NodeState("node-4", "UNAVAILABLE", "no [graph].", "", 0)
    assert explain([FAILED, other, GONE]) == (
        "node-2, node-4: no [graph]; node-3: no longer placed on this node"
    )


def test_only_versions_with_something_to_tell_are_told_of() -> None:
    assert needing_words([version(READY, GONE)], {"m": 1}) == []
    assert needing_words([version(READY, FAILED)], {"m": 2}) == [version(FAILED)]
    assert needing_words([version(PAGED)], {"m": 1}) == [version(PAGED)]
    assert needing_words([version(GONE)], {"m": 1}) == [version(GONE)]
    assert needing_words([version()], {"m": 1}) == [version()]
