"""Work that a backend has to do before it can run a model: minutes, beside serving.

A backend that makes something of a model first (an engine, say) refuses it until that is there, and
the refusal has the work. Whoever opened the model elsewhere meanwhile has it done and opens the
model again. Each opening has work of its own, so that no version waits for another's or ends it;
that the same thing is not made twice is for the backend to see to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from services.inference.backends.backend import BackendUnavailable, Obstacle


@dataclass(frozen=True, slots=True)
class Pending:
    """`prepare` blocks, and raises `BackendUnavailable` if the model will never run there.

    `cancel` has it end early, from any thread.
    """

    backend: str
    prepare: Callable[[], None]
    cancel: Callable[[], None]


class NotBuiltYet(BackendUnavailable):
    """The backend runs the model once its work is done."""

    def __init__(self, work: Pending, detail: str) -> None:
        super().__init__(work.backend, Obstacle.NOT_BUILT_YET, detail)
        self.work = work


@runtime_checkable
class HasPending(Protocol):
    """A model that is open somewhere, and could be opened on a better backend after some work."""

    @property
    def pending(self) -> Pending | None:
        """The work, if there is any."""
