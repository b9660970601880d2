"""The bounded queue between callers and the engine's thread.

It refuses at the door what it cannot take: a full queue says when a place will be free, and a
deadline that would pass in the queue is told so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from mesh.errors import Unavailable
from services.inference.batching.backlog import Backlog
from services.inference.llm.answer import Answer


class Intake:
    """The queue; safe to use from both sides."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[int, Answer] = {}
        self._numbers = 0
        self._backlog = Backlog(limit, "requests")
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, answer: Answer) -> None:
        """Queues an answer, or says why not."""
        with self._changed:
            if self._is_closed:
                raise Unavailable("the model is being unloaded")
            self._backlog.check(len(self._waiting), 1, answer.task.deadline_s, self._clock())
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
                    self._backlog.count(1)

    def close(self) -> None:
        """No more answers; the engine's thread is told to end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def leftovers(self) -> tuple[Answer, ...]:
        """What was still waiting when it was closed."""
        with self._changed:
            return tuple(self._waiting.values())
