"""The queue at the door: what it refuses, and what it says about when."""

from __future__ import annotations

import pytest

from mesh.errors import DeadlineTooShort, QueueFull, Unavailable
from services.inference.llm.answer import Answer, Task
from services.inference.llm.intake import Intake
from services.inference.llm.sampling import Sampling

GREEDY = Sampling(0.0, 1.0, 0, 0.0, 1.0, 0.0, 0.0, 0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def answer(deadline_s: float | None = None, session: str | None = None) -> Answer:
    job = Task((1, 2), (), 4, GREEDY, (), frozenset(), None, deadline_s, session)
    return Answer(job, lambda _: b"", 0)


def numbers(intake: Intake) -> list[int]:
    waiting = intake.look(may_wait=False)
    assert waiting is not None
    assert set(waiting) == set(intake.first(99))
    return list(intake.first(99))


def test_first_come_first_served() -> None:
    intake = Intake(4, Clock())
    for _ in range(3):
        intake.offer(answer())
    assert numbers(intake) == [1, 2, 3]
    intake.remove([2])
    assert numbers(intake) == [1, 3]


def test_a_full_queue_says_when_a_place_will_be_free() -> None:
    clock = Clock()
    intake = Intake(6, clock)
    for _ in range(6):
        intake.offer(answer())
    clock.now += 2
    intake.remove([1, 2, 3, 4])
    for _ in range(4):
        intake.offer(answer())
    with pytest.raises(QueueFull) as refused:
        intake.offer(answer())
    assert refused.value.retry_after_s == 0.5


def test_a_deadline_that_the_backlog_outlasts_is_refused() -> None:
    clock = Clock()
    intake = Intake(50, clock)
    for _ in range(20):
        intake.offer(answer())
    clock.now += 10
    intake.remove(range(1, 11))
    intake.offer(answer(deadline_s=clock.now + 11))
    with pytest.raises(DeadlineTooShort, match="11 requests wait, for about 11"):
        intake.offer(answer(deadline_s=clock.now + 9))


def test_a_quiet_time_says_nothing_about_the_next_backlog() -> None:
    clock = Clock()
    intake = Intake(50, clock)
    for number in range(1, 9):
        intake.offer(answer())
        clock.now += 600
        intake.remove([number])
    intake.offer(answer())
    intake.offer(answer(deadline_s=clock.now + 1))
    assert len(intake) == 2


def test_a_closed_intake_takes_nothing_and_ends_the_engine() -> None:
    intake = Intake(4, Clock())
    waiting = answer()
    intake.offer(waiting)
    intake.close("the model is being unloaded")
    assert intake.look(may_wait=True) is None
    assert intake.clear() == {1: waiting}
    assert len(intake) == 0
    with pytest.raises(Unavailable):
        intake.offer(answer())


def test_sessions_take_turns_and_the_one_just_served_stands_last() -> None:
    intake = Intake(9, Clock())
    for session in ("a", "a", "a", "b"):
        intake.offer(answer(session=session))
    assert numbers(intake) == [1, 4, 2, 3]
    intake.take(1)
    intake.offer(answer())
    assert numbers(intake) == [4, 2, 6, 3]


def test_who_is_put_back_has_the_old_place() -> None:
    intake = Intake(2, Clock())
    first = answer()
    for each in (first, answer()):
        intake.offer(each)
    intake.take(1)
    intake.offer(answer())
    intake.put_back(1, first)
    assert numbers(intake) == [1, 2, 4]


def test_a_full_queue_takes_one_from_the_longest_line() -> None:
    intake = Intake(3, Clock())
    crowd = [answer(session="a") for _ in range(3)]
    for each in crowd:
        assert intake.offer(each) is None
    left = intake.offer(answer(session="b"))
    assert left is not None
    assert left[0] is crowd[2]
    assert isinstance(left[1], QueueFull)
    assert numbers(intake) == [1, 4, 2]
    with pytest.raises(QueueFull):
        intake.offer(answer(session="a"))


def test_a_deadline_is_held_against_those_ahead_only() -> None:
    clock = Clock()
    intake = Intake(50, clock)
    for _ in range(20):
        intake.offer(answer(session="crowd"))
    clock.now += 10
    for number in range(1, 11):
        intake.take(number)
    with pytest.raises(DeadlineTooShort):
        intake.offer(answer(deadline_s=clock.now + 9, session="crowd"))
    intake.offer(answer(deadline_s=clock.now + 2, session="other"))


def test_what_a_closed_intake_says_is_its_reason() -> None:
    intake = Intake(4, Clock())
    intake.close("the engine failed")
    intake.close("the model is being unloaded")
    with pytest.raises(Unavailable, match="the engine failed"):
        intake.offer(answer())
