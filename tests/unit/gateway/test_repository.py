"""The states of several nodes, as one entry of the repository's index."""

from __future__ import annotations

import pytest

from services.gateway.directory import VersionState
from services.gateway.oip.administration_servicer import MAX_TOLD_BYTES, show_states
from services.gateway.repository import NodeState, combine

NOT_READY = "no node has it ready; the repository index and `ringmesh show m` say why"
DEPLOYED = VersionState("m", 1, "LOADING", NOT_READY)


def on(node: str, state: str, reason: str = "", version: str = "1") -> NodeState:
    return NodeState(node, "m", version, state, reason)


@pytest.mark.parametrize(
    ("states", "state", "reason"),
    [
        ([], "LOADING", NOT_READY),
        ([on("a", "READY", version="2")], "LOADING", NOT_READY),
        ([on("a", "READY"), on("b", "READY")], "READY", ""),
        ([on("a", "LOADING"), on("b", "READY")], "READY", "a LOADING; b READY"),
        (
            [on("a", "UNLOADED", "unloaded by hand"), on("b", "DRAINING", "finishing")],
            "UNLOADING",
            "a UNAVAILABLE: unloaded by hand; b UNLOADING: finishing",
        ),
    ],
)
def test_the_best_state_counts_and_the_reason_tells_the_nodes_apart(
    states: list[NodeState], state: str, reason: str
) -> None:
    entry = combine(DEPLOYED, states).index
    assert (entry.name, entry.version) == ("m", "1")
    assert (entry.state, entry.reason) == (state, reason)


def test_each_node_is_shown_in_its_own_words() -> None:
    states = [on("a", "UNLOADED", "unloaded by hand"), on("b", "READY"), on("c", "READY", "", "2")]
    assert combine(DEPLOYED, states).nodes == states[:2]


@pytest.mark.parametrize(("count", "told", "more"), [(0, 0, ""), (2, 2, ""), (1000, 262, "738")])
def test_a_trailer_tells_of_as_many_nodes_as_it_holds(count: int, told: int, more: str) -> None:
    text = show_states([on(f"n{number}", "READY") for number in range(count)])
    shown = text.split(", ") if text else []
    assert sum(each.endswith("m@1 READY") for each in shown) == told
    assert shown[told:] == ([f"and {more} more"] if more else [])
    assert len(text) < MAX_TOLD_BYTES + 20
