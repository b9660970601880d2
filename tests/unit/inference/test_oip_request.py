"""Inputs against a signature: every way to be wrong is named, and what fits passes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb.inference_pb2 import InferParameter, ModelInferRequest
from mesh.tensor import Tensor
from services.inference.models.tensor_model import Signature, TensorSpec
from services.inference.oip.request import WantedOutput, check_inputs, requested_outputs

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


def test_of_many_known_names_the_first_are_told() -> None:
    specs = tuple(TensorSpec(f"x{number}", "FP32", (1,)) for number in range(400))
    signature = Signature(platform="p", inputs=specs, outputs=specs)
    told = "known are x0, x1, x2, x3, x4, x5, x6, x7, ..."
    with pytest.raises(InvalidArgument, match=told):
        check_inputs([tensor("y", "FP32", 1)], signature, "m")
    with pytest.raises(InvalidArgument, match=told):
        requested_outputs(request("y"), (), signature)


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


def names(made: ModelInferRequest, *tensors: Tensor, signature: Signature) -> tuple[str, ...]:
    return tuple(each.name for each in requested_outputs(made, tensors, signature))


def test_outputs_come_as_asked_for_or_all() -> None:
    assert names(request(), signature=CLOSED) == ("a", "b")
    assert names(request("b", "a"), signature=CLOSED) == ("b", "a")
    assert names(request("b"), signature=CLOSED) == ("b",)
    assert names(request(), TEXT, SCALE, signature=OPEN) == ("text", "scale")
    assert names(request(), signature=OPEN) == ()


@pytest.mark.parametrize("outputs", [("c",), ("a", "a"), ("",)])
def test_outputs_that_are_not_there_or_twice_are_named(outputs: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        requested_outputs(request(*outputs), (), CLOSED)
    assert refused.value.field == f"outputs.{outputs[-1]}"


def test_a_great_many_outputs_are_looked_through_in_one_pass() -> None:
    many = [tensor(f"x{number}", "FP32", 0) for number in range(20_000)]
    made = request(*(each.name for each in many))
    began_s = time.process_time()
    assert len(requested_outputs(made, many, OPEN)) == len(many)
    assert time.process_time() - began_s < 1.0  # a pass takes a tenth, one per output 2.5 s


def test_shared_memory_for_an_output_is_refused_by_name() -> None:
    made = request("a")
    made.outputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(Unimplemented, match="shared_memory_region"):
        requested_outputs(made, (), CLOSED)


def test_classes_are_wanted_with_the_labels_of_the_output() -> None:
    signature = Signature(platform="p", outputs=(TensorSpec("a", "FP32", (-1, 2), ("no", "yes")),))
    made = request("a")
    made.outputs[0].parameters["classification"].int64_param = 2
    assert requested_outputs(made, (), signature) == (WantedOutput("a", 2, ("no", "yes")),)
    made.outputs[0].parameters["classification"].int64_param = 0
    assert requested_outputs(made, (), signature)[0].classes == 0


@pytest.mark.parametrize(
    "value", [{"int64_param": -1}, {"string_param": "3"}, {"bool_param": True}]
)
def test_a_wrong_number_of_classes_is_named(value: dict) -> None:
    made = request("a")
    made.outputs[0].parameters["classification"].CopyFrom(InferParameter(**value))
    with pytest.raises(InvalidArgument, match="number of classes") as refused:
        requested_outputs(made, (), CLOSED)
    assert refused.value.field == "outputs.a.parameters.classification"


@pytest.mark.parametrize("kind", ["BYTES", "BOOL"])
def test_only_numbers_have_classes(kind: str) -> None:
    made = request("x")
    made.outputs[0].parameters["classification"].int64_param = 1
    with pytest.raises(InvalidArgument, match=kind) as refused:
        requested_outputs(made, (tensor("x", kind, 1),), OPEN)
    assert refused.value.field == "outputs.x.parameters.classification"
