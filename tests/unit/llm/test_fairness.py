"""Whose turn it is: everybody's comes, and nobody's crowd is in another's way."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.inference.llm.fairness import (
    HEAD_START,
    Line,
    Queued,
    count_ahead,
    gives_way,
    in_turn,
)


def order(*queue: Queued, last_turns: dict[Line, int] | None = None) -> list[int]:
    return [each.number for each in in_turn(queue, last_turns or {}, now=10_000)]


def test_without_sessions_it_is_first_come_first_served() -> None:
    assert order(Queued(1), Queued(2), Queued(3)) == [1, 2, 3]


def test_sessions_take_turns() -> None:
    crowd = [Queued(n, "a") for n in range(1, 5)]
    assert order(*crowd, Queued(5, "b"), Queued(6, "b")) == [1, 5, 2, 6, 3, 4]


def test_a_session_that_was_just_served_stands_behind_one_that_came_before_that() -> None:
    assert order(Queued(1, "a"), Queued(50, "b"), last_turns={"a": 60}) == [50, 1]
    assert order(Queued(1, "a"), Queued(70, "b"), last_turns={"a": 60}) == [1, 70]


def test_a_smaller_priority_goes_first() -> None:
    assert order(Queued(1), Queued(2, priority=1), Queued(3, priority=-1)) == [3, 1, 2]


def test_a_head_start_is_not_more_than_that() -> None:
    late = 2 + HEAD_START
    assert order(Queued(1), Queued(late, priority=-1)) == [1, late]


class Door:
    """A queue with its counter: what arrives, and what is served one by one."""

    def __init__(self) -> None:
        self.queue: dict[int, Queued] = {}
        self.last_turns: dict[Line, int] = {}
        self.count = 0

    def arrive(self, session: str | None, priority: int = 0) -> Queued:
        self.count += 1
        newcomer = Queued(self.count, session, priority)
        self.queue[newcomer.number] = newcomer
        return newcomer

    def serve(self) -> Queued:
        first = next(in_turn(self.queue.values(), self.last_turns, self.count))
        self.count += 1
        self.last_turns[first.line] = self.count
        return self.queue.pop(first.number)


sessions = st.one_of(st.none(), st.sampled_from("abc"))
# Sessions arrive; a False serves whoever is next.
lives = st.lists(st.one_of(st.just(False), st.tuples(sessions)), max_size=60)


@given(lives)
def test_between_two_turns_of_a_session_every_other_has_one_at_most(
    life: list[tuple[str | None] | bool],
) -> None:
    door = Door()
    since: dict[Line, Counter[Line]] = {}  # of each session that waits: who was served meanwhile
    for event in [*life, *[False] * len(life)]:
        if isinstance(event, tuple):
            since.setdefault(door.arrive(event[0]).line, Counter())
        elif door.queue:
            served = door.serve().line
            for others in since.values():
                others[served] += 1
            del since[served]
            if any(each.line == served for each in door.queue.values()):
                since[served] = Counter()
            assert all(count <= 1 for others in since.values() for count in others.values())
    assert not door.queue


@given(lives, sessions)
def test_a_newcomer_is_told_no_fewer_than_there_are_ahead(
    life: list[tuple[str | None] | bool], session: str | None
) -> None:
    door = Door()
    for event in life:
        if isinstance(event, tuple):
            door.arrive(event[0])
        elif door.queue:
            door.serve()
    waiting = list(door.queue.values())
    newcomer = door.arrive(session)
    ahead = 0
    while door.serve() != newcomer:
        ahead += 1
    assert ahead <= count_ahead(waiting, newcomer) <= len(waiting)


def test_one_of_fifty_stands_before_a_single_request() -> None:
    door = Door()
    for _ in range(50):
        door.arrive("crowd")
    for _ in range(8):
        door.serve()
    single = door.arrive("single")
    assert count_ahead([q for q in door.queue.values() if q != single], single) == 1
    assert single in (door.serve(), door.serve())


@given(st.integers(-2, 2), st.integers(1, 4), st.one_of(st.none(), st.just("urgent")))
def test_an_endless_stream_of_urgent_requests_starves_nobody(
    urgency: int, levels: int, session: str | None
) -> None:
    door = Door()
    patient = door.arrive("patient", urgency + levels)
    for _ in range(2 * levels * HEAD_START):
        door.arrive(session, urgency)
        if door.serve() == patient:
            return
    raise AssertionError


@given(
    st.lists(st.tuples(sessions, st.integers(-1, 1)), min_size=1, max_size=20),
    st.tuples(sessions, st.integers(-1, 1)),
)
def test_who_leaves_a_full_queue_has_less_of_a_right_to_it(
    crowd: list[tuple[str | None, int]], new: tuple[str | None, int]
) -> None:
    door = Door()
    for session, priority in crowd:
        door.arrive(session, priority)
    queue = list(door.queue.values())
    newcomer = door.arrive(*new)
    sizes = Counter(each.line for each in queue)
    last = gives_way(queue, newcomer)
    if last is None:
        assert all(each.priority <= newcomer.priority for each in queue)
        equals = [each for each in queue if each.priority == newcomer.priority]
        assert all(sizes[each.line] <= sizes[newcomer.line] + 1 for each in equals)
    else:
        assert last.priority >= newcomer.priority
        is_urgent = last.priority > newcomer.priority
        assert is_urgent or sizes[last.line] > sizes[newcomer.line] + 1
        # Of its line and level, the one that came last.
        level = [q.number for q in queue if (q.line, q.priority) == (last.line, last.priority)]
        assert last.number == max(level)
