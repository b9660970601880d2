"""Forming batches, over any queue: in company of one's kind only, and nobody starves unforeseen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.batching_options import BatchingOptions
from services.inference.batching.batch import (
    BatchLimits,
    Decision,
    Row,
    form_batch,
    make_limits,
)
from services.inference.batching.row_queue import RowQueue
from services.inference.encoders.bert_encoder import padded_width

LIMITS = BatchLimits(max_batch_size=4, max_queue_delay_s=0.01, max_batch_width=64)
PREFERRED = BatchLimits(max_batch_size=8, max_queue_delay_s=0.01, preferred_sizes=(2, 4))


@dataclass(frozen=True)
class Placed:
    """A row, whether it is late, and whether it can wait for company."""

    row: Row
    is_late: bool = False
    is_urgent: bool = False

    @property
    def rank(self) -> tuple[int, bool, int]:
        return self.row.level, self.is_late, self.row.number


def queue_of(placed: Iterable[Placed]) -> RowQueue:
    queue = RowQueue()
    for each in placed:
        queue.add(each.row)
    for each in placed:
        if each.is_late:
            queue.delay(each.row.number)
        if each.is_urgent:
            queue.hurry(each.row.number)
    return queue


def decide(placed: Iterable[Placed], now_s: float, limits: BatchLimits = LIMITS) -> Decision:
    return form_batch(queue_of(placed).kinds(), now_s, limits)


def rows(*widths: int, arrived_s: float = 0.0, level: int = 0) -> list[Placed]:
    return [Placed(Row(n, "k", width, arrived_s, level)) for n, width in enumerate(widths)]


def plain_decision(placed: Sequence[Placed], now_s: float, limits: BatchLimits) -> Decision:
    """The same decision, worked out from a plain list by the rules as they are written down."""
    in_time = [each.row.level for each in placed if not each.is_late]
    due: list[tuple[tuple[int, bool, int], tuple[int, ...]]] = []
    waits = []
    of_kind = sorted(placed, key=lambda each: (each.row.key, each.row.width))
    for (_, width), group in groupby(of_kind, key=lambda each: (each.row.key, each.row.width)):
        kind = sorted(group, key=lambda each: each.rank)
        eager = [e for e in kind if not e.is_late or all(lvl > e.row.level for lvl in in_time)]
        if not eager:
            continue
        ordered = eager + [each for each in kind if each not in eager]
        most = limits.rows_of(width)
        reached = [size for size in limits.preferred_sizes if size <= min(most, len(kind))]
        size = reached[-1] if reached else min(most, len(kind))
        due_s = min(each.row.arrived_s for each in eager) + limits.max_queue_delay_s
        if reached or len(kind) >= most or any(each.is_late or each.is_urgent for each in eager):
            due_s = float("-inf")
        if due_s <= now_s:
            due.append((eager[0].rank, tuple(each.row.number for each in ordered[:size])))
        waits.append(due_s - now_s)
    if due:
        return Decision(batch=min(due)[1])
    return Decision(wait_s=min(waits, default=None))


limits_of_any_kind = st.builds(
    BatchLimits,
    max_batch_size=st.integers(1, 8),
    max_queue_delay_s=st.sampled_from([0.0, 0.01, 0.5]),
    max_batch_width=st.none() | st.integers(1, 600),
    preferred_sizes=st.sets(st.integers(1, 8), max_size=3).map(lambda s: tuple(sorted(s))),
)


@st.composite
def queues(draw: st.DrawFn, levels: int = 3, *, may_be_late: bool = True) -> list[Placed]:
    arrivals = sorted(draw(st.lists(st.floats(0, 1), max_size=30)))
    keys, widths = st.sampled_from("ab"), st.sampled_from([8, 256])
    late = st.booleans() if may_be_late else st.just(False)
    return [
        Placed(
            Row(n, draw(keys), draw(widths), at, draw(st.integers(1, levels))),
            draw(late),
            draw(st.integers(0, 9)) == 9,
        )
        for n, at in enumerate(arrivals)
    ]


@given(queues(), st.floats(0, 2), limits_of_any_kind)
def test_a_batch_is_of_one_kind_within_its_limits_in_order(
    placed: Sequence[Placed], now_s: float, limits: BatchLimits
) -> None:
    decision = decide(placed, now_s, limits)
    by_number = {each.row.number: each for each in placed}
    chosen = [by_number[number] for number in decision.batch]
    assert len(set(decision.batch)) == len(decision.batch)
    assert len({(each.row.key, each.row.width) for each in chosen}) <= 1
    if not chosen:
        assert decision.wait_s is None or decision.wait_s > 0
        assert (decision.wait_s is None) == (not placed)
        return
    head = chosen[0].row
    assert len(chosen) <= limits.rows_of(head.width)
    kind = [e for e in placed if (e.row.key, e.row.width) == (head.key, head.width)]
    for level, is_late in {(each.row.level, each.is_late) for each in chosen}:
        lane = [each for each in kind if (each.row.level, each.is_late) == (level, is_late)]
        taken = [each for each in chosen if each in lane]
        assert taken == lane[: len(taken)]


@given(queues(), st.floats(0, 2), limits_of_any_kind)
def test_the_decision_is_the_one_that_the_rules_ask_for(
    placed: Sequence[Placed], now_s: float, limits: BatchLimits
) -> None:
    assert decide(placed, now_s, limits) == plain_decision(placed, now_s, limits)


@given(queues(), st.floats(0, 2), limits_of_any_kind)
def test_no_decision_waits_while_something_is_due(
    placed: Sequence[Placed], now_s: float, limits: BatchLimits
) -> None:
    if decide(placed, now_s, limits).batch:
        return
    for each in placed:
        assert each.is_late or each.row.arrived_s + limits.max_queue_delay_s > now_s
        alike = [e for e in placed if (e.row.key, e.row.width) == (each.row.key, each.row.width)]
        assert each.is_late or len(alike) < limits.rows_of(each.row.width)
    late = [each.row.level for each in placed if each.is_late]
    in_time = [each.row.level for each in placed if not each.is_late]
    assert not late or min(in_time) <= min(late)


@given(queues(), limits_of_any_kind)
def test_every_queue_empties_and_each_row_runs_once(
    placed: list[Placed], limits: BatchLimits
) -> None:
    now_s, queue, ran = 0.0, queue_of(placed), []
    while len(queue):
        decision = form_batch(queue.kinds(), now_s, limits)
        assert decision.batch or decision.wait_s is not None
        now_s += decision.wait_s or 0.0
        if not decision.batch:
            now_s += 1e-9  # what a clock adds, where a float cannot
        for number in decision.batch:
            assert queue.remove(number) is not None
        ran += decision.batch
    assert sorted(ran) == [each.row.number for each in placed]
    assert now_s <= 1.6


@given(queues(), st.data(), limits_of_any_kind)
def test_a_row_whose_delay_is_over_waits_only_for_those_before_it(
    placed: list[Placed], data: st.DataObject, limits: BatchLimits
) -> None:
    """Whatever arrives at its level or a lower one meanwhile, one row for every decision."""
    mine = data.draw(st.sampled_from([each for each in placed if not each.is_late] or [None]))
    if mine is None:
        return
    now_s, queue = 2.0, queue_of(placed)
    before = sum(each.rank < mine.rank for each in placed)
    numbers = iter(range(1000, 2000))
    decisions = 0
    while mine.row.number in queue:
        decision = form_batch(queue.kinds(), now_s, limits)
        decisions += 1
        for number in decision.batch:
            queue.remove(number)
        level = data.draw(st.integers(mine.row.level, 4))
        queue.add(Row(next(numbers), mine.row.key, mine.row.width, now_s, level))
    assert decisions <= before + 1


def test_a_lone_row_waits_for_company_until_its_delay_is_over() -> None:
    lone = rows(8, arrived_s=1.0)
    early = decide(lone, 1.004)
    assert early.batch == ()
    assert early.wait_s == pytest.approx(0.006)
    assert decide(lone, 1.01).batch == (0,)


def test_a_full_batch_goes_at_once() -> None:
    assert decide(rows(8, 8, 8, 8, 8), 0.0).batch == (0, 1, 2, 3)


def test_a_full_width_need_not_wait_for_the_oldest_row() -> None:
    placed = rows(32, 8, 8, 8, 8)
    assert decide(placed, 0.0).batch == (1, 2, 3, 4)
    assert decide(placed, 0.01).batch == (0,)


def test_wide_rows_make_smaller_batches() -> None:
    assert [LIMITS.rows_of(width) for width in (8, 16, 32, 64, 1000)] == [4, 4, 2, 1, 1]


@pytest.mark.parametrize(("waiting", "now_s", "size"), [(1, 0.0, 0), (1, 0.01, 1)])
def test_below_the_preferred_sizes_the_delay_decides(waiting: int, now_s: float, size: int) -> None:
    assert len(decide(rows(*[8] * waiting), now_s, PREFERRED).batch) == size


@pytest.mark.parametrize(("waiting", "size"), [(2, 2), (3, 2), (4, 4), (7, 4), (8, 4), (20, 4)])
def test_the_largest_preferred_size_that_is_reached_goes_at_once(waiting: int, size: int) -> None:
    assert len(decide(rows(*[8] * waiting), 0.0, PREFERRED).batch) == size


def test_rows_too_wide_for_a_preferred_size_still_run_as_many_as_fit() -> None:
    limits = BatchLimits(8, 1.0, max_batch_width=48, preferred_sizes=(4,))
    assert len(decide(rows(16, 16, 16), 0.0, limits).batch) == 3


def test_a_higher_level_goes_first_and_lower_ones_fill_the_batch() -> None:
    low = [Placed(Row(n, "k", 8, 0.0, level=2)) for n in range(3)]
    high = [Placed(Row(n, "k", 8, 0.005, level=1)) for n in (3, 4)]
    assert decide(low + high, 0.01).batch == (3, 4, 0, 1)


def test_of_two_kinds_that_are_due_the_one_with_the_higher_level_goes_first() -> None:
    low, high = Placed(Row(0, "a", 8, 0.0, level=2)), Placed(Row(1, "b", 8, 0.5, level=1))
    assert decide([low, high], 1.0).batch == (1,)


def test_a_lower_level_does_not_wait_for_a_higher_one_that_is_not_due() -> None:
    low, high = Placed(Row(0, "a", 8, 0.0, level=2)), Placed(Row(1, "b", 8, 0.995, level=1))
    assert decide([low, high], 1.0).batch == (0,)


def test_a_late_row_runs_once_nothing_in_time_waits_at_its_level_or_above() -> None:
    late = Placed(Row(0, "a", 8, 0.0, level=2), is_late=True)
    same, below = Row(1, "b", 8, 1.0, level=2), Row(2, "b", 8, 1.0, level=3)
    held_up = decide([late, Placed(same)], 1.0)
    assert held_up.batch == ()
    assert held_up.wait_s == pytest.approx(0.01)
    assert decide([late, Placed(same)], 1.01).batch == (1,)
    assert decide([late, Placed(below)], 1.01).batch == (0,)
    assert decide([late], 0.0).batch == (0,)


def test_a_late_row_fills_a_batch_of_its_kind_behind_those_in_time() -> None:
    late = Placed(Row(0, "k", 8, 0.0), is_late=True)
    assert decide([late, Placed(Row(1, "k", 8, 0.0))], 1.0).batch == (1, 0)


def test_a_row_that_cannot_wait_for_company_goes_with_the_rest_of_its_kind() -> None:
    placed = rows(8, 8, 16)
    hurried = [*placed[:1], Placed(placed[1].row, is_urgent=True), placed[2]]
    assert decide(placed, 0.0).batch == ()
    assert decide(hurried, 0.0).batch == (0, 1)


def test_an_empty_queue_waits_for_a_row() -> None:
    assert decide([], 0.0) == Decision(wait_s=None)


def test_limits_are_those_of_the_manifest() -> None:
    options = BatchingOptions(max_batch_size=16, max_queue_delay_ms=5, preferred_batch_sizes=(4, 8))
    assert make_limits(options, 100) == BatchLimits(16, 0.005, 100, (4, 8))


@given(st.integers(1, 256))
def test_a_padded_row_is_little_wider_than_itself(tokens: int) -> None:
    width = padded_width(tokens, 256)
    assert tokens <= width <= 256
    assert width - tokens < max(8, tokens / 4)


def test_a_padded_row_stays_within_the_model() -> None:
    assert padded_width(249, 250) == 250
