"""Inputs against a signature: every way to be wrong is named, and what fits passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb.inference_pb2 import ModelInferRequest
from mesh.tensor import Tensor
from services.inference.models.tensor_model import Signature, TensorSpec
from services.inference.oip.request import check_inputs, requested_outputs

OPEN = Signature(platform="identity", is_open=True)
CLOSED = Signature(
    platform="p",
    inputs=(TensorSpec("text", "BYTES", (-1,)), TensorSpec("scale", "FP32", (2, -1))),
    outputs=(TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1,))),
)


def tensor(name: str, datatype: str, *shape: int) -> Tensor:
    return Tensor(name, datatype, shape, b"")


TEXT, SCALE = tensor("text", "BYTES", 4), tensor("scale", "FP32", 2, 9)


@pytest.mark.parametrize(
    "tensors", [(TEXT, SCALE), (SCALE, TEXT), (SCALE, tensor("text", "BYTES", 0))]
)
def test_what_fits_passes_in_any_order(tensors: tuple[Tensor, ...]) -> None:
    check_inputs(tensors, CLOSED, "m")


@pytest.mark.parametrize(
    ("tensors", "field", "said"),
    [
        ((), "inputs.text", "missing"),
        ((TEXT,), "inputs.scale", r"FP32 of shape \[2,-1\]"),
        ((TEXT, SCALE, tensor("extra", "INT8", 1)), "inputs.extra", "no such input"),
        ((tensor("text", "FP32", 4), SCALE), "inputs.text", "BYTES, not FP32"),
        ((tensor("text", "BYTES", 4, 1), SCALE), "inputs.text", r"\[-1\], not \[4,1\]"),
        ((TEXT, tensor("scale", "FP32", 3, 9)), "inputs.scale", r"\[2,-1\], not \[3,9\]"),
        ((TEXT, tensor("scale", "FP32")), "inputs.scale", r"not \[\]"),
    ],
)
def test_what_does_not_fit_is_named(tensors: tuple[Tensor, ...], field: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        check_inputs(tensors, CLOSED, "m")
    assert refused.value.field == field
    assert refused.value.message.startswith(f"{field}: ")


@given(
    st.lists(
        st.builds(tensor, st.text(), st.sampled_from(["BOOL", "BYTES"]), st.integers(0)), max_size=4
    )
)
def test_an_open_signature_takes_anything(tensors: list[Tensor]) -> None:
    check_inputs(tensors, OPEN, "m")


def request(*outputs: str) -> ModelInferRequest:
    made = ModelInferRequest()
    for name in outputs:
        made.outputs.add(name=name)
    return made


def test_outputs_come_as_asked_for_or_all() -> None:
    assert requested_outputs(request(), (), CLOSED) == ("a", "b")
    assert requested_outputs(request("b", "a"), (), CLOSED) == ("b", "a")
    assert requested_outputs(request("b"), (), CLOSED) == ("b",)
    assert requested_outputs(request(), (TEXT, SCALE), OPEN) == ("text", "scale")


@pytest.mark.parametrize("outputs", [("c",), ("a", "a"), ("",)])
def test_outputs_that_are_not_there_or_twice_are_named(outputs: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        requested_outputs(request(*outputs), (), CLOSED)
    assert refused.value.field == f"outputs.{outputs[-1]}"


@pytest.mark.parametrize("parameter", ["shared_memory_region", "classification"])
def test_what_is_not_offered_for_outputs_says_so(parameter: str) -> None:
    made = request("a")
    made.outputs[0].parameters[parameter].int64_param = 3
    with pytest.raises(Unimplemented, match=parameter):
        requested_outputs(made, (), CLOSED)
