"""When an engine counts as broken: after so many failed runs in a row, or one that ends everything.

A failed run says little by itself: memory may have been short for a moment, or one request may ask
what the engine cannot compute. Several with no success between them say that it is the engine. What
follows from that is decided by whoever owns it.
"""

from __future__ import annotations

from mesh.errors import Unavailable
from services.inference.backends.backend import BackendLost

FAILURES_IN_A_ROW = 3


class EngineBroken(Unavailable):
    """The engine is given up; another node may answer, and this one when it is opened anew."""


class EngineHealth:
    """What the runs of one engine have shown."""

    def __init__(self) -> None:
        self._failures = 0

    def __repr__(self) -> str:
        return f"<EngineHealth {self._failures} failures in a row>"

    def succeed(self) -> None:
        """A run has succeeded."""
        self._failures = 0

    def fail(self, error: Exception) -> None:
        """A run has failed.

        Raises:
            EngineBroken: that was one too many.
        """
        self._failures += 1
        what = str(error) or type(error).__name__
        if isinstance(error, BackendLost):
            raise EngineBroken(f"the engine is lost: {what}") from error
        if self._failures >= FAILURES_IN_A_ROW:
            raise EngineBroken(f"{self._failures} runs in a row failed: {what}") from error
