"""REST to message and back: the same values in every form, and refusals that name the place."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb import inference_pb2 as oip
from mesh.pb import model_config_pb2
from mesh.tensor import encode_raw, raw_to_json
from services.gateway.oip.config_json import message_to_json
from services.gateway.oip.infer_request import (
    OutputForm,
    is_raw,
    parse_infer_request,
    split_body,
)
from services.gateway.oip.infer_response import render_infer_response
from services.gateway.oip.parameters import parse_parameters, render_parameters

DTYPES = {"BOOL": "?", "UINT8": "u1", "INT64": "<i8", "UINT64": "<u8", "FP32": "<f4", "FP64": "<f8"}

TENSORS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda datatype: st.tuples(
        st.just(datatype),
        hnp.arrays(
            np.dtype(DTYPES[datatype]),
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False}
            if datatype.startswith("FP")
            else None,
        ),
    )
)
NAMED = st.dictionaries(st.text(st.characters(codec="utf-8")), TENSORS, min_size=1, max_size=4)


def make_body(tensors: dict, binary: list[bool]) -> tuple[bytes, str]:
    inputs, blobs = [], []
    for (name, (datatype, array)), is_binary in zip(tensors.items(), binary, strict=True):
        tensor = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        raw = encode_raw(array, datatype)
        if is_binary:
            tensor["parameters"] = {"binary_data_size": len(raw)}
            blobs.append(raw)
        else:
            tensor["data"] = array.tolist()
        inputs.append(tensor)
    text = json.dumps({"inputs": inputs}).encode()
    return text + b"".join(blobs), str(len(text))


@given(NAMED, st.data())
def test_every_input_arrives_raw_whatever_its_form(tensors: dict, data: st.DataObject) -> None:
    binary = data.draw(st.lists(st.booleans(), min_size=len(tensors), max_size=len(tensors)))
    body, length = make_body(tensors, binary)
    request, _ = parse_infer_request(body, length)
    assert [tensor.name for tensor in request.inputs] == list(tensors)
    for tensor, raw, (datatype, array) in zip(
        request.inputs, request.raw_input_contents, tensors.values(), strict=True
    ):
        assert (tensor.datatype, list(tensor.shape)) == (datatype, list(array.shape))
        assert raw == encode_raw(array, datatype)
        assert not tensor.parameters


@given(NAMED, st.data())
def test_every_output_leaves_in_the_form_that_was_asked(tensors, data: st.DataObject) -> None:
    wanted = data.draw(st.fixed_dictionaries({name: st.booleans() for name in tensors}))
    response = oip.ModelInferResponse(model_name="m", model_version="1")
    for name, (datatype, array) in tensors.items():
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(encode_raw(array, datatype))
    rendered = render_infer_response(response, OutputForm(by_name=wanted))
    length = len(rendered.body) if rendered.header_length is None else rendered.header_length
    document, blob = json.loads(rendered.body[:length]), rendered.body[length:]
    for output, (name, (datatype, array)) in zip(document["outputs"], tensors.items(), strict=True):
        raw = encode_raw(array, datatype)
        if wanted[name]:
            size = output["parameters"]["binary_data_size"]
            piece, blob = blob[:size], blob[size:]
            assert piece == raw
        else:
            assert output["data"] == raw_to_json(raw, datatype, array.shape)
    assert blob == b""
    assert (rendered.header_length is None) == (not any(wanted.values()))


def test_typed_contents_of_a_node_are_rendered_too() -> None:
    response = oip.ModelInferResponse(model_name="m", id="7")
    response.parameters["took"].double_param = 0.5
    tensor = response.outputs.add(name="x", datatype="INT32", shape=[2])
    tensor.contents.int_contents.extend([1, -2])
    document = json.loads(render_infer_response(response, OutputForm()).body)
    assert document["outputs"][0]["data"] == [1, -2]
    assert (document["id"], document["parameters"]) == ("7", {"took": 0.5})


@pytest.mark.parametrize(
    ("request_level", "output_level", "binary"),
    [(None, None, False), (True, None, True), (True, False, False), (None, True, True)],
)
def test_the_output_decides_before_the_request(request_level, output_level, binary: bool) -> None:
    output = {"name": "x"}
    if output_level is not None:
        output["parameters"] = {"binary_data": output_level, "classification": 3}
    body = {"inputs": [], "outputs": [output]}
    if request_level is not None:
        body["parameters"] = {"binary_data_output": request_level, "mine": "kept"}
    request, form = parse_infer_request(json.dumps(body).encode(), None)
    assert form.is_binary("x") is binary
    assert "binary_data_output" not in request.parameters
    assert "binary_data" not in request.outputs[0].parameters
    if output_level is not None:
        assert request.outputs[0].parameters["classification"].int64_param == 3


PARAMETERS = st.dictionaries(
    st.text(st.characters(codec="utf-8")),
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
)


@given(PARAMETERS)
def test_parameters_go_there_and_back(parameters: dict) -> None:
    request = oip.ModelInferRequest()
    parse_parameters(parameters, request.parameters, field="parameters")
    assert render_parameters(request.parameters) == parameters


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda v: st.lists(v) | PARAMETERS))
def test_any_json_is_understood_or_refused(document) -> None:
    for body in (document, {"inputs": document}, {"inputs": [document]}):
        with suppress(InvalidArgument):
            parse_infer_request(json.dumps(body).encode(), None)


@given(st.binary(max_size=200), st.none() | st.text(max_size=4))
def test_any_bytes_are_understood_or_refused(body: bytes, length: str | None) -> None:
    with suppress(InvalidArgument, Unimplemented):
        parse_infer_request(body, length)


def test_half_a_surrogate_pair_is_no_name() -> None:
    body = rb'{"inputs": [], "id": "\ud800"}'
    with pytest.raises(InvalidArgument):
        parse_infer_request(body, None)


def test_the_header_length_splits_the_body() -> None:
    assert split_body(b"{}abc", "2") == (b"{}", b"abc")
    assert split_body(b"{}", None) == (b"{}", b"")
    assert [is_raw(each) for each in ("0", "00", "1", "", "x", None)] == [True] * 2 + [False] * 4
    for wrong in ("6", "-1", "x", "", "9" * 5000):
        with pytest.raises(InvalidArgument):
            split_body(b"{}abc", wrong)


def test_an_input_in_shared_memory_is_not_sent() -> None:
    tensor = {"name": "x", "datatype": "INT8", "shape": [1]}
    tensor["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 1}
    request, _ = parse_infer_request(json.dumps({"inputs": [tensor]}).encode(), None)
    assert request.inputs[0].parameters["shared_memory_region"].string_param == "r"
    assert not request.raw_input_contents
    tensor["data"] = [1]
    with pytest.raises(InvalidArgument, match=r"inputs\.x"):
        parse_infer_request(json.dumps({"inputs": [tensor]}).encode(), None)


def test_messages_become_json_with_numbers() -> None:
    config = model_config_pb2.ModelConfig(name="m", max_batch_size=8)
    config.input.add(name="x", data_type="TYPE_FP32", dims=[-1, 2**40])
    config.parameters["k"].string_value = "v"
    document = message_to_json(config)
    assert document["input"][0]["dims"] == [-1, 2**40]
    assert document["input"][0]["data_type"] == "TYPE_FP32"
    assert document["parameters"] == {"k": {"string_value": "v"}}
    assert "dynamic_batching" not in document
    json.dumps(document)
