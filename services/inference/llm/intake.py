"""The bounded queue between callers and the engine's thread.

It refuses at the door what it cannot take: a full queue says when a place will be free, and a
deadline that would pass in the queue is told so. Inside, sessions take turns (see `fairness`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import islice

from mesh.errors import QueueFull, Unavailable
from services.inference.batching.backlog import Backlog
from services.inference.llm.answer import Answer
from services.inference.llm.fairness import Line, Queued, count_ahead, gives_way, in_turn


class Intake:
    """The queue; safe to use from both sides."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[int, Answer] = {}
        self._count = 0
        """Of arrivals and turns."""
        self._last_turns: dict[Line, int] = {}
        self._backlog = Backlog(limit, "requests")
        self._refusal: str | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, answer: Answer) -> tuple[Answer, QueueFull] | None:
        """Queues an answer, or says why not; gives back the one that had to leave for it."""
        with self._changed:
            if self._refusal is not None:
                raise Unavailable(self._refusal)
            newcomer = _queued(self._count + 1, answer)
            left = self._make_room(newcomer, answer.task.deadline_s)
            self._count += 1
            self._waiting[newcomer.number] = answer
            self._changed.notify()
            return left

    def look(self, *, may_wait: bool) -> dict[int, Answer] | None:
        """All that wait, by number; if `may_wait`, once there is one. None: closed."""
        with self._changed:
            while may_wait and not self._waiting and self._refusal is None:
                self._changed.wait()
            return dict(self._waiting) if self._refusal is None else None

    def first(self, count: int) -> tuple[int, ...]:
        """The numbers of those whose turn is next."""
        with self._changed:
            turns = in_turn(self._queue(), self._last_turns, self._count)
            return tuple(each.number for each in islice(turns, count))

    def take(self, number: int) -> None:
        """It is this one's turn: it leaves, and its session goes to the end of the line."""
        with self._changed:
            answer = self._waiting.get(number)
            if answer is not None:  # it may have had to give way since
                self._count += 1
                self._last_turns[_queued(number, answer).line] = self._count
                self._leave([number])

    def put_back(self, number: int, answer: Answer) -> None:
        """One that had its turn waits for another, at its old place; the limits do not matter."""
        with self._changed:
            self._waiting[number] = answer

    def remove(self, numbers: Iterable[int]) -> None:
        """Takes those out of the queue that wait no more."""
        with self._changed:
            self._leave(numbers)

    def close(self, reason: str) -> None:
        """No more answers, for this reason; the engine's thread is told to end."""
        with self._changed:
            self._refusal = self._refusal or reason
            self._changed.notify()

    def clear(self) -> dict[int, Answer]:
        """Empties the queue; those who were still waiting."""
        with self._changed:
            left, self._waiting = self._waiting, {}
            return left

    def _queue(self) -> list[Queued]:
        return [_queued(number, answer) for number, answer in self._waiting.items()]

    def _make_room(
        self, newcomer: Queued, deadline_s: float | None
    ) -> tuple[Answer, QueueFull] | None:
        queue, now_s = self._queue(), self._clock()
        last = gives_way(queue, newcomer) if len(queue) >= self._limit else None
        waiting = len(queue) - (last is not None)
        ahead = count_ahead(queue, newcomer)
        self._backlog.check(waiting, 1, deadline_s, now_s, ahead=min(ahead, waiting))
        if last is None:
            return None
        return self._waiting.pop(last.number), self._backlog.refusal(len(queue), 1, now_s)

    def _leave(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self._waiting.pop(number, None) is not None:
                self._backlog.count(1)
        # Of a session that comes back later its arrival says more than its last turn.
        lines = {each.line for each in self._queue()}
        self._last_turns = {k: v for k, v in self._last_turns.items() if k in lines}


def _queued(number: int, answer: Answer) -> Queued:
    return Queued(number, answer.task.session, answer.task.priority)
