from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.inference.backends.tensorrt.shapes import (
    SlotShapes,
    cut,
    prefill_width,
    row_bucket,
    row_buckets,
)


def shapes(slots: int, context_tokens: int) -> SlotShapes:
    return SlotShapes(
        slots=slots,
        context_tokens=context_tokens,
        layers=2,
        kv_heads=3,
        head_dim=64,
        vocabulary=100,
        element_bytes=2,
    )


def test_rows_are_padded_to_few_numbers() -> None:
    assert row_buckets(1) == (1,)
    assert row_buckets(6) == (1, 2, 4, 6)
    assert row_buckets(128) == (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@given(st.integers(1, 256), st.data())
def test_a_bucket_holds_its_rows_at_little_waste(slots: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, slots))
    bucket = row_bucket(rows, slots)
    assert rows <= bucket <= min(slots, 2 * rows)


@given(st.integers(16, 5000), st.data())
def test_a_prefill_stays_inside_its_slot(context: int, data: st.DataObject) -> None:
    slot = shapes(4, context)
    start = data.draw(st.integers(0, context - 1))
    tokens = data.draw(st.integers(1, min(slot.prefill_tokens, context - start)))
    width = prefill_width(tokens, slot.positions - start, slot.prefill_tokens)
    assert tokens <= width <= slot.prefill_tokens
    assert start + width <= slot.positions


@given(st.lists(st.integers()), st.integers(0, 9), st.integers(1, 7))
def test_cutting_keeps_every_token_in_its_place(
    tokens: list[int], start: int, longest: int
) -> None:
    pieces = cut(tokens, start, longest)
    assert [token for _, piece in pieces for token in piece] == tokens
    assert all(len(piece) <= longest for _, piece in pieces)
    assert all(piece[0] == tokens[begin - start] for begin, piece in pieces)


@given(st.integers(1, 256), st.integers(16, 5000))
def test_the_scratch_position_is_nobodys(slots: int, context: int) -> None:
    slot = shapes(slots, context)
    assert context <= slot.scratch < slot.positions
    assert slot.slot_bytes % 256 == 0


def test_the_profiles_cover_decoding_and_prefill() -> None:
    slot = shapes(8, 1000)
    decode, prefill = ({each.name: each for each in p} for p in slot.profiles())
    assert decode["input_ids"].least == (1, 1)
    assert decode["input_ids"].most == (8, 1)
    assert prefill["input_ids"].most == (1, 512)
    assert decode["past_k1"].most == (8, 3, 1024, 64)
    assert decode.keys() == prefill.keys()
