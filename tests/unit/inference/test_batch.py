"""Forming batches, over any queue: rows run in company of their width only, and none starves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.batching.batch import BatchLimits, Row, form_batch
from services.inference.encoders.bert_encoder import padded_width

LIMITS = BatchLimits(max_batch_size=4, max_queue_delay_s=0.01, max_batch_width=64)


def rows_of(*widths: int, arrived_s: float = 0.0) -> list[Row]:
    return [Row(number, width, arrived_s) for number, width in enumerate(widths)]


@st.composite
def queues(draw: st.DrawFn) -> list[Row]:
    arrivals = sorted(draw(st.lists(st.floats(0, 1), max_size=30)))
    widths = st.sampled_from([8, 16, 32, 256])
    return [Row(number, draw(widths), arrived) for number, arrived in enumerate(arrivals)]


@given(queues(), st.floats(0, 2))
def test_a_batch_is_of_one_width_within_its_limits_in_order(
    rows: Sequence[Row], now_s: float
) -> None:
    decision = form_batch(rows, now_s, LIMITS)
    chosen = [row for row in rows if row.number in decision.batch]
    assert tuple(row.number for row in chosen) == decision.batch
    assert len({row.width for row in chosen}) <= 1
    if chosen:
        assert len(chosen) <= LIMITS.rows_of(chosen[0].width)
        earlier = [row for row in rows if row.width == chosen[0].width][: len(chosen)]
        assert chosen == earlier
    else:
        assert (decision.wait_s is None) == (not rows)
        assert decision.wait_s is None or decision.wait_s > 0


@given(queues())
def test_every_queue_empties(rows: list[Row]) -> None:
    now_s, left = 0.0, list(rows)
    while left:
        decision = form_batch(left, now_s, LIMITS)
        assert decision.batch or decision.wait_s is not None
        now_s += decision.wait_s or 0.0
        if not decision.batch:
            now_s += 1e-9  # what a clock adds, where a float cannot
        left = [row for row in left if row.number not in decision.batch]
    assert now_s <= 1.1


def test_a_lone_row_waits_for_company_until_its_delay_is_over() -> None:
    (lone,) = rows_of(8, arrived_s=1.0)
    early = form_batch([lone], 1.004, LIMITS)
    assert early.batch == ()
    assert early.wait_s == pytest.approx(0.006)
    assert form_batch([lone], 1.01, LIMITS).batch == (0,)


def test_a_full_batch_goes_at_once() -> None:
    assert form_batch(rows_of(8, 8, 8, 8, 8), 0.0, LIMITS).batch == (0, 1, 2, 3)


def test_a_full_width_need_not_wait_for_the_oldest_row() -> None:
    rows = rows_of(32, 8, 8, 8, 8)
    assert form_batch(rows, 0.0, LIMITS).batch == (1, 2, 3, 4)
    assert form_batch(rows, 0.01, LIMITS).batch == (0,)


def test_wide_rows_make_smaller_batches() -> None:
    assert [LIMITS.rows_of(width) for width in (8, 16, 32, 64, 1000)] == [4, 4, 2, 1, 1]


def test_an_empty_queue_waits_for_a_row() -> None:
    assert form_batch([], 0.0, LIMITS).wait_s is None


@given(st.integers(1, 256))
def test_a_padded_row_is_little_wider_than_itself(tokens: int) -> None:
    width = padded_width(tokens, 256)
    assert tokens <= width <= 256
    assert width - tokens < max(8, tokens / 4)


def test_a_padded_row_stays_within_the_model() -> None:
    assert padded_width(249, 250) == 250
