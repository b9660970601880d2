"""Bad input gets the right status, the field's name and the protocol's own shape."""

import json

import grpc
import httpx
import numpy as np
import pytest

from mesh.pb import inference_pb2, inference_pb2_grpc
from tests.e2e.harness import Mesh

TOO_LARGE = 200 * 1024 * 1024


@pytest.fixture
def stub(mesh: Mesh):
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(mesh.edge, options=options) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(autouse=True)
def nothing_broke(http: httpx.Client):
    yield
    for model in ("minilm", "smollm2", "identity"):
        assert http.get(f"/v2/models/{model}/ready").status_code == 200


def infer_request(**tensor) -> inference_pb2.ModelInferRequest:
    request = inference_pb2.ModelInferRequest(model_name="identity")
    request.inputs.add(name="x", **tensor)
    return request


def refusal(stub, request: inference_pb2.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=30)
    return caught.value.code(), caught.value.details()


def test_raw_bytes_of_the_wrong_length(stub) -> None:
    request = infer_request(datatype="FP32", shape=[2])
    request.raw_input_contents.append(b"123")
    code, details = refusal(stub, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "x" in details
    assert "3" in details
    assert "8" in details


def test_mixed_typed_and_raw_contents(stub) -> None:
    request = infer_request(datatype="FP32", shape=[1])
    request.inputs[0].contents.fp32_contents.append(1)
    request.raw_input_contents.append(np.float32(1).tobytes())
    code, details = refusal(stub, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "raw" in details


def test_typed_contents_of_the_wrong_field(stub) -> None:
    request = infer_request(datatype="FP32", shape=[1])
    request.inputs[0].contents.int_contents.append(1)
    code, details = refusal(stub, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "x" in details


@pytest.mark.parametrize("shape", [[-1], [2**40, 2**40], [2]])
def test_a_shape_that_does_not_fit_the_data(stub, shape: list[int]) -> None:
    request = infer_request(datatype="FP32", shape=shape)
    request.raw_input_contents.append(np.float32(1).tobytes())
    code, details = refusal(stub, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "x" in details


def test_an_unknown_datatype(stub) -> None:
    code, details = refusal(stub, infer_request(datatype="FP99", shape=[1]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "FP99" in details


def test_an_empty_model_name(stub) -> None:
    code, details = refusal(stub, inference_pb2.ModelInferRequest())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "model_name" in details


def test_two_hundred_megabytes_over_grpc(stub) -> None:
    request = infer_request(datatype="UINT8", shape=[TOO_LARGE])
    request.raw_input_contents.append(bytes(TOO_LARGE))
    code, _ = refusal(stub, request)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_two_hundred_megabytes_over_http(http: httpx.Client) -> None:
    for path in ("/v2/models/identity/infer", "/v1/chat/completions"):
        answer = post_large(http, path)
        assert answer.status_code == 413
        assert "67108864" in json.dumps(answer.json())


def post_large(http: httpx.Client, path: str) -> httpx.Response:
    # A server may answer and close before it has read everything: only the answer counts.
    chunks = (bytes(1024 * 1024) for _ in range(TOO_LARGE // (1024 * 1024)))
    headers = {"content-length": str(TOO_LARGE), "content-type": "application/json"}
    return http.post(path, content=chunks, headers=headers)


def oip_error(answer: httpx.Response) -> str:
    body = answer.json()
    assert set(body) == {"error"}
    return body["error"]


def test_malformed_json(http: httpx.Client) -> None:
    answer = http.post("/v2/models/identity/infer", content=b'{"inputs": [')
    assert answer.status_code == 400
    assert "JSON" in oip_error(answer)
    answer = http.post("/v1/chat/completions", content=b"{nope")
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ({"datatype": "FP32", "shape": [2], "data": [1.0]}, "x"),
        ({"datatype": "INT8", "shape": [1], "data": [300]}, "300"),
        ({"datatype": "INT32", "shape": [1], "data": ["a"]}, "x"),
        ({"datatype": "FP32", "shape": ["1"], "data": [1.0]}, "shape"),
        ({"datatype": "FP99", "shape": [1], "data": [1]}, "FP99"),
        ({"shape": [1], "data": [1]}, "datatype"),
        ({"datatype": "FP32", "shape": [1]}, "data"),
    ],
)
def test_bad_json_tensors_are_named(http: httpx.Client, tensor: dict, named: str) -> None:
    body = {"inputs": [{"name": "x", **tensor}]}
    answer = http.post("/v2/models/identity/infer", json=body)
    assert answer.status_code == 400
    assert named in oip_error(answer)


def test_a_header_length_beyond_the_body(http: httpx.Client) -> None:
    answer = http.post(
        "/v2/models/identity/infer",
        content=b"{}",
        headers={"Inference-Header-Content-Length": "99"},
    )
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in oip_error(answer)


def test_unknown_models_and_paths(http: httpx.Client) -> None:
    answer = http.post("/v2/models/nope/infer", json={"inputs": []})
    assert answer.status_code == 404
    assert "nope" in oip_error(answer)
    assert http.get("/v2/models/nope/ready").status_code != 200
    assert http.get("/nowhere").status_code == 404
    assert "error" in http.get("/nowhere").json()
    answer = http.post("/v1/chat/completions", json={"model": "nope", "messages": [USER]})
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "model"


USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": 1e9}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"stop": [1]}, "stop"),
        ({"model": None}, "model"),
    ],
)
def test_bad_chat_fields_are_named_in_openais_shape(http, change: dict, param: str) -> None:
    body = {"model": "smollm2", "messages": [USER], "max_tokens": 4} | change
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)


def test_a_prompt_longer_than_the_context_says_both_figures(http: httpx.Client) -> None:
    body = {"model": "smollm2", "prompt": "word " * 20_000, "max_tokens": 4}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "20001" in message
    assert "2047" in message  # a context of 2048, and room for one token of an answer


def test_internal_headers_from_outside_are_ignored(http: httpx.Client) -> None:
    body = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}]}
    answer = http.post(
        "/v2/models/identity/infer",
        json=body,
        headers={"x-ringmesh-model": "minilm", "x-ringmesh-version": "9"},
    )
    assert answer.status_code == 200
    assert answer.json()["model_name"] == "identity"
