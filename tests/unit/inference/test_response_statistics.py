"""The responses of decoupled models: each counted once, and their durations add up."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Internal
from mesh.pb import inference_pb2 as oip
from services.inference.models.response_statistics import PLACES
from services.inference.models.statistics import VersionStatistics
from services.inference.models.timing import Timing
from tests.unit.inference.virtual_time import HandClock


def answer(
    statistics: VersionStatistics, clock: HandClock, pieces: int, end: Exception | None
) -> None:
    """A request that waits 3, has responses of 10 computing and 2 handing on, and ends so."""
    with statistics.measure_decoupled() as measured:
        clock.now_ns += 3
        measured.responses.begin()
        for _ in range(pieces):
            clock.now_ns += 10
            with measured.responses.response():
                clock.now_ns += 2
        clock.now_ns += 7
        if end is not None:
            raise end
        measured.succeed(Timing(0, 0))
        with measured.responses.response(is_last=True, is_empty=True):
            clock.now_ns += 1


def shown(counts: oip.InferResponseStatistics) -> dict[str, tuple[int, int]]:
    return {
        field.name: (getattr(counts, field.name).count, getattr(counts, field.name).ns)
        for field in counts.DESCRIPTOR.fields
        if getattr(counts, field.name).count
    }


def test_each_response_is_counted_at_its_place(statistics, clock) -> None:
    answer(statistics, clock, 2, None)
    counts = statistics.snapshot().response_stats
    piece = {"compute_infer": (1, 10), "compute_output": (1, 2), "success": (1, 12)}
    last = {"compute_infer": (1, 7), "compute_output": (1, 1), "empty_response": (1, 8)}
    assert [shown(counts[place]) for place in "012"] == [piece, piece, last]
    assert len(counts) == 3


@pytest.mark.parametrize(
    ("end", "name"),
    [(Internal("no"), "fail"), (asyncio.CancelledError(), "cancel"), (GeneratorExit(), "cancel")],
)
def test_what_does_not_come_counts_where_it_would_have(statistics, clock, end, name) -> None:
    with pytest.raises(type(end)):
        answer(statistics, clock, 1, end)
    counts = statistics.snapshot().response_stats
    assert shown(counts["1"]) == {name: (1, 7)}


def test_a_reader_that_has_enough_leaves_with_the_response(statistics, clock) -> None:
    def leave() -> None:
        with statistics.measure_decoupled() as measured, measured.responses.response():
            clock.now_ns += 2
            raise GeneratorExit

    with pytest.raises(GeneratorExit):
        leave()
    counts = statistics.snapshot().response_stats
    assert "success" in shown(counts["0"])
    assert shown(counts["1"]) == {"cancel": (1, 0)}


def test_places_are_few(statistics, clock) -> None:
    answer(statistics, clock, PLACES + 20, None)
    counts = statistics.snapshot().response_stats
    assert len(counts) == PLACES
    assert counts[str(PLACES - 1)].success.count == 21


def test_zero_is_told_as_zero(statistics, clock) -> None:
    answer(statistics, clock, 1, None)
    counts = statistics.snapshot()
    for message in (counts.inference_stats, counts.response_stats["0"]):
        assert all(message.HasField(field.name) for field in message.DESCRIPTOR.fields)


ENDS = st.sampled_from([None, Internal("no"), asyncio.CancelledError(), GeneratorExit()])


@given(st.lists(st.tuples(st.integers(0, 5), ENDS)))
def test_every_request_is_counted_once_at_each_place_that_it_reached(requests) -> None:
    clock = HandClock()
    statistics = VersionStatistics("m", 1, clock)
    for pieces, end in requests:
        try:
            answer(statistics, clock, pieces, end)
        except BaseException as raised:  # noqa: BLE001
            assert raised is end  # noqa: PT017
    counts = statistics.snapshot()
    inference = counts.inference_stats
    assert inference.success.count + inference.fail.count == len(requests)
    for place, each in counts.response_stats.items():
        reached = sum(pieces >= int(place) for pieces, _ in requests)
        outcomes = (each.success, each.empty_response, each.fail, each.cancel)
        assert sum(outcome.count for outcome in outcomes) == reached
        brought = (each.success, each.empty_response)
        parts = (each.compute_infer, each.compute_output)
        assert sum(part.ns for part in parts) == sum(each.ns for each in brought)
        assert {part.count for part in parts} == {sum(each.count for each in brought)}
