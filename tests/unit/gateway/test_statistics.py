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
