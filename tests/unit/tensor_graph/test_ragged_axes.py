"""Declared pads become values of the tensor's own datatype, or are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mesh.errors import FailedPrecondition
from mesh.ragged_options import RaggedAxisOptions
from mesh.tensor import bf16_to_float32
from services.inference.backends.backend import GraphTensor
from services.inference.batching.ragged import RaggedAxis
from services.inference.batching.stack import cut
from services.inference.tensor_graph.ragged_axes import make_ragged


def axis_with(pad: Any, datatype: str) -> RaggedAxis:
    declared = RaggedAxisOptions.model_validate({"inputs": {"x": 1}, "pads": {"x": pad}})
    (axis,) = make_ragged([declared], [GraphTensor("x", datatype, (-1, -1))], [])
    return axis


@pytest.mark.parametrize(
    ("datatype", "dtype", "pad", "stored"),
    [
        ("INT8", "i1", -1, -1),
        ("INT64", "<i8", 1.0, 1),
        ("INT64", "<i8", True, 1),
        ("UINT64", "<u8", 2**64 - 1, 2**64 - 1),
        ("BOOL", "?", 1, True),
        ("BOOL", "?", True, True),
        ("FP16", "<f2", -1.5, -1.5),
        ("FP32", "<f4", 1, 1.0),
        ("BYTES", "O", "end", "end"),
    ],
)
def test_a_pad_is_a_value_of_its_datatype(datatype: str, dtype: str, pad: Any, stored: Any) -> None:
    (row,) = cut({"x": np.zeros((1, 3), dtype)}, [axis_with(pad, datatype)])
    assert row.payload.tensors["x"][0, 3:].tolist() == [stored] * 5


@pytest.mark.parametrize("pad", [1, -1.0, True, 0.5])
def test_a_pad_of_bf16_is_its_bits(pad: Any) -> None:
    (row,) = cut({"x": np.zeros((1, 3), "<u2")}, [axis_with(pad, "BF16")])
    assert bf16_to_float32(row.payload.tensors["x"])[0, 3:].tolist() == [pad] * 5


@pytest.mark.parametrize(
    ("datatype", "pad"),
    [
        ("UINT8", -1),
        ("INT8", 200),
        ("INT32", 0.5),
        ("BOOL", 2),
        ("FP16", 1e6),
        ("BF16", 3.4e38 * 1.01),
        ("FP64", 10**400),
        ("FP32", "1"),
        ("BYTES", 1),
    ],
)
def test_a_pad_of_another_datatype_is_refused(datatype: str, pad: Any) -> None:
    with pytest.raises(FailedPrecondition, match=rf"batching\.ragged\.pads\.x: .*{datatype}"):
        axis_with(pad, datatype)
