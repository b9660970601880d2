"""What state a model version is in on this node, and which changes there are: pure.

    UNAVAILABLE -> LOADING -> READY -> DRAINING -> UNLOADED

A version is registered before anything of it is loaded, so that callers learn what is going on; a
load that fails leads back to UNAVAILABLE with its reason, to be tried again, and so does an engine
that breaks while it serves. A version that has been paged out of memory is READY all the same, and
says so in its reason: it answers, and the first answer takes longer. One that is removed while it
loads is DRAINING until that load has ended, for it may take its time. What has been unloaded stays
known: a caller whose route is a moment old gets "unloaded", which a proxy may try elsewhere,
and not "does not exist", which it may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final


class ModelState(Enum):
    """Where a version is between being asked for and being gone."""

    UNAVAILABLE = "unavailable"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"


class Change(Enum):
    """What can happen to a version."""

    PLACED = "placed"
    LOAD_BEGAN = "load began"
    LOADED = "loaded"
    MOVED = "moved"
    PAGED_OUT = "paged out"
    PAGED_IN = "paged in"
    LOAD_FAILED = "load failed"
    BROKE = "broke"
    RECOVERED = "recovered"
    REMOVED = "removed"
    DRAINED = "drained"


_S, _C = ModelState, Change
_TRANSITIONS: Final[Mapping[tuple[ModelState, Change], ModelState]] = MappingProxyType(
    {
        (_S.UNAVAILABLE, _C.LOAD_BEGAN): _S.LOADING,
        (_S.UNAVAILABLE, _C.REMOVED): _S.DRAINING,
        (_S.LOADING, _C.LOADED): _S.READY,
        (_S.LOADING, _C.RECOVERED): _S.READY,
        (_S.LOADING, _C.LOAD_FAILED): _S.UNAVAILABLE,
        (_S.LOADING, _C.REMOVED): _S.DRAINING,
        (_S.READY, _C.MOVED): _S.READY,
        (_S.READY, _C.PAGED_OUT): _S.READY,
        (_S.READY, _C.PAGED_IN): _S.READY,
        (_S.READY, _C.BROKE): _S.UNAVAILABLE,
        (_S.READY, _C.REMOVED): _S.DRAINING,
        (_S.DRAINING, _C.DRAINED): _S.UNLOADED,
        (_S.UNLOADED, _C.PLACED): _S.UNAVAILABLE,
    }
)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is known of a version on this node."""

    model: str
    version: int
    state: ModelState = ModelState.UNAVAILABLE
    reason: str = ""
    backend: str = ""
    memory_bytes: int = 0

    @property
    def reference(self) -> str:
        """Its name everywhere in the mesh: `minilm@1`."""
        return f"{self.model}@{self.version}"


def next_state(state: ModelState, change: Change) -> ModelState:
    """The state after a change.

    Raises:
        ValueError: this cannot happen to a version in that state.
    """
    after = _TRANSITIONS.get((state, change))
    if after is None:
        raise ValueError(f"a model that is {state.value} cannot be {change.value}")
    return after


def advance(
    status: ModelStatus,
    change: Change,
    reason: str = "",
    *,
    backend: str = "",
    memory_bytes: int = 0,
) -> ModelStatus:
    """The status after a change; backend and memory are known of a loaded version only."""
    state = next_state(status.state, change)
    if state is ModelState.DRAINING:
        backend, memory_bytes = status.backend, status.memory_bytes
    return replace(status, state=state, reason=reason, backend=backend, memory_bytes=memory_bytes)
