"""How fast the present backlog has been shrinking: what a queue tells those that it turns away.

A rate from a quieter time would say nothing about now, so it is measured anew each time that the
queue has been empty. Pure but for its own counts: the clock is passed in.
"""

from __future__ import annotations

ENOUGH = 4
"""Fewer departures than this make no rate."""


class DrainRate:
    """Departures since the backlog began."""

    def __init__(self) -> None:
        self._departures = 0
        self._since_s = 0.0

    def restart(self, now_s: float) -> None:
        """The queue was empty until now."""
        self._departures, self._since_s = 0, now_s

    def count(self, departures: int) -> None:
        """So many have left."""
        self._departures += departures

    def wait_s(self, places: int, now_s: float) -> float | None:
        """How long until so many more have left; None if that is not known yet."""
        elapsed_s = now_s - self._since_s
        if self._departures < ENOUGH or elapsed_s <= 0:
            return None
        return places * elapsed_s / self._departures
