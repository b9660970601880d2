"""Requests to language models in the Open Inference Protocol, and the responses to them."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb.inference_pb2 import InferParameter, ModelInferRequest
from mesh.tensor import decode_raw
from mesh.text_inference import (
    DEFAULT_MAX_TOKENS,
    TextRequest,
    TextResponses,
    read_text_output,
    read_text_request,
)

FACTS = {"completion_tokens": 2, "finish_reason": "stop"}


def make(text: str | bytes = "Once", **parameters: InferParameter) -> ModelInferRequest:
    request = ModelInferRequest(id="r-1")
    data = text.encode() if isinstance(text, str) else text
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(value)
    return request


def integer(value: int) -> InferParameter:
    return InferParameter(int64_param=value)


def test_parameters_become_sampling_and_limits() -> None:
    request = make(
        max_tokens=integer(5),
        temperature=InferParameter(double_param=0.5),
        top_p=integer(1),
        top_k=InferParameter(uint64_param=40),
        seed=InferParameter(uint64_param=2**64 - 1),
        stop=InferParameter(string_param="\n"),
        ignore_eos=InferParameter(bool_param=True),
    )
    sampling = {"temperature": 0.5, "top_p": 1.0, "top_k": 40, "seed": 2**64 - 1}
    assert read_text_request(request) == TextRequest("Once", 5, True, ("\n",), sampling)


def test_the_prompt_is_never_part_of_the_answer() -> None:
    yes, no = (InferParameter(bool_param=value) for value in (True, False))
    assert read_text_request(make(exclude_input_in_output=yes)) == TextRequest("Once")
    with pytest.raises(InvalidArgument, match="never begins with its text_input") as refused:
        read_text_request(make(exclude_input_in_output=no))
    assert refused.value.field == "parameters.exclude_input_in_output"


def test_a_text_that_names_no_end_has_the_length_that_others_give_it() -> None:
    assert read_text_request(make()).max_tokens == DEFAULT_MAX_TOKENS == 16
    assert read_text_request(make(max_tokens=integer(0))).max_tokens == 0  # its model refuses it


def text(value: str) -> InferParameter:
    return InferParameter(string_param=value)


def test_a_form_is_asked_for_by_its_kind() -> None:
    request = read_text_request(make(regex=text("a+"), top_k=integer(4)))
    assert (request.form, request.sampling) == ({"regex": "a+"}, {"top_k": 4})
    some = InferParameter(bool_param=True)
    assert read_text_request(make(json_object=some)).form == {"json_object": True}


def test_a_text_has_one_form() -> None:
    with pytest.raises(InvalidArgument, match="regex gives the text a form") as refused:
        read_text_request(make(regex=text("a+"), grammar=text('start: "a"')))
    assert refused.value.field == "parameters.grammar"


def test_nothing_asked_is_nothing_set() -> None:
    empty = InferParameter(bool_param=True)
    reserved: Any = {"sequence_id": integer(7), "triton_enable_empty_final_response": empty}
    assert read_text_request(make(**reserved)) == read_text_request(make()) == TextRequest("Once")


def test_a_typed_text_is_taken_as_well() -> None:
    request = ModelInferRequest()
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append("grüße".encode())
    assert read_text_request(request).prompt == "grüße"


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("max_token", integer(1)),
        ("max_tokens", InferParameter(double_param=1.5)),
        ("max_tokens", InferParameter(string_param="5")),
        ("max_tokens", InferParameter(bool_param=True)),
        ("max_tokens", integer(2**40)),
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
        read_text_request(make(**{name: parameter}))
    assert refused.value.field == f"parameters.{name}"


def wrong_requests() -> dict[str, tuple[ModelInferRequest, str]]:
    renamed = make()
    renamed.inputs[0].name = "prompt"
    two_texts = make()
    two_texts.inputs[0].shape[:] = [2]
    two_texts.raw_input_contents[0] *= 2
    number = ModelInferRequest()
    number.inputs.add(name="text_input", datatype="FP32", shape=[1])
    number.raw_input_contents.append(bytes(4))
    output = make()
    output.outputs.add(name="logits")
    return {
        "no input": (ModelInferRequest(), "inputs.text_input"),
        "another input": (renamed, "inputs.prompt"),
        "two texts": (two_texts, "inputs.text_input"),
        "a number": (number, "inputs.text_input"),
        "not UTF-8": (make(b"ab\xff"), "inputs.text_input"),
        "another output": (output, "outputs.logits"),
    }


@pytest.mark.parametrize("case", wrong_requests())
def test_what_is_no_text_request_is_named(case: str) -> None:
    request, field = wrong_requests()[case]
    with pytest.raises(InvalidArgument) as refused:
        read_text_request(request)
    assert refused.value.field == field
    assert field in refused.value.message


def test_inputs_beyond_the_text_are_named() -> None:
    request = make()
    request.inputs.add(name="extra", datatype="FP32", shape=[0])
    request.raw_input_contents.append(b"")
    with pytest.raises(InvalidArgument, match="extra"):
        read_text_request(request)


def test_shared_memory_for_an_output_is_refused_by_name() -> None:
    request = make()
    request.outputs.add(name="text_output").parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(Unimplemented, match="shared_memory_region"):
        read_text_request(request)


def test_a_text_has_no_classes() -> None:
    request = make()
    request.outputs.add(name="text_output").parameters["classification"].int64_param = 3
    with pytest.raises(InvalidArgument, match="needs numbers") as refused:
        read_text_request(request)
    assert refused.value.field == "outputs.text_output.parameters.classification"


@pytest.mark.parametrize("wants_empty", [False, True])
def test_pieces_and_the_final_response_are_marked(wants_empty: bool) -> None:
    request = make(triton_enable_empty_final_response=InferParameter(bool_param=wants_empty))
    responses = TextResponses(request, "m", "3")
    piece, final = responses.piece("grüße"), responses.final(FACTS)
    for each, is_final in ((piece, False), (final, True)):
        assert (each.id, each.model_name, each.model_version) == ("r-1", "m", "3")
        assert each.parameters["triton_final_response"].bool_param is is_final
    (raw,) = piece.raw_output_contents
    assert decode_raw("BYTES", (1,), raw, field="x")[0].decode() == read_text_output(piece)
    assert len(final.outputs) == len(final.raw_output_contents) == (0 if wants_empty else 1)
    assert read_text_output(final) == ""
    assert final.parameters["completion_tokens"].int64_param == 2


def test_a_whole_answer_carries_no_mark() -> None:
    whole = TextResponses(make(), "m", "3").whole("text", FACTS)
    assert "triton_final_response" not in whole.parameters
    assert whole.parameters["finish_reason"].string_param == "stop"
