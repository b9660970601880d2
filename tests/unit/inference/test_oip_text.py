"""Request parameters of a language model in the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter
from mesh.tensor import Tensor, encode_raw
from services.inference.llm.request import GenerationRequest, SamplingRequest
from services.inference.oip_bytes import text_array
from services.inference.oip_text import make_generation_request


def text(value: str | bytes) -> Tensor:
    array = text_array([value]) if isinstance(value, str) else text_array([""])
    if isinstance(value, bytes):
        array[0] = value
    return Tensor("text_input", "BYTES", (1,), encode_raw(array, "BYTES"))


def made(**parameters: InferParameter) -> GenerationRequest:
    return make_generation_request(text("Once"), parameters, 2.5)


def integer(value: int) -> InferParameter:
    return InferParameter(int64_param=value)


def test_parameters_become_sampling_and_limits() -> None:
    request = made(
        max_tokens=integer(5),
        temperature=InferParameter(double_param=0.5),
        top_p=integer(1),
        top_k=InferParameter(uint64_param=40),
        seed=InferParameter(uint64_param=2**64 - 1),
        stop=InferParameter(string_param="\n"),
        ignore_eos=InferParameter(bool_param=True),
    )
    sampling = SamplingRequest(temperature=0.5, top_p=1.0, top_k=40, seed=2**64 - 1)
    assert request == GenerationRequest(
        "Once", sampling, max_tokens=5, stop=("\n",), ignore_eos=True, timeout_s=2.5
    )


def test_nothing_asked_is_nothing_set() -> None:
    assert made() == GenerationRequest("Once", timeout_s=2.5)


def test_parameters_of_the_protocol_itself_pass() -> None:
    reserved: Any = {"sequence_id": integer(7), "triton_enable_empty_final_response": integer(1)}
    assert made(**reserved) == made()


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("max_token", integer(1)),
        ("max_tokens", InferParameter(double_param=1.5)),
        ("max_tokens", InferParameter(string_param="5")),
        ("max_tokens", InferParameter(bool_param=True)),
        ("temperature", InferParameter(string_param="hot")),
        ("temperature", InferParameter(bool_param=True)),
        ("seed", integer(-1)),
        ("stop", integer(1)),
        ("ignore_eos", integer(1)),
        ("top_k", InferParameter()),
    ],
)
def test_a_wrong_parameter_is_named(name: str, parameter: InferParameter) -> None:
    with pytest.raises(InvalidArgument, match=name) as refused:
        made(**{name: parameter})
    assert refused.value.field == f"parameters.{name}"


def test_a_text_that_is_not_utf8_is_named() -> None:
    with pytest.raises(InvalidArgument, match="not UTF-8 at byte 2") as refused:
        make_generation_request(text(b"ab\xff"), {}, None)
    assert refused.value.field == "inputs.text_input"
