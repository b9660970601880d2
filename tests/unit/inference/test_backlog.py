"""The door of a queue: how it measures, whom it turns away."""

from __future__ import annotations

import pytest

from mesh.errors import DeadlineTooShort, QueueFull
from services.inference.batching.backlog import DEFAULT_RETRY_S, LONGEST_RETRY_S, Backlog


def shrinking(departures: int) -> Backlog:
    """A backlog that began at 0 and has shrunk by so many."""
    backlog = Backlog(10, "rows")
    backlog.check(0, 1, None, 0.0)
    backlog.count(departures)
    return backlog


def test_few_departures_make_no_rate() -> None:
    assert shrinking(3).wait_s(1, 9.0) is None
    assert shrinking(4).wait_s(3, 8.0) == 6


def test_no_time_makes_no_rate() -> None:
    assert shrinking(4).wait_s(1, 0.0) is None


@pytest.mark.parametrize(
    ("departures", "now_s", "retry_s"),
    [(0, 5.0, DEFAULT_RETRY_S), (10, 5.0, 1.0), (4, 4000.0, LONGEST_RETRY_S)],
)
def test_a_full_queue_says_when_there_is_room(
    departures: int, now_s: float, retry_s: float
) -> None:
    with pytest.raises(QueueFull, match="9 rows are waiting already") as refused:
        shrinking(departures).check(9, 3, None, now_s)
    assert refused.value.retry_after_s == retry_s


def test_a_deadline_that_the_backlog_outlasts_is_refused() -> None:
    backlog = shrinking(4)
    backlog.check(5, 1, 18.1, 8.0)
    with pytest.raises(DeadlineTooShort, match="5 rows wait, for about 10"):
        backlog.check(5, 1, 18.0, 8.0)


def test_an_empty_queue_forgets_the_last_backlog() -> None:
    backlog = shrinking(4)
    backlog.check(0, 1, 108.5, 108.0)
    assert backlog.wait_s(1, 109.0) is None
