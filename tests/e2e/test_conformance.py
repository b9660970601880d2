"""The protocol's table through the whole mesh: edge, gateway, mesh listener, node, and back."""

import json
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http

from tests.e2e.harness import Mesh
from tests.integration.conformance_table import CASES, VECTORS, Case

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def client(mesh: Mesh) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(mesh.edge) as opened:
        yield opened


@pytest.fixture(scope="module")
def rest(mesh: Mesh) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(mesh.edge) as opened:
        yield opened


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tensors_come_back_to_the_bit(client, rest, case: Case) -> None:
    over_grpc = triton.InferInput("x", list(case.shape), case.datatype)
    answer = client.infer("identity", [over_grpc.set_data_from_numpy(case.array)])
    assert list(answer.get_response().raw_output_contents) == [case.raw]
    over_rest = triton_http.InferInput("x", list(case.shape), case.datatype)
    result = rest.infer("identity", [over_rest.set_data_from_numpy(case.array)])
    assert result.get_output("x")["shape"] == list(case.shape)
    assert result._buffer == case.raw


def test_all_datatypes_compressed_in_one_request(rest) -> None:
    inputs = []
    for case in VECTORS:
        tensor = triton_http.InferInput(case.datatype, list(case.shape), case.datatype)
        inputs.append(tensor.set_data_from_numpy(case.array))
    result = rest.infer(
        "identity",
        inputs,
        request_compression_algorithm="gzip",
        response_compression_algorithm="deflate",
    )
    assert result._buffer == b"".join(case.raw for case in VECTORS)


def test_classes_of_an_embedding(client) -> None:
    tensor = triton.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([b"one", b"two"], dtype=np.object_))
    whole = client.infer("minilm", [tensor]).as_numpy("embedding")
    outputs = [triton.InferRequestedOutput("embedding", class_count=3)]
    ranked = client.infer("minilm", [tensor], outputs=outputs).as_numpy("embedding")
    assert ranked.shape == (2, 3)
    for row, texts in zip(whole, ranked, strict=True):
        places = [int(text.decode().split(":")[1]) for text in texts]
        assert places == np.argsort(-row, kind="stable")[:3].tolist()


def test_a_raw_body_is_embedded(http: httpx.Client) -> None:
    answer = http.post(
        "/v2/models/minilm/infer",
        content=b"a man is eating food",
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == [1, 384]
    vector = np.frombuffer(answer.content[length:], "<f4")
    assert np.isclose(np.linalg.norm(vector), 1, atol=1e-5)


def test_bytes_that_are_no_message_are_the_callers_fault(mesh: Mesh) -> None:
    with grpc.insecure_channel(mesh.edge) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"\x0a\x7fidentity", timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "cannot be decoded" in caught.value.details()


def test_a_sequence_stays_on_its_node(http: httpx.Client) -> None:
    tensor = {"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}
    for sequence in (7, "user-7"):
        marks = {"sequence_id": sequence, "sequence_start": True}
        body = {"inputs": [tensor], "parameters": marks}
        answers = [http.post("/v2/models/identity/infer", json=body) for _ in range(6)]
        assert len({each.headers["x-ringmesh-node"] for each in answers}) == 1


def test_a_language_models_responses_are_counted_by_place(client, rest) -> None:
    tensor = triton.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"Once upon a time"], dtype=np.object_))
    client.infer("smollm2", [tensor], parameters={"max_tokens": 4, "ignore_eos": True})
    (counts,) = client.get_inference_statistics("smollm2").model_stats
    assert counts.response_stats["0"].success.count >= 1
    assert sum(each.empty_response.count for each in counts.response_stats.values()) >= 1
    assert [usage.type for usage in counts.memory_usage] == ["CPU"]
    assert counts.memory_usage[0].byte_size > 0
    shown = rest.get_inference_statistics("smollm2")["model_stats"][0]
    assert shown["response_stats"]["0"]["success"]["count"] >= 1
    assert shown["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}


def test_the_configuration_is_the_one_in_use(client) -> None:
    config = client.get_model_config("minilm").config
    assert config.max_batch_size == 32
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.instance_group[0].count == 1
