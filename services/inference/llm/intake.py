"""The bounded queue between callers and the engine's thread.

It refuses at the door what it cannot take: a full queue says when a place will be free, and a
deadline that would pass in the queue is told so. Both rest on the rate at which the present backlog
has been shrinking; a rate from a quieter time would say nothing about now.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import DeadlineTooShort, QueueFull, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from services.inference.llm.answer import Answer

_DEFAULT_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
# Fewer departures than this make no rate.
_ENOUGH = 4


@dataclass(frozen=True, slots=True)
class Drain:
    """How the present backlog has been shrinking."""

    departures: int
    seconds: float

    def wait_s(self, places: int) -> float | None:
        """How long until so many have left; None if that is not known yet."""
        if self.departures < _ENOUGH or self.seconds <= 0:
            return None
        return places * self.seconds / self.departures


class Intake:
    """The queue; safe to use from both sides."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[int, Answer] = {}
        self._numbers = 0
        self._departures = 0
        self._backlog_since = 0.0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, answer: Answer) -> None:
        """Queues an answer, or says why not."""
        with self._changed:
            if self._is_closed:
                raise Unavailable("the model is being unloaded")
            now = self._clock()
            if not self._waiting:
                self._departures, self._backlog_since = 0, now
            self._check(answer, now)
            self._numbers += 1
            self._waiting[self._numbers] = answer
            self._changed.notify()

    def look(self, *, may_wait: bool) -> dict[int, Answer] | None:
        """The queue in order, by number; if `may_wait`, once there is one. None: closed."""
        with self._changed:
            while may_wait and not self._waiting and not self._is_closed:
                self._changed.wait()
            return None if self._is_closed else dict(self._waiting)

    def remove(self, numbers: Iterable[int]) -> None:
        """Takes answers out of the queue."""
        with self._changed:
            for number in numbers:
                if self._waiting.pop(number, None) is not None:
                    self._departures += 1

    def close(self) -> None:
        """No more answers; the engine's thread is told to end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def leftovers(self) -> tuple[Answer, ...]:
        """What was still waiting when it was closed."""
        with self._changed:
            return tuple(self._waiting.values())

    def _check(self, answer: Answer, now: float) -> None:
        drain = Drain(self._departures, now - self._backlog_since)
        if len(self._waiting) >= self._limit:
            wait_s = drain.wait_s(1)
            raise QueueFull(
                f"{self._limit} requests are waiting already",
                min(_DEFAULT_RETRY_S if wait_s is None else wait_s, _LONGEST_RETRY_S),
            )
        wait_s = drain.wait_s(len(self._waiting)) or 0.0
        if answer.is_late(now + wait_s):
            raise DeadlineTooShort(
                f"the deadline passes before the request's turn: {len(self._waiting)} requests "
                f"wait, for about {wait_s:.1f} s"
            )
