"""Round trips between the four forms of a tensor, and every way in which a form can be wrong."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb.inference_pb2 import ModelInferRequest
from mesh.tensor import (
    DATATYPES,
    Tensor,
    bf16_to_float32,
    check_raw,
    contents_to_raw,
    decode_raw,
    element_count,
    encode_raw,
    float32_to_bf16,
    json_to_raw,
    raw_to_json,
    validate_request,
)

NUMERIC = sorted(set(DATATYPES) - {"BYTES"})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, names: list[str] | None = None) -> tuple[str, np.ndarray[Any, Any]]:
    name = draw(st.sampled_from(names or sorted(DATATYPES)))
    shape = draw(SHAPES)
    if name != "BYTES":
        return name, draw(hnp.arrays(DATATYPES[name].dtype, shape))
    items = draw(st.lists(st.binary(), min_size=math.prod(shape), max_size=math.prod(shape)))
    flat = np.empty(len(items), dtype=object)
    flat[:] = items
    return name, flat.reshape(shape)


def typed(name: str, array: np.ndarray[Any, Any]) -> ModelInferRequest.InferInputTensor:
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype=name, shape=array.shape)
    getattr(tensor.contents, DATATYPES[name].contents_field).extend(array.ravel().tolist())
    return tensor


def refused(message: str) -> Any:
    return pytest.raises(InvalidArgument, match=message)


# --- round trips


@given(tensors())
def test_raw_bytes_survive_the_array(tensor: tuple[str, np.ndarray[Any, Any]]) -> None:
    name, array = tensor
    raw = encode_raw(array, name)
    decoded = decode_raw(name, array.shape, raw, field="x")
    assert decoded.shape == array.shape
    assert encode_raw(decoded, name) == raw


@given(tensors(sorted(set(DATATYPES) - {"FP16", "BF16"})))
def test_typed_contents_and_raw_are_the_same(tensor: tuple[str, np.ndarray[Any, Any]]) -> None:
    name, array = tensor
    raw = encode_raw(array, name)
    decoded = decode_raw(name, array.shape, contents_to_raw(typed(name, array)), field="x")
    np.testing.assert_array_equal(decoded, decode_raw(name, array.shape, raw, field="x"))


@given(tensors(NUMERIC), st.booleans())
def test_json_and_raw_are_the_same(tensor: tuple[str, np.ndarray[Any, Any]], nested: bool) -> None:
    name, array = tensor
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)
    if name == "BF16":
        array = float32_to_bf16(np.nan_to_num(bf16_to_float32(array), posinf=1, neginf=1))
    raw = encode_raw(array, name)
    flat = raw_to_json(raw, name, array.shape)
    data = np.array(flat, dtype=object).reshape(array.shape).tolist() if nested else flat
    if not isinstance(data, list):  # a scalar travels as a list of one
        data = [data]
    assert json_to_raw(data, name, array.shape, field="x") == raw


@given(st.lists(st.text(max_size=8), max_size=6))
def test_strings_survive_json(texts: list[str]) -> None:
    raw = json_to_raw(texts, "BYTES", [len(texts)], field="x")
    assert raw_to_json(raw, "BYTES", [len(texts)]) == texts


@given(st.sampled_from(sorted(DATATYPES)), SHAPES, st.binary(max_size=64))
def test_any_bytes_are_taken_or_refused_but_never_crash(
    name: str, shape: tuple[int, ...], raw: bytes
) -> None:
    with contextlib.suppress(InvalidArgument):
        check_raw(name, shape, raw, field="x")
        assert decode_raw(name, shape, raw, field="x").shape == shape


@given(hnp.arrays(np.float32, st.integers(0, 8)))
def test_bf16_rounds_to_the_nearest(values: np.ndarray[Any, Any]) -> None:
    back = bf16_to_float32(float32_to_bf16(values))
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    normal = np.isfinite(values) & np.isfinite(back) & (np.abs(values) > 1e-30)
    np.testing.assert_allclose(back[normal], values[normal], rtol=2**-8)


def test_bf16_breaks_ties_to_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000], dtype="<u4").view("<f4")
    assert float32_to_bf16(ties).tolist() == [0x3F80, 0x3F82]


def test_bytes_keep_trailing_zeros() -> None:
    raw = encode_raw(np.array([b"a\0\0", b""], dtype=object), "BYTES")
    assert decode_raw("BYTES", [2], raw, field="x").tolist() == [b"a\0\0", b""]


def test_any_nonzero_byte_is_true() -> None:
    assert decode_raw("BOOL", [3], b"\x00\x01\xff", field="x").tolist() == [False, True, True]


# --- shapes and raw bytes


def test_a_wrong_length_names_both_byte_counts() -> None:
    with refused(r"x: got 4 bytes, but FP32 of shape \[2,3\] takes 24 bytes"):
        decode_raw("FP32", [2, 3], b"\0" * 4, field="x")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([-1, 2], r"shape \[-1,2\] has the negative dimension -1"),
        ([1] * 33, "33 dimensions"),
    ],
)
def test_impossible_shapes(shape: list[int], message: str) -> None:
    with refused(message):
        element_count(shape, field="x")


def test_a_shape_beyond_any_memory_is_only_a_wrong_length() -> None:
    with refused("got 8 bytes"):
        decode_raw("FP64", [2**62, 2**62, 2**62], b"\0" * 8, field="x")
    with refused("8 bytes hold 2 elements"):
        decode_raw("BYTES", [2**62, 2**62], b"\0" * 8, field="x")


def test_an_empty_axis_beside_a_huge_one() -> None:
    with contextlib.suppress(InvalidArgument):  # what numpy can address is numpy's business
        assert decode_raw("FP32", [0, 2**62], b"", field="x").size == 0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", r"0 bytes hold 0 elements, but shape \[2\] takes 2"),
        (b"\1\0\0\0a", "5 bytes hold 1 elements"),
        (b"\1\0\0\0a\x09\0\0\0b", "element 1 claims 9 bytes where 1 are left"),
        (b"\0\0\0\0\0\0\0\0xyz", "3 of 11 bytes are left over after the 2 elements"),
    ],
)
def test_bytes_that_do_not_add_up(raw: bytes, message: str) -> None:
    with refused(message):
        decode_raw("BYTES", [2], raw, field="x")


def test_an_input_that_no_array_can_be_is_named() -> None:
    tensor = Tensor("x", "FP32", (0, 2**62, 2**62), b"")
    with refused(r"inputs\.x: shape .* is too large") as caught:
        tensor.array()
    assert caught.value.field == "inputs.x"


def test_an_unknown_datatype_is_named() -> None:
    with refused("unknown datatype 'FLOAT32'") as caught:
        decode_raw("FLOAT32", [1], b"\0" * 4, field="inputs.x")
    assert caught.value.field == "inputs.x"


# --- typed contents


def test_contents_in_the_field_of_another_datatype() -> None:
    tensor = typed("FP64", np.ones(2))
    tensor.datatype = "FP32"
    with refused("contents.fp64_contents is set, but FP32 belongs in contents.fp32_contents"):
        contents_to_raw(tensor)


def test_too_few_contents() -> None:
    tensor = typed("INT32", np.arange(3))
    tensor.shape[:] = [2, 2]
    with refused(r"int_contents has 3 elements, but shape \[2,2\] takes 4"):
        contents_to_raw(tensor)


def test_contents_beyond_the_datatype() -> None:
    tensor = typed("INT32", np.array([1, 300]))
    tensor.datatype = "INT8"
    with refused(r"element 1 \(300\) is out of the range of INT8 \[-128, 127\]"):
        contents_to_raw(tensor)


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_half_floats_are_raw_only(name: str) -> None:
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype=name, shape=[1])
    with refused(f"{name} travels only in raw_input_contents"):
        contents_to_raw(tensor)


# --- whole requests


def request(*tensors: ModelInferRequest.InferInputTensor, raw: list[bytes]) -> ModelInferRequest:
    return ModelInferRequest(inputs=tensors, raw_input_contents=raw)


def bare(name: str, datatype: str, *shape: int) -> ModelInferRequest.InferInputTensor:
    return ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)


def test_raw_and_typed_requests_come_out_alike() -> None:
    raw = validate_request(request(bare("x", "INT16", 2), raw=[b"\1\0\2\0"]))
    assert raw == validate_request(request(typed("INT16", np.array([1, 2])), raw=[]))
    assert raw[0].array().tolist() == [1, 2]


def test_zero_size_inputs_need_no_bytes() -> None:
    assert validate_request(request(bare("x", "FP32", 0, 3), raw=[b""]))[0].raw == b""
    assert validate_request(request(bare("x", "FP32", 0, 3), raw=[]))[0].raw == b""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request(typed("FP32", np.ones(1)), raw=[b"\0" * 4]), "inputs.x: has typed contents while"),
        (
            request(bare("a", "FP32", 1), bare("b", "FP32", 1), raw=[b"\0" * 4]),
            "raw_input_contents: has 1 entries for 2 inputs, one each; missing for b",
        ),
        (request(bare("a", "FP32", 1), raw=[b"\0" * 4] * 2), "has 2 entries for 1 inputs"),
        (
            request(bare("a", "FP32", 1), bare("a", "FP32", 1), raw=[b"\0" * 4] * 2),
            "inputs.a: is given more than once",
        ),
        (request(bare("a", "FP32", 1), raw=[]), "fp32_contents has 0 elements"),
        (request(bare("a", "STRING", 1), raw=[b""]), "inputs.a: unknown datatype 'STRING'"),
    ],
)
def test_requests_that_contradict_themselves(bad: ModelInferRequest, message: str) -> None:
    with refused(message):
        validate_request(bad)


def test_shared_memory_is_declined_by_name() -> None:
    tensor = bare("x", "FP32", 1)
    tensor.parameters["shared_memory_region"].string_param = "region"
    with pytest.raises(Unimplemented, match=r"inputs\.x: shared memory"):
        validate_request(request(tensor, raw=[]))


# --- JSON


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "message"),
    [
        ([1, 300], "INT8", [2], r"element 1 \(300\) is out of the range of INT8"),
        ([-1], "UINT64", [1], "out of the range of UINT64"),
        ([2**64], "UINT64", [1], "out of the range of UINT64"),
        ([1.5], "INT32", [1], r"INT32 takes integers, but element 0 is 1\.5"),
        ([True], "INT32", [1], "INT32 takes integers, but element 0 is True"),
        ([1], "BOOL", [1], "BOOL takes true or false, but element 0 is 1"),
        (["1"], "FP32", [1], "FP32 takes numbers, but element 0 is '1'"),
        ([None], "FP32", [1], "element 0 is None"),
        ([float("nan")], "FP32", [1], "NaN and infinity are not JSON"),
        ([1e39], "FP32", [1], r"element 0 \(1e\+39\) is out of the range of FP32"),
        ([70000], "FP16", [1], "out of the range of FP16"),
        ([1e39], "BF16", [1], "out of the range of BF16"),
        ([10**400], "FP64", [1], "out of the range of FP64"),
        ([b"x"], "BYTES", [1], "BYTES takes strings"),
        (["\ud800"], "BYTES", [1], "half of a surrogate pair"),
        ("text", "BYTES", [1], "data must be a list, not str"),
        ({"a": 1}, "INT8", [1], "data must be a list, not dict"),
        ([1, 2], "INT8", [3], r"data has 2 elements, but shape \[3\] takes 3"),
        ([[1, 2], [3]], "INT8", [2, 2], r"nested data does not have the shape \[2,2\]"),
        ([[1], [2]], "INT8", [1, 2], r"nested data does not have the shape \[1,2\]"),
        ([[[1]]], "INT8", [1, 1], "element 0 is a list"),
        ([1, [2]], "INT8", [2], "element 1 is a list"),
    ],
)
def test_json_that_does_not_fit(data: Any, datatype: str, shape: list[int], message: str) -> None:
    with refused(message):
        json_to_raw(data, datatype, shape, field="inputs.x")


def test_bf16_that_rounds_up_to_infinity_is_out_of_range() -> None:
    with refused("out of the range of BF16"):
        json_to_raw([3.4e38], "BF16", [1], field="x")


@pytest.mark.parametrize(
    ("raw", "datatype"), [(encode_raw(np.array([np.inf]), "FP64"), "FP64"), (b"\x80\x7f", "BF16")]
)
def test_values_that_json_cannot_carry_ask_for_binary(raw: bytes, datatype: str) -> None:
    with refused("ask for binary data"):
        raw_to_json(raw, datatype, [1])


def test_bytes_that_are_no_text_ask_for_binary() -> None:
    raw = encode_raw(np.array([b"\xff"], dtype=object), "BYTES")
    with refused("not UTF-8, which JSON cannot carry; ask for binary data"):
        raw_to_json(raw, "BYTES", [1])
