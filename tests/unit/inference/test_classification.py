"""The largest values of an output: in order, with their places and labels, row by row."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mesh.errors import InvalidArgument
from mesh.server import MAX_MESSAGE_BYTES
from mesh.tensor import DATATYPES, Tensor, encode_raw, float32_to_bf16
from services.inference.oip.answer import LONG_RANKING, form_output
from services.inference.oip.classification import LEAST_CLASS_BYTES, classify
from services.inference.oip.request import WantedOutput

MOST = MAX_MESSAGE_BYTES // LEAST_CLASS_BYTES

NUMBERS = sorted(set(DATATYPES) - {"BYTES", "BOOL", "BF16"})


def tensor_of(array: np.ndarray, datatype: str) -> Tensor:
    return Tensor("y", datatype, array.shape, encode_raw(array, datatype))


def texts(tensor: Tensor) -> list:
    return np.vectorize(bytes.decode, otypes=[object])(tensor.array()).tolist()


def test_the_documented_example() -> None:
    ranked = classify(tensor_of(np.array([1, 5, 10, 4], "<f4"), "FP32"), 2)
    assert (ranked.name, ranked.datatype, ranked.shape) == ("y", "BYTES", (2,))
    assert texts(ranked) == ["10.000000:2", "5.000000:1"]


def test_each_row_is_ranked_by_itself_with_labels() -> None:
    array = np.array([[0.25, 0.75], [0.5, 0.125]], "<f4")
    ranked = classify(tensor_of(array, "FP32"), 1, ("no", "yes"), has_rows=True)
    assert ranked.shape == (2, 1)
    assert texts(ranked) == [["0.750000:1:yes"], ["0.500000:0:no"]]


def test_labels_are_those_of_the_last_axis_and_may_be_too_few() -> None:
    array = np.arange(6, dtype="<i4").reshape(1, 2, 3)
    ranked = classify(tensor_of(array, "INT32"), 3, ("a", "b"), has_rows=True)
    assert texts(ranked) == [["5:5", "4:4:b", "3:3:a"]]


def test_a_row_of_one_value_has_one_class() -> None:
    ranked = classify(tensor_of(np.array([3, 7], "<i4"), "INT32"), 2, ("it",), has_rows=True)
    assert ranked.shape == (2, 1)
    assert texts(ranked) == [["3:0:it"], ["7:0:it"]]


def test_what_has_no_rows_is_one_ranking() -> None:
    ranked = classify(tensor_of(np.array([[3, 7]], "<i4"), "INT32"), 1)
    assert ranked.shape == (1,)
    assert texts(ranked) == ["7:1"]


@pytest.mark.parametrize(
    ("shape", "has_rows", "count", "expected"),
    [
        ((), False, 3, (1,)),
        ((4,), False, 9, (4,)),
        ((4,), True, 9, (4, 1)),
        ((0,), False, 2, (0,)),
        ((0,), True, 2, (0, 1)),
        ((0, 3), False, 2, (0,)),
        ((0, 3), True, 2, (0, 2)),
        ((2, 0), True, 2, (2, 0)),
        ((2, 2, 3), False, 4, (4,)),
        ((2, 2, 3), True, 4, (2, 4)),
        ((3,), False, 2**62, (3,)),
    ],
)
def test_there_are_never_more_classes_than_values(
    shape, has_rows: bool, count: int, expected
) -> None:
    ranked = classify(tensor_of(np.zeros(shape, "<f4"), "FP32"), count, has_rows=has_rows)
    assert ranked.shape == expected
    assert ranked.array().shape == expected


@pytest.mark.parametrize("rows", [2**40, 2**60])
def test_any_number_of_empty_rows_is_answered_at_once(rows: int) -> None:
    ranked = classify(Tensor("y", "FP32", (rows, 0), b""), 1, has_rows=True)
    assert (ranked.shape, ranked.raw) == ((rows, 0), b"")


@pytest.mark.parametrize("count", [1, 2**64 - 1])
def test_no_rows_of_any_width_are_answered_at_once(count: int) -> None:
    ranked = classify(Tensor("y", "FP32", (0, 2**40), b""), count, has_rows=True)
    assert (ranked.shape, ranked.raw) == ((0, min(count, 2**40)), b"")


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ((MOST + 1, 1), "outputs.y.parameters.classification"),
        ((MOST + 1,), "outputs.y.parameters.classification"),
        ((0, 2**40, 2**40), "outputs.y"),
    ],
)
def test_what_no_answer_could_hold_is_refused_by_the_outputs_name(shape, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        classify(
            Tensor("y", "UINT8", shape, bytes(math.prod(shape))), 2**62, has_rows=len(shape) > 1
        )
    assert refused.value.field == field
    assert refused.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize(("values", "in_thread"), [(LONG_RANKING - 1, False), (LONG_RANKING, True)])
async def test_many_values_are_ranked_beside_the_loop(values: int, in_thread: bool) -> None:
    other = asyncio.create_task(asyncio.sleep(0))
    tensor = Tensor("y", "UINT8", (values,), bytes(values))
    ranked = await form_output(tensor, WantedOutput("y", classes=1), has_rows=False)
    assert ranked.shape == (1,)
    assert other.done() == in_thread
    await other


def test_ties_keep_their_order_and_nan_comes_last() -> None:
    array = np.array([math.nan, 2, -math.inf, 2, math.inf], "<f4")
    places = [text.split(":")[1] for text in texts(classify(tensor_of(array, "FP32"), 5))]
    assert places[:3] == ["4", "1", "3"]
    assert set(places[3:]) == {"0", "2"}


def test_bf16_is_ranked_by_its_values() -> None:
    array = float32_to_bf16(np.array([1.5, -2, 3], "<f4"))
    assert texts(classify(tensor_of(array, "BF16"), 2)) == ["3.000000:2", "1.500000:0"]


@given(
    st.sampled_from(NUMBERS).flatmap(
        lambda name: st.tuples(
            st.just(name),
            hnp.arrays(DATATYPES[name].dtype, hnp.array_shapes(min_dims=2, max_dims=3)),
        )
    ),
    st.integers(1, 12),
)
def test_every_row_has_its_largest_values_in_order(case, count: int) -> None:
    datatype, array = case
    ranked = classify(tensor_of(array, datatype), count, has_rows=True).array()
    for row, strings in zip(array.reshape(array.shape[0], -1), ranked, strict=True):
        places = [int(text.decode().split(":")[1]) for text in strings]
        assert len(set(places)) == len(places) == min(count, row.size)
        if row.dtype.kind != "f" or not np.isnan(row).any():
            assert row[places].tolist() == sorted(row.tolist(), reverse=True)[: len(places)]
