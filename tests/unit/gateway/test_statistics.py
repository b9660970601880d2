"""The counts of several nodes, added up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.pb import inference_pb2 as oip
from services.gateway.statistics import add_up

numbers = st.integers(0, 1000)


@st.composite
def counts(draw: st.DrawFn) -> oip.ModelStatistics:
    made = oip.ModelStatistics(
        name=draw(st.sampled_from(["a", "b"])), version=draw(st.sampled_from(["2", "10"]))
    )
    made.last_inference, made.inference_count = draw(numbers), draw(numbers)
    made.execution_count = draw(numbers)
    made.inference_stats.queue.count, made.inference_stats.queue.ns = draw(numbers), draw(numbers)
    for size in draw(st.sets(st.integers(1, 4))):
        made.batch_stats.add(batch_size=size).compute_infer.count = draw(numbers)
    for place in draw(st.sets(st.integers(0, 3))):
        made.response_stats[str(place)].success.count = draw(numbers)
    for kind in draw(st.sets(st.sampled_from(["CPU", "GPU"]))):
        made.memory_usage.add(type=kind, byte_size=draw(numbers))
    return made


@given(st.lists(counts(), max_size=5))
def test_nothing_is_lost_and_nothing_counted_twice(parts: list[oip.ModelStatistics]) -> None:
    sums = add_up(parts)
    keys = [(each.name, int(each.version)) for each in sums]
    assert keys == sorted({(each.name, int(each.version)) for each in parts})
    for total in sums:
        mine = [p for p in parts if (p.name, p.version) == (total.name, total.version)]
        assert total.last_inference == max(p.last_inference for p in mine)
        assert total.inference_count == sum(p.inference_count for p in mine)
        assert total.execution_count == sum(p.execution_count for p in mine)
        assert total.inference_stats.queue.ns == sum(p.inference_stats.queue.ns for p in mine)
        assert total.inference_stats.queue.count == sum(p.inference_stats.queue.count for p in mine)
        sizes = [batch.batch_size for batch in total.batch_stats]
        assert sizes == sorted({b.batch_size for p in mine for b in p.batch_stats})
        assert sum(b.compute_infer.count for b in total.batch_stats) == sum(
            b.compute_infer.count for p in mine for b in p.batch_stats
        )


def test_the_parts_stay_as_they_are() -> None:
    part = oip.ModelStatistics(name="a", version="1", inference_count=2)
    (total,) = add_up([part, part])
    assert (total.inference_count, part.inference_count) == (4, 2)


@given(st.lists(counts(), max_size=5))
def test_responses_and_memory_add_up(parts: list[oip.ModelStatistics]) -> None:
    for total in add_up(parts):
        mine = [p for p in parts if (p.name, p.version) == (total.name, total.version)]
        responses = [
            (at, each.success.count) for p in mine for at, each in p.response_stats.items()
        ]
        assert set(total.response_stats) == {at for at, _ in responses}
        for place, response in total.response_stats.items():
            assert response.success.count == sum(count for at, count in responses if at == place)
        memory = [(m.type, m.byte_size) for p in mine for m in p.memory_usage]
        assert {m.type for m in total.memory_usage} == {kind for kind, _ in memory}
        for usage in total.memory_usage:
            assert usage.byte_size == sum(size for kind, size in memory if kind == usage.type)


def test_what_is_zero_is_told_as_zero() -> None:
    (total,) = add_up([oip.ModelStatistics(name="a", version="1")])
    assert total.inference_stats.HasField("cache_hit")
