"""Work that a backend has to do before it can run a model: minutes, beside serving.

A backend that makes something of a model first (an engine, say) refuses it until that is there, and
offers the work as `Pending`. Whoever opened the model elsewhere meanwhile has it done and opens the
model again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Pending:
    """`prepare` blocks, and raises `BackendUnavailable` if the model will never run there.

    `cancel` has it end early, from any thread.
    """

    backend: str
    prepare: Callable[[], None]
    cancel: Callable[[], None]


@runtime_checkable
class Prepares(Protocol):
    """A backend with work of this kind."""

    def pending(self, digest: str) -> Pending | None:
        """What is to be done for the model of this artefact, if it was refused for that."""
