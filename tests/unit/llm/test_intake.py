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


def answer(deadline_s: float | None = None) -> Answer:
    job = Task((1, 2), (), 4, GREEDY, (), frozenset(), None, deadline_s)
    return Answer(job, lambda _: b"", 0)


def numbers(intake: Intake) -> list[int]:
    waiting = intake.look(may_wait=False)
    assert waiting is not None
    return list(waiting)


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
    intake.close()
    assert intake.look(may_wait=True) is None
    assert intake.leftovers() == (waiting,)
    with pytest.raises(Unavailable):
        intake.offer(answer())
