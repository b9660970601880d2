"""What every backend of a node has in common: its share of the machine, and how it fails.

A backend is an execution engine. What it runs, and how, is the business of the models.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from mesh.errors import Internal


class BackendFailed(Internal):
    """A run on the execution engine failed; whatever it was to write holds nothing of use."""

    reason = "BACKEND_FAILED"


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """How the node lets a backend use the machine.

    `threads` None means all cores; nodes that share a machine do better with their share of them.
    `spin` gains 15-25 % on a machine of one's own and loses as much on a shared one.
    """

    threads: int | None = None
    spin: bool = False

    @property
    def thread_count(self) -> int:
        """The threads of one model."""
        return self.threads or os.cpu_count() or 1
