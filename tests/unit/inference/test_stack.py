"""Rows of named tensors: what is stacked comes apart again, whoever shares the batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mesh.errors import FailedPrecondition, InvalidArgument
from services.inference.batching.ragged import RaggedAxis, bucket_of
from services.inference.batching.run import Item
from services.inference.batching.stack import (
    TensorRow,
    Tensors,
    count_rows,
    cut,
    join,
    split,
    stack,
    stacked,
)

SEQUENCE = RaggedAxis(inputs={"ids": 1, "mask": 1}, outputs={"ids": 1, "mask": 1}, pads={"ids": 9})
LINES = RaggedAxis(inputs={"image": 2}, outputs={"image": 2}, longest=20)
BOTH = (SEQUENCE, LINES)
# 0 and 17 are lengths like any other.
lengths = st.sampled_from([0, 1, 3, 8, 9, 17])


@st.composite
def requests(draw: st.DrawFn) -> Tensors:
    rows, tokens, lines = draw(st.integers(1, 4)), draw(lengths), draw(lengths)
    seed = draw(st.integers(0, 2**32 - 1))
    made = np.random.default_rng(seed)
    texts = [[str(n).encode() * int(made.integers(3))] for n in range(rows)]
    return {
        "ids": made.integers(-9, 9, (rows, tokens)),
        "mask": made.integers(0, 2, (rows, tokens)).astype(bool),
        "image": made.standard_normal((rows, 2, lines)).astype(draw(st.sampled_from("ef"))),
        "text": np.array(texts, object),
    }


def by_key(items: list[Item[TensorRow]]) -> Mapping[tuple[Hashable, int], list[TensorRow]]:
    batches: dict[tuple[Hashable, int], list[TensorRow]] = defaultdict(list)
    for item in items:
        batches[item.key, item.width].append(item.payload)
    return batches


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])
        for name in one
    )


@given(st.lists(requests(), min_size=1, max_size=6))
def test_what_is_stacked_comes_apart_again(asked: list[Tensors]) -> None:
    owned = [cut(request, BOTH) for request in asked]
    results: dict[int, Tensors] = {}
    for rows in by_key([item for items in owned for item in items]).values():
        batch = stack(rows)
        assert all(array.shape[0] == len(rows) for array in batch.values())
        for row, part in zip(rows, split(batch, rows, BOTH), strict=True):
            results[id(row)] = part
    for request, items in zip(asked, owned, strict=True):
        assert same(join([results[id(item.payload)] for item in items]), request)


@given(requests())
def test_a_row_is_the_same_alone_and_with_the_rest_of_its_request(request: Tensors) -> None:
    for n, item in enumerate(cut(request, BOTH)):
        (alone,) = cut({name: array[n : n + 1] for name, array in request.items()}, BOTH)
        assert (alone.key, alone.width) == (item.key, item.width)
        assert same(alone.payload.tensors, item.payload.tensors)


@given(requests(), requests())
def test_rows_of_one_key_have_one_shape(one: Tensors, other: Tensors) -> None:
    (first, *_), (second, *_) = cut(one, BOTH), cut(other, BOTH)
    shapes = [
        {name: (array.shape, array.dtype) for name, array in item.payload.tensors.items()}
        for item in (first, second)
    ]
    assert (first.key == second.key) == (shapes[0] == shapes[1])


@given(st.integers(0, 100_000), st.none() | st.integers(1, 100_000))
def test_a_bucket_is_little_longer_than_what_is_in_it(length: int, longest: int | None) -> None:
    if longest is not None and length > longest:
        length = longest
    padded = bucket_of(length, longest)
    assert length <= padded
    assert padded - length <= max(8, length / 4)
    assert longest is None or padded <= longest
    assert bucket_of(padded, longest) == padded


@given(st.integers(1, 100_000))
def test_there_are_few_buckets(longest: int) -> None:
    octaves = longest.bit_length()
    buckets, length = 0, 0
    while length < longest:
        length = bucket_of(length + 1)
        buckets += 1
    assert buckets <= 8 + 4 * octaves


@given(hnp.arrays(np.float32, (3, 5)))
def test_padding_is_what_the_model_declares(array: np.ndarray[Any, Any]) -> None:
    axis = RaggedAxis(inputs={"x": 1}, pads={"x": -1.0})
    for row in cut({"x": array}, [axis]):
        assert row.payload.tensors["x"].shape == (1, 8)
        assert (row.payload.tensors["x"][:, 5:] == -1).all()


def test_rows_are_counted_by_their_shapes_alone() -> None:
    assert count_rows({"x": (10**12, 0), "y": (10**12,)}) == 10**12
    with pytest.raises(InvalidArgument, match=r"inputs\.y: has 2 rows, but inputs\.x has 3"):
        count_rows({"x": (3, 0), "y": (2,)})


def test_padding_does_not_make_much_out_of_nothing() -> None:
    axis = RaggedAxis(inputs={"x": 1})
    (row,) = cut({"x": np.empty((1, 0, 100), "<f4")}, [axis])
    assert row.payload.tensors["x"].shape == (1, 8, 100)
    with pytest.raises(InvalidArgument, match=r"inputs\.x: has no elements, and 8000000000000"):
        cut({"x": np.empty((1, 0, 10**12), "<f4")}, [axis])


def test_the_engine_gets_one_batch_and_times_are_told() -> None:
    seen = []

    def double(batch: Tensors) -> Tensors:
        seen.append(batch["x"].shape)
        return {"y": batch["x"] * 2, "sum": batch["x"].sum(axis=1)}

    axis = RaggedAxis(inputs={"x": 1}, outputs={"y": 1})
    items = cut({"x": np.arange(6.0).reshape(2, 3)}, [axis])
    items += cut({"x": np.ones((1, 7))}, [axis])
    ran = stacked(double, [axis])([item.payload for item in items], items[0].key)
    assert seen == [(3, 8)]
    assert ran.input_ns > 0
    assert ran.output_ns > 0
    first, second, third = ran.results
    assert first["y"].tolist() == [[0, 2, 4]]
    assert second["sum"].tolist() == [12]
    assert third["y"].tolist() == [[2] * 7]


def test_a_request_without_rows_has_none() -> None:
    assert cut({"x": np.zeros((0, 3))}) == []


@pytest.mark.parametrize(
    ("tensors", "field", "problem"),
    [
        ({"a": np.zeros(2), "b": np.zeros(())}, "inputs.b", "no axis of rows"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "inputs.b", "3 rows, but inputs.a has 2"),
        (
            {"ids": np.zeros((2, 3)), "mask": np.zeros((2, 4))},
            "inputs.mask",
            "axis 1 is 4 long, but that of inputs.ids is 3",
        ),
        ({"image": np.zeros((1, 2, 21))}, "inputs.image", "axis 2 is 21 long, more than 20"),
    ],
)
def test_what_does_not_fit_together_is_named(tensors: Tensors, field: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        cut(tensors, BOTH)
    assert refused.value.field == field


@pytest.mark.parametrize("shape", [(), (3, 8), (2, 7), (2,)])
def test_an_output_that_cannot_be_told_apart_is_refused(shape: tuple[int, ...]) -> None:
    rows = [item.payload for item in cut({"ids": np.zeros((2, 3))}, [SEQUENCE])]
    with pytest.raises(FailedPrecondition, match="output 'ids'"):
        split({"ids": np.zeros(shape)}, rows, [SEQUENCE])
