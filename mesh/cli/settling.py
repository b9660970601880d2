"""Waits until versions that were just deployed answer, or are known not to.

What a node says may be about an earlier stay, and one node hears of a deployment before another; so
a failure counts once as many nodes have spoken as should hold the version, or none has had anything
to add for a moment. The nodes themselves go on trying after that: this only decides when
to tell the person who waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from mesh.cli.call import CallFailed
from mesh.cli.version_state import VersionState, explain
from mesh.local.problem import LocalProblem

ASK_INTERVAL_S = 0.25
STEADY_S = 2.0
"""How long the nodes must have had nothing to add, where fewer speak than were asked for."""


class VersionFailed(LocalProblem):
    """A version does not load."""


class VersionNotReady(LocalProblem):
    """A version was not ready in time, and may be later."""


class Verdict(Enum):
    """What the nodes' states say of a version."""

    OPEN = "open"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Versions of a model that should answer."""

    model: str
    versions: frozenset[int]
    replicas: int

    def among(self, states: Iterable[VersionState]) -> list[VersionState]:
        """Those that the mesh knows already."""
        return [s for s in states if s.model == self.model and s.version in self.versions]


def judge(state: VersionState, replicas: int, *, is_steady: bool) -> Verdict:
    """Ready where it answers somewhere and loads nowhere else; failed where all nodes say so."""
    ready = len(state.on("READY"))
    failed = sum(1 for node in state.on("UNAVAILABLE") if node.reason)
    pending = len(state.on("LOADING", "UNAVAILABLE")) - failed
    spoken = ready + failed
    if pending or not spoken or (spoken < replicas and not is_steady):
        return Verdict.OPEN
    return Verdict.READY if ready else Verdict.FAILED


def await_settled(
    wanted: Wanted,
    ask: Callable[[], Sequence[VersionState]],
    is_routed: Callable[[VersionState], bool],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[VersionState]:
    """The versions' states when all of them answer.

    Raises:
        VersionFailed: a version does not load, with each node's reason.
        VersionNotReady: the time is over.
        CallFailed: it is over, and the mesh does not answer.
    """
    ends = clock() + timeout_s
    seen: list[VersionState] = []
    since = clock()
    while True:
        try:
            found = wanted.among(ask())
        except CallFailed:  # a gateway that is started anew, say
            if clock() >= ends:
                raise
            sleep(ASK_INTERVAL_S)
            continue
        if found != seen:
            seen, since = found, clock()
        verdicts = _judge_all(wanted, found, is_steady=clock() - since >= STEADY_S)
        is_ready = len(found) == len(wanted.versions) and verdicts == {Verdict.READY}
        if is_ready and all(map(is_routed, found)):
            return found
        if clock() >= ends:
            raise VersionNotReady(_delay(wanted, found, timeout_s))
        sleep(ASK_INTERVAL_S)


def _judge_all(wanted: Wanted, found: Sequence[VersionState], *, is_steady: bool) -> set[Verdict]:
    verdicts: set[Verdict] = set()
    for state in found:
        verdict = judge(state, wanted.replicas, is_steady=is_steady)
        if verdict is Verdict.FAILED:
            raise VersionFailed(_failure(state))
        verdicts.add(verdict)
    return verdicts


def _failure(state: VersionState) -> str:
    name = f"{state.model}@{state.version}"
    return (
        f"{name} does not load. {explain(state.on('UNAVAILABLE'))}. The nodes go on trying: "
        f"`ringmesh show {state.model}` says how they do."
    )


def _delay(wanted: Wanted, found: Sequence[VersionState], timeout_s: float) -> str:
    late = [f"{s.model}@{s.version}: {explain(s.nodes) or s.reason}" for s in found]
    how = " ".join(late) or "the mesh has not heard of it"
    return (
        f"{wanted.model} is not ready after {timeout_s:g} s ({how}); it may be yet: "
        f"`ringmesh show {wanted.model}` says how the nodes do."
    )
