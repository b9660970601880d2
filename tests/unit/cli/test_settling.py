"""When a command that deployed something knows enough to end: states in, a verdict out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mesh.cli.call import CallFailed
from mesh.cli.deploying import way_back
from mesh.cli.settling import (
    STEADY_S,
    Verdict,
    VersionFailed,
    VersionNotReady,
    Wanted,
    await_settled,
    judge,
)
from mesh.cli.version_state import NodeState, VersionState

WANTED = Wanted("m", frozenset({2}), replicas=2)


def on(node: str, state: str, reason: str = "") -> NodeState:
    return NodeState(node, state, reason, "", 0)


def version(*nodes: NodeState, number: int = 2) -> VersionState:
    return VersionState("m", number, "", "", nodes)


READY = version(on("a", "READY"), on("b", "READY"))
FAILED = version(on("a", "UNAVAILABLE", "no graph"), on("b", "UNAVAILABLE", "no graph"))
ONE_FAILED = version(on("a", "READY"), on("b", "UNAVAILABLE", "no room"))
LOADING = version(on("a", "READY"), on("b", "LOADING"))
PLACED = version(on("a", "READY"), on("b", "UNAVAILABLE"))
GONE = version(on("a", "UNLOADED", "no longer placed"), on("b", "DRAINING", "finishing"))
ALONE = version(on("a", "READY"))
ALONE_FAILED = version(on("a", "UNAVAILABLE", "no graph"))


@pytest.mark.parametrize(
    ("state", "at_once", "later"),
    [
        (READY, Verdict.READY, Verdict.READY),
        (ONE_FAILED, Verdict.READY, Verdict.READY),
        (FAILED, Verdict.FAILED, Verdict.FAILED),
        (LOADING, Verdict.OPEN, Verdict.OPEN),
        (PLACED, Verdict.OPEN, Verdict.OPEN),
        (GONE, Verdict.OPEN, Verdict.OPEN),
        (ALONE, Verdict.OPEN, Verdict.READY),
        (ALONE_FAILED, Verdict.OPEN, Verdict.FAILED),
    ],
)
def test_a_verdict_needs_all_nodes_or_a_steady_picture(
    state: VersionState, at_once: Verdict, later: Verdict
) -> None:
    assert judge(state, 2, is_steady=False) is at_once
    assert judge(state, 2, is_steady=True) is later


class Watching:
    """The mesh as it changes from question to question, on a clock of its own."""

    def __init__(self, *pictures: Sequence[VersionState] | None, routed_after: int = 0) -> None:
        self.pictures = list(pictures)
        self.unrouted = routed_after
        self.now_s = 0.0

    def ask(self) -> Sequence[VersionState]:
        picture = self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]
        if picture is None:
            raise CallFailed("no answer")
        return picture

    def is_routed(self, _state: VersionState) -> bool:
        self.unrouted -= 1
        return self.unrouted < 0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def settle(self, timeout_s: float = 60) -> list[VersionState]:
        return await_settled(
            WANTED,
            self.ask,
            self.is_routed,
            timeout_s,
            clock=lambda: self.now_s,
            sleep=self.sleep,
        )


def test_it_waits_for_the_version_and_for_the_routes() -> None:
    older = version(on("a", "READY"), number=1)
    mesh = Watching([older], [older, LOADING], [older, READY], routed_after=2)
    assert mesh.settle() == [READY]
    assert mesh.unrouted == -1


def test_a_failure_ends_the_wait_with_each_reason_once() -> None:
    with pytest.raises(VersionFailed, match=r"^m@2 does not load. a, b: no graph. The nodes"):
        Watching([LOADING], [FAILED]).settle()


def test_a_mesh_that_does_not_answer_for_a_moment_is_asked_again() -> None:
    assert Watching([LOADING], None, None, [READY]).settle() == [READY]
    with pytest.raises(CallFailed, match="no answer"):
        Watching([LOADING], None).settle(timeout_s=5)


def test_fewer_nodes_than_replicas_are_enough_when_nothing_changes_any_more() -> None:
    mesh = Watching([ALONE])
    assert mesh.settle() == [ALONE]
    assert STEADY_S <= mesh.now_s < STEADY_S + 1


def test_what_a_node_said_of_an_earlier_stay_is_no_failure() -> None:
    assert Watching([GONE], [GONE], [READY]).settle() == [READY]


def test_the_wait_is_bounded_and_says_how_far_it_came() -> None:
    mesh = Watching([LOADING])
    with pytest.raises(VersionNotReady, match=r"not ready after 5 s \(m@2: a: READY; b: LOADING\)"):
        mesh.settle(timeout_s=5)
    assert 5 <= mesh.now_s < 6
    with pytest.raises(VersionNotReady, match="has not heard of it"):
        Watching([]).settle(timeout_s=5)


def deployment(*targets: tuple[str, int], replicas: int = 2, may_page: bool = False) -> dict:
    listed = [{"version": version, "weight": weight} for version, weight in targets]
    return {"model": "m", "targets": listed, "replicas": replicas, "may_page": may_page}


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (None, ""),
        (deployment(("2", 100)), ""),
        (deployment(("1", 100)), " Go back with: ringmesh deploy m 1"),
        (
            deployment(("1", 90), ("champion", 10), replicas=3, may_page=True),
            " Go back with: ringmesh deploy m 1:90 champion:10 --replicas 3 --may-page",
        ),
    ],
)
def test_who_deployed_what_fails_is_told_how_to_go_back(before: dict | None, told: str) -> None:
    assert way_back(before, deployment(("2", 100))) == told
