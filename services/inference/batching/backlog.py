"""The door of a bounded queue: whom it turns away, and what it tells them about when.

How long a newcomer would wait rests on how fast the present backlog has been shrinking. A rate from
a quieter time would say nothing about now, so it is measured anew each time that the queue has been
empty. Pure but for its own counts: the clock is passed in, the queue itself is the caller's.
"""

from __future__ import annotations

from mesh.errors import DeadlineTooShort, QueueFull

ENOUGH = 4
"""Fewer departures than this make no rate."""
DEFAULT_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class Backlog:
    """What the door of one queue knows; `unit` is what waits there: "rows"."""

    def __init__(self, limit: int, unit: str) -> None:
        self._limit = limit
        self._unit = unit
        self._departures = 0
        self._since_s = 0.0

    def check(
        self,
        waiting: int,
        joining: int,
        deadline_s: float | None,
        now_s: float,
        *,
        ahead: int | None = None,
    ) -> None:
        """Lets so many join those that wait already, or says why not.

        `ahead` of those that wait have their turn before them; None: all of them.

        Raises:
            QueueFull: there is no room.
            DeadlineTooShort: their turn would come too late.
        """
        if not waiting:
            self._departures, self._since_s = 0, now_s
        if waiting + joining > self._limit:
            raise self.refusal(waiting, waiting + joining - self._limit, now_s)
        before = waiting if ahead is None else ahead
        wait_s = self.wait_s(before, now_s) or 0.0
        if deadline_s is not None and deadline_s <= now_s + wait_s:
            raise DeadlineTooShort(
                f"the deadline passes before the request's turn: {before} {self._unit} wait, "
                f"for about {wait_s:.1f} s"
            )

    def refusal(self, waiting: int, excess: int, now_s: float) -> QueueFull:
        """There is no room, and will be once so many more have left."""
        wait_s = self.wait_s(excess, now_s)
        retry_s = DEFAULT_RETRY_S if wait_s is None else min(wait_s, LONGEST_RETRY_S)
        return QueueFull(f"{waiting} {self._unit} are waiting already", retry_s)

    def count(self, departures: int) -> None:
        """So many have left."""
        self._departures += departures

    def wait_s(self, places: int, now_s: float) -> float | None:
        """How long until so many more have left; None if that is not known yet."""
        elapsed_s = now_s - self._since_s
        if self._departures < ENOUGH or elapsed_s <= 0:
            return None
        return places * elapsed_s / self._departures
