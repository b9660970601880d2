"""Models that break while they serve: how one says so, and how long to leave it before a new try.

An engine that fails run after run, or has lost its device, does not get well by itself; its version
is closed and opened anew. The first time at once, because most failures are of the moment; one that
breaks again soon after is given more and more time: a node must not spend itself on loading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

STEADY_S = 300.0
"""Who has served for so long is not broken for the same reason as before."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


@runtime_checkable
class CanBreak(Protocol):
    """A loaded version whose engine may fail for good."""

    async def broken(self) -> str:
        """Returns once it can answer no more, and says why."""


@dataclass(frozen=True, slots=True)
class Relapses:
    """How often in a row a version has broken without having served steadily in between."""

    count: int = 0

    def after(self, served_s: float) -> Relapses:
        """It has broken once more, after so long."""
        return Relapses(1 if served_s >= STEADY_S else self.count + 1)

    @property
    def pause_s(self) -> float:
        """How long to wait before it is opened again."""
        if self.count <= 1:
            return 0.0
        return float(min(FIRST_PAUSE_S * 2.0 ** min(self.count - 2, 30), LONGEST_PAUSE_S))
