"""Who may join a queue: the room of each level, and deadlines held against what was measured."""

from __future__ import annotations

import pytest

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import DeadlineTooShort, InvalidArgument, QueueFull
from services.inference.batching.batch import Row
from services.inference.batching.door import Door, Ticket, make_ticket
from services.inference.batching.row_queue import RowQueue
from services.inference.batching.run_times import REMEMBERED_S, RunTimes
from services.inference.batching.terms import OWN, Terms

OPTIONS = BatchingOptions(
    priority_levels=3,
    default_priority_level=2,
    priority_queue_policy={3: QueuePolicy(max_queue_rows=2)},
)


def queue_of(*levels: int) -> RowQueue:
    queue = RowQueue()
    for number, level in enumerate(levels):
        queue.add(Row(number, "k", 1, 0.0, level))
    return queue


@pytest.fixture
def door() -> Door:
    return Door(OPTIONS, 4, 1)


def test_a_level_without_room_of_its_own_has_the_nodes(door: Door) -> None:
    door.admit(queue_of(2, 2, 2), "k", Terms(priority=2), 0.0)
    with pytest.raises(QueueFull, match="4 rows of priority 2"):
        door.admit(queue_of(2, 2, 2, 2), "k", Terms(priority=2), 0.0)
    with pytest.raises(QueueFull, match="2 rows of priority 3"):
        door.admit(queue_of(3, 3), "k", Terms(priority=3), 0.0)


def test_a_flood_at_one_level_keeps_nobody_out_of_another(door: Door) -> None:
    flood = queue_of(2, 2, 2, 2, 3, 3)
    door.admit(flood, "kkkk", Terms(priority=1), 0.0)


def test_what_never_fits_is_the_callers_mistake(door: Door) -> None:
    with pytest.raises(InvalidArgument, match="3 rows are more than the 2"):
        door.admit(queue_of(), "kkk", Terms(priority=3), 0.0)


def test_the_level_is_the_one_asked_for_or_the_default(door: Door) -> None:
    assert door.admit(queue_of(), "k", Terms(), 0.0).level == 2
    assert door.admit(queue_of(), "k", Terms(priority=3), 0.0).level == 3
    with pytest.raises(InvalidArgument, match="the model's levels are 1 to 3"):
        door.admit(queue_of(), "k", Terms(priority=4), 0.0)
    plain = Door(BatchingOptions(), 4, 1)
    assert plain.admit(queue_of(), "k", Terms(), 0.0).level == 0
    with pytest.raises(InvalidArgument, match="the model has no priority levels; leave it out"):
        plain.admit(queue_of(), "k", Terms(priority=1), 0.0)


def test_a_full_level_tells_its_own_drain_rate(door: Door) -> None:
    door.admit(queue_of(), "k", Terms(priority=2), 0.0)
    door.admit(queue_of(), "k", Terms(priority=3), 0.0)
    door.count_departures([3] * 4)
    door.count_departures([2] * 40)
    with pytest.raises(QueueFull) as full:
        door.admit(queue_of(3, 3), "k", Terms(priority=3), 8.0)
    assert full.value.retry_after_s == 2.0


def test_those_who_wait_for_company_alone_do_not_count_against_a_deadline(door: Door) -> None:
    door.admit(queue_of(), "k", Terms(priority=1), 0.0)
    door.count_departures([1] * 10)
    company = queue_of(1, 1, 1)
    with pytest.raises(DeadlineTooShort, match="3 rows wait"):
        door.admit(company, "k", Terms(11.5, 1), 10.0)
    door.admit(company, "k", Terms(11.5, 1), 10.0, is_free=True)
    door.admit(company, "k", Terms(11.5, 1), 10.0)  # the pace is measured anew


def test_those_of_lower_levels_do_not_count_against_a_deadline(door: Door) -> None:
    door.admit(queue_of(), "k", Terms(priority=1), 0.0)
    door.count_departures([1] * 10)
    crowd = queue_of(1, 2, 2, 3)
    door.admit(crowd, "k", Terms(11.5, 1), 10.0)
    with pytest.raises(DeadlineTooShort, match="3 rows wait"):
        door.admit(crowd, "k", Terms(11.5, 2), 10.0)


def test_those_who_are_late_do_not_count_against_a_deadline(door: Door) -> None:
    door.admit(queue_of(), "k", Terms(priority=1), 0.0)
    door.count_departures([1] * 10)
    crowd = queue_of(1, 1, 1)
    crowd.delay(0)
    crowd.delay(1)
    door.admit(crowd, "k", Terms(11.5, 1), 10.0)


def test_a_deadline_shorter_than_any_run_of_late_is_refused(door: Door) -> None:
    door.count_run("k", 4, took_s=2.0, ended_s=10.0)
    door.count_run("k", 1, took_s=9.0, ended_s=11.0)
    door.admit(queue_of(), "kk", Terms(13.1, 1), 12.0)
    with pytest.raises(DeadlineTooShort, match=r"that takes 1000\.0 ms"):
        door.admit(queue_of(), "kk", Terms(13.0, 1), 12.0)
    door.admit(queue_of(), ["other"], Terms(12.1, 1), 12.0)


def test_instances_share_the_rows_of_a_request() -> None:
    door = Door(BatchingOptions(), 4, 2)
    door.count_run("k", 4, took_s=2.0, ended_s=10.0)
    door.admit(queue_of(), "kk", Terms(12.6), 12.0)


def test_runs_are_forgotten_soon() -> None:
    times = RunTimes()
    times.count("k", 2, 4.0, 10.0)
    assert times.least_s("k", 10.0 + REMEMBERED_S) == 2.0
    assert times.least_s("k", 10.1 + REMEMBERED_S) == 0.0
    assert times.least_s("other", 10.0) == 0.0


def test_a_request_with_a_deadline_gives_half_of_its_spare_time_to_company(door: Door) -> None:
    door.count_run("k", 4, took_s=2.0, ended_s=10.0)
    ticket = door.admit(queue_of(), "kk", Terms(14.0, 1), 12.0)
    assert ticket == Ticket(1, hurries_s=12.5, expires_s=14.0)
    assert door.admit(queue_of(), "k", Terms(priority=1), 12.0) == Ticket(1)


def test_a_timeout_that_rejects_is_held_against_the_pace_as_a_deadline_is() -> None:
    door = Door(BatchingOptions(), 4, 1)
    door.count_run("k", 1, took_s=1.0, ended_s=10.0)
    with pytest.raises(DeadlineTooShort):
        door.admit(queue_of(), "k", Terms(timeout_s=0.5), 11.0)


def test_no_limit_of_callers_applies_to_the_nodes_own() -> None:
    policy = QueuePolicy(max_queue_rows=2, default_timeout_ms=100)
    options = OPTIONS.model_copy(update={"priority_queue_policy": {1: policy, 2: policy}})
    door = Door(options, 4, 1)
    door.count_run("k", 1, took_s=9.0, ended_s=1.0)
    door.check_size(9, OWN)
    assert door.admit(queue_of(1, 1), "k" * 9, OWN, 1.0) == Ticket(1)
    with pytest.raises(QueueFull):
        door.admit(queue_of(1, 1), "k", Terms(priority=1), 1.0)


DELAY = QueuePolicy(timeout_action="DELAY", default_timeout_ms=2000)
REJECT = QueuePolicy(default_timeout_ms=2000)


@pytest.mark.parametrize(
    ("policy", "terms", "ticket"),
    [
        (QueuePolicy(), Terms(), Ticket(1)),
        (QueuePolicy(), Terms(deadline_s=9.0), Ticket(1, expires_s=9.0)),
        (QueuePolicy(), Terms(timeout_s=1.0), Ticket(1, expires_s=6.0)),
        (REJECT, Terms(), Ticket(1, expires_s=7.0)),
        (REJECT, Terms(deadline_s=6.0, timeout_s=1.5), Ticket(1, expires_s=6.0)),
        (DELAY, Terms(deadline_s=9.0), Ticket(1, late_s=7.0, expires_s=9.0)),
        (DELAY, Terms(timeout_s=1.0), Ticket(1, late_s=6.0)),
    ],
)
def test_a_ticket_says_what_happens_when(policy: QueuePolicy, terms: Terms, ticket: Ticket) -> None:
    assert make_ticket(1, policy, terms, 5.0) == ticket
