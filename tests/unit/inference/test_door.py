"""Who may join a queue: the room of each level, and deadlines held against what was measured."""

from __future__ import annotations

import pytest

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import DeadlineTooShort, InvalidArgument, QueueFull
from services.inference.batching.batch import Row
from services.inference.batching.door import Door
from services.inference.batching.row_queue import RowQueue
from services.inference.batching.run_times import REMEMBERED_S, RunTimes
from services.inference.batching.terms import Terms

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
    door.check(queue_of(2, 2, 2), 2, "k", None, 0.0)
    with pytest.raises(QueueFull, match="4 rows of priority 2"):
        door.check(queue_of(2, 2, 2, 2), 2, "k", None, 0.0)
    with pytest.raises(QueueFull, match="2 rows of priority 3"):
        door.check(queue_of(3, 3), 3, "k", None, 0.0)


def test_a_flood_at_one_level_keeps_nobody_out_of_another(door: Door) -> None:
    flood = queue_of(2, 2, 2, 2, 3, 3)
    door.check(flood, 1, "kkkk", None, 0.0)


def test_what_never_fits_is_the_callers_mistake(door: Door) -> None:
    with pytest.raises(InvalidArgument, match="3 rows are more than the 2"):
        door.check(queue_of(), 3, "kkk", None, 0.0)


def test_the_level_is_the_one_asked_for_or_the_default(door: Door) -> None:
    assert door.level_of(Terms()) == 2
    assert door.level_of(Terms(priority=3)) == 3
    with pytest.raises(InvalidArgument, match="the model's levels are 1 to 3"):
        door.level_of(Terms(priority=4))
    assert Door(BatchingOptions(), 4, 1).level_of(Terms()) == 0


def test_a_full_level_tells_its_own_drain_rate(door: Door) -> None:
    door.check(queue_of(), 2, "k", None, 0.0)
    door.check(queue_of(), 3, "k", None, 0.0)
    door.count_departures([3] * 4)
    door.count_departures([2] * 40)
    with pytest.raises(QueueFull) as full:
        door.check(queue_of(3, 3), 3, "k", None, 8.0)
    assert full.value.retry_after_s == 2.0


def test_those_of_lower_levels_do_not_count_against_a_deadline(door: Door) -> None:
    door.check(queue_of(), 1, "k", None, 0.0)
    door.count_departures([1] * 10)
    crowd = queue_of(1, 2, 2, 3)
    door.check(crowd, 1, "k", 11.5, 10.0)
    with pytest.raises(DeadlineTooShort, match="3 rows wait"):
        door.check(crowd, 2, "k", 11.5, 10.0)


def test_those_who_are_late_do_not_count_against_a_deadline(door: Door) -> None:
    door.check(queue_of(), 1, "k", None, 0.0)
    door.count_departures([1] * 10)
    crowd = queue_of(1, 1, 1)
    crowd.delay(0)
    crowd.delay(1)
    door.check(crowd, 1, "k", 11.5, 10.0)


def test_a_deadline_shorter_than_any_run_of_late_is_refused(door: Door) -> None:
    door.count_run("k", 4, took_s=2.0, ended_s=10.0)
    door.count_run("k", 1, took_s=9.0, ended_s=11.0)
    door.check(queue_of(), 1, "kk", 13.1, 12.0)
    with pytest.raises(DeadlineTooShort, match=r"that takes 1000\.0 ms"):
        door.check(queue_of(), 1, "kk", 13.0, 12.0)
    door.check(queue_of(), 1, ["other"], 12.1, 12.0)


def test_instances_share_the_rows_of_a_request() -> None:
    door = Door(BatchingOptions(), 4, 2)
    door.count_run("k", 4, took_s=2.0, ended_s=10.0)
    door.check(queue_of(), 0, "kk", 12.6, 12.0)


def test_runs_are_forgotten_soon() -> None:
    times = RunTimes()
    times.count("k", 2, 4.0, 10.0)
    assert times.least_s("k", 10.0 + REMEMBERED_S) == 2.0
    assert times.least_s("k", 10.1 + REMEMBERED_S) == 0.0
    assert times.least_s("other", 10.0) == 0.0
