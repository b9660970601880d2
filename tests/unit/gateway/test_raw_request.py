"""A body without JSON becomes the one input of a model, in the shape that its size gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import ModelMetadataResponse
from mesh.tensor import DATATYPES, validate_request
from services.gateway.oip.raw_request import make_raw_request


def model(*inputs: tuple[str, str, list[int]]) -> ModelMetadataResponse:
    made = ModelMetadataResponse(name="m")
    for name, datatype, shape in inputs:
        made.inputs.add(name=name, datatype=datatype, shape=shape)
    return made


@pytest.mark.parametrize(
    ("datatype", "declared", "size", "shape"),
    [
        ("FP32", [2, 3], 24, [2, 3]),
        ("FP32", [-1], 24, [6]),
        ("FP32", [-1, 3], 24, [2, 3]),
        ("INT8", [2, -1, 3], 12, [2, 2, 3]),
        ("FP32", [-1, 3], 0, [0, 3]),
        ("FP64", [], 8, []),
        ("BF16", [-1], 6, [3]),
    ],
)
def test_an_open_axis_follows_from_the_size(datatype, declared, size: int, shape) -> None:
    (tensor,) = validate_request(make_raw_request(model(("x", datatype, declared)), bytes(size)))
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", datatype, shape)
    assert tensor.raw == bytes(size)


@pytest.mark.parametrize("declared", [[1], [-1], [-1, 1], []])
@pytest.mark.parametrize("body", [b"", b"hello", b"\x00\xff"])
def test_a_text_is_one_element(declared: list[int], body: bytes) -> None:
    (tensor,) = validate_request(make_raw_request(model(("text", "BYTES", declared)), body))
    assert tensor.shape == (1,) * len(declared)
    assert tensor.array().ravel().tolist() == [body]


@pytest.mark.parametrize(
    ("inputs", "body", "field", "said"),
    [
        ([], b"", "Inference-Header-Content-Length", "takes any"),
        ([("a", "INT8", [1]), ("b", "INT8", [1])], b"x", "Inference-Header-Content-Length", "a, b"),
        ([("x", "FP32", [-1, 3])], bytes(16), "inputs.x", "steps of 12 bytes"),
        ([("x", "FP32", [-1, 0])], b"", "inputs.x", "steps of 0 bytes"),
        ([("x", "FP32", [-1, -1])], bytes(16), "inputs.x", r"\[-1,-1\] does not follow"),
        ([("x", "BYTES", [2])], b"x", "inputs.x", "more than the one text"),
    ],
)
def test_what_a_raw_body_cannot_say_is_named(inputs, body: bytes, field: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        make_raw_request(model(*inputs), body)
    assert refused.value.field == field


SHAPES = st.lists(st.integers(-1, 3), max_size=4)


@given(st.sampled_from(sorted(DATATYPES)), SHAPES, st.binary(max_size=40))
def test_any_body_is_a_tensor_or_refused_by_name(datatype: str, declared, body: bytes) -> None:
    described = model(("x", datatype, declared))
    try:
        (tensor,) = validate_request(make_raw_request(described, body))
    except InvalidArgument as error:
        assert error.field == "inputs.x"  # noqa: PT017
    else:
        assert all(said in (-1, got) for said, got in zip(declared, tensor.shape, strict=True))
