"""Whose turn it is: the order in which waiting requests get slots. Pure.

Sessions stand in a line. The first of the line is served one request and, if it has more, goes to
the end: whoever comes with fifty requests delays another's single one by one. A request without a
session is a session by itself. Between two turns of a session every other gets one at most, and
those that come later stand behind it, so everybody's turn comes.

A priority is a head start in that line, not a class above it: a request goes before those that came
`HEAD_START` places earlier per level, and no further. An endless stream of urgent requests delays
the others by so much and then lets them in.

The queue's room is shared in the same spirit: where it is full, the longest line gives up its last
to a newcomer whose own line is shorter.

One counter numbers arrivals and turns alike; a place in the line is such a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

HEAD_START = 512
"""More than a usual queue holds, so that among those who wait a priority decides alone."""

Line: TypeAlias = "str | int"
"""A session, or a request that is one by itself."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A waiting request; the smaller its priority, the sooner its turn."""

    number: int
    session: str | None = None
    priority: int = 0

    @property
    def line(self) -> Line:
        """What it shares its turns with."""
        return self.number if self.session is None else self.session

    def place(self, last_turn: int) -> tuple[int, int]:
        """Where it stands, if that is when its session was last served."""
        return max(self.number, last_turn) + HEAD_START * self.priority, self.number


def in_turn(queue: Iterable[Queued], last_turns: Mapping[Line, int], now: int) -> Iterator[Queued]:
    """All that wait, in the order of their turns if nobody else came.

    `last_turns` says of a session when it was last served, `now` is the counter.
    """
    left = list(queue)
    turns = dict(last_turns)
    while left:
        first = min(left, key=lambda each: each.place(turns.get(each.line, 0)))
        left.remove(first)
        now += 1
        turns[first.line] = now
        yield first


def count_ahead(queue: Collection[Queued], newcomer: Queued) -> int:
    """How many of those that wait may have their turn before a newcomer."""
    lines = Counter(each.line for each in queue if each.priority <= newcomer.priority)
    own = lines.pop(newcomer.line, 0)
    return own + sum(min(size, own + 1) for size in lines.values())


def gives_way(queue: Collection[Queued], newcomer: Queued) -> Queued | None:
    """Who leaves a full queue to a newcomer that has more of a right to be there; or nobody."""
    sizes = Counter(each.line for each in queue)
    rivals = [each for each in queue if each.priority >= newcomer.priority]
    last = max(rivals, key=lambda r: (r.priority, sizes[r.line], r.number), default=None)
    if last is None:
        return None
    has_right = sizes[last.line] > sizes[newcomer.line] + 1
    return last if has_right or last.priority > newcomer.priority else None
